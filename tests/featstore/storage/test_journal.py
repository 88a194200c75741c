"""The journal: what is published, in which order it reaches the disk, and what is refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.errors import StoreCorrupt, StoreError
from emo.featstore.storage import journal
from emo.featstore.storage.store import Store


def test_every_byte_is_on_the_disk_before_the_journal_names_it(
    lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records every write, sync and naming, and checks their order at the moment of publication."""
    log: list[tuple[str, str]] = []
    real = {name: getattr(os, name) for name in ("write", "fsync", "link", "rename")}

    def of(fd: int) -> str:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), store.path)

    def write(fd: int, data: Any) -> int:
        log.append(("write", of(fd)))
        return real["write"](fd, data)

    def fsync(fd: int) -> None:
        log.append(("fsync", of(fd)))
        real["fsync"](fd)

    def name(kind: str) -> Any:
        def call(source: Any, target: Any) -> None:
            log.append((kind, os.path.relpath(target, store.path)))
            log.append(("from", os.path.relpath(source, store.path)))
            real[kind](source, target)

        return call

    writer = store.writer()
    for attribute, fake in (("write", write), ("fsync", fsync), ("link", name("link")), ("rename", name("rename"))):
        monkeypatch.setattr(os, attribute, fake)
    lab.put(writer, 1)
    writer.commit()
    monkeypatch.undo()

    at = {entry: i for i, entry in enumerate(log)}  # the last time it happened
    published = at["link", "journal/00000001.jsonl"]
    renamed = {target: i for i, (kind, target) in enumerate(log) if kind == "rename"}
    source_of = {target: log[i + 1][1] for target, i in renamed.items()}
    segments = [path.parent for path in store.path.glob("features.zarr/*/*/zarr.json")]
    assert len(segments) == 3
    for segment in segments:
        placed = str(segment.relative_to(store.path))
        scratch = source_of[placed]
        for file in ("c/0/0", "zarr.json"):
            assert at["write", f"{scratch}/{file}"] < at["fsync", f"{scratch}/{file}"] < renamed[placed]
        assert at["fsync", f"{scratch}/c/0/0"] < at["write", f"{scratch}/zarr.json"]  # the document comes last
        for folder in ("c/0", "c", ""):
            assert at["fsync", f"{scratch}/zarr.json"] < at["fsync", os.path.normpath(f"{scratch}/{folder}")]
            assert at["fsync", os.path.normpath(f"{scratch}/{folder}")] < renamed[placed]
        home = str(Path(placed).parent)
        assert at["fsync", f"{source_of[home]}/zarr.json"] < at["fsync", source_of[home]] < renamed[home]
        assert renamed[home] < at["fsync", "features.zarr"] < published
        assert renamed[placed] < at["fsync", home] < published
    (temp,) = {path for kind, path in log if kind == "write" and path.startswith("journal/")}
    assert at["write", temp] < at["fsync", temp] < published < at["fsync", "journal"]
    assert log[-1] == ("fsync", "journal")  # then the commit is done
    writer.close()


