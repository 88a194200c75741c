"""The 16 real clips, as a user would type it: interrupted, killed, resumed, verified, trained on, scored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from emo.featstore.storage.store import open_store

EMO = [sys.executable, "-m", "emo.cli"]
FEATURES = ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448")


def emo(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EMO, *words], cwd=cwd, capture_output=True, text=True)


def stop(folder: Path, how: signal.Signals, after_commits: int) -> int:
    """Start the extraction and send it a signal once so many commits are there; its exit code."""
    words = [*EMO, "extract", "--dataset", "MER2023-SEMI", "--profile", "tiny", "--commit-every", "1"]
    child = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = folder / "mer2023.emo" / "journal"
    deadline = time.monotonic() + 300
    while child.poll() is None and time.monotonic() < deadline:
        if len(list(journal.glob("0*.jsonl"))) >= after_commits:
            child.send_signal(how)
            break
        time.sleep(0.02)
    return child.wait(timeout=120)


@pytest.fixture(scope="module")
def workspace(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose extraction was stopped by Ctrl-C, killed, and then completed."""
    folder = tmp_path_factory.mktemp("mer2023")
    root = shared / "data" / "mer2023"
    (folder / "emo.toml").write_text(f'[store]\npath = "mer2023.emo"\n[data.MER2023-SEMI]\nroot = "{root}"\n')
    assert stop(folder, signal.SIGINT, after_commits=1) == 130
    assert json.loads(emo("store", "verify", "--json", cwd=folder).stdout)["clean"]
    commits = len(list((folder / "mer2023.emo" / "journal").glob("0*.jsonl")))
    assert stop(folder, signal.SIGKILL, after_commits=commits + 1) == -signal.SIGKILL
    result = emo("extract", "--dataset", "MER2023-SEMI", "--profile", "tiny", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert 0 < json.loads(result.stdout)["clips"] < 16  # the stopped runs were not for nothing
    return folder


def test_four_features_for_all_sixteen_clips(workspace: Path) -> None:
    store = open_store(workspace / "mer2023.emo")
    clips = store.clips()
    assert len(clips) == 16
    assert store.failures() == []
    for feature in FEATURES:
        assert store.has(feature, clips).all()
    assert json.loads(emo("store", "verify", "--json", cwd=workspace).stdout) == {"clean": True, "problems": []}


def test_run_again_there_is_nothing_to_do(workspace: Path) -> None:
    result = emo("extract", "--dataset", "MER2023-SEMI", "--profile", "tiny", "--json", cwd=workspace)
    assert result.returncode == 0
    assert json.loads(result.stdout)["clips"] == 0
    assert "16 clips are complete" in result.stderr


def test_plain_zarr_reads_the_same_numbers(workspace: Path) -> None:
    store = open_store(workspace / "mer2023.emo")
    group = zarr.open_group(workspace / "mer2023.emo" / "features.zarr", mode="r")
    listed = {name.split("@")[0] for name, _ in group.groups()}
    assert listed == {*FEATURES, "faces"}
    for feature in FEATURES:
        spec = store.resolve(feature)
        arrays = [array[:] for _, array in group[spec.key].arrays()]
        ours = np.concatenate([store.get(feature, clip).array for clip in store.clips()])
        theirs = np.concatenate(arrays)
        assert ours.dtype == theirs.dtype
        assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


def test_a_head_trains_on_the_labelled_clips_and_is_scored(workspace: Path) -> None:
    trained = emo("train", "--head", "attention", "--cached", "--set", "epochs=5", "--json", cwd=workspace)
    assert trained.returncode == 0, trained.stderr
    run = json.loads(trained.stdout)
    assert run["status"] == "finished"
    assert run["validation"]["n"] == 13
    scored = emo("score", "label-6way.npz#train_corpus", cwd=workspace)
    assert scored.returncode == 0, scored.stderr
    assert "13 clips are too few for a score" in scored.stdout
    assert "tiny profile (random weights): no number here is an accuracy on people" in scored.stdout
    assert "3360 labelled clips have no prediction" in scored.stdout
    nothing = emo("score", "relative_test3_NCEV.txt", cwd=workspace)
    assert nothing.returncode == 2
    assert "None of the 834 labelled clips has a prediction" in nothing.stderr


def test_decoding_is_not_repeated_for_one_more_feature(workspace: Path, shared: Path) -> None:
    """A second look at the same media is remembered by path, size and time: nothing is hashed again."""
    store = open_store(workspace / "mer2023.emo")
    for path in (shared / "data" / "mer2023" / "clips").glob("*.mp4"):
        assert store.file_of(path) is not None, os.fspath(path)
