"""`lf_dnn`: late fusion. Encodings side by side, two layers over them. MERTools: MER2024/toolkit/models/lf_dnn.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from emo.train.heads.base import HeadRecipe
from emo.train.heads.layers import Linear
from emo.train.heads.noise import Drop
from emo.train.heads.objective import Fused
from emo.train.heads.trio import TrioHead, TrioNet, TrioRecipe


class LfDnnRecipe(TrioRecipe):
    """MERBench `lf_dnn`."""

    head: Literal["lf_dnn"] = "lf_dnn"
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "hidden": (64, 128, 256),
        "dropout": (0.2, 0.3, 0.4, 0.5),
        "lr": (0.001, 0.0001),
    }


class LfDnnNet(TrioNet):
    """The network; audio comes before video, and text last."""

    def __init__(
        self, dims: Sequence[int], hidden: int, dropout: float, frames: bool, classes: int, valence: bool
    ) -> None:
        super().__init__()
        self.encoders(dims, hidden, dropout, frames)
        self.post_fusion_dropout = Drop(3 * hidden, dropout)
        self.post_fusion_layer_1 = Linear(3 * hidden, hidden)
        self.post_fusion_layer_2 = Linear(hidden, hidden)
        self.outputs(hidden, classes, valence)

    def forward(self, audio: Tensor, text: Tensor, video: Tensor) -> Fused:
        encoded = [self.audio_encoder(audio), self.video_encoder(video), self.text_encoder(text)]
        x = self.post_fusion_dropout(torch.cat(encoded, dim=-1))
        return self.answer(F.relu(self.post_fusion_layer_2(F.relu(self.post_fusion_layer_1(x)))))


class LfDnn(TrioHead):
    """MERBench's late-fusion head."""

    Recipe: ClassVar[type[HeadRecipe]] = LfDnnRecipe
    stackable = True

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> LfDnnNet:
        return LfDnnNet(dims, self.recipe.hidden, self.recipe.dropout, frames, classes, valence)
