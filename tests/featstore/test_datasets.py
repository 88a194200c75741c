"""Datasets: one contract that every member passes, then what is special about each."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emo.featstore.clip import Clip, Label
from emo.featstore.datasets import DATASETS, card, open_dataset
from emo.featstore.datasets.base import Dataset
from emo.featstore.errors import UsageError
from emo.featstore.workspace import DataTable


def touch(*paths: Path, size: int = 3) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def by_id(dataset: Dataset) -> dict[str, Clip]:
    return {clip.id: clip for clip in dataset.clips()}


def mer2023(root: Path, name: str = "MER2023-SEMI", **places: Path) -> Dataset:
    return open_dataset(name, DataTable(name, root, **places))


def folder(root: Path, **places: Path) -> Dataset:
    return open_dataset("mine", DataTable("mine", root, **places))


def make_mer2023(root: Path) -> None:
    """Two labelled clips present, one labelled clip absent, one clip present without a label."""
    tables = {
        "train_corpus": {"a": {"emo": "happy", "val": 2.0}, "gone": {"emo": "sad", "val": -1.0}},
        "test3_corpus": {"b": {"emo": "neutral", "val": -10}},
    }
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "label-6way.npz", **{name: np.array(table, dtype=object) for name, table in tables.items()})
    write(root / "transcription-engchi-polish.csv", "name,chinese,english\na,你好,Hello\nb,,\nnew,新,New\n")
    write(root / "relative_test3_NCEV.txt", "b 125 neutral -10\n")
    touch(root / "clips" / "a.mp4", root / "clips" / "b.avi", root / "clips" / "new.mp4")


def make_folder(root: Path) -> None:
    """The same, as a folder of one's own."""
    write(root / "labels.csv", "name,label,valence,split\na,happy,2,train\ngone,sad,-1,train\nb,neutral,,test3\n")
    write(root / "transcripts.csv", "name,chinese,english\na,你好,Hello\nb,,\nnew,新,New\n")
    touch(root / "clips" / "a.mp4", root / "clips" / "b.avi", root / "new.wav")


MAKERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Dataset]]] = {
    "MER2023-SEMI": (make_mer2023, mer2023),
    "MER2023": (make_mer2023, lambda root: mer2023(root, "MER2023")),
    "folder": (make_folder, folder),
}

# ---- the contract ---------------------------------------------------------------------------------------------------


def test_every_registered_dataset_is_under_the_contract() -> None:
    assert set(MAKERS) == set(DATASETS)


@pytest.fixture(params=list(MAKERS))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    make, open_ = MAKERS[request.param]
    make(tmp_path / "data")
    return open_(tmp_path / "data")


def test_clips_are_the_listed_ones_then_the_unlisted_present_ones(opened: Dataset) -> None:
    clips = list(opened.clips())
    assert [clip.id for clip in clips] == ["a", "gone", "b", "new"]
    assert [clip.label for clip in clips] == [Label("happy", 2.0), Label("sad", -1.0), Label("neutral"), None]
    assert [clip.media.name if clip.media else None for clip in clips][:3] == ["a.mp4", None, "b.avi"]
    assert clips[3].media is not None
    assert clips[3].split == ""
    assert {clip.dataset for clip in clips} == {opened.name}
    assert list(opened.clips()) == clips  # reading twice gives the same


def test_empty_transcripts_are_absent(opened: Dataset) -> None:
    clips = by_id(opened)
    assert dict(clips["a"].transcripts) == {"chinese": "你好", "english": "Hello"}
    assert dict(clips["b"].transcripts) == {}
    assert dict(clips["new"].transcripts) == {"chinese": "新", "english": "New"}


def test_check_counts_what_is_there(opened: Dataset) -> None:
    check = opened.check()
    assert (check.listed, check.present, check.labelled, check.unlabelled, check.absent) == (3, 3, 2, 1, 1)
    assert check.transcripts == 2
    assert check.size_bytes == 9
    assert [(split.name, split.listed, split.present) for split in check.splits] == [
        (opened.splits[0], 2, 1),
        ("test3", 1, 1),
    ]


def test_splits_are_found_by_any_spelling(opened: Dataset) -> None:
    assert opened.find_split("Train") == opened.splits[0]
    assert opened.find_split("test3_corpus") == "test3"
    with pytest.raises(UsageError, match=r"no split 'tset3'. Did you mean test3\?"):
        opened.find_split("tset3")


def test_labels_are_words_in_a_fixed_order(opened: Dataset) -> None:
    mer = ("neutral", "angry", "happy", "sad", "worried", "surprise")
    assert opened.labels == (mer if opened.card.labels else ("happy", "neutral", "sad"))


def test_files_are_found_under_the_root_only(opened: Dataset, tmp_path: Path) -> None:
    write(tmp_path / "secret.txt", "x")
    write(tmp_path / "data" / "lists" / "test3.txt", "b 1 sad\n")
    found = opened.find_file("test3.txt")
    assert found is not None
    assert found.parent.name == "lists"
    assert opened.find_file("absent.txt") is None
    assert opened.find_file("../secret.txt") is None
    assert opened.find_file(str(tmp_path / "secret.txt")) is None


