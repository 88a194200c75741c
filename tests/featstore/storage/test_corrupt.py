"""A flipped byte anywhere gives a typed error or the same numbers, never other numbers."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.errors import MediaError, StoreCorrupt, StoreError
from emo.featstore.storage import journal
from emo.featstore.storage.medium import Medium
from emo.featstore.storage.store import Store

FLIPS_PER_FILE = 40


@pytest.fixture
def full(lab: Any, store: Store) -> Store:
    """Two ordinary commits, one with a failure and one with the rest."""
    with store.writer() as writer:
        for i in range(3):
            lab.put(writer, i)
        writer.commit()
        lab.put(writer, 7, [lab.tokens, lab.frame])  # beyond float16
        writer.fail(lab.utt, "c7", MediaError("no-audio", "It is silent."))
    return store


def everything(lab: Any, store: Store) -> Any:
    failures = [(each.feature, each.clip, each.kind, each.message, each.retry) for each in store.failures()]
    utterances = store.utterances("HL-UTT", ["c2", "c0"]).tobytes()
    return lab.contents(store), failures, utterances, store.clips()


def outcome(read: Callable[[], Any]) -> Any:
    """What it returns, or the typed error; any other exception fails the test."""
    try:
        return read()
    except StoreError as error:
        return error


@pytest.mark.parametrize("compacted", [False, True])
def test_a_flipped_byte_never_gives_other_numbers(lab: Any, full: Store, compacted: bool) -> None:
    if compacted:
        full.compact()
        full.gc()
    truth = everything(lab, Store.open(full.path))
    chance = random.Random(1)
    noticed: dict[str, int] = {}
    files = sorted(path for path in full.path.rglob("*") if path.is_file())
    assert {path.suffix for path in files} == {".json", ".jsonl", ""}
    for path in files:
        data = path.read_bytes()
        offsets = range(len(data))
        for offset in offsets if len(data) <= FLIPS_PER_FILE else chance.sample(offsets, FLIPS_PER_FILE):
            flipped = bytearray(data)
            flipped[offset] ^= 1 << chance.randrange(8)
            path.write_bytes(flipped)
            where = f"{path.relative_to(full.path)} at {offset}"
            found = outcome(lambda: everything(lab, Store.open(full.path)))
            if isinstance(found, StoreError):
                assert found.hint, where
                noticed[path.suffix] = noticed.get(path.suffix, 0) + 1
                problems = outcome(lambda: Store.open(full.path).verify())
                assert problems or path.name == "emo.json", f"verify sees nothing, {where}"
            else:
                assert found == truth, f"other numbers, {where}"
        path.write_bytes(data)
    assert set(noticed) == {".json", ".jsonl", ""}, "the flips went unseen"
    assert Store.open(full.path).verify() == []


def test_every_flipped_bit_of_a_journal_file_is_noticed(lab: Any, full: Store) -> None:
    path = full.path / journal.name_of(2)
    data = path.read_bytes()
    chance = random.Random(2)
    for offset in chance.sample(range(len(data)), 300):
        flipped = bytearray(data)
        flipped[offset] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(StoreCorrupt, match=r"00000002\.jsonl"):
            Store.open(full.path).clips()
    for length in [0, 1, len(data) // 2, len(data) - 20, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(StoreCorrupt, match=r"00000002\.jsonl is damaged"):
            Store.open(full.path).clips()


def test_every_byte_of_the_records_is_checked_by_every_way_of_reading(lab: Any, full: Store) -> None:
    full.compact()
    full.gc()
    for spec in lab.specs:
        segment = max((full.path / "features.zarr" / spec.key).glob("*/c/0/0"), key=lambda file: file.stat().st_size)
        data = segment.read_bytes()
        segment.write_bytes(bytes([data[0] ^ 0x80]) + data[1:])
        store = Store.open(full.path)
        found = {clip: outcome(lambda s=store, f=spec, c=clip: s.get(f, c)) for clip in ("c0", "c1", "c2")}
        (bad,) = (clip for clip, each in found.items() if isinstance(each, StoreCorrupt))
        assert "emo store verify" in found[bad].hint
        buffer = np.empty((1, *lab.stored(spec, lab.media(int(bad[1:]))).shape))
        into = store.utterances if spec is lab.utt else partial(store.read_into, out=buffer)
        assert isinstance(outcome(lambda r=into, f=spec, c=bad: r(f, [c])), StoreCorrupt)
        (problem,) = store.verify()
        assert str(segment.parent.parent.parent) == problem.where
        assert "1 of" in problem.what
        segment.write_bytes(data)


def test_verify_reports_all_damage_at_once_and_runs_on_a_broken_journal(lab: Any, full: Store) -> None:
    path: Path = full.path
    (path / journal.name_of(2)).write_bytes(b"garbage")
    segment = next((path / "features.zarr" / lab.utt.key).glob("*/c/0/0"))
    segment.write_bytes(segment.read_bytes()[:-1])
    (path / "features.zarr" / lab.frame.key / "zarr.json").write_text("{}")
    (path / "features.zarr" / "zarr.json").unlink()
    with pytest.raises(StoreCorrupt):
        Store.open(path).clips()
    found = {Path(problem.where).relative_to(path): problem for problem in Store.open(path).verify()}
    assert set(map(str, found)) == {
        "journal/00000002.jsonl",
        "features.zarr/zarr.json",
        f"features.zarr/{lab.frame.key}/zarr.json",
        str(segment.parent.parent.parent.relative_to(path)),
    }
    assert all(problem.what and problem.hint for problem in found.values())


def test_repair_forgets_the_damaged_rows_so_that_they_are_extracted_again(lab: Any, full: Store) -> None:
    path: Path = full.path
    segment = next((path / "features.zarr" / lab.utt.key).glob("*/c/0/0"))
    data = segment.read_bytes()
    segment.write_bytes(data[:3] + bytes([data[3] ^ 1]) + data[4:])
    (path / journal.name_of(2)).write_bytes(b"garbage")
    (path / "features.zarr" / lab.frame.key / "zarr.json").write_text("{}")
    store = Store.open(path)
    assert len(store.repair()) == 3
    assert store.verify() == []
    store = Store.open(path)
    work = store.work(lab.specs, [(f"c{i}", lab.media(i)) for i in (0, 1, 2, 7)])
    assert [len(work[spec.key]) for spec in lab.specs] == [2, 1, 1]
    lab.resume(path, [0, 1, 2, 7]).gc()
    assert lab.contents(Store.open(path)) == lab.expected([0, 1, 2, 7])
    assert store.repair() == []


def test_repair_does_not_throw_away_what_only_a_damaged_base_could_name(lab: Any, full: Store) -> None:
    full.compact()
    full.gc()
    base = next((full.path / "journal").glob("*.jsonl"))
    data = base.read_bytes()
    base.write_bytes(data[:-30] + b"x" + data[-29:])
    with pytest.raises(StoreCorrupt, match=r"base commit .* is damaged\. Restore it from a copy"):
        Store.open(full.path).repair()
    base.write_bytes(data)
    assert Store.open(full.path).verify() == []


def test_repair_does_not_forget_what_is_only_out_of_reach(
    lab: Any, full: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer emo's commit, or a disk that answers with an error today, is no reason to drop rows."""
    real = journal.read

    def newer(medium: Medium, number: int, store: str) -> journal.Commit:
        if number == 2:
            raise StoreError("It has schema 2.", "Install a newer emo.")
        return real(medium, number, store)

    def unreadable(medium: Medium, number: int, store: str) -> journal.Commit:
        raise OSError(errno.EIO, "Input/output error")

    before = journal.numbers(full.medium)
    for read, said in (
        (newer, "Nothing was repaired: .*schema 2"),
        (unreadable, "Nothing was repaired: .*Input/output"),
    ):
        monkeypatch.setattr(journal, "read", read)
        with pytest.raises(StoreError, match=said):
            Store.open(full.path).repair()
    assert journal.numbers(full.medium) == before


def test_gc_refuses_a_damaged_journal(lab: Any, full: Store) -> None:
    before = sorted(full.path.rglob("*"))
    (full.path / journal.name_of(1)).write_bytes(b"garbage")
    with pytest.raises(StoreCorrupt):
        Store.open(full.path).gc()
    assert sorted(full.path.rglob("*")) == before
