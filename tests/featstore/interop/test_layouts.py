"""What each tool's own loader reads, by its rules; and what people really have of each layout."""

from __future__ import annotations

import csv
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import Clip, Label
from emo.featstore.errors import UsageError
from emo.featstore.install import install_command
from emo.featstore.interop.exporter import export_features
from emo.featstore.interop.importer import import_features
from emo.featstore.storage.store import Store

GOOD = np.arange(8, dtype=np.float32)
ROLES = ("mae_340_UTT", "maeV_399_UTT", "HL-UTT")


# ---- Emotion-LLaMA --------------------------------------------------------------------------------------------------


def emotion_llama_item(ann_path: Path, index: int) -> tuple[np.ndarray, int, str]:
    """An item as Emotion-LLaMA loads it (specs/emotion_llama.md section 5): features, class, sentence."""
    emotions = ["neutral", "angry", "happy", "sad", "worried", "surprise", "fear", "contempt", "doubt"]
    with open(ann_path) as file:
        row = [line.strip().split(" ") for line in file][index]
    vectors = [np.load(ann_path.parent / role / f"{row[0]}.npy") for role in ROLES]
    features = np.concatenate([each[None] if each.ndim == 1 else each for each in vectors])
    with open(ann_path.parent / "transcription_en_all.csv", newline="", encoding="utf-8") as file:
        (sentence,) = [line["sentence"] for line in csv.DictReader(file) if line["name"] == row[0]]
    return features, emotions.index(row[2]), sentence


def test_an_emotion_llama_tree_is_what_its_loader_reads_and_comes_back_to_the_bit(
    source: Any, target: Store, tmp_path: Path
) -> None:
    tree = tmp_path / "features_of_MER2023-SEMI"
    report = export_features(source.store, tree, "emotion-llama", None, source.clips)
    assert sorted(each.name for each in tree.iterdir()) == [
        "HL-UTT",
        "maeV_399_UTT",
        "mae_340_UTT",
        "test3_NCEV.txt",
        "train_corpus_NCEV.txt",
        "transcription_en_all.csv",
        "val_corpus_NCEV.txt",
    ]
    assert (tree / "test3_NCEV.txt").read_text() == "sample_00003 0 angry 0.5\nsample_00004 0 worried 1.5\n"
    features, emotion, sentence = emotion_llama_item(tree / "test3_NCEV.txt", 0)
    expected = [source.store.get(role, "sample_00003").array for role in ROLES]
    assert (features == np.concatenate(expected)).all()
    assert (features.shape, features.dtype) == ((3, 16), np.float32)
    assert (emotion, sentence) == (1, "Sentence 3, with a comma.")
    said = " ".join([*report.left_out.values(), *report.notes])
    assert "eva_g_448@" in said
    for sentence in (
        "has no place in Emotion-LLaMA's layout: it computes EVA tokens from the first frame in every step.",
        "has 16 columns where Emotion-LLaMA's projections take 1024.",
        "1 clip is not listed: a space in the id",
        "1 labelled clip is not listed, for lack of one of the three features.",
        "1 clip has no English transcript: Emotion-LLaMA reads an empty field as the word nan.",
    ):
        assert sentence in said

    for path in (tree, tmp_path):  # the tree itself, or the folder that it was unpacked into
        store = Store.create(tmp_path / f"back-{path.name}.emo")
        back = import_features(store, path)
        assert back.layout == "emotion-llama"
        counts = {each.name: each.new for each in back.features}
        assert counts == {"mae_340_UTT": 6, "maeV_399_UTT": 6, "HL-UTT": 7}
        for role in ROLES:
            for clip in store.clips():
                if store.has(role, [clip])[0]:
                    assert store.get(role, clip).array.tobytes() == source.store.get(role, clip).array.tobytes()
        assert "test3_NCEV.txt lists 2 clips; each has all features." in back.notes
        said = " ".join(back.notes)
        assert "Lists and transcripts are read where they lie: write [data.NAME] with root = " in said
        assert "The tree holds no image tokens and no first frames: name the folder of the clips" in said


