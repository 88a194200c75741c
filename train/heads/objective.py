"""Objective of heads, and the conditions under which their numbers come out the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo.featstore.errors import TrainError
from emo.train.heads.base import Measure, Outputs

MANY = 32  # clips of the batch that is tried beside one of a single clip; MERBench's size


@dataclass(frozen=True)
class Inner:
    """Loss terms of a network's own (reconstruction, mutual information ...), computed when they are asked for.

    Attributes:
        terms: Gives each term by name, unweighted, from the clips that count: `(B,)` bool, of stacked models `(M, B)`.
            A term is a scalar, of stacked models `(M,)`.
        weights: What each term weighs in the loss.
    """

    terms: Callable[[Tensor], Mapping[str, Tensor]]
    weights: Mapping[str, float | Tensor]

    def __call__(self, real: Tensor) -> Tensor:
        """Return the weighted sum."""
        terms = self.terms(real)
        return torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum(dim=0)


class Fused(NamedTuple):
    """Outputs of a network that is trained by gradient descent; of stacked models each is `(M, B, ...)`.

    Attributes:
        features: Fused vector `(B, h)`.
        logits: Emotion logits `(B, C)`.
        valence: `(B, 1)`, or `None`.
        inner: Loss terms of the network's own; `None` where there are none.
    """

    features: Tensor
    logits: Tensor
    valence: Tensor | None
    inner: Inner | None = None


def head_loss(out: Fused, emotion: Tensor, valence: Tensor, real: Tensor | None = None) -> Tensor:
    """Cross-entropy, mean over the batch, plus squared valence error, mean over the clips that have one; unweighted.

    Terms of the network's own are added as they are (MERBench/main-release.py: `loss = loss + interloss`).

    Shape:
        emotion: `(B,)` class indices. valence: `(B,)`, NaN where absent. real: `(B,)` bool, clips that count; default
        all. Of stacked models each is `(M, B)`, and the loss is `(M,)`.
    """
    if real is None:
        real = torch.ones_like(emotion, dtype=torch.bool)
    each = F.cross_entropy(out.logits.flatten(0, -2), emotion.flatten(), reduction="none").view(emotion.shape)
    loss = (each * real).sum(dim=-1) / real.sum(dim=-1)
    if out.valence is not None:
        known = real & ~valence.isnan()
        error = (out.valence.squeeze(-1) - valence.nan_to_num()) * known
        loss = loss + error.square().sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
    return loss if out.inner is None else loss + out.inner(real)


@contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread: sums come out the same on any number of cores, and networks this small run faster so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measured(measure: Measure, out: Outputs) -> float:
    """Return how good outputs are; NaN where they are not finite, which no metric of answers shows."""
    finite = np.isfinite(out.logits).all() and (out.valence is None or np.isfinite(out.valence).all())
    return measure(out) if finite else math.nan


class Diverged(TrainError):
    """A training whose numbers are no longer finite."""


def check_finite(epoch: int, loss: float, metric: float, lone: Callable[[], str] = str) -> None:
    """Refuse to go on after an epoch whose numbers are not finite.

    Args:
        epoch: From 1.
        loss: Of the epoch.
        metric: Of its validation clips.
        lone: Asked only then: what helps where a batch of one clip is the cause (see `lone_hint`), else an empty text.

    Raises:
        Diverged: The training has diverged.
    """
    if math.isfinite(loss) and math.isfinite(metric):
        return
    what = f"Training diverged at epoch {epoch}: loss {loss}, validation metric {metric}"
    if helps := lone():
        raise Diverged(f"{what}; the gradient of a batch of one clip is not finite.", helps)
    raise Diverged(f"{what}.", "Lower lr, or look for broken features.")


def has_lone_batch(clips: int, size: int) -> bool:
    """Whether an epoch over several clips has a batch of one."""
    return clips > 1 and (size == 1 or clips % size == 1)


def lone_hint(clips: int, size: int, net: nn.Module, loss: Callable[[int], Tensor]) -> str:
    """Say what helps where a batch of one clip has no finite gradient and one of many clips has; else an empty text.

    Args:
        clips: Training clips.
        size: Of a batch.
        net: With finite weights.
        loss: Gives the loss of a batch of so many clips under these weights.
    """
    able = [parameter for parameter in net.parameters() if parameter.requires_grad]

    def finite(count: int) -> bool:
        found = loss(count)
        gradients = torch.autograd.grad(found, able, allow_unused=True)
        return all(bool(each.isfinite().all()) for each in (found, *gradients) if each is not None)

    if not has_lone_batch(clips, size) or finite(1) or not finite(min(clips, MANY)):
        return ""
    near = [each for each in (clips - 1, clips, clips + 1) if each > 1]  # folds differ by a clip
    other = next(n for n in range(size + 1, clips + 3) if not any(has_lone_batch(each, n) for each in near))
    left = (
        "Batches have one clip each" if size == 1 else f"{clips:,} clips in batches of {size:,} leave one for the last"
    )
    return f"{left}: --set batch_size={other} leaves no batch of one."


def scaling_of(tensor: Tensor, offsets: np.ndarray | None, clips: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and deviation `(D,)` of a stream over the training clips; a constant column keeps its scale."""
    rows = clips if offsets is None else np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in clips])
    seen = tensor[torch.from_numpy(rows).to(tensor.device)].double()
    std = seen.std(dim=0, unbiased=False)
    return seen.mean(dim=0).float(), torch.where(std > 0, std, 1.0).float()
