"""`ef_lstm`: early fusion. Frames side by side, one LSTM over them. MERTools: MER2024/toolkit/models/ef_lstm.py.

The reference loses the batch axis of a single clip; here it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from emo.train.heads.base import HeadRecipe
from emo.train.heads.gradient import SEARCHABLE, Share
from emo.train.heads.layers import Linear
from emo.train.heads.objective import Fused
from emo.train.heads.trio import AlignedRecipe, TrioHead, TrioNet


class EfLstmRecipe(AlignedRecipe):
    """MERBench `ef_lstm`."""

    searchable: ClassVar[tuple[str, ...]] = (*SEARCHABLE, "num_layers")
    head: Literal["ef_lstm"] = "ef_lstm"
    dropout: Share = 0.3
    """Between layers of the LSTM, and after it. Type: number from 0 to 1. Default: ... (MERBench)."""
    num_layers: int = Field(default=2, ge=1)
    """Layers of the LSTM. Type: whole number. Default: ... (MERBench draws from 2, 3 and 4)."""
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "dropout": (0.2, 0.3, 0.4, 0.5),
        "num_layers": (2, 3, 4),
        "hidden": (128, 256, 512, 1024),
        "lr": (0.001, 0.0001),
    }


class EfLstmNet(TrioNet):
    """The network; text comes first."""

    def __init__(
        self, dims: Sequence[int], hidden: int, dropout: float, layers: int, classes: int, valence: bool
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(sum(dims), hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.linear = Linear(hidden, hidden)
        self.outputs(hidden, classes, valence)

    def forward(self, audio: Tensor, text: Tensor, video: Tensor) -> Fused:
        _, (state, _) = self.lstm(torch.cat([text, audio, video], dim=-1))
        return self.answer(self.dropout(F.relu(self.linear(self.dropout(state[-1])))))


class EfLstm(TrioHead):
    """MERBench's early fusion."""

    Recipe: ClassVar[type[HeadRecipe]] = EfLstmRecipe
    frames_only = True
    sample: ClassVar[Mapping[str, Any]] = {"epochs": 30, "hidden": 32, "lr": 0.01, "feat_scale": 1}

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> EfLstmNet:
        recipe = self.recipe
        return EfLstmNet(dims, recipe.hidden, recipe.dropout, recipe.num_layers, classes, valence)