def test_the_published_archive_and_mer2024_are_known_by_their_folder_names(
    store: Store, put: Any, tmp_path: Path
) -> None:
    for role in ROLES:
        folder = put(f"{role}_MER2023-SEMI", a=GOOD, b=GOOD[None] + 1)
    (folder / "first_frames_MER2023-SEMI").mkdir()
    (folder / "first_frames_MER2023-SEMI" / "a.jpg").write_bytes(b"")
    (folder / "relative_test3_NCEV.txt").write_text("a 35 angry -10\nc 35 sad -10\n")
    report = import_features(store, folder)
    assert [(each.name, each.feature.split("@")[0], each.new) for each in report.features] == [
        ("HL-UTT", "HL-UTT", 2),
        ("maeV_399_UTT", "maeV_399_UTT", 2),
        ("mae_340_UTT", "mae_340_UTT", 2),
    ]
    assert {store.resolve(role).modality for role in ROLES} == {"face", "audio"}
    assert report.notes == [
        "relative_test3_NCEV.txt lists 2 clips; 1 of them lack a feature.",
        f'Lists and transcripts are read where they lie: write [data.NAME] with root = "{folder}" and '
        'kind = "emotion-llama" into emo.toml.',
        "The tree holds no image tokens, but 1 first frames: with that table, "
        "`emo extract --dataset NAME --encoders eva_g_448` computes them.",
    ]
    mer2024 = tmp_path / "mer2024"
    mer2024.mkdir()
    for name in ("mae_340_23_UTT", "maeVideo_399_23_UTT", "HL_23_UTT"):
        (put(name, a=GOOD) / name).rename(mer2024 / name)
    found = import_features(Store.create(tmp_path / "b.emo"), mer2024)
    assert {each.feature.split("@")[0] for each in found.features} == set(ROLES)
    assert found.layout == "emotion-llama"


def test_what_was_imported_makes_way_for_what_was_extracted(source: Any, tmp_path: Path) -> None:
    """Of one name: whoever names nothing gets the extracted one, and is told."""
    export_features(source.store, tmp_path / "theirs", "emotion-llama")
    back = import_features(source.store, tmp_path / "theirs")
    report = export_features(source.store, tmp_path / "tree", "emotion-llama")
    keys = {each.feature for each in back.features}
    assert keys.isdisjoint(each.feature for each in report.features)
    assert {each.name for each in report.features} == set(ROLES)
    assert all("was imported, and an extracted feature has its name" in report.left_out[key] for key in keys)
    named = export_features(source.store, tmp_path / "again", "emotion-llama", sorted(keys))
    assert {each.feature for each in named.features} == keys


def test_emotion_llama_takes_another_feature_in_the_place_of_one_of_its_own(source: Any, tmp_path: Path) -> None:
    report = export_features(source.store, tmp_path / "a", "emotion-llama", {"BERT-UTT": "HL-UTT"})
    assert [(each.feature.split("@")[0], each.name) for each in report.features] == [("BERT-UTT", "HL-UTT")]
    assert "mae_340_UTT and maeV_399_UTT must be put beside these" in report.notes[-1]
    with pytest.raises(UsageError, match=r"HL-UTT@.* and HL-UTT@.* would both be called HL-UTT|would both be called"):
        export_features(source.store, tmp_path / "b", "emotion-llama", {"BERT-UTT": "HL-UTT", "HL-UTT": None})
    with pytest.raises(UsageError, match=r"Nothing was exported\. eva_g_448@.* has no place"):
        export_features(source.store, tmp_path / "b", "emotion-llama", ["eva"])
    with pytest.raises(UsageError, match="cannot compute with float64"):
        export_features(source.store, tmp_path / "b", "emotion-llama", ["HL-UTT"], dtype="float64")


# ---- MERTools -------------------------------------------------------------------------------------------------------


def mertools_feature(root: Path, feature: str, name: str) -> np.ndarray:
    """A feature as MERBench loads it (specs/mertools.md section 2.1): squeezed, (T, D), then float32."""
    array = np.load(root / feature / f"{name}.npy").squeeze()
    return (array[None] if array.ndim == 1 else array).astype(np.float32)


