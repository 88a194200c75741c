"""The 16 real clips through each published model at small sizes, as a user types it: killed, resumed, scored, asked."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

EMO = [sys.executable, "-m", "emo.cli"]
TINY = (
    "llm=tiny",
    "epochs=1",
    "steps_per_epoch=8",
    "checkpoint.every_steps=2",
    "validation.holdout=0.3",
    "log_every=1",
)
TINY += ("validation.fold_by=random", "validation.answers=likelihood", "decode.max_new_tokens=4", "lora.r=4")
FAMILIES = {
    "videollama2-tiny": ("siglip-so400m-384-FRA,beats-iter3-FRA", ()),
    "videollama2-24gb": (
        "siglip-so400m-384-stc-FRA,beats-iter3-FRA",
        ("quantise=null", "init_from=null", "accumulate=1", "batch_size=4"),
    ),
    "affectgpt": ("clip-vit-large-patch14-affectgpt-FRA,chinese-hubert-large-affectgpt-FRA", ()),
}


def emo(*words: str, cwd: Path) -> str:
    done = subprocess.run([*EMO, *words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("recipe", FAMILIES)
def test_real_clips_from_video_to_answer(recipe: str, hard: bool, shared: Path, tmp_path: Path) -> None:
    if not hard:
        pytest.skip("minutes: EMO_HARD=1")
    encoders, more = FAMILIES[recipe]
    root = shared / "data" / "mer2023"
    store = f'[store]\npath = "mer2023.emo"\n[extract]\nprofile = "tiny"\n[data.MER2023-SEMI]\nroot = "{root}"\n'
    (tmp_path / "emo.toml").write_text(store)
    assert json.loads(emo("extract", "--encoders", encoders, "--json", cwd=tmp_path))["failures"] == []
    keys = [word for key in (*TINY, *more) for word in ("--set", key)]
    train = ("train", "--cached", "--recipe", recipe, *keys)
    emo(*train, "--run", "whole", cwd=tmp_path)
    child = subprocess.Popen([*EMO, *train, "--run", "killed"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "runs/killed/checkpoints/step-00000004").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    emo("train", "--cached", "--resume", "killed", cwd=tmp_path)
    for name in ("adapter_model.safetensors", "projections.safetensors"):
        one, other = (
            load_file(tmp_path / "runs" / run / "checkpoints/step-00000008" / name) for run in ("whole", "killed")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(each, other[key]) for key, each in one.items())
    named = np.load(root / "label-6way.npz", allow_pickle=True)["train_corpus"].tolist()
    there = sorted(path.stem for path in (root / "clips").glob("sample_*.mp4") if path.stem in named)
    lines = "".join(f"{name},{named[name]['emo']}\n" for name in there)
    (tmp_path / "labels.csv").write_text(f"name,label\n{lines}")
    scored = json.loads(emo("score", "labels.csv", "--run", "whole", "--answers", "likelihood", "--json", cwd=tmp_path))
    assert scored["n"] == len(there) == 13
    shutil.copyfile(root / "clips" / f"{there[0]}.mp4", tmp_path / "mine.mp4")
    said = json.loads(emo("predict", "mine.mp4", "--run", "whole", "--json", cwd=tmp_path))
    assert "mine" in json.dumps(said)
