"""`tfn`: tensor fusion, the outer product of three encodings. MERTools: MERBench/toolkit/models/tfn.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from emo.train.heads.base import HeadRecipe
from emo.train.heads.layers import Linear, with_one
from emo.train.heads.noise import WideDrop
from emo.train.heads.objective import Fused
from emo.train.heads.trio import TrioHead, TrioNet, TrioRecipe


class TfnRecipe(TrioRecipe):
    """MERBench `tfn`; the weights grow with the third power of `hidden`."""

    head: Literal["tfn"] = "tfn"
    hidden: int = 64
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "hidden": (64, 128),
        "dropout": (0.2, 0.3, 0.4, 0.5),
        "lr": (0.001, 0.0001),
    }


class TfnNet(TrioNet):
    """The network; in the flattened product audio is slowest, then video, and text fastest."""

    def __init__(
        self, dims: Sequence[int], hidden: int, dropout: float, frames: bool, classes: int, valence: bool
    ) -> None:
        super().__init__()
        self.encoders(dims, hidden, dropout, frames)
        self.post_fusion_dropout = WideDrop(dropout)
        self.post_fusion_layer_1 = Linear((hidden + 1) ** 3, hidden)
        self.post_fusion_layer_2 = Linear(hidden, hidden)
        self.outputs(hidden, classes, valence)

    def forward(self, audio: Tensor, text: Tensor, video: Tensor) -> Fused:
        a, t, v = self.audio_encoder(audio), self.text_encoder(text), self.video_encoder(video)
        product = torch.einsum("...i,...j,...k->...ijk", with_one(a), with_one(v), with_one(t)).flatten(-3)
        x = F.relu(self.post_fusion_layer_1(self.post_fusion_dropout(product)))
        return self.answer(F.relu(self.post_fusion_layer_2(x)))


class Tfn(TrioHead):
    """MERBench's tensor fusion."""

    Recipe: ClassVar[type[HeadRecipe]] = TfnRecipe
    sample: ClassVar[Mapping[str, Any]] = {"epochs": 15, "hidden": 8, "lr": 0.01}
    stackable = True

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> TfnNet:
        return TfnNet(dims, self.recipe.hidden, self.recipe.dropout, frames, classes, valence)