def test_mertools_folders_are_what_its_loader_reads(source: Any, tmp_path: Path) -> None:
    root = tmp_path / "features"
    report = export_features(source.store, root, "mertools", {"HL-UTT": "chinese-hubert-large", "HL-FRA": None})
    assert [each.name for each in report.features] == ["chinese-hubert-large-UTT", "HL-FRA"]
    assert np.load(root / "chinese-hubert-large-UTT" / "sample_00001.npy").shape == (16,)
    for feature, name in (("HL-UTT", "chinese-hubert-large-UTT"), ("HL-FRA", "HL-FRA")):
        for clip in source.clips:
            expected = source.store.get(feature, clip.id).array.astype(np.float32)
            assert (mertools_feature(root, name, clip.id) == expected).all()
    with pytest.raises(UsageError, match=r"is of level utt, and cannot be called hubert-FRA"):
        export_features(source.store, tmp_path / "b", "mertools", {"HL-UTT": "hubert-FRA"})
    with pytest.raises(UsageError, match=r"cannot be called '\.\./x'"):
        export_features(source.store, tmp_path / "b", "mertools", {"HL-UTT": "../x"})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("suffix", ["-UTT", "_UTT", "-FRA", "_FRA", ""])
def test_mertools_folders_of_every_name_dtype_and_shape(dtype: str, suffix: str, store: Store, put: Any) -> None:
    vector = (GOOD / 3).astype(dtype)
    frames = np.asfortranarray(np.stack([vector, vector + 1]))
    sequence = suffix.endswith("FRA")
    folder = put(f"clip{suffix}", a=frames if sequence else vector, b=vector[None], c=vector)
    for path in (folder, folder.parent, folder / f"clip{suffix}"):  # features/, its parent, one feature
        store = Store.create(path.parent / f"{path.name}-{len(path.parts)}.emo")
        report = import_features(store, path)
        assert (report.layout, report.clips, report.rejected) == ("mertools", 3, [])
        spec = store.resolve(f"clip{suffix}")
        assert spec.level == ("frame" if sequence else "utt")
        kept = store.get(spec, "a").array
        assert kept.dtype == ("float16" if sequence and dtype == "float16" else "float32")
        assert (kept == np.atleast_2d(frames if sequence else vector).astype(np.float32)).all()
        assert (store.get(spec, "b").array == vector.astype(np.float32)).all()


def test_float32_frames_are_not_rounded_to_float16(store: Store, put: Any) -> None:
    frames = np.full((2, 4), 1 + 2**-20, np.float32)
    import_features(store, put("x-FRA", a=frames))
    assert store.get("x-FRA", "a").array.tobytes() == frames.tobytes()


# ---- HDF5 -----------------------------------------------------------------------------------------------------------