@pytest.mark.parametrize("kind", list(DATASETS))
def test_cards_need_nothing_on_disk(kind: str) -> None:
    about = card(kind)
    assert about.about.endswith(".")
    assert about.how_to_get
    assert about.tree
    assert about.licence


# ---- opening --------------------------------------------------------------------------------------------------------


def test_a_name_close_to_a_registered_one_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean MER2023-SEMI\?.*kind = \"folder\""):
        mer2023(tmp_path, "mer2023_semi")


def test_kind_decides_over_the_name(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    table = DataTable("MER2023-SEM1", tmp_path, kind="folder")
    assert [clip.id for clip in open_dataset("MER2023-SEM1", table).clips()] == ["a"]
    with pytest.raises(UsageError, match=r"Unknown dataset 'MER2024'.*Did you mean MER2023\?"):
        open_dataset("x", DataTable("x", tmp_path, kind="MER2024"))


def test_absent_root_is_an_error_when_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        mer2023(tmp_path / "nowhere")


# ---- what names can do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:secret"])
def test_a_label_file_cannot_point_outside_the_root(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "secret.mp4", tmp_path / "data" / "a.mp4")
    write(tmp_path / "data" / "labels.csv", f"name,label\na,sad\n{name},happy\n")
    dataset = folder(tmp_path / "data")
    assert [clip.media is None for clip in dataset.clips()] == [False, True]
    assert any("outside the data root" in problem and repr(name) in problem for problem in dataset.check().problems)


def test_names_with_blanks_and_accents_match_in_any_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "frölich 情 1"), unicodedata.normalize("NFD", "frölich 情 1")
    touch(tmp_path / f"{decomposed}.mp4")
    write(tmp_path / "labels.csv", f"name,label\n{composed},sad\n")
    clip = next(iter(folder(tmp_path).clips()))
    assert clip.id == composed
    assert clip.media is not None
    assert clip.media.exists()


def test_names_in_a_table_may_carry_the_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "v1.5.mp4")
    write(tmp_path / "labels.csv", "name,label\na.MP4,sad\nv1.5,happy\n")
    assert {clip.id: clip.label for clip in folder(tmp_path).clips()} == {"a": Label("sad"), "v1.5": Label("happy")}


# ---- folder ---------------------------------------------------------------------------------------------------------


def test_id_is_the_stem_or_the_path_where_stems_repeat(tmp_path: Path) -> None:
    touch(tmp_path / "s1" / "a.mp4", tmp_path / "s2" / "a.mp4", tmp_path / "s2" / "b.mp4")
    write(tmp_path / "labels.csv", "name,label\ns1/a,sad\ns2/a,happy\ns2/b,angry\n")
    dataset = folder(tmp_path)
    assert {clip.id: clip.label.emotion for clip in dataset.clips() if clip.label} == {
        "s1/a": "sad",
        "s2/a": "happy",
        "b": "angry",
    }
    assert any("'a' in several sub-folders" in problem for problem in dataset.check().problems)


def test_sound_beside_video_is_the_same_clip(tmp_path: Path) -> None:
    touch(tmp_path / "video" / "a.mp4", tmp_path / "audio" / "a.wav", tmp_path / "video" / "a.avi")
    touch(tmp_path / "audio" / "only.wav")
    clips = by_id(folder(tmp_path))
    assert set(clips) == {"a", "only"}
    assert clips["a"].media == tmp_path / "video" / "a.mp4"


def test_hidden_folders_and_stores_hold_no_clips(tmp_path: Path) -> None:
    touch(tmp_path / ".git" / "a.mp4", tmp_path / "mine.emo" / "b.mp4", tmp_path / "c.mp4", tmp_path / "notes.txt")
    assert list(by_id(folder(tmp_path))) == ["c"]


def test_two_rows_for_one_clip_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    write(tmp_path / "labels.csv", "name,label\na,sad\na.mp4,happy\n")
    with pytest.raises(UsageError, match="a two different labels"):
        list(folder(tmp_path).clips())


def test_folder_without_tables_is_unlabelled_clips(tmp_path: Path) -> None:
    touch(tmp_path / "a.flac")
    dataset = folder(tmp_path)
    assert dataset.labels == ()
    assert dataset.check().unlabelled == 1
    assert dataset.check().problems == ()


def test_empty_folder_is_a_problem(tmp_path: Path) -> None:
    assert any("holds no media file" in problem for problem in folder(tmp_path).check().problems)


