"""Whose an imported feature is: known by its clip id only, it never mixes with what was extracted from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import Clip, hash_media
from emo.featstore.errors import StoreCorrupt, StoreError, UsageError
from emo.featstore.interop.exporter import export_features
from emo.featstore.interop.importer import import_features
from emo.featstore.interop.pages import import_command
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.featstore.transcripts import LANGUAGES, hash_of, hash_spec
from emo.featstore.workspace import load_workspace

A, B = np.full(8, 1.5, np.float32), np.full(8, 2.5, np.float32)


def test_a_clip_that_the_store_knows_keeps_its_media(lab: Any, store: Store, put: Any) -> None:
    lab.fill(store, range(2))
    import_features(store, put("x-UTT", c0=A, other=B))
    assert store.get("x-UTT", "c0").media == lab.media(0)
    assert store.get("x-UTT", "other").media == "clip:other"  # no content hash has a colon
    assert store.clip_row("c0") == (lab.media(0), None, -1, -1)
    assert store.clip_row("other") == ("clip:other", None, -1, -1)


def test_extraction_of_the_real_clip_keeps_both_apart_and_reachable(
    lab: Any, store: Store, put: Any, tmp_path: Path
) -> None:
    folder = put("HL-UTT", c0=A, c1=B)
    import_features(store, folder)
    (imported,) = [each.spec for each in store.features()]
    clip = tmp_path / "c0.mp4"
    clip.write_bytes(b"the real clip")
    with store.writer() as writer:
        writer.clip("c0", lab.media(0), clip)
        writer.add(lab.utt, lab.media(0), lab.record(lab.utt, lab.media(0)))
    for seen in (store, Store.open(store.path)):
        assert seen.clip_row("c0")[:2] == (lab.media(0), str(clip))  # type: ignore[index]
        assert (seen.get(imported, "c0").array == A).all()
        assert (seen.get(lab.utt, "c0").array == lab.record(lab.utt, lab.media(0))).all()
        assert (seen.get(imported, "c0").media, seen.get(lab.utt, "c0").media) == ("clip:c0", lab.media(0))
        assert seen.has(imported, ["c0", "c1"]).tolist() == [True, True]
        assert seen.has(lab.utt, ["c0", "c1"]).tolist() == [True, False]
        assert [seen.status(imported, each) for each in ("c0", "c1", "c2")] == ["ok", "ok", "missing"]
        assert (seen.utterances(imported, ["c1", "c0"]) == [B, A]).all()
        with pytest.raises(StoreError, match=r"(?s)HL-UTT means 2 features.*profile: imported \| tiny"):
            seen.resolve("HL-UTT")  # nobody gets one for the other by name
    assert import_features(store, folder).features[0].present == 2
    store.compact()
    store.gc()
    assert (Store.open(store.path).get(imported, "c0").array == A).all()
    assert store.verify() == []


def test_a_clip_that_gets_its_file_while_an_import_runs_keeps_its_file(lab: Any, store: Store, tmp_path: Path) -> None:
    clip = tmp_path / "c0.mp4"
    clip.write_bytes(b"the real clip")
    imported = replace(lab.spec("x", "utt", 8, 1), profile="imported")
    importing = store.writer()
    importing.add(imported, importing.name_clip("c0"), A[None])
    with Store.open(store.path).writer() as writer:
        writer.clip("c0", lab.media(0), clip)
    importing.close()
    seen = Store.open(store.path)
    assert seen.clip_row("c0")[:2] == (lab.media(0), str(clip))  # type: ignore[index]
    assert (seen.get(imported, "c0").array == A).all()


def test_two_files_of_one_id_are_refused_as_before(lab: Any, store: Store, put: Any, tmp_path: Path) -> None:
    import_features(store, put("x-UTT", c0=A))
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    with store.writer() as writer:
        writer.clip("c0", lab.media(1), tmp_path / "a")
        with pytest.raises(StoreError, match="c0 already names another file"):
            writer.clip("c0", lab.media(2), tmp_path / "b")


def test_one_media_under_two_ids_takes_one_record_and_says_so(lab: Any, store: Store, put: Any) -> None:
    with store.writer() as writer:
        writer.clip("a", lab.media(1))
        writer.clip("b", lab.media(1))
    report = import_features(store, put("x-UTT", a=A, b=B))
    assert report.notes == ["x-UTT: 1 clip is the same media as another, whose record serves both: b = a."]
    assert (store.utterances("x-UTT", ["a", "b"]) == A).all()


def test_imports_from_two_places_are_two_features_unless_they_are_declared_one(
    store: Store, put: Any, tmp_path: Path
) -> None:
    first = put("x-UTT", a=A).rename(tmp_path / "train")
    second = put("x-UTT", b=B).rename(tmp_path / "test")
    import_features(store, first)
    import_features(store, second)
    with pytest.raises(StoreError, match=r"(?s)x-UTT means 2 features.*imported_from: .*train \| .*test"):
        store.resolve("x-UTT")
    one = Store.create(tmp_path / "one.emo")
    for folder in (first, second):
        import_features(one, folder, origin="published features", declared="MER2023 script")
    assert (one.utterances("x-UTT", ["a", "b"]) == [A, B]).all()
    assert one.resolve("x-UTT").recipe["imported_from"] == "published features"


def test_another_declaration_or_layout_is_another_feature(store: Store, put: Any) -> None:
    folder = put("HL-UTT", a=A)
    for more in ({}, {"declared": "last layer"}, {"layout": "mertools"}):
        import_features(store, folder, **more)
    assert len({each.spec.fingerprint for each in store.features()}) == 3


def test_names_choose_and_rename_and_clip_ids_are_mapped(store: Store, put: Any) -> None:
    folder = put("chinese-hubert-large-UTT", OLD=A)
    put("other-UTT", OLD=B)
    report = import_features(store, folder, names={"chinese-hubert-large-UTT": "HL-UTT"}, clips={"OLD": "new"})
    assert [each.name for each in report.features] == ["chinese-hubert-large-UTT"]
    assert (store.get("HL-UTT", "new").array == A).all()
    assert store.clips() == ["new"]
    assert store.resolve("HL-UTT").recipe["name"] == "chinese-hubert-large-UTT"


def test_a_feature_that_is_called_like_an_alias_is_found_by_its_own_name(store: Store, put: Any) -> None:
    import_features(store, put("hubert", a=A))
    import_features(store, put("HL-UTT", a=B))
    assert [store.resolve(name).name for name in ("hubert", "HL-UTT", "HL")] == ["hubert", "HL-UTT", "HL-UTT"]


def test_files_that_were_exchanged_are_said_and_not_taken(store: Store, put: Any) -> None:
    import_features(store, put("x-UTT", a=A, b=B))
    same = import_features(store, put("x-UTT", a=A))
    assert not [note for note in same.notes if "earlier import" in note]
    report = import_features(store, put("x-UTT", b=A))
    (note,) = [note for note in report.notes if "earlier import" in note]
    assert "1 of 2 records" in note
    assert "such as b" in note
    assert f"emo store drop {store.resolve('x-UTT').key}" in note
    assert (store.get("x-UTT", "b").array == B).all()


def test_a_damaged_record_is_not_taken_for_another_file(store: Store, put: Any) -> None:
    import_features(store, put("x-UTT", a=A, b=B))
    data = next((store.path / "features.zarr").glob("x-UTT*/*/c/0/0"))
    data.write_bytes(data.read_bytes().replace(B.tobytes(), (B + 1).tobytes()))
    with pytest.raises(StoreCorrupt, match="checksum"):
        import_features(Store.open(store.path), put("x-UTT"))


def test_an_export_leaves_out_clips_whose_names_mean_other_files_in_the_store(
    lab: Any, store: Store, tmp_path: Path
) -> None:
    files = [tmp_path / f"{name}.wav" for name in ("a", "same", "b")]
    for path, content in zip(files, (b"one", b"one", b"two"), strict=True):
        path.write_bytes(content)
    media = hash_media(files[0]).media
    with store.writer() as writer:
        for name in ("mine", "theirs"):
            writer.clip(name, media, files[0])
        writer.add(lab.utt, media, lab.record(lab.utt, media))
    mine, theirs = Clip("mine", files[1], "other"), Clip("theirs", files[2], "other")
    report = export_features(store, tmp_path / "tree", "mertools", clips=[mine, theirs])
    assert (report.clips, report.features[0].clips) == (1, 1)
    assert report.notes == ["Left out: theirs: the store knows other clips by these names."]
    with pytest.raises(UsageError, match="Left out: theirs"):
        export_features(store, tmp_path / "none", "mertools", clips=[theirs])


def test_an_export_names_clips_whose_file_or_transcript_has_changed_since(store: Store, tmp_path: Path) -> None:
    file, words = (
        tmp_path / "a.wav",
        EncoderSpec("w", "bert", "text", "utt", 2, 1, "tiny", "seed:0", recipe={LANGUAGES: ["english"]}),
    )
    file.write_bytes(b"before")
    clip = Clip("a", file, "mine", transcripts={"english": "yes"})
    with store.writer() as writer:
        media = hash_media(file).media
        writer.clip("a", hash_media(file), file)
        writer.add(words, media, np.ones((1, 2), np.float32))
        writer.add_record(hash_spec(words), media, hash_of(clip, words))
    assert export_features(store, tmp_path / "same", "mertools", clips=[clip]).notes == []
    file.write_bytes(b"another")
    another, notes = replace(clip, transcripts={"english": "no"}), ["1 clip has another file", "1 clip has another tra"]
    told = export_features(store, tmp_path / "other", "mertools", clips=[another]).notes
    assert [each[: len(note)] for each, note in zip(told, notes, strict=True)] == notes


def test_imported_clips_that_no_dataset_lists_are_named(put: Any, tmp_path: Path) -> None:
    features = put("x-UTT", a=A, video_b=B)
    (tmp_path / "emo.toml").write_text('[store]\npath = "i.emo"\n[data.mine]\nroot = "data"\nkind = "folder"\n')

    def notes() -> str:
        page = import_command(load_workspace(tmp_path), lambda sentence: None, features)
        return " ".join(page.value.notes)

    assert "no dataset" not in notes()  # nothing is there to compare with
    (tmp_path / "data").mkdir()
    (tmp_path / "data/labels.csv").write_text("name,label\na,sad\nb,happy\n")
    assert "1 clip is in no dataset of emo.toml, of 2 with these features: video_b. Where they are spelt" in notes()
    (tmp_path / "data/labels.csv").write_text("name,label\na,sad\nvideo_b,happy\n")
    assert "no dataset" not in notes()