def test_hdf5_is_read_as_anybody_would(source: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    export_features(source.store, tmp_path / "a.h5", "hdf5")
    export_features(source.store, tmp_path / "p.h5", "hdf5-packed")
    with h5py.File(tmp_path / "a.h5") as apart, h5py.File(tmp_path / "p.h5") as packed:
        assert apart["HL-UTT/sample_00001"].shape == (16,)
        assert "sample_00005" not in apart["mae_340_UTT"]
        group = packed["HL-FRA"]
        clips, offsets = group["clips"].asstr()[()].tolist(), group["offsets"][()]
        for i, clip in enumerate(clips):
            expected = source.store.get("HL-FRA", clip).array
            assert (apart["HL-FRA"][clip][()] == expected).all()
            assert (group["data"][offsets[i] : offsets[i + 1]] == expected).all()


def test_hdf5_of_other_people(store: Store, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "vggish.hdf5", "w") as file:  # one feature, at the root
        file["a"], file["b"], file["c"] = GOOD, GOOD + 1, np.arange(8)
    with h5py.File(tmp_path / "more.h5", "w") as file:
        file["x/a"], file["x/b"], file["x/deep/c"], file["x/words"] = GOOD, GOOD, GOOD, "text"
        file["y/data"], file["y/clips"], file["y/offsets"] = np.ones((3, 4), "f4"), ["a", "b"], [0, 1, 3]
    report = import_features(store, tmp_path / "vggish.hdf5")
    assert [(each.name, each.kind) for each in report.rejected] == [("c", "wrong-dtype")]
    assert (store.get("vggish", "b").array == GOOD + 1).all()
    report = import_features(store, tmp_path / "more.h5")
    assert [(each.name, each.kind) for each in report.rejected] == [("deep", "wrong-shape"), ("words", "wrong-dtype")]
    report = import_features(store, tmp_path / "more.h5", layout="hdf5-packed")
    assert [(each.name, each.new, each.shapes) for each in report.features] == [("y", 2, {"(1, 4)": 1, "(T, 4)": 1})]
    with h5py.File(tmp_path / "more.h5", "a") as file:
        file["y/offsets"][2] = 9
    with pytest.raises(UsageError, match=r"offsets of y in .* do not fit"):
        import_features(store, tmp_path / "more.h5", layout="hdf5-packed")


# ---- MMSA -----------------------------------------------------------------------------------------------------------


def mmsa_split(path: Path, mode: str) -> dict[str, Any]:
    """A split as MMSA loads it (thuiar/MMSA: src/MMSA/data_loader.py): what it takes, and as what."""
    with open(path, "rb") as file:
        data = pickle.load(file)[mode]
    found = {name: data[name].astype(np.float32) for name in ("text", "vision", "audio")}
    assert all(each.ndim == 3 for each in found.values())
    labels = np.array(data["regression_labels"]).astype(np.float32)
    lengths = {name: data[f"{name}_lengths"] for name in ("audio", "vision")}
    return found | {"labels": labels, "ids": data["id"], "raw_text": data["raw_text"], "lengths": lengths}


def test_an_mmsa_pickle_is_what_its_loader_reads(source: Any, tmp_path: Path) -> None:
    names = {"HL-FRA": None, "mae_340_UTT": None, "BERT-UTT": None}
    report = export_features(source.store, tmp_path / "f.pkl", "mmsa", names, source.clips)
    assert report.notes == ["1 clip is left out, for lack of a feature, a valence, or a split that MMSA knows."]
    assert report.clips == 6
    assert {(each.clips, each.lacking) for each in report.features} == {(6, 1)}  # what was written, not what was there
    test = mmsa_split(tmp_path / "f.pkl", "test")
    assert test["ids"] == ["sample_00003", "sample_00004", "clip ü6"]
    assert test["labels"].tolist() == [0.5, 1.5, 3.5]
    assert test["raw_text"] == ["Sentence 3, with a comma.", "", "Sentence 6, with a comma."]
    assert (test["audio"].shape, test["lengths"]["audio"]) == ((3, 8, 6), [5, 6, 8])
    assert (test["audio"][0, :5] == source.store.get("HL-FRA", "sample_00003").array).all()
    assert not test["audio"][0, 5:].any()
    assert [mmsa_split(tmp_path / "f.pkl", mode)["ids"] for mode in ("train", "valid")] == [
        ["sample_00000", "sample_00001"],
        ["sample_00002"],
    ]


def test_splits_that_mmsa_has_as_one_are_said(source: Any, tmp_path: Path) -> None:
    names = {"HL-FRA": None, "mae_340_UTT": None, "BERT-UTT": None}
    clips = [replace(clip, split="test2") if clip.id == "sample_00004" else clip for clip in source.clips]
    notes = export_features(source.store, tmp_path / "f.pkl", "mmsa", names, clips).notes
    assert notes[0] == "Split test is several here: test3 (2), test2 (1). A score on it is over all of them together."


def test_mmsa_needs_all_three_and_clips_of_a_dataset(source: Any, tmp_path: Path) -> None:
    path = tmp_path / "f.pkl"
    with pytest.raises(UsageError, match="there is no vision and no text"):
        export_features(source.store, path, "mmsa", ["HL-UTT"], source.clips)
    with pytest.raises(UsageError, match=r"No clip has all three .*Export the clips of a dataset"):
        export_features(source.store, path, "mmsa", ["HL-FRA", "mae_340_UTT", "BERT-UTT"])
    with pytest.raises(UsageError, match=r"is to be a file \*\.pkl or \*\.pickle"):
        export_features(source.store, tmp_path / "f", "mmsa", ["HL-FRA"], source.clips)
    assert not path.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_mmsa_pickles_are_unpadded_by_their_lengths(protocol: int, store: Store, tmp_path: Path) -> None:
    frames = np.zeros((4, 5, 3))
    frames[0, :2], frames[1, 3:], frames[2], frames[3, :4] = 1.5, 2.5, 3.5, 4.5
    bert = np.zeros((4, 3, 5))
    bert[:, 1] = [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    text = np.where(bert[:, 1, :, None] > 0, np.ones(4), 0).astype(np.float32)
    split = {
        "id": np.array(["v$_$1", "v$_$2", "v$_$3", "v$_$4"]),
        "raw_text": np.array(["a", "b", "c", "d"]),
        "audio": frames,
        "audio_lengths": [2, 2, 5, 3],  # at the end, at the start, full, and wrong
        "text": text,
        "text_bert": bert,
        "vision": 2 * text,  # no lengths: aligned with the text
        "regression_labels": [0.0, 1.0, -1.0, 0.5],
    }
    path = tmp_path / "unaligned.pkl"
    path.write_bytes(pickle.dumps({"train": split, "valid": {"id": []}}, protocol=protocol))
    report = import_features(store, path)
    assert [(each.name, each.where, each.kind) for each in report.rejected] == [("v_4", "audio", "wrong-length")]
    rows = {name: [len(store.get(name, f"v_{i}").array) for i in (1, 2, 3)] for name in ("audio", "vision", "text")}
    assert rows == {"audio": [2, 2, 5], "vision": [3, 1, 5], "text": [3, 1, 5]}
    assert [store.get(name, "v_2").array.max() for name in rows] == [2.5, 2, 1]
    assert {store.resolve(name).modality for name in rows} == {"audio", "face", "text"}


# ---- safetensors and parquet ----------------------------------------------------------------------------------------


def test_safetensors_are_read_by_their_library(source: Any, store: Store, tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    export_features(source.store, tmp_path / "out", "safetensors")
    for feature in ("HL-UTT", "HL-FRA", "eva_g_448"):
        tensors = numpy.load_file(tmp_path / "out" / f"{feature}.safetensors")
        for clip, tensor in tensors.items():
            expected = source.store.get(feature, clip).array
            assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape[-tensor.ndim :])
            assert (tensor == expected).all()
    numpy.save_file({"a": GOOD, "b": np.arange(8)}, tmp_path / "clip.safetensors")
    report = import_features(store, tmp_path / "clip.safetensors")
    assert [(each.name, each.sentence) for each in report.rejected] == [("b", "It holds I64, not F16, F32 or F64.")]
    assert (store.get("clip", "a").array == GOOD).all()


def test_parquet_has_a_row_per_clip_and_null_where_a_feature_is_absent(source: Any, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export_features(source.store, tmp_path / "out", "parquet")
    table = parquet.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    rows = {row["clip"]: row for row in table.to_pylist()}
    assert list(rows) == [clip.id for clip in source.clips]
    assert rows["sample_00005"]["mae_340_UTT"] is None
    for feature in ("HL-UTT", "HL-FRA"):
        expected = source.store.get(feature, "sample_00003").array
        found = np.array(rows["sample_00003"][feature], expected.dtype)
        assert (found == expected.reshape(found.shape)).all()
    assert (rows["sample_00003"]["HL-FRA.t0_s"], rows["sample_00003"]["HL-FRA.hop_s"]) == (0.03, 0.02)


def test_parquet_of_other_people(store: Store, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "id": ["a", "b", "c", "a"],
        "label": [1, 2, 3, 4],
        "tokens": [[1, 2], [3], [4], [5]],
        "hubert": pa.array([[1.0, 2.0], None, [3.0, 4.0], [0.0, 1.0]], pa.list_(pa.float32())),
        "frames": pa.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]], [[1.0, 2.0], [3.0]], None]),
    }
    folder = tmp_path / "dataset" / "data"
    folder.mkdir(parents=True)
    parquet.write_table(pa.table(columns), folder / "train-00000-of-00001.parquet", row_group_size=2)
    more = {"id": ["d"], "hubert": pa.array([[7.0, 8.0]], pa.list_(pa.float32()))}
    parquet.write_table(pa.table(more), folder / "test-00000-of-00001.parquet")
    report = import_features(store, folder.parent)
    assert [(each.where, each.name, each.kind) for each in report.rejected] == [
        ("hubert", "a", "duplicate-name"),
        ("frames", "c", "wrong-shape"),
    ]
    assert [store.has("hubert", [clip])[0] for clip in "abcd"] == [False, False, True, True]
    assert store.get("frames", "a").array.tolist() == [[1, 2], [3, 4]]
    parquet.write_table(pa.table({"x": columns["hubert"]}), tmp_path / "nameless.parquet")
    with pytest.raises(UsageError, match=r"no column that names clips\. Call it clip; its are x\."):
        import_features(store, tmp_path / "nameless.parquet")


