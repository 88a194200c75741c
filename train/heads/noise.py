"""Everything random about training a head, as pure functions of its seed: weights, order of clips, dropout masks.

Heads of one seed that differ in width or dropout see the same order and the same random numbers, trained alone or
together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

BLOCK = 32  # steps whose random numbers are drawn at once
LEVELS = 2**16  # a dropout probability is rounded to a multiple of 1 / LEVELS


@contextmanager
def seeded(seed: int, device: torch.device, epoch: int = 0) -> Iterator[None]:
    """Torch's generators as a pure function of seed and epoch; the caller's own state comes back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_key(seed, epoch))  # epochs count from 1; 0 is for the initial weights
        yield


def epoch_order(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits its clips."""
    return rows[np.random.default_rng([seed, epoch]).permutation(len(rows))]


def draw_noise(seed: int, epoch: int, block: int, rows: int, width: int, device: torch.device) -> Tensor:
    """Random numbers of the dropout masks of one block of steps: `(rows, width)`, any of the 16-bit integers."""
    generator = torch.Generator(device)
    generator.manual_seed(_key(seed, epoch, block))
    drawn = torch.empty(-(-rows * width // 4), dtype=torch.int64, device=device)
    drawn.random_(-(2**63), None, generator=generator)  # four numbers at a time
    return drawn.view(torch.int16)[: rows * width].view(rows, width)


class Drop(nn.Dropout):
    """Dropout whose random numbers may be given: an input stays where its number reaches a threshold.

    Args:
        width: Columns of the input.
        p: Probability of a zero.

    Attributes:
        noise: 16-bit integers in the shape of the next input; `None` lets torch draw.
        threshold, scale: Of one model numbers, of stacked models `(M, 1, 1)`.
    """

    def __init__(self, width: int, p: float) -> None:
        super().__init__(p)
        self.width = width
        self.noise: Tensor | None = None
        self.threshold: int | Tensor = min(round(p * LEVELS), LEVELS - 1) - LEVELS // 2
        self.scale: float | Tensor = 1 / (1 - p)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.noise is None:
            return super().forward(x)
        return x * _mask(self.noise, self.threshold, self.scale)


class WideDrop(Drop):
    """Dropout of inputs so wide that their random numbers are made out of two that are given per row."""

    def __init__(self, p: float) -> None:
        super().__init__(2, p)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.noise is None:
            return nn.Dropout.forward(self, x)
        two = self.noise.to(torch.int32)
        columns = torch.arange(x.shape[-1], dtype=torch.int32, device=x.device)
        z = _mixed(_mixed(columns) ^ two[..., :1] << 16 ^ two[..., 1:])
        return x * _mask(z >> 16, self.threshold, self.scale)


def _mask(numbers: Tensor, threshold: int | Tensor, scale: float | Tensor) -> Tensor:
    """`scale` where whole numbers reach a threshold, else 0."""
    if numbers.is_cuda:
        return (numbers >= threshold) * scale
    return (numbers.float() - (threshold - 1)).clamp_(0, 1).mul_(scale)  # on a CPU comparisons are slow


def drops_of(net: nn.Module) -> list[Drop]:
    """The places of a network where inputs are dropped."""
    return [module for module in net.modules() if isinstance(module, Drop)]


def give_noise(drops: list[Drop], noise: Tensor) -> None:
    """Hand each place its columns of `(..., sum of widths)`."""
    for drop, columns in zip(drops, noise.split([drop.width for drop in drops], dim=-1), strict=True):
        drop.noise = columns


def _mixed(z: Tensor) -> Tensor:
    """MurmurHash3's final mix of whole numbers of 32 bits, which wrap around."""
    for factor in (-2048144789, -1028477387):
        z = (z ^ (z >> 16 & 0xFFFF)) * factor
    return z ^ (z >> 16 & 0xFFFF)


def _key(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
