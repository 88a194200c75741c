"""What the version before the last change of formats has left behind: its runs, checkpoints and exports are read.

`tests/fixtures/make_before_runs.py` made them with the code of that version.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Emo = Callable[..., subprocess.CompletedProcess[str]]
ARCHIVE = Path(__file__).parent / "fixtures" / "before" / "runs.tar.xz"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
CLIPS = ("clip_00", "clip_05", "clip_12", "clip_15")
# Other builds of torch sum in another order; the weights go some 1e-2 in these steps.
TOLERANCE = 1e-5


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The workspace as the old version left it, in a place of its own."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "before"


def told(before: Path) -> dict[str, Any]:
    return json.loads((before / "answers.json").read_text())


def same_answers(now: dict[str, Any], then: dict[str, Any]) -> None:
    assert [row["name"] for row in now["answers"]] == [row["name"] for row in then["answers"]]
    for a, b in zip(now["answers"], then["answers"], strict=True):
        assert a["answer"] == b["answer"]
        assert a.get("probabilities") == (pytest.approx(b["probabilities"], abs=1e-4) if "probabilities" in b else None)


@pytest.mark.parametrize(
    ("what", "policy", "kept"),
    [
        ("head", "official", True),
        ("tuned", "likelihood", True),
        ("tuned", "likelihood", False),
        ("tuned, free text", "official", False),
    ],
)
def test_a_run_answers_what_it_answered_then(emo: Emo, before: Path, what: str, policy: str, kept: bool) -> None:
    run = what.partition(",")[0]
    if not kept:  # the weights have to speak, and not what they have said before
        for file in (before / "runs" / run).glob("predictions*.jsonl"):
            file.unlink()
    words = ("predict", *CLIPS, "--run", run, "--answers", policy, "--cached", "--json")
    result = emo(*words, cwd=before, env=ONE_THREAD)
    assert result.returncode == 0, result.stderr
    same_answers(json.loads(result.stdout), told(before)[what])


@pytest.mark.parametrize("run", ["head", "tuned"])
def test_a_run_is_scored(emo: Emo, before: Path, run: str) -> None:
    result = emo("score", "labels.csv#test", "--run", run, "--answers", "likelihood", "--json", cwd=before)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["n"] == 4


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / "step-00000006"
    return load_file(folder / "adapter_model.safetensors") | load_file(folder / "projections.safetensors")


def test_a_run_that_died_is_resumed_and_ends_as_the_uninterrupted_one(emo: Emo, before: Path) -> None:
    """Only versions and code may differ, and are forced by name; data and recipe are the same."""
    words = ("train", "--cached", "--resume", "stopped", "--device", "cpu")
    result = emo(*words, cwd=before, env=ONE_THREAD)
    if result.returncode == 6:
        names = re.search(r"force them by name: (.*)\.", result.stderr)
        assert names, result.stderr
        differ = names[1].split(", ")
        assert all(name.startswith(("version", "code")) for name in differ), result.stderr
        result = emo(*words, *(word for name in differ for word in ("--force", name)), cwd=before, env=ONE_THREAD)
    assert result.returncode == 0, result.stderr
    then, now = weights(before / "runs" / "tuned"), weights(before / "runs" / "stopped")
    assert then.keys() == now.keys()
    for name, tensor in then.items():
        torch.testing.assert_close(now[name], tensor, atol=TOLERANCE, rtol=0)
    assert json.loads((before / "runs" / "stopped" / "run.json").read_text())["resumed"][0]["step"] == 3


def test_a_run_is_exported_as_it_was_then(emo: Emo, before: Path) -> None:
    result = emo("weights", "export", "tuned", "now.pth", "--form", "official", cwd=before)
    assert result.returncode == 0, result.stderr
    then, now = (torch.load(before / name, weights_only=True)["model"] for name in ("official.pth", "now.pth"))
    assert then.keys() == now.keys()
    assert all(torch.equal(then[name], now[name]) for name in then)


def test_an_official_export_becomes_a_run_that_answers_as_its_source(emo: Emo, before: Path) -> None:
    recipe = before / "runs" / "tuned" / "recipe.yaml"
    words = ("--recipe", str(recipe), "--set", "layout=train_consistent", "--run", "official")
    result = emo("weights", "import", "official.pth", *words, cwd=before)
    assert result.returncode == 0, result.stderr
    shutil.rmtree(before / "runs" / "tuned")
    words = ("predict", *CLIPS, "--run", "official", "--answers", "likelihood", "--cached", "--json")
    result = emo(*words, cwd=before, env=ONE_THREAD)
    assert result.returncode == 0, result.stderr
    same_answers(json.loads(result.stdout), told(before)["tuned"])