# ---- all ------------------------------------------------------------------------------------------------------------


def test_an_id_that_cannot_be_a_file_name_is_left_out_of_every_export(lab: Any, store: Store, tmp_path: Path) -> None:
    with store.writer() as writer:
        for i, clip in enumerate(("good", "../../bad")):
            writer.clip(clip, lab.media(i))
            writer.add(lab.utt, lab.media(i), lab.record(lab.utt, lab.media(i)))
    report = export_features(store, tmp_path / "deep" / "out", "mertools", ["HL-UTT"])
    assert (report.clips, len(report.notes)) == (1, 1)
    assert "'../../bad' cannot be a clip id" in report.notes[0]
    assert [each.name for each in tmp_path.rglob("*.npy")] == ["good.npy"]


def test_an_export_says_which_clips_lack_what(source: Any, tmp_path: Path) -> None:
    report = export_features(
        source.store, tmp_path / "out", "mertools", ["mae"], ["sample_00004", "sample_00005", "zz"]
    )
    assert [(each.clips, each.lacking) for each in report.features] == [(1, 2)]
    with pytest.raises(UsageError, match=r"None of the clips \(1\) has mae_340_UTT"):
        export_features(source.store, tmp_path / "other", "mertools", ["mae"], [Clip("zz", label=Label("sad"))])


