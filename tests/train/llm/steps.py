"""What tests of a training share: its weights at the end, and a crash between two steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from emo.train.llm.progress import Progress
from emo.train.llm.resume import checkpoints


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return what a run has learned at its last checkpoint, by name."""
    folder = checkpoints(run)[-1].path
    return load_file(folder / "adapter_model.safetensors") | load_file(folder / "projections.safetensors")


def same(a: Path, b: Path) -> bool:
    """Say whether two runs have learned the same bits."""
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Stop(Exception):
    """Raised by a test's own progress report, as a crash between two steps would be."""


def stop_after(step: int) -> Callable[[Progress], None]:
    """Return a progress report that raises `Stop` after a step."""

    def report(progress: Progress) -> None:
        if progress.step == step:
            raise Stop

    return report
