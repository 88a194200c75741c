"""How answers were made, for the report of their score: run, features, data, command, software."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from emo.featstore.datasets.lookup import clips_of
from emo.featstore.errors import EmoError
from emo.featstore.install import is_installed, versions
from emo.featstore.workspace import find_workspace, load_workspace
from emo.train.metrics.seen import run_of
from emo.train.predictor import find_run
from emo.train.recipe import load_recipe
from emo.train.runs import Run, tell_splits, utc

SOFTWARE = ("torch", "transformers", "scikit-learn", "numpy", "zarr")


def made_of(run: str | None, predictions: Path | None, model: str | None, truth: Path) -> dict[str, str]:
    """Return what a reader needs to know of answers, as texts by what they are of.

    Args:
        run: Name of the run that was asked; with all three `None` the newest.
        predictions: File that was read instead.
        model: Address of a model that was asked instead.
        truth: File of the labels.
    """
    found: dict[str, str] = {}
    asked = None
    with suppress(EmoError):  # a file that lies in no run has none
        if predictions is not None:
            found["predictions"] = str(predictions.absolute())
            asked = run_of(predictions)
        elif model is None:
            asked = find_run(load_workspace(find_workspace()), run)
    if model is not None:
        found["model"] = model
    if asked is not None:
        found |= _of_run(asked)
    found |= {"truth": str(truth), "command": shlex.join(["emo", *sys.argv[1:]]), "date": utc(time.time())}
    there = [name for name in SOFTWARE if is_installed(name)]
    found["software"] = ", ".join(f"{name} {version}" for name, version in versions(*there).items())
    found["machine"] = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return found


def media_of_clips(names: Iterable[str]) -> dict[str, Path]:
    """Return the media files of clips of the workspace, as far as there is one."""
    try:
        known = clips_of(load_workspace(find_workspace()))
    except EmoError:
        return {}
    return {name: clip.media for name in names if (clip := known.get(name)) is not None and clip.media is not None}


def _of_run(run: Run) -> dict[str, str]:
    info = run.info
    found = {"run": str(run.path)}
    with suppress(EmoError):
        recipe = load_recipe(run.path / "recipe.yaml").model_dump(mode="json")
        found["what"] = str(recipe.get("head") or recipe.get("llm") or run.kind)
        seeds = recipe.get("seeds") or recipe.get("seed")
        found["seed"] = ", ".join(map(str, seeds)) if isinstance(seeds, list) else str(seeds)
    found["features"] = ", ".join(each["key"] for each in info.get("features") or ())
    found["dataset"] = str(info.get("dataset") or "")
    found["clips"] = tell_splits(info["splits"]) if info.get("splits") else ""
    found["store"] = str(info.get("store") or "")
    found["trained"] = str(info.get("started_at") or "")
    return {name: text for name, text in found.items() if text}
