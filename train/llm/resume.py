"""Checkpoints of a training in progress, and whether one may go on from them.

A checkpoint is a folder `checkpoints/step-00001000`: adapter and projections, `optimizer.safetensors`, the answers of
the validation clips, and `state.json`, written last. It is built under a temporary name, synced, and renamed, so that a
process killed at any moment leaves it whole or leaves it out; older ones are removed only after that.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from emo.featstore.errors import TrainError, UsageError
from emo.featstore.files import fsync, write_json, write_jsonl
from emo.featstore.reading import read_json
from emo.train.runs import seal

FOLDER = "checkpoints"
STATE = "state.json"
ABSENT = "(absent)"


def reached(step: str) -> None:
    """Does nothing; tests replace it to stop the process while a checkpoint is written."""


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps that are in it."""
        return int(self.state["step"])


def save_checkpoint(
    run_dir: Path,
    state: Mapping[str, Any],
    save_weights: Callable[[Path], object],
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    answers: Sequence[Mapping[str, Any]] | None,
) -> Checkpoint:
    """Write a checkpoint; a step that is there already is replaced.

    Args:
        run_dir: Run folder.
        state: Plain JSON values with `step`.
        save_weights: Writes adapter and projections into a folder.
        optimizer: Its moments are kept by parameter name.
        names: Names of the trained parameters.
        answers: What the model says of the validation clips at this step, where that was asked.

    Raises:
        TrainError: The disk refuses; nothing half written is left.
    """
    path = run_dir / FOLDER / f"step-{state['step']:08d}"
    built = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        return _save(path, built, state, save_weights, optimizer, names, answers)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(built, ignore_errors=True)
        raise TrainError(
            f"The checkpoint {path} cannot be written: {error}.",
            f"The one before is whole. Make space, then go on: emo train --cached --resume {run_dir.name}.",
        ) from error


def _save(
    path: Path,
    built: Path,
    state: Mapping[str, Any],
    save_weights: Callable[[Path], object],
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    answers: Sequence[Mapping[str, Any]] | None,
) -> Checkpoint:
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    save_weights(built)
    reached("weights-written")
    save_file(_moments(optimizer, names), built / "optimizer.safetensors")
    if answers is not None:
        write_jsonl(built / "validation.jsonl", [dict(row) for row in answers])
    reached("optimizer-written")
    write_json(built / STATE, dict(state))
    seal(built)
    for each in sorted(built.rglob("*"), reverse=True):
        fsync(each)
    fsync(built)
    reached("synced")
    if path.exists():  # damaged, or the run would have gone on from it
        os.rename(path, built.with_suffix(".old"))
    os.rename(built, path)
    fsync(path.parent)
    reached("renamed")
    return Checkpoint(path, dict(state))


def checkpoints(run_dir: Path) -> list[Checkpoint]:
    """The whole checkpoints of a run, oldest first; leftovers of a killed process are none."""
    found = []
    for path in sorted((run_dir / FOLDER).glob("step-*")):
        with suppress(UsageError):
            state = read_json(path / STATE)
            if isinstance(state, dict) and type(state.get("step")) is int:
                found.append(Checkpoint(path, state))
    return found


def prune(run_dir: Path, keep: int, best: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and that of step `best`, and what killed processes left."""
    for leftover in (run_dir / FOLDER).glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for old in checkpoints(run_dir)[:-keep]:
        if old.step != best:
            shutil.rmtree(old.path)


def load_moments(path: Path, optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> None:
    """Give the optimizer the moments of a checkpoint, strictly.

    Raises:
        TrainError: They are not those of these parameters.
    """
    stored = load_file(path / "optimizer.safetensors")
    expected: set[str] = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            state = {
                key: stored[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in stored
            }
            expected |= {f"{key}.{name}" for key in state}
            if state and (len(state) < 3 or state["exp_avg"].shape != parameter.shape):
                raise TrainError(f"{path} does not hold the optimizer's state of {name}.")
            if state:
                optimizer.state[parameter] = {
                    "step": state["step"].to(parameter.device if group.get("fused") else "cpu"),
                    "exp_avg": state["exp_avg"].to(parameter.device),
                    "exp_avg_sq": state["exp_avg_sq"].to(parameter.device),
                }
    if strange := sorted(set(stored) - expected):
        raise TrainError(f"{path} holds the optimizer's state of unknown parameters: {', '.join(strange[:3])}.")


def _moments(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, torch.Tensor]:
    return {
        f"{key}.{names[parameter]}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


# ---- drift ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Something that is not what it was when the checkpoint was written."""

    name: str
    then: str
    now: str


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """List what differs between two identities, nested keys joined by dots."""
    a, b = _flat(then), _flat(now)
    return [
        Difference(key, a.get(key, ABSENT), b.get(key, ABSENT)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)
    ]


def check_drift(then: Mapping[str, Any], now: Mapping[str, Any], force: Iterable[str], where: str) -> list[Difference]:
    """Refuse to go on where anything has changed that was not forced by its name.

    Args:
        then: Identity in the checkpoint.
        now: Identity of what would go on.
        force: Names of differences to accept: `recipe.lr`, or `recipe` for all below it.
        where: Which run, for the message.

    Returns:
        The differences that were forced.

    Raises:
        TrainError: With a table of the differences.
        UsageError: A forced name is of nothing that differs.
    """
    found = differences(then, now)
    forced = {name: [each for each in found if f"{each.name}.".startswith(f"{name}.")] for name in force}
    if idle := [name for name, each in forced.items() if not each]:
        known = ", ".join(each.name for each in found) or "nothing"
        raise UsageError(f"Forced {', '.join(idle)}, which does not differ.", f"What differs: {known}.")
    accepted = [each for those in forced.values() for each in those]
    if refused := [each for each in found if each not in accepted]:
        raise TrainError(
            f"{where} cannot go on, because it is no longer the same training:\n{table(refused)}\n",
            f"Restore these, or force them by name: {', '.join(each.name for each in refused)}.",
        )
    return accepted


def table(found: Sequence[Difference]) -> str:
    """Differences as aligned text, one per line."""
    rows = [("what", "then", "now"), *((each.name, each.then, each.now) for each in found)]
    wide = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"  {row[0]:<{wide[0]}}  {row[1]:<{wide[1]}}  {row[2]}" for row in rows)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: json.dumps(value, ensure_ascii=False)}
    found: dict[str, str] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found
