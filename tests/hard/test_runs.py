"""Damaged run folders and checkpoints: a question to them ends in a sentence or in the answers of the whole run."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from damage import harm, in_child, try_all
from small_runs import checkpoint, head, make_workspace, tune

SHORT = {"head": 100, "tune": 30, "checkpoint": 12}
LONG = {"head": 1000, "tune": 700, "checkpoint": 300}


def child(kind: str, root: Path, trials: int) -> None:
    """Damage a run again and again, and ask it."""
    import torch

    torch.set_num_threads(1)
    workspace, clips = make_workspace(root)
    whole, run = root / "whole", root / "runs" / "run"
    read = {"head": head, "tune": tune, "checkpoint": checkpoint}[kind](workspace, clips, run)
    shutil.copytree(run, whole)
    truth = read(run)

    def damaged(number: int) -> str:
        shutil.rmtree(run)
        shutil.copytree(whole, run)
        return harm(run, random.Random(f"{kind} {number}")) if number else "nothing"

    def once(number: int) -> str:
        return "same" if equal(read(run), truth) else "other answers"

    try_all(trials, damaged, once)


def equal(a: Any, b: Any) -> bool:
    """Whether all answers are the same; numbers to 1e-5, because batches differ with what is known already."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) < 1e-5
    return bool(a == b)


@pytest.mark.parametrize("kind", SHORT)
def test_a_damaged_run_is_refused_or_answers_as_before(kind: str, hard: bool, tmp_path: Path) -> None:
    trials = (LONG if hard else SHORT)[kind]
    ends = in_child(__file__, kind, tmp_path, trials, trials=trials)
    assert ends["refused"] > trials // 10, ends
    assert ends["same"] > trials // 20, ends
    print(f"{kind}: {dict(ends)}")


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
