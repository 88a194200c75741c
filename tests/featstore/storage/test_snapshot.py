"""The snapshot of the replayed journal: equal to a replay, used only where the journal agrees, never the truth."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.cards import store_card
from emo.featstore.clip import FileId
from emo.featstore.errors import MediaError
from emo.featstore.storage import journal, snapshot
from emo.featstore.storage.index import Index
from emo.featstore.storage.medium import Local
from emo.featstore.storage.store import Store


@pytest.fixture(autouse=True)
def every_store_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "LEAST_ROWS", 1)
    monkeypatch.setattr(snapshot, "SHARE", 10**6)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of the commits that are read whole."""
    numbers: list[int] = []
    whole = journal.read

    def counted(medium: Any, number: int, store: str) -> journal.Commit:
        numbers.append(number)
        return whole(medium, number, store)

    monkeypatch.setattr(journal, "read", counted)
    return numbers


def replayed(store: Store) -> Index:
    """The state by replay alone."""
    index = Index()
    for number in journal.ahead(store.medium, 0):
        commit = journal.read(store.medium, number, store.id)
        index = Index() if commit.header.get("base") else index
        index.apply(commit)
    return index


def same(store: Store) -> bool:
    return snapshot.encode(Store.open(store.path).index, "", "") == snapshot.encode(replayed(store), "", "")


def test_a_snapshot_is_what_a_replay_gives(lab: Any, store: Store, read: list[int]) -> None:
    lab.fill(store, range(12), commit_every=3)
    with store.writer() as writer:
        writer.clip("x", lab.media(99))
        writer.fail(lab.utt, "x", MediaError("no-audio", "Silent.", retry=True))
        lab.put(writer, 3, version=2)  # overrides
        writer.add_record(lab.spec("words", "record", 1, None), lab.media(3), {"text": "yes"})
    read.clear()
    opened = Store.open(store.path)
    assert lab.contents(opened)
    assert opened.failures() == store.failures()
    assert read == []
    assert same(store)


def test_what_came_since_is_replayed_on_it(
    lab: Any, store: Store, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.fill(store, range(6), commit_every=2)
    at = Store.open(store.path).index.number
    monkeypatch.setattr(snapshot, "LEAST_ROWS", 10**6)
    lab.fill(store, range(6, 9), commit_every=2)
    read.clear()
    opened = Store.open(store.path)
    assert lab.contents(opened) == lab.expected(range(9))
    assert min(read) == at + 1
    assert same(store)


def test_counts_are_told_and_what_is_there_is_found_without_reading_all_names(
    lab: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    unpacked = Index._unpacked
    monkeypatch.setattr(Index, "_unpacked", lambda self, column: (names.append(column), unpacked(self, column))[1])
    (tmp_path / "c").touch()
    with store.writer() as writer:
        for i in range(3):
            lab.put(writer, i, [lab.utt] if i else None)
        file = FileId(lab.media(3), 0, (tmp_path / "c").stat().st_mtime_ns)
        writer.clip("c3", file, tmp_path / "c")
        lab.put(writer, 4, [lab.utt])
        writer.add(lab.utt, lab.media(3), lab.record(lab.utt, lab.media(3)))
    names.clear()
    opened = Store.open(store.path)
    assert store_card(opened).value["clips"] == 5
    assert not names
    assert opened.lacking([lab.utt], [("c3", tmp_path / "c")]) == {}
    assert "media" not in names
    assert opened.lacking([lab.utt, lab.frame], [("?", tmp_path / "no"), ("c3", tmp_path / "c")]) == {0: None, 1: file}
    assert same(opened)


def test_compact_makes_one_too(lab: Any, store: Store, read: list[int]) -> None:
    lab.fill(store, range(6), commit_every=2)
    store.compact()
    store.gc()
    read.clear()
    opened = Store.open(store.path)
    assert lab.contents(opened) == lab.expected(range(6))
    assert read == []
    assert same(store)
    lab.fill(opened, range(6, 8))
    assert opened.verify() == []


@pytest.mark.parametrize("harm", ["flip", "cut", "other-store", "other-format", "empty", "pipe"])
def test_a_damaged_snapshot_is_not_used(lab: Any, store: Store, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.fill(store, range(6), commit_every=2)
    path = store.path / snapshot.NAME
    data = path.read_bytes()
    if harm in ("other-store", "other-format"):
        if harm == "other-format":
            monkeypatch.setattr(snapshot, "FORMAT", 99)
        index = snapshot.decode(data)[1] if harm == "other-store" else replayed(store)
        data = snapshot.encode(index, "other", journal.trailer(store.medium, index.number))
        monkeypatch.undo()
    elif harm == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        data = {"flip": flipped, "cut": data[:middle], "empty": b""}[harm]
    if harm != "pipe":
        path.write_bytes(data)
    assert lab.contents(Store.open(store.path)) == lab.expected(range(6))
    assert store.verify() == []


def test_it_is_not_used_where_its_commit_is_another(lab: Any, store: Store) -> None:
    """A journal that lost its newest commits, as after a restored copy: the store is what the journal says."""
    lab.fill(store, range(2))
    lab.fill(store, range(2, 6))
    last = store.path / journal.name_of(store.index.number)
    last.unlink()
    assert lab.contents(Store.open(store.path)) == lab.expected(range(2))


def test_a_disk_that_refuses_it_changes_nothing(lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Local, name: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Local, "put", full)
    lab.fill(store, range(4))
    assert not (store.path / snapshot.NAME).exists()
    assert lab.contents(Store.open(store.path)) == lab.expected(range(4))


def test_gc_removes_halves_of_killed_writers(lab: Any, store: Store) -> None:
    lab.fill(store, range(4))
    half = store.path / snapshot.FOLDER / ".index.bin.0123.tmp"
    half.write_bytes(b"half")
    assert store.gc().leftovers == 1
    assert not half.exists()
    assert (store.path / snapshot.NAME).exists()


def test_a_small_store_has_none(lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    lab.fill(store, range(4))
    assert not (store.path / snapshot.FOLDER).exists()
