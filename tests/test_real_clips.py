"""The 16 real clips, as a user would type it: interrupted, killed, resumed, verified, trained on, scored."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from safetensors.numpy import load_file

from emo.featstore.storage.store import open_store

EMO = [sys.executable, "-m", "emo.cli"]
AFFECTGPT = ("clip-vit-large-patch14-affectgpt-FRA", "chinese-hubert-large-affectgpt-FRA")
FEATURES = ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448", *AFFECTGPT)


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
    toml = f'[store]\npath = "mer2023.emo"\n[data.MER2023-SEMI]\nroot = "{root}"\n'
    (folder / "emo.toml").write_text(f"{toml}[extract]\nencoders = {json.dumps(FEATURES)}\n")
    assert stop(folder, signal.SIGINT, after_commits=1) == 130
    assert json.loads(emo("store", "verify", "--json", cwd=folder).stdout)["clean"]
    commits = len(list((folder / "mer2023.emo" / "journal").glob("0*.jsonl")))
    assert stop(folder, signal.SIGKILL, after_commits=commits + 1) == -signal.SIGKILL
    result = emo("extract", "--dataset", "MER2023-SEMI", "--profile", "tiny", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert 0 < json.loads(result.stdout)["clips"] < 16  # the stopped runs were not for nothing
    return folder


def test_all_features_of_all_sixteen_clips(workspace: Path) -> None:
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
    assert "3,360 labelled clips have no prediction" in scored.stdout
    nothing = emo("score", "relative_test3_NCEV.txt", cwd=workspace)
    assert nothing.returncode == 2
    assert "None of the 834 labelled clips has a prediction" in nothing.stderr


# ---- published language models: what their recipes need beside the defaults, to be small -----------------------------

FAMILIES = {"affectgpt": ("llm=tiny", "batch_size=2", "lora.r=4", "decode.max_new_tokens=8")}
SHORT = ("epochs=3", "steps_per_epoch=8", "checkpoint.every_steps=2", "validation.holdout=0", "lora.dropout=0.3")


def sets(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


def weights(run: Path) -> dict[str, Any]:
    folder = max((run / "checkpoints").glob("step-*"))
    return load_file(folder / "adapter_model.safetensors") | load_file(folder / "projections.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_tuned_killed_resumed_scored_and_asked_about_a_raw_clip(
    workspace: Path, shared: Path, family: str
) -> None:
    """The commands are those of Emotion-LLaMA; after SIGKILL the run ends in the same bits."""
    train = ["train", "--cached", "--recipe", family, *sets(*FAMILIES[family], *SHORT), "--run"]
    runs, whole, killed = workspace / "runs", f"{family}-whole", f"{family}-killed"
    result = emo(*train, whole, cwd=workspace)
    assert result.returncode == 0, result.stderr
    child = subprocess.Popen(
        [*EMO, *train, killed], cwd=workspace, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not (runs / killed / "checkpoints" / "step-00000010").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    resumed = emo("train", "--cached", "--resume", killed, cwd=workspace)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((runs / killed / "run.json").read_text())["resumed"][0]["step"] >= 10
    one, other = weights(runs / whole), weights(runs / killed)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)

    scored = emo("score", "label-6way.npz#train_corpus", "--run", killed, "--answers", "likelihood", cwd=workspace)
    assert scored.returncode == 0, scored.stderr
    assert "13 clips are too few for a score" in scored.stdout
    assert f"{killed} has seen 13 of these 13 clips in training" in scored.stdout
    raw = workspace / f"{family}.mp4"
    shutil.copy(next((shared / "data" / "mer2023" / "clips").glob("sample_*.mp4")), raw)
    with open(raw, "ab") as file:
        file.write(b"\0\0\0\x08free")  # other bytes, so another clip
    asked = emo("predict", raw.name, "--run", killed, "--answers", "likelihood", "--json", cwd=workspace)
    assert asked.returncode == 0, asked.stderr
    (answer,) = json.loads(asked.stdout)["answers"]
    assert answer["name"].startswith(f"{family}@")
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_decoding_is_not_repeated_for_one_more_feature(workspace: Path, shared: Path) -> None:
    """A second look at the same media is remembered by path, size and time: nothing is hashed again."""
    store = open_store(workspace / "mer2023.emo")
    for path in (shared / "data" / "mer2023" / "clips").glob("*.mp4"):
        assert store.file_of(path) is not None, os.fspath(path)
