"""Every head is trained by the command as a user types it, on the store of a small demo."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emo.train.recipe import HEADS, head_class
from emo.train.runs import load_run

Emo = Callable[..., subprocess.CompletedProcess[str]]
FRAMES = ("HL-FRA", "mae_340_FRA")
SMALL = {"hidden": 8, "epochs": 1, "mem_dim": 4, "layers": 1, "num_layers": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def space(
    emo: Emo, demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of the demo whose store has frames as well."""
    folder = tmp_path_factory.mktemp("heads") / "d"
    shutil.copytree(demo[0], folder)
    done = emo("extract", "--encoders", "HL-UTT,mae_340_UTT", "--level", "frame", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("head", [name for name in HEADS if name not in ("attention", "logistic", "knn")])
def test_a_head_is_trained_by_its_name(emo: Emo, space: Path, head: str) -> None:
    kind = head_class(head)
    keys = {key: value for key, value in SMALL.items() if key in kind.Recipe.model_fields}
    if head == "attention-mer2023":
        keys["layers"] = [8]  # type: ignore[assignment]
    features = FRAMES if kind.frames_only else ("HL-UTT", "mae_340_UTT")
    keys["features"] = list(features)  # type: ignore[assignment]
    flags = [word for key, value in keys.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    done = emo("train", "--head", head, "--cached", "--run", f"run-{head}", *flags, cwd=space)
    assert done.returncode == 0, done.stderr
    run = load_run(space / "runs" / f"run-{head}")
    assert run.info["head"] == head
    assert [each["name"] for each in run.info["features"]] == list(features)
    assert all(each["sequence"] == kind.frames_only for each in run.info["features"])
    assert ("mctn depends on the clips beside it" in " ".join(run.info["notes"])) == (head == "mctn")
    said = (run.path / "predictions.jsonl").read_text().splitlines()
    assert len(said) == run.info["n_predicted"] > 0
