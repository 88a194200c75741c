"""Annotation on a Ray cluster: the records of one process, one budget for all, and a lost node asks nothing twice."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from emo.extract.annotate.pages import run_page
from emo.extract.annotate.rays import together
from emo.featstore.annotations import annotations_of
from emo.featstore.clip import Clip
from emo.featstore.errors import UsageError
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import load_workspace

Study = Callable[..., Path]


def run(folder: Path, **flags: Any) -> dict[str, Any]:
    page = run_page(load_workspace(folder), lambda sentence: None, concurrency=2, **flags)
    return {**page.value, "exit_code": page.exit_code}


@pytest.mark.timeout(300)
def test_offline_it_makes_the_records_of_one_process(ray_cluster: Any, study: Study) -> None:
    folder = study(7)
    shutil.copy(folder / "data/clips/c1.mp4", folder / "data/clips/c5.mp4")
    shutil.copy(folder / "openface/c1.csv", folder / "openface/c5.csv")  # of one content, whichever is looked at
    (folder / "openface/c2.csv").unlink()
    alone = run(folder)
    one = annotations_of(open_store(folder / "s.emo"))
    (folder / "emo.toml").write_text((folder / "emo.toml").read_text().replace("s.emo", "ray.emo"))
    found = run(folder, ray=ray_cluster.address)
    same = ("clips", "made", "there", "copies", "failed", "left", "answers", "annotation", "peak", "exit_code")
    assert {name: found[name] for name in same} == {name: alone[name] for name in same}
    assert (found["made"], found["copies"], found["failed"]) == (5, 1, {"no-action-units": 1})
    store = open_store(folder / "ray.emo")
    assert annotations_of(store) == one
    assert store.verify() == []


@pytest.mark.timeout(300)
def test_a_budget_holds_over_all_workers_and_a_lost_node_costs_what_was_under_way(
    ray_cluster: Any, study: Study, server: Any
) -> None:
    folder = study(16, audio_s=0.2)
    ask = {"describer": f"{server.url}#m", "timeout": 5.0, "ray": ray_cluster.address}
    found = run(folder, **ask, max_requests=10)
    assert (found["requests"], len(server.asked)) == (10, 10)
    assert found["stopped"] == "10 requests are made"
    assert found["left"] == 16 - found["made"] > 0
    assert found["exit_code"] == 3
    server.delay_s = 0.2
    asked: list[int] = []

    def kill_a_node() -> None:
        while len(server.asked) < 22:
            time.sleep(0.02)
        ray_cluster.remove_node(ray_cluster.worker_nodes.copy().pop(), allow_graceful=False)  # SIGKILL
        asked.append(len(server.asked))

    killer = Thread(target=kill_a_node, daemon=True)
    killer.start()
    rest = run(folder, **ask)
    killer.join(timeout=1.0)
    assert asked, "it ended before that"
    ray_cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    assert asked[0] < 48
    assert (rest["made"] + found["made"], rest["left"], rest["failed"], rest["exit_code"]) == (16, 0, {}, 0)
    assert annotations_of(open_store(folder / "s.emo")).keys() == {f"c{i}" for i in range(16)}
    assert 48 <= len(server.asked) <= 48 + 6, "the lost node had two clips in hand"
    assert 0 <= rest["requests"] - (len(server.asked) - 10) <= 2, "what the lost node had counted and not sent"
    assert not list(folder.glob("*.answers-*"))


def test_copies_go_to_one_worker_and_a_recording_is_of_one_process(study: Study) -> None:
    folder = study(3)
    shutil.copy(folder / "data/clips/c0.mp4", folder / "data/clips/c2.mp4")
    clips = [Clip(f"c{i}", folder / f"data/clips/c{i}.mp4") for i in range(3)]
    assert [[clip.id for clip in each] for each in together(clips)] == [["c0", "c2"], ["c1"]]
    with pytest.raises(UsageError, match="--record writes the answers of one process"):
        run(folder, ray="auto", record=folder / "said.jsonl")
