"""Work on a Ray cluster of three nodes: workers and nodes that die, come, hang and fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from emo.featstore.cluster import Crew, Place
from emo.featstore.errors import StoreError, UsageError

Item = tuple[str, str]  # a name, and what becomes of whoever works on it


def files(folder: Path, pause_s: float) -> Callable[[Place], Any]:
    """Work that leaves a file per item. It is made here, so that Ray takes the code to the workers."""

    class Files:
        def __init__(self, place: Place) -> None:
            from types import SimpleNamespace

            if (folder / "refuses").exists():
                from emo.featstore.errors import StoreError

                raise StoreError("The disk is not mounted there.", "Mount it.")
            self.place, self.progress = place, SimpleNamespace(done=0)

        def stop(self) -> None:
            self.progress.stopping = True

        def run(self, items: Iterator[Item]) -> int:
            import os
            import signal
            import time
            import uuid

            done = 0
            for name, fate in items:
                first = not (folder / f"{name}.begun").exists()
                (folder / f"{name}.begun").touch()
                if fate == "kills" or (fate == "kills once" and first):
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(600 if fate == "hangs once" and first else pause_s)
                (folder / f"{name}.{uuid.uuid4().hex}.done").write_text(self.place.node)
                done += 1
                self.progress.done += 1
            return done

    return Files


def by_name(folder: Path) -> dict[str, list[str]]:
    """Nodes that have done an item, by its name."""
    found: dict[str, list[str]] = {}
    for path in folder.glob("*.done"):
        found.setdefault(path.name.split(".")[0], []).append(path.read_text())
    return found


def crew(cluster: Any, folder: Path, pause_s: float = 0.01, **settings: Any) -> Crew[Item]:
    def left(items: Sequence[Item]) -> list[bool]:
        return [name not in by_name(folder) for name, _ in items]

    return Crew(cluster.address, files(folder, pause_s), left, **settings)


@pytest.mark.timeout(200)
def test_items_that_kill_once_or_always_or_hang_hold_nobody_up(ray_cluster: Any, tmp_path: Path) -> None:
    items = [(f"i{n}", "fine") for n in range(40)]
    items[7], items[22], items[30] = ("i7", "kills once"), ("i22", "kills"), ("i30", "hangs once")
    work = crew(ray_cluster, tmp_path, size=4, patience_s=3)
    said: list[str] = []
    work.say = said.append
    results, killers = work.run(items)
    assert killers == [("i22", "kills")]
    assert by_name(tmp_path).keys() == {name for name, _ in items} - {"i22"}
    assert work.done == 40
    assert work.deaths >= 3
    assert said[0] == "3 workers on 3 nodes of the cluster"
    assert any("was lost; " in sentence for sentence in said)
    assert sum(results) <= sum(map(len, by_name(tmp_path).values()))


@pytest.mark.timeout(200)
def test_a_node_that_dies_is_done_without_and_one_that_comes_is_used(ray_cluster: Any, tmp_path: Path) -> None:
    items = [(f"i{n}", "fine") for n in range(120)]
    work = crew(ray_cluster, tmp_path, pause_s=0.1, size=2)
    ended: list[Any] = []
    runner = Thread(target=lambda: ended.append(work.run(items)))
    runner.start()
    while len(by_name(tmp_path)) < 6:
        time.sleep(0.05)
    victim = ray_cluster.worker_nodes.copy().pop()
    ray_cluster.remove_node(victim, allow_graceful=False)  # SIGKILL
    new = ray_cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    runner.join()
    assert ended, "it ended with an error"
    assert ended[0][1] == []
    done = by_name(tmp_path)
    assert len(done) == 120
    assert sum(map(len, done.values())) <= 120 + 2 * 2 * 3  # what was under way, and not all of it
    assert new.node_id in {node for nodes in done.values() for node in nodes}


@pytest.mark.timeout(200)
def test_what_every_worker_refuses_is_the_error_of_the_whole(ray_cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "refuses").touch()
    with pytest.raises(StoreError, match="not mounted there"):
        crew(ray_cluster, tmp_path).run([("a", "fine")])


@pytest.mark.timeout(200)
def test_a_gpu_that_no_node_has_is_said(ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo.featstore.cluster.START_S", 0.5)
    with pytest.raises(UsageError, match=r"No node of the cluster .* has a free GPU"):
        crew(ray_cluster, tmp_path, device="cuda").run([("a", "fine")])


@pytest.mark.timeout(200)
def test_stopped_it_ends_with_what_is_done(ray_cluster: Any, tmp_path: Path) -> None:
    work = crew(ray_cluster, tmp_path, pause_s=0.05, size=1)

    def stop() -> None:
        while not by_name(tmp_path):
            time.sleep(0.05)
        work.stop()

    Thread(target=stop).start()
    _, killers = work.run([(f"i{n}", "fine") for n in range(5000)])
    assert killers == []
    assert 0 < len(by_name(tmp_path)) < 5000
