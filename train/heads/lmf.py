"""`lmf`: low-rank fusion, a product of three projections per rank. MERTools: MERBench/toolkit/models/lmf.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from emo.train.heads.base import HeadRecipe
from emo.train.heads.gradient import SEARCHABLE, Share
from emo.train.heads.layers import matrix, with_one
from emo.train.heads.objective import Fused
from emo.train.heads.trio import TrioHead, TrioNet, TrioRecipe


class LmfRecipe(TrioRecipe):
    """MERBench `lmf`."""

    searchable: ClassVar[tuple[str, ...]] = (*SEARCHABLE, "rank")
    head: Literal["lmf"] = "lmf"
    dropout: Share = 0.3
    """On the input of every encoder (after the LSTM for frames). Type: number from 0 to 1. Default: ... (MERBench)."""
    rank: int = Field(default=4, ge=1)
    """Ranks of the product. Type: whole number. Default: ... (MERBench draws from 3 to 6)."""
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "hidden": (32, 64, 128, 256),
        "dropout": (0.2, 0.3, 0.4, 0.5),
        "rank": (3, 4, 5, 6),
        "lr": (0.001, 0.0001),
    }


class LmfNet(TrioNet):
    """The network. The ranks are weighed, not just summed; the dropout after fusion that it declares never acts."""

    def __init__(
        self, dims: Sequence[int], hidden: int, dropout: float, rank: int, frames: bool, classes: int, valence: bool
    ) -> None:
        super().__init__()
        width = hidden // 2
        self.encoders(dims, hidden, dropout, frames)
        self.audio_factor, self.text_factor, self.video_factor = (
            nn.Parameter(nn.init.xavier_normal_(torch.empty(rank, hidden + 1, width))) for _ in dims
        )
        self.fusion_weights = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, rank)))
        self.fusion_bias = nn.Parameter(torch.zeros(1, width))
        self.outputs(width, classes, valence)

    def forward(self, audio: Tensor, text: Tensor, video: Tensor) -> Fused:
        product: Tensor | float = 1.0
        for encoded, factor in (
            (self.audio_encoder(audio), self.audio_factor),
            (self.video_encoder(video), self.video_factor),
            (self.text_encoder(text), self.text_factor),
        ):
            product = product * torch.matmul(with_one(encoded).unsqueeze(-3), factor)  # (rank, B, width)
        weights = matrix(self.fusion_weights).mT.unsqueeze(-1)  # (rank, 1, 1)
        return self.answer((weights * product).sum(dim=-3) + matrix(self.fusion_bias))


class Lmf(TrioHead):
    """MERBench's low-rank fusion."""

    Recipe: ClassVar[type[HeadRecipe]] = LmfRecipe
    sample: ClassVar[Mapping[str, Any]] = {"epochs": 15, "lr": 0.01}
    stackable = True

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> LmfNet:
        recipe = self.recipe
        return LmfNet(dims, recipe.hidden, recipe.dropout, recipe.rank, frames, classes, valence)
