"""Layers that heads are made of; those that can be stacked hold one model's weights or many models'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from emo.train.heads.noise import Drop

Uses = list[tuple[Tensor, Tensor]]  # of a layer's weight in one step: input, gradient of the output


class Linear(nn.Linear):
    """A linear layer, or as many as are stacked in its weight, then `(M, in, out)`: `(M, B, in) -> (M, B, out)`.

    Attributes:
        uses: Of stacked layers. A list gets the two factors of the weight's gradient when the loss is differentiated,
            and the gradient itself is not computed; `None`: autograd computes it.
    """

    uses: Uses | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            return super().forward(x)
        if self.uses is None or not torch.is_grad_enabled():
            return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)
        out: Tensor = _Factored.apply(x, self.weight, self.bias, self.uses)
        return out


class _Factored(torch.autograd.Function):
    """Stacked linear layers whose weight's gradient stays in two factors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, uses: Uses) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.uses = uses
        return torch.baddbmm(bias.unsqueeze(1), x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor, None]:
        (x, weight), (dy,) = ctx.saved_tensors, gradients
        ctx.uses.append((x, dy))
        return torch.bmm(dy, weight.mT) if ctx.needs_input_grad[0] else None, None, dy.sum(dim=1), None


def matrix(weight: Tensor) -> Tensor:
    """Return a parameter of two axes as `(rows, columns)`, of stacked models `(M, rows, columns)`."""
    return weight if weight.dim() == 2 else weight.mT  # stacked ones are kept transposed


def row(vector: Tensor) -> Tensor:
    """Return a parameter of one axis so that it goes with `(B, D)`, of stacked models `(M, B, D)`."""
    return vector if vector.dim() == 1 else vector.unsqueeze(1)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation of rows, of one model or of many."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, eps=self.eps) * row(self.weight) + row(self.bias)


def batch_mean(x: Tensor, real: Tensor) -> Tensor:
    """Mean of rows `(..., B, D)` over the clips that count `(..., B)`: `(..., 1, D)`."""
    return (x * real.unsqueeze(-1)).sum(dim=-2, keepdim=True) / real.sum(dim=-1)[..., None, None]


def with_one(x: Tensor) -> Tensor:
    """Put a column of ones in front: `(..., D) -> (..., 1 + D)`."""
    return F.pad(x, (1, 0), value=1.0)


class MlpEncoder(nn.Module):
    """Dropout on the input, then three times linear and ReLU: `(B, D) -> (B, hidden)`."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop = Drop(dim, dropout)
        self.linear_1 = Linear(dim, hidden)
        self.linear_2 = Linear(hidden, hidden)
        self.linear_3 = Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(x)
        for linear in (self.linear_1, self.linear_2, self.linear_3):
            x = F.relu(linear(x))
        return x


class LstmEncoder(nn.Module):
    """Final state of one LSTM layer, dropout, linear without ReLU: `(B, T, D)` or packed sequences `-> (B, hidden)`.

    The reference pads in front with zeros and reads the state at the end; packed sequences hold no padding at all.
    """

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.rnn = nn.LSTM(dim, hidden, batch_first=True)
        self.drop = Drop(hidden, dropout)
        self.linear_1 = Linear(hidden, hidden)

    def forward(self, x: Tensor | PackedSequence) -> Tensor:
        _, (state, _) = self.rnn(x)
        out: Tensor = self.linear_1(self.drop(state[-1]))
        return out
