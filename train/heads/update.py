"""Adam over stacked heads. On a CPU it goes block by block, so that the gradient of a block stays in a core's cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from emo.train.heads.layers import Uses

BLOCK_BYTES = 2**20  # of one gradient: about a core's second-level cache
STATE = ("value", "first", "second", "steps")
Pace = tuple[float, float, float]  # learning rate, weight decay, largest size of a gradient value


@dataclass(frozen=True)
class _Part:
    """Some heads and rows of one parameter, with Adam's moments and steps; all of one pace."""

    pace: Pace
    heads: slice
    rows: slice
    value: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor


@dataclass(frozen=True)
class _Layer:
    """The matrices of a layer, in blocks: by heads, or by rows of one head; `scratch` is where gradients are made."""

    uses: Uses
    blocks: list[_Part]
    scratch: list[Tensor]
    steps: Tensor


class Adam:
    """`torch.optim.Adam(fused=True)` of `GradientHead.fit`, of stacked parameters whose heads differ in pace.

    Args:
        params: Each `(M, ...)`; they are changed in place.
        paces: Of every head; heads of one pace are neighbours.
        uses: By the number of a parameter `(M, in, out)`, its uses in the step, where its gradient is left to be
            computed from them here. They are cleared after a step.
    """

    def __init__(self, params: Sequence[Tensor], paces: Sequence[Pace], uses: Mapping[int, Uses]) -> None:
        runs = {pace: slice(paces.index(pace), paces.index(pace) + paces.count(pace)) for pace in dict.fromkeys(paces)}
        self.whole = [
            {i: _part(pace, p, heads, slice(None)) for i, p in enumerate(params) if i not in uses}
            for pace, heads in runs.items()
        ]
        self.layers: dict[int, _Layer] = {}
        scratch = torch.empty(0)
        for i, its in uses.items():
            steps = torch.zeros(())
            blocks = [
                _part(pace, params[i], *at, steps) for pace, run in runs.items() for at in _blocks(run, params[i])
            ]
            largest = max(block.value.numel() for block in blocks)
            scratch = scratch if len(scratch) >= largest else torch.empty(largest)
            views = [scratch[: block.value.numel()].view_as(block.value) for block in blocks]
            self.layers[i] = _Layer(its, blocks, views, steps)

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Take a step; a parameter that the loss does not reach stays as it is, without decay."""
        for each in self.whole:
            parts = [part for i, part in each.items() if gradients[i] is not None]
            if parts:
                own = [
                    _clipped(g[part.heads], part.pace) for i, part in each.items() if (g := gradients[i]) is not None
                ]
                values, *lists = ([getattr(p, n) for p in parts] for n in ("value", "first", "second", "steps"))
                adam(values, own, *lists[:2], [], lists[2], fused=True, **_keys(parts[0].pace))
        for i, layer in self.layers.items():
            if layer.uses or gradients[i] is not None:
                _step_layer(layer, gradients[i])
                layer.uses.clear()


def _step_layer(layer: _Layer, direct: Tensor | None) -> None:
    """Step of a layer, whose gradient is `x.mT @ dy` over all its uses, and what autograd found besides."""
    layer.steps.add_(1)
    uses = [(x.mT, dy) for x, dy in layer.uses]
    for part, block in zip(layer.blocks, layer.scratch, strict=True):
        if direct is not None:
            block.copy_(direct[part.heads, part.rows])
        for k, (x, dy) in enumerate(uses):
            factors = x[part.heads, part.rows], dy[part.heads]
            if k or direct is not None:
                block.baddbmm_(*factors)
            else:
                torch.bmm(*factors, out=block)
        # What `adam` calls, without counting steps anew in every block.
        lists = [part.value], [_clipped(block, part.pace)], [part.first], [part.second], [], [layer.steps]
        torch._fused_adam_(*lists, **_keys(part.pace))


def _clipped(gradient: Tensor, pace: Pace) -> Tensor:
    return gradient if pace[2] == math.inf else gradient.clamp(-pace[2], pace[2])


def _keys(pace: Pace) -> dict[str, Any]:
    rest = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "maximize": False}
    return {"lr": pace[0], "weight_decay": pace[1], **rest}


def _part(pace: Pace, param: Tensor, heads: slice, rows: slice, steps: Tensor | None = None) -> _Part:
    value = param[heads, rows] if param.dim() > 1 else param[heads]
    moments = torch.zeros_like(value), torch.zeros_like(value)
    return _Part(pace, heads, rows, value, *moments, torch.zeros((), device=param.device) if steps is None else steps)


def _blocks(heads: slice, param: Tensor) -> Iterator[tuple[slice, slice]]:
    """Heads and rows of the blocks of a parameter `(M, in, out)`: several heads, or some rows of one."""
    _, rows, columns = param.shape
    size = max(1, BLOCK_BYTES // param.element_size() // columns)  # rows of a block
    many = max(1, size // rows)
    for at in range(heads.start, heads.stop, many):
        for row in range(0, rows, size):
            yield slice(at, min(at + many, heads.stop)), slice(row, min(row + size, rows))