def test_what_does_not_fit_the_dtype_is_refused(lab: Any, store: Store, tmp_path: Path) -> None:
    with store.writer() as writer:
        writer.clip("a", lab.media(0))
        writer.add(lab.utt, lab.media(0), np.full((1, 8), 1e5, np.float32))
    with pytest.raises(UsageError, match=r"of a does not fit float16\. Choose float32"):
        export_features(store, tmp_path / "out", "mertools", ["HL-UTT"], dtype="float16")
    assert not (tmp_path / "out").exists()


def test_what_is_partly_another_layout_is_read_whole_and_said(store: Store, put: Any) -> None:
    put("HL-UTT_MER2023-SEMI", a=GOOD)
    folder = put("clip-UTT", a=GOOD + 1)
    report = import_features(store, folder)
    assert (report.layout, len(report.features)) == ("mertools", 2)
    assert report.notes == [
        "Part of it has the layout emotion-llama: --layout emotion-llama reads that part under its own names."
    ]
    part = import_features(store, folder, layout="emotion-llama")
    assert [each.feature.split("@")[0] for each in part.features] == ["HL-UTT"]
    assert part.notes == ["clip-UTT is no folder of Emotion-LLaMA's; --layout mertools imports folders of any name."]


def test_parquet_without_pyarrow_says_what_to_install(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="need the package pyarrow") as caught:
        export_features(source.store, tmp_path / "out", "parquet")
    assert caught.value.hint == f"Run `{install_command('parquet')}`."
