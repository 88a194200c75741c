"""A head of somebody else: one file and one entry point; the command trains it, and it keeps the contract of heads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emo.featstore.errors import UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import open_store
from emo.train.recipe import head_class, head_names, load_recipe
from emo.train.runs import load_run
from emo.train.testing import HEAD_CHECKS, HeadCheck

Run = Callable[..., subprocess.CompletedProcess[str]]
FILE = '''
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from emo.featstore.errors import ModelError
from emo.train.heads.base import Epoch, Head, HeadRecipe, Outputs


class CentroidRecipe(HeadRecipe):
    """Keys of the nearest centre."""

    head: Literal["mine"] = "mine"
    sharpness: float = Field(default=1.0, gt=0)


class Centroid(Head):
    """The emotion whose mean over the training clips is nearest."""

    Recipe: ClassVar[type[HeadRecipe]] = CentroidRecipe
    fixed = True
    on_device = False
    sample: ClassVar[dict[str, Any]] = {"sharpness": 2.0}

    def __init__(self, recipe, shapes, classes, valence, device, seed):
        self.check_shapes(shapes)
        self.recipe = recipe
        width = sum(shape.dim for shape in shapes)
        self._state = {"centre": np.zeros((classes, width), np.float32), "seen": np.zeros(classes, np.float32)}

    @classmethod
    def prepare(cls, streams, device):
        return np.concatenate([stream.rows for stream in streams], axis=1).astype(np.float32)

    def fit(self, data, targets, train, val, measure, on_epoch):
        for k in range(len(self._state["seen"])):
            rows = train[targets.emotion[train] == k]
            self._state["seen"][k] = len(rows) > 0
            if len(rows):
                self._state["centre"][k] = data[rows].mean(axis=0)
        on_epoch(Epoch(1, None, measure(self.predict(data, val)), True))
        return 1

    def predict(self, data, rows):
        apart = ((data[rows][:, None] - self._state["centre"]) ** 2).mean(axis=2).astype(np.float64)
        return Outputs(-apart * self.recipe.sharpness - 1e9 * (self._state["seen"] == 0))

    def state(self):
        return dict(self._state)

    def load(self, state):
        own = {key: array.shape for key, array in self._state.items()}
        given = {key: array.shape for key, array in state.items()}
        if own != given:
            raise ModelError(f"The weights do not fit the head: {given}, expected {own}.")
        self._state = {key: np.array(array) for key, array in state.items()}
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the file and what an installer writes beside it."""
    folder = tmp_path / "site"
    info = folder / "centroid-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "centroid_of_mine.py").write_text(FILE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: centroid\nVersion: 1.0\n")
    points = "[emo.heads]\nmine = centroid_of_mine:Centroid\nbroken = centroid_of_mine:Nobody\n"
    points += "strange = json:JSONDecoder\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "centroid_of_mine", raising=False)
    return folder


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A workspace of 24 clips of four emotions, whose features tell them; there are no media."""
    space = tmp_path / "work"
    (space / "data").mkdir(parents=True)
    (space / "emo.toml").write_text('[store]\npath = "own.emo"\n[data.mini]\nkind = "folder"\nroot = "data"\n')
    rng = np.random.default_rng(0)
    words = ("angry", "happy", "neutral", "sad")
    centres = rng.normal(size=(4, 6)) * 5
    spec = EncoderSpec("loud_UTT", "any", "audio", "utt", 6, 1, "tiny", "seed:0")
    rows = ["name,label"]
    with open_store(space / "own.emo", create=True).writer() as writer:
        for i in range(24):
            writer.clip(f"clip_{i:02d}", f"{i:032x}")
            writer.add(spec, f"{i:032x}", (centres[i % 4] + rng.normal(size=6)).astype(np.float32)[None])
            rows.append(f"clip_{i:02d},{words[i % 4]}")
    (space / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    return space


@pytest.mark.parametrize("check", HEAD_CHECKS, ids=lambda check: check.__name__)
def test_a_strangers_head_keeps_the_contract(installed: Path, check: HeadCheck) -> None:
    check("mine")


def test_a_contract_that_is_broken_is_noticed(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = head_class("mine")
    checks = {check.__name__: check for check in HEAD_CHECKS}
    monkeypatch.setattr(head, "fixed", False)
    with pytest.raises(AssertionError):
        checks["is_a_function_of_its_seed"]("mine")
    monkeypatch.setattr(head, "load", lambda self, state: None)
    with pytest.raises(AssertionError):
        checks["saves_and_loads_strictly"]("mine")


def test_the_command_trains_it_and_a_broken_one_is_a_sentence(emo: Run, installed: Path, space: Path) -> None:
    assert {"mine", "broken"} <= set(head_names())
    with pytest.raises(UsageError, match="broken of centroid_of_mine:Nobody cannot be loaded"):
        head_class("broken")
    with pytest.raises(UsageError, match="strange of json:JSONDecoder is no Head"):
        head_class("strange")
    env = {"PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}
    words = ("train", "--head", "mine", "--cached", "--run", "first", "--set", "sharpness=3.0")
    features = ("--set", "features=[loud_UTT]")
    done = emo(*words, *features, cwd=space, env=env)
    assert done.returncode == 0, done.stderr
    run = load_run(space / "runs" / "first")
    assert run.info["head"] == "mine"
    assert load_recipe(run.path / "recipe.yaml").sharpness == 3.0
    said = [json.loads(line) for line in (run.path / "predictions.jsonl").read_text().splitlines()]
    assert len(said) == 24
    refused = emo("train", "--head", "broken", "--cached", cwd=space, env=env)
    assert refused.returncode == 2
    assert "cannot be loaded" in refused.stderr
