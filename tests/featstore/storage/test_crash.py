"""Killed at any instruction, a commit is there or it is not, and running again completes the store."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.storage import durable
from emo.featstore.storage.store import Store, open_store

# Reached once per commit: the two commits of a run, and that of compact.
AGAIN = ("writer-locked", *(step for step in durable.STEPS if step.startswith("journal-")), "writer-closed")
COMMITTED_FROM = durable.STEPS.index("journal-linked")


def check_and_complete(lab: Any, path: Path, committed: list[int], wanted: list[int]) -> None:
    """What is committed is there, nothing else is, and a resume gives what an uninterrupted run gives."""
    store = Store.open(path)
    assert lab.contents(store) == lab.expected(committed)
    assert store.verify() == []
    resumed = lab.resume(path, wanted)
    assert lab.contents(resumed) == lab.expected(wanted)
    resumed.gc()
    assert os.listdir(path / "writers") == []
    assert resumed.gc().size_bytes == 0
    assert lab.contents(Store.open(path)) == lab.expected(wanted)
    assert resumed.verify() == []


@pytest.mark.parametrize(
    ("step", "nth"), [(step, 1) for step in durable.STEPS] + [(s, n) for n in (2, 3) for s in AGAIN]
)
def test_killed_at_every_step_of_a_commit(lab: Any, tmp_path: Path, step: str, nth: int) -> None:
    path = tmp_path / "a.emo"

    def run() -> None:
        store = open_store(path, create=True)
        lab.fill(store, [1, 2])
        lab.fill(store, [3])
        store.compact()
        store.gc()

    assert lab.killed_at(step, run, nth), f"{step} is not reached {nth} times"
    if not (path / "emo.json").exists():
        assert step == "store-built"
        run()
        assert os.listdir(tmp_path) == ["a.emo"], "gc removes a store that was never born"
        check_and_complete(lab, path, [1, 2, 3], [1, 2, 3])
        return
    # A commit is a journal file; how many were linked before the plug was pulled?
    commits = 3
    if step in AGAIN:
        commits = nth - (durable.STEPS.index(step) < COMMITTED_FROM)
    elif not step.startswith("gc-"):
        commits = 0
    check_and_complete(lab, path, [[], [1, 2], [1, 2, 3], [1, 2, 3]][commits], [1, 2, 3, 4])


def test_the_steps_are_those_of_the_protocol(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of steps names each one that is reached, in the order of its first appearance."""
    seen: list[str] = []
    monkeypatch.setattr(durable, "reached", seen.append)
    store = lab.fill(Store.create(tmp_path / "a.emo"), [1])
    lab.fill(store, [2])
    store.compact()
    store.gc()
    assert tuple(dict.fromkeys(seen)) == durable.STEPS


def test_two_writers_killed_at_fifty_random_instants(lab: Any, tmp_path: Path) -> None:
    """Two writers at a time, in commits of two clips; every commit they reported is whole, no other is half there."""
    path = tmp_path / "a.emo"
    Store.create(path)
    chance = random.Random(7)
    reported: set[int] = set()
    kills = next_clip = 0

    def write(pipe: int, clips: list[int]) -> None:
        store = Store.open(path)
        with store.writer() as writer:
            for i, j in zip(clips[::2], clips[1::2], strict=True):
                lab.put(writer, i)
                lab.put(writer, j)
                writer.commit()
                os.write(pipe, f"{i} {j}\n".encode())

    while kills < 50:
        writers = []
        for _ in range(2):
            clips = list(range(next_clip, next_clip + 40))
            next_clip += 38  # neighbours share two clips: both compute them, and both may commit them
            end, pipe = os.pipe()
            writers.append((lab.fork(lambda pipe=pipe, clips=clips: write(pipe, clips)), end))
            os.close(pipe)
        if chance.random() < 0.3:  # whoever cleans up meanwhile must not touch the living
            time.sleep(chance.uniform(0, 0.02))
            store = Store.open(path)
            store.compact()
            store.gc()
        time.sleep(chance.uniform(0.002, 0.04))
        for process, end in writers:
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            kills += status == signal.SIGKILL
            assert status in (0, signal.SIGKILL)
            with os.fdopen(end) as lines:
                reported |= {int(word) for line in lines for word in line.split()}
        store = Store.open(path)
        visible = {int(clip[1:]) for clip in store.clips()}
        assert reported <= visible, "a commit was lost"
        assert lab.contents(store) == lab.expected(visible), "a clip is half there, or wrong"
    assert reported, "the writers never got to commit anything"
    wanted = list(range(max(visible) + 4))
    lab.resume(path, wanted)
    store = Store.open(path)
    store.gc()
    assert store.verify() == []
    uninterrupted = lab.fill(Store.create(tmp_path / "b.emo"), wanted)
    assert lab.contents(store) == lab.contents(uninterrupted) == lab.expected(wanted)


def test_gc_at_every_step_leaves_a_running_writer_alone(
    lab: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.fill(store, [1])
    seen = []

    def reached(step: str) -> None:
        with monkeypatch.context() as quiet:
            quiet.setattr(durable, "reached", lambda _: None)
            Store.open(store.path).compact()
            Store.open(store.path).gc()
        seen.append(step)

    monkeypatch.setattr(durable, "reached", reached)
    lab.fill(store, [2, 3])
    monkeypatch.undo()
    assert set(seen) >= {"writer-locked", "record-written", "segment-placed", "journal-synced", "journal-linked"}
    assert lab.contents(Store.open(store.path)) == lab.expected([1, 2, 3])
    assert store.verify() == []


def test_what_a_killed_writer_left_is_removed_and_nothing_else(lab: Any, store: Store) -> None:
    lab.fill(store, [1])
    files = {path for path in store.path.rglob("*") if path.is_file()}
    for step in ("record-written", "segment-synced", "journal-synced"):
        assert lab.killed_at(step, lambda: lab.fill(Store.open(store.path), [2]))
    report = store.gc()
    assert report.segments >= 1
    assert report.leftovers == 4  # three scratch folders and a temporary journal file
    assert report.size_bytes > 0
    left = {path for path in store.path.rglob("*") if path.is_file()}
    assert {path for path in left - files if path.name != "zarr.json"} == set()
    assert files <= left
