"""Extraction on a Ray cluster: the driver killed, a node killed, and the store is that of one machine, row by row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from emo.extract.demo import EMOTIONS, generate_clip
from emo.extract.run.executor import Executor
from emo.extract.session import ExtractArgs, open_session
from emo.extract.testing import check_executor
from emo.featstore.errors import UsageError
from emo.featstore.storage.store import has_store, open_store
from emo.featstore.workspace import load_workspace

TOML = '[data.folder]\nroot = "data"\n[extract]\nprofile = "tiny"\nencoders = ["HL-UTT", "eva_g_448"]\n'
TOLERANCE = 1e-5 + 2e-3  # in other company, and in half precision; relative to the largest value
CLIPS = 300 if os.environ.get("EMO_HARD") else 8


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn clips, one file that is none, and a store of all of them by one process in `one.emo`."""
    folder = tmp_path_factory.mktemp("rays") / "w"
    (folder / "data").mkdir(parents=True)
    for i in range(CLIPS):
        generate_clip(folder / "data" / f"c{i:03d}.mp4", EMOTIONS[i % 6], i, 0.3 + 0.02 * (i % 9), size=(96, 72))
    (folder / "data" / "words.mp4").write_text("this is not a video\n")
    (folder / "emo.toml").write_text(TOML + '[store]\npath = "one.emo"\n')
    assert open_session(load_workspace(folder), ExtractArgs()).run().exit_code == 0
    (folder / "emo.toml").write_text(TOML + '[store]\npath = "ray.emo"\n')
    return folder


def commits(folder: Path) -> int:
    return len(list((folder / "ray.emo/journal").glob("0*.jsonl")))


def complete(folder: Path) -> int:
    """Clips that have both features."""
    if not has_store(folder / "ray.emo"):
        return 0
    store = open_store(folder / "ray.emo")
    found = [store.has(each.spec, store.clips()) for each in store.features()]
    return int(np.logical_and.reduce(found).sum()) if len(found) == 2 else 0


def wait_for(done: Callable[[], bool], running: Callable[[], bool]) -> None:
    while not done():
        assert running(), "it ended before that"
        time.sleep(0.02)


@pytest.mark.timeout(3600 if CLIPS > 8 else 300)
def test_driver_and_node_killed_the_store_is_that_of_one_machine(ray_cluster: Any, space: Path) -> None:
    words = [sys.executable, "-m", "emo.cli", "extract", "--ray", ray_cluster.address, "--commit-every", "1"]
    driver = subprocess.Popen(words, cwd=space, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: complete(space) >= CLIPS // 4, lambda: driver.poll() is None)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    session = open_session(load_workspace(space), ExtractArgs(ray=ray_cluster.address, commit_every=1))
    assert 0 < len(session.plan.jobs) < CLIPS + 1, "what the first driver had committed is not done again"
    said: list[str] = []
    session.executor.say = said.append
    before, ended = commits(space), list[Any]()
    runner = Thread(target=lambda: ended.append(session.run()))
    runner.start()
    wait_for(lambda: commits(space) > before + CLIPS // 8, runner.is_alive)
    ray_cluster.remove_node(ray_cluster.worker_nodes.copy().pop(), allow_graceful=False)  # SIGKILL
    runner.join()
    ray_cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    (outcome,) = ended
    store, one = open_store(space / "ray.emo"), open_store(space / "one.emo")
    assert store.verify() == []
    assert sorted(store.clips()) == sorted(one.clips())
    assert [(each.clip, each.kind) for each in outcome.failures] == [("words", "not-media")] * 2
    assert (outcome.exit_code, outcome.progress.done) == (0, len(session.plan.jobs))
    features = {each.key for each in one.features()}
    assert {each.key for each in store.features()} == features
    for feature in features:
        clips = [clip for clip in one.clips() if one.has(feature, [clip])[0]]
        assert store.has(feature, clips).all()
        for clip in clips:
            a, b = store.get(feature, clip), one.get(feature, clip)
            assert (a.t0_s, a.hop_s, a.media) == (b.t0_s, b.hop_s, b.media)
            assert np.abs(a.array - b.array).max() <= TOLERANCE * np.abs(b.array).max()
    assert not open_session(load_workspace(space), ExtractArgs(ray=ray_cluster.address)).plan.jobs


@pytest.mark.timeout(300)
def test_the_executor_keeps_the_contract(ray_cluster: Any, space: Path, tmp_path: Path) -> None:
    (space / "emo.toml").write_text(TOML + f'[store]\npath = "{tmp_path / "new.emo"}"\n')
    request = ExtractArgs(ray=ray_cluster.address, encoders=("HL-UTT",), limit=3)
    jobs = open_session(load_workspace(space), request).plan.jobs

    def make() -> Executor:
        return open_session(load_workspace(space), request).executor

    check_executor(make, open_store(tmp_path / "new.emo", create=True), jobs)


def test_flags_that_do_not_go_with_a_cluster_are_refused(space: Path) -> None:
    with pytest.raises(UsageError, match="each worker has one device"):
        open_session(load_workspace(space), ExtractArgs(ray="auto", device="cuda:0,cuda:1"))
    with pytest.raises(UsageError, match="--trace draws the pass of one process"):
        open_session(load_workspace(space), ExtractArgs(ray="auto", trace=Path("t.json")))
