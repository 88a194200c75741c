"""A store that the version before schema 2 made is read, continued and cared for as it is."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from emo.extract.texts import changed
from emo.featstore.clip import Clip
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage import journal
from emo.featstore.storage.store import Store
from emo.featstore.transcripts import hash_spec, hash_text

PACKED = Path(__file__).resolve().parents[2] / "fixtures" / "before" / "store.tar.xz"  # made by make_before.py
MINILM = "all-MiniLM-L6-v2-UTT"


@pytest.fixture
def old(tmp_path: Path) -> Store:
    with tarfile.open(PACKED) as packed:
        packed.extractall(tmp_path, filter="data")
    return Store.open(tmp_path / "store")


def truth(i: int, spec: EncoderSpec) -> np.ndarray:
    rows = spec.rows or 1
    return (np.arange(rows * spec.dim, dtype=np.float32).reshape(rows, spec.dim) + i) / 8


def check(store: Store) -> None:
    assert store.meta["schema"] == 1
    assert store.verify() == []
    assert store.clips() == ["c0", "c1", "c2", "silent", "listed0", "c3", "c4", "listed3"]
    for name in ("HL-UTT", "eva_g_448", MINILM):
        spec = store.resolve(name)
        for i in range(5):
            assert (store.get(spec, f"c{i}").array == truth(i, spec)).all()
    assert store.get("eva_g_448", "c1").array.dtype == np.float16
    for i in (0, 3):
        assert (store.get("mae_340_UTT", f"listed{i}").array == truth(i, store.resolve("mae_340_UTT"))).all()
    (failure,) = store.failures()
    assert (failure.clip, failure.kind, failure.message) == ("silent", "no-audio", "It has no sound.")


def test_it_is_read(old: Store) -> None:
    check(old)
    assert old.info()["records"] == []


def test_its_transcript_hashes_are_honoured_until_records_take_their_place(old: Store) -> None:
    spec = old.resolve(MINILM)
    said = [f"text {i}" for i in range(5)]
    media = [f"{i:032x}" for i in range(5)]

    def now() -> set[str]:
        return changed(old, spec, [(Clip(f"c{i}", transcripts={"english": said[i]}), media[i]) for i in range(5)])

    assert now() == set()
    said[2] = "another text"
    assert now() == {media[2]}
    with old.writer() as writer:
        writer.add_record(hash_spec(spec), media[2], hash_text("another text"))
    assert now() == set()
    said[2] = "text 2"
    assert now() == {media[2]}, "the record is newer than the number of old"


def test_it_is_continued_compacted_and_cleaned(old: Store) -> None:
    utt = old.resolve("HL-UTT")
    with old.writer() as writer:
        writer.clip("new", f"{77:032x}")
        writer.add(utt, f"{77:032x}", truth(77, utt))
        writer.add_record(hash_spec(utt), f"{77:032x}", {"text": "neu"})
    last = old.path / journal.name_of(3)
    assert json.loads(last.read_bytes().split(b"\n")[0])["schema"] == journal.SCHEMA == 2  # an older emo says so
    for _ in range(2):
        seen = Store.open(old.path)
        assert (seen.get("HL-UTT", "new").array == truth(77, utt)).all()
        assert seen.record(hash_spec(utt), "new") == {"text": "neu"}
        assert seen.clips()[-1] == "new"
        assert seen.verify() == []
        old.compact()
        old.gc()
    with old.writer() as writer:
        writer.name_clip("later")
    assert Store.open(old.path).meta["schema"] == 1
