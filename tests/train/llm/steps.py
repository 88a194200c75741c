"""What tests of a training share: clips with features, its weights at the end, and a crash between two steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from emo.featstore.clip import Clip, Label
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, open_store
from emo.train.llm.progress import Progress
from emo.train.llm.resume import checkpoints

WORDS = ("happy", "sad", "angry", "neutral")


def clips_with(specs: Sequence[EncoderSpec], path: Path) -> tuple[Store, list[Clip]]:
    """Return a store of features drawn from a seed, and its 24 labelled clips; every third says nothing."""
    rng, clips = np.random.default_rng(0), []
    with open_store(path, create=True).writer() as writer:
        for i in range(24):
            said = {"english": "I see. " * (i % 3)}
            clips.append(Clip(f"c{i}", split="train", label=Label(WORDS[i % 4]), transcripts=said))
            writer.clip(f"c{i}", f"{i:032x}")
            for spec in specs:
                writer.add(spec, f"{i:032x}", rng.normal(size=(spec.rows or 1, spec.dim)).astype(np.float32))
    return open_store(path), clips


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
