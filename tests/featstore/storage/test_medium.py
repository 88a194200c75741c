"""The medium keeps its contract; links, pipes and forged names lead nowhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.errors import StoreCorrupt, StoreError
from emo.featstore.storage import durable, journal
from emo.featstore.storage.medium import Local
from emo.featstore.storage.store import Store
from emo.featstore.testing import check_medium


def test_a_folder_on_a_disk_keeps_the_contract(tmp_path: Path) -> None:
    check_medium(lambda: Local(tmp_path / "deep" / "a.emo"))


def test_a_medium_that_creates_without_looking_is_found_out(tmp_path: Path) -> None:
    class Careless(Local):
        def put_new(self, name: str, data: bytes, owner: str, keep: Callable[[], bool] = lambda: True) -> bool:
            self.put(name, data)
            return True

    with pytest.raises(AssertionError):
        check_medium(lambda: Careless(tmp_path / "a.emo"))


def forge(store: Store, number: int, change: Callable[[list[Any]], object]) -> None:
    """Change the JSON of a commit and give it the checksum that fits."""
    path = store.path / journal.name_of(number)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[:-1]]
    change(lines)
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    path.write_bytes(data + b'{"crc32c":"%08x"}\n' % durable.crc32c(data))


@pytest.mark.parametrize("name", ["../../../b", "/etc", "a", "..", f"{'0' * 32}-1/../../x", "\0"])
def test_a_segment_name_never_leads_out_of_the_store(lab: Any, store: Store, name: str) -> None:
    lab.fill(store, [1])

    def change(lines: list[Any]) -> None:
        next(line for line in lines if "segment" in line)["segment"] = name

    forge(store, 1, change)
    with pytest.raises(StoreCorrupt, match="is not named as one"):
        Store.open(store.path).clips()
    assert any("is not named as one" in problem.what for problem in Store.open(store.path).verify())


def places(value: Any) -> list[tuple[Any, Any]]:
    """All places in a JSON value, as (container, key)."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def test_a_forged_journal_ends_in_a_sentence(lab: Any, store: Store) -> None:
    """Whatever stands in a commit whose checksum fits: every question and `verify` answer, or raise a `StoreError`."""
    lab.fill(store, [1, 2])
    path = store.path / journal.name_of(1)
    whole = path.read_bytes()
    chance = random.Random(0)
    strange: list[Any] = [None, True, -1, 1 << 70, 1e308, "", "x", "\0", [], {}, [[]], {"a": 1}, "../x", 10**12, ["c1"]]
    refused = 0
    for _ in range(250):

        def change(lines: list[Any]) -> None:
            for _ in range(chance.randrange(1, 3)):
                container, key = chance.choice(places(lines))
                container[key] = chance.choice(strange)

        forge(store, 1, change)
        for ask in (lambda s: s.verify(), lambda s: s.info(), lambda s: lab.contents(s), lambda s: s.gc()):
            copy = Store.open(store.path)
            try:
                refused += isinstance(ask(copy), list)
            except StoreError:
                refused += 1
        path.write_bytes(whole)
    assert refused > 250


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_pipe_or_a_folder_in_place_of_a_journal_file_is_a_problem(lab: Any, store: Store, kind: str) -> None:
    lab.fill(store, range(4), commit_every=2)
    path = store.path / journal.name_of(2)
    path.unlink()
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(StoreCorrupt, match=r"00000002\.jsonl is not a file"):
        Store.open(store.path).clips()
    assert [problem.where for problem in Store.open(store.path).verify()] == [str(path)]


def test_gc_does_not_follow_a_link_to_another_store(lab: Any, store: Store, tmp_path: Path) -> None:
    other = lab.fill(Store.create(tmp_path / "other.emo"), [1, 2])
    lab.fill(store, [3])
    home = store.path / "features.zarr" / lab.frame.key
    shutil.move(home, tmp_path / "mine")
    home.symlink_to(other.path / "features.zarr" / lab.frame.key)
    store.gc(force=True)
    assert lab.contents(Store.open(other.path)) == lab.expected([1, 2])
    with pytest.raises(StoreError, match="out of the store"):
        store.medium.remove(f"features.zarr/{lab.frame.key}/{os.listdir(home)[0]}")
    home.unlink()
    home.symlink_to(tmp_path / "mine")
    assert lab.contents(Store.open(store.path)) == lab.expected([3]), "reading goes through links"


def test_a_lost_commit_is_noticed_by_verify_and_spared_by_gc(lab: Any, store: Store) -> None:
    lab.fill(store, range(1, 6), commit_every=2)
    store.compact()
    store.gc()
    path = store.path / journal.name_of(store.index.number)
    data = path.read_bytes()
    path.unlink()
    lost, segments = Store.open(store.path), len(list(store.path.glob("features.zarr/*/*/zarr.json")))
    assert len(lost.verify()) == segments >= 3
    assert all("No commit names it" in problem.what for problem in lost.verify())
    with pytest.raises(StoreError, match=r"Nothing was removed from .* 0 would be left.*emo store gc --force"):
        lost.gc()
    path.write_bytes(data)
    assert lab.contents(Store.open(store.path)) == lab.expected(range(1, 6))
    path.unlink()
    assert Store.open(store.path).gc(force=True).segments == segments


def test_verify_waits_a_while_before_it_asks_who_named_a_segment(lab: Any, store: Store) -> None:
    lab.fill(store, [1])
    lab.fill(store, [2])
    (store.path / journal.name_of(2)).unlink()
    assert Store.open(store.path).verify() == [], "its writer may only just have lost its lease"
    for each in store.path.glob("features.zarr/*/*/zarr.json"):
        os.utime(each, (time.time() - 7200,) * 2)
    assert len(Store.open(store.path).verify()) == 3
    assert Store.open(store.path).gc().segments == 3, "half of a store is no reason to refuse"


def test_compact_and_reads_try_again_when_others_merge_meanwhile(
    lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process compacts and cleans up between the replay and the first read."""
    lab.fill(store, range(6), commit_every=2)
    real, other = Local.get, Store.open(store.path)
    seen = Store.open(store.path)
    seen.refresh()

    def get(self: Local, name: str) -> bytes:
        if name.endswith("zarr.json") and self is not other.medium:
            monkeypatch.setattr(Local, "get", real)
            other.compact()
            other.gc()
        return real(self, name)

    for use in (lambda: store.compact(), lambda: lab.contents(seen)):
        lab.fill(other, range(6), commit_every=2)
        store.refresh()
        seen.refresh()
        monkeypatch.setattr(Local, "get", get)
        use()
        monkeypatch.undo()
    assert lab.contents(Store.open(store.path)) == lab.expected(range(6))