def test_a_feature_folder_that_another_writer_made_is_synced_all_the_same(
    lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other may not have come to it, and this commit must not name what a power cut can take away."""
    lab.fill(store, [1])
    log: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(fd: int) -> None:
        log.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real_fsync(fd)

    def link(source: Any, target: Any) -> None:
        log.append("link")
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    lab.fill(store, [2])
    assert log.index("features.zarr") < log.index("link")


def test_a_new_store_is_whole_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        log.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real_fsync(fd)

    def rename(source: Any, target: Any) -> None:
        log.append("renamed")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    Store.create(tmp_path / "a.emo")
    assert log[:3] == ["zarr.json", "emo.json", "features.zarr"]
    assert log[4:] == ["renamed", tmp_path.name]


def test_two_writers_publish_under_different_numbers_and_see_each_other(lab: Any, store: Store) -> None:
    other = Store.open(store.path)
    a, b = store.writer(), other.writer()
    lab.put(a, 1)
    lab.put(b, 2)
    lab.put(b, 1)
    a.close()
    b.close()
    assert journal.numbers(store.medium) == [1, 2]
    for seen in (other, Store.open(store.path)):
        assert lab.contents(seen) == lab.expected([1, 2])
        assert seen.verify() == []


def _no_links(*_: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_where_links_are_refused_a_lock_and_a_rename_take_their_place(
    lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _no_links)
    test_two_writers_publish_under_different_numbers_and_see_each_other(lab, store)
    for step in ("journal-synced", "journal-linked"):
        before = journal.numbers(store.medium)
        assert lab.killed_at(step, lambda: lab.fill(Store.open(store.path), [3]))
        committed = step == "journal-linked"
        assert journal.numbers(store.medium) == before + [before[-1] + 1] * committed
    assert lab.contents(Store.open(store.path)) == lab.expected([1, 2, 3])
    assert store.verify() == []


def test_a_writer_without_links_does_not_overwrite_a_taken_number(
    lab: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.fill(store, [1])
    monkeypatch.setattr(os, "link", _no_links)
    assert not store.medium.put_new(journal.name_of(1), b"other", "x")
    assert lab.contents(Store.open(store.path)) == lab.expected([1])


def test_a_number_that_gc_made_free_is_not_taken_again(lab: Any, store: Store) -> None:
    """A writer that has slept through compact and gc must not publish where nobody would look."""
    lab.fill(store, range(6), commit_every=2)
    number = journal.numbers(store.medium)[-1]
    store.compact()
    store.gc()
    assert journal.numbers(store.medium) == [number + 1]
    assert not journal.publish(store.medium, {"number": number, "store": store.id}, [], "x")
    assert journal.numbers(store.medium) == [number + 1]


def test_a_missing_number_is_an_error_except_below_a_base(lab: Any, store: Store) -> None:
    lab.fill(store, range(6), commit_every=2)
    second = store.path / journal.name_of(2)
    data = second.read_bytes()
    second.unlink()
    with pytest.raises(StoreCorrupt, match=r"00000002\.jsonl is missing"):
        Store.open(store.path).clips()
    second.write_bytes(data)
    store.compact()
    second.unlink()
    assert lab.contents(Store.open(store.path)) == lab.expected(range(6))
    base = store.index.base
    lab.fill(store, range(6, 10), commit_every=2)
    (store.path / journal.name_of(base + 1)).unlink()
    with pytest.raises(StoreCorrupt, match=rf"{base + 1:08d}\.jsonl is missing"):
        Store.open(store.path).clips()


def test_a_file_of_another_store_or_place_or_time_is_refused(lab: Any, store: Store, tmp_path: Path) -> None:
    lab.fill(store, range(4), commit_every=2)
    first, second = ((store.path / journal.name_of(n)).read_bytes() for n in (1, 2))
    other = lab.fill(Store.create(tmp_path / "b.emo"), range(2))
    for foreign in (second, (other.path / journal.name_of(1)).read_bytes()):
        (store.path / journal.name_of(1)).write_bytes(foreign)
        with pytest.raises(StoreCorrupt, match="another place or another store"):
            Store.open(store.path).clips()
    newer = {**json.loads(first.splitlines()[0]), "schema": 3}
    (store.path / journal.name_of(1)).write_bytes(journal.encode(newer, []))
    with pytest.raises(StoreError, match=r"schema 3; this emo reads 1 to 2\. Install a newer emo"):
        Store.open(store.path).clips()


def test_a_folder_listed_while_files_appear_is_looked_at_again(
    lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.fill(store, range(6), commit_every=2)
    real, calls = os.listdir, []

    def listdir(path: Any) -> list[str]:
        calls.append(path)
        return [name for name in real(path) if len(calls) > 1 or name != "00000002.jsonl"]

    monkeypatch.setattr(os, "listdir", listdir)
    assert len(Store.open(store.path).clips()) == 6
    assert len(calls) == 2
