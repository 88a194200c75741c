"""Attention fusion of any number of feature streams: MERBench's head and MER2023's, by the official definitions.

One vector per stream; their concatenation gives one weight per stream (**not** softmaxed); the weighted sum gives the
emotion logits and the valence. Sources, in MERTools: MERBench/toolkit/models/attention.py and modules/encoder.py;
MER2023/main-release.py:226-290.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from emo.train.features import StreamShape
from emo.train.heads.base import HeadRecipe
from emo.train.heads.gradient import GradientHead, GradientRecipe, Share
from emo.train.heads.layers import Linear, LstmEncoder, MlpEncoder
from emo.train.heads.noise import Drop
from emo.train.heads.objective import Fused


class AttentionRecipe(GradientRecipe):
    """MERBench `attention`."""

    head: Literal["attention"] = "attention"
    dropout: Share = 0.3
    """On the input of every encoder (after the LSTM for sequences). Type: number from 0 to 1. Default: ...
    (MERBench).
    """
    hidden: int = Field(default=128, ge=1)
    """Width of every layer. Type: whole number. Default: ... (MERBench; search says what it draws from)."""
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "hidden": (64, 128, 256),
        "dropout": (0.2, 0.3, 0.4, 0.5),
        "lr": (0.001, 0.0001),
    }


class AttentionMer2023Recipe(GradientRecipe):
    """MER2023 baseline `attention`."""

    head: Literal["attention-mer2023"] = "attention-mer2023"
    dropout: Share = 0.3
    """After every layer. Type: number from 0 to 1. Default: ... (always, in the reference)."""
    layers: tuple[int, ...] = Field(default=(256, 128), min_length=1)
    """Widths of each MLP's layers. Type: list of whole numbers. Default: ... (MER2023)."""
    search: dict[str, tuple[Any, ...]] = {"lr": (0.001, 0.0001, 0.00001)}  # noqa: RUF012


def _mlp(dim: int, layers: Sequence[int], dropout: float) -> nn.Sequential:
    """MER2023's MLP: linear, ReLU and dropout per layer."""
    stages: list[nn.Module] = []
    for width in layers:
        stages += [Linear(dim, width), nn.ReLU(), Drop(width, dropout)]
        dim = width
    return nn.Sequential(*stages)


class AttentionFusion(nn.Module):
    """The network of both heads; they differ in their encoders alone. A batch of one clip keeps its batch axis."""

    def __init__(
        self, encoders: Sequence[nn.Module], attention_mlp: nn.Module, width: int, classes: int, valence: bool
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.attention_mlp = attention_mlp
        self.fc_att = Linear(width, len(encoders))
        self.fc_out_1 = Linear(width, classes)
        self.fc_out_2 = Linear(width, 1) if valence else None

    def forward(self, streams: Sequence[Tensor | PackedSequence]) -> Fused:
        hidden = [encoder(x) for encoder, x in zip(self.encoders, streams, strict=True)]  # K x (B, h)
        weights = self.fc_att(self.attention_mlp(torch.cat(hidden, dim=-1)))  # (B, K), no softmax
        fused = (torch.stack(hidden, dim=-2) * weights.unsqueeze(-1)).sum(dim=-2)  # (B, h)
        return Fused(fused, self.fc_out_1(fused), None if self.fc_out_2 is None else self.fc_out_2(fused))


def merbench_attention(
    dims: Sequence[tuple[int, bool]], hidden: int, dropout: float, classes: int, valence: bool
) -> AttentionFusion:
    """MERBench's head. `dims` holds `(D, is a sequence)` per stream: an LSTM encodes sequences, an MLP single rows."""
    encoders = [(LstmEncoder if sequence else MlpEncoder)(dim, hidden, dropout) for dim, sequence in dims]
    attention = MlpEncoder(hidden * len(dims), hidden, dropout)
    return AttentionFusion(encoders, attention, hidden, classes, valence)


def mer2023_attention(
    dims: Sequence[int], layers: Sequence[int], dropout: float, classes: int, valence: bool
) -> AttentionFusion:
    """MER2023's head."""
    encoders = [_mlp(dim, layers, dropout) for dim in dims]
    return AttentionFusion(encoders, _mlp(layers[-1] * len(dims), layers, dropout), layers[-1], classes, valence)


class Attention(GradientHead):
    """MERBench's attention head."""

    Recipe: ClassVar[type[HeadRecipe]] = AttentionRecipe
    sequences = True
    stackable = True

    def build(self, shapes: Sequence[StreamShape], classes: int, valence: bool) -> AttentionFusion:
        dims = [(shape.dim, shape.sequence) for shape in shapes]
        return merbench_attention(dims, self.recipe.hidden, self.recipe.dropout, classes, valence)

    @classmethod
    def why_not_searched(cls, shapes: Sequence[StreamShape]) -> str | None:
        if any(shape.sequence for shape in shapes):
            return "Streams with one row per frame are read one clip at a time."
        return None


class AttentionMer2023(GradientHead):
    """MER2023's attention head."""

    Recipe: ClassVar[type[HeadRecipe]] = AttentionMer2023Recipe
    stackable = True

    def build(self, shapes: Sequence[StreamShape], classes: int, valence: bool) -> AttentionFusion:
        return mer2023_attention(
            [shape.dim for shape in shapes], self.recipe.layers, self.recipe.dropout, classes, valence
        )