def test_folder_reads_speaker_and_text(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    labels = write(tmp_path / "t" / "l.csv", "name,emotion,speaker\na,Sad,Ann\n")
    texts = write(tmp_path / "t" / "t.csv", "name,text\na.mp4,Hello\n")
    clip = by_id(folder(tmp_path, labels=labels, transcripts=texts))["a"]
    assert (clip.label, clip.speaker, dict(clip.transcripts)) == (Label("sad"), "Ann", {"text": "Hello"})


# ---- faces ----------------------------------------------------------------------------------------------------------


def test_faces_in_each_published_layout(tmp_path: Path) -> None:
    touch(*(tmp_path / "data" / f"{name}.mp4" for name in "abcd"))
    faces = tmp_path / "faces"
    touch(
        faces / "a_aligned" / "frame_det_00_000001.bmp", faces / "b" / "b.npy", faces / "c.npy", faces / "a" / "x.csv"
    )
    clips = by_id(folder(tmp_path / "data", faces=faces))
    assert {name: clip.faces for name, clip in clips.items()} == {
        "a": faces / "a_aligned",
        "b": faces / "b",
        "c": faces / "c.npy",
        "d": None,
    }
    with pytest.raises(UsageError, match="faces folder"):
        list(folder(tmp_path / "data", faces=tmp_path / "no").clips())
    other = tmp_path / "other"
    other.mkdir()
    assert any("for any clip" in p for p in folder(tmp_path / "data", faces=other).check().problems)


# ---- MER2023 --------------------------------------------------------------------------------------------------------


def test_mer2023_has_the_official_order_of_labels(tmp_path: Path) -> None:
    assert mer2023(tmp_path).labels == ("neutral", "angry", "happy", "sad", "worried", "surprise")


def test_mer2023_in_the_layout_of_the_baseline(tmp_path: Path) -> None:
    write(tmp_path / "train-label.csv", "name,discrete,valence\na,happy,1.5\n")
    write(tmp_path / "test1-label.csv", "name,discrete,valence\nb,sad,-1\n")
    write(tmp_path / "transcription.csv", "name,sentence\na,你好\n")
    touch(tmp_path / "video" / "a.mp4")
    clips = by_id(mer2023(tmp_path))
    assert (clips["a"].split, clips["b"].split) == ("train_corpus", "test1")
    assert dict(clips["a"].transcripts) == {"chinese": "你好"}


@pytest.mark.parametrize(
    ("file", "column", "language"),
    [("transcription_en_all.csv", "sentence", "english"), ("transcription_all_new.csv", "sentence_en", "english")],
)
def test_mer2023_reads_the_transcripts_of_emotion_llama(tmp_path: Path, file: str, column: str, language: str) -> None:
    write(tmp_path / file, f"name,{column}\na,Hi\n")
    touch(tmp_path / "clips" / "a.mp4")
    assert dict(by_id(mer2023(tmp_path))["a"].transcripts) == {language: "Hi"}


def test_mer2023_labels_from_a_list(tmp_path: Path) -> None:
    listed = write(tmp_path / "relative_test3_NCEV.txt", "b 125 neutral -10\n")
    touch(tmp_path / "clips" / "b.mp4")
    assert by_id(mer2023(tmp_path, labels=listed))["b"].split == "test3"


def test_mer2023_says_what_is_wrong_and_runs_on_what_is_there(tmp_path: Path) -> None:
    make_mer2023(tmp_path)
    write(tmp_path / "transcription_en_all.csv", "name,sentence\na,Hi\n")
    problems = "\n".join(mer2023(tmp_path).check().problems)
    assert "train_corpus lists 2 clips; the published set has 3,373" in problems
    assert "transcription-engchi-polish.csv, transcription_en_all.csv are there; the first is used" in problems
    bare = tmp_path / "bare"
    touch(bare / "a.mp4")
    problems = "\n".join(mer2023(bare).check().problems)
    assert "no label-6way.npz" in problems
    assert "no transcription*.csv" in problems
    assert [clip.id for clip in mer2023(bare).clips()] == ["a"]


def test_mer2023_reports_words_outside_its_label_set(tmp_path: Path) -> None:
    write(tmp_path / "train-label.csv", "name,discrete\na,joyful\n")
    touch(tmp_path / "clips" / "a.mp4")
    assert any("'joyful' in the label files is not one of neutral" in p for p in mer2023(tmp_path).check().problems)


def test_mer2023_real_files(shared: Path) -> None:
    dataset = mer2023(shared / "data" / "mer2023")
    check = dataset.check()
    assert (check.listed, check.present, check.labelled, check.unlabelled) == (5030, 16, 13, 3)
    assert check.transcripts == 13
    assert {split.name: (split.listed, split.published) for split in check.splits} == {
        "train_corpus": (3373, 3373),
        "test1": (411, 411),
        "test2": (412, 412),
        "test3": (834, 834),
    }
    assert check.problems == ()
    clips = by_id(dataset)
    assert len(clips) == 5033
    assert clips["sample_00005854"].label == Label("angry", -2.5)
    assert clips["sample_00005854"].transcripts["english"].startswith("Out of all the jerks")
    present = [clip for clip in clips.values() if clip.media is not None]
    assert {clip.id for clip in present if clip.label is None} == {
        "samplenew_00004251",
        "samplenew_00051251",
        "samplenew_00061200",
    }
    assert {clip.split for clip in present} == {"train_corpus", ""}
    assert sum(not clip.transcripts for clip in clips.values() if clip.label is not None) == 217
    assert dataset.find_file("relative_test3_NCEV.txt") is not None
