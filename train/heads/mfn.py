"""`mfn`: a memory fed by attention over two neighbouring frames. MERTools: MERBench/toolkit/models/mfn.py."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from emo.train.heads.base import HeadRecipe
from emo.train.heads.gradient import Share
from emo.train.heads.layers import Linear
from emo.train.heads.objective import Fused
from emo.train.heads.trio import AlignedRecipe, TrioHead, TrioNet


class MemoryRecipe(AlignedRecipe):
    """Keys of the heads that have a memory."""

    mem_dim: int = Field(default=128, ge=1)
    """Width of the memory. Type: whole number. Default: ... (MERBench)."""
    hidden: int = Field(default=128, ge=2)


class MfnRecipe(MemoryRecipe):
    """MERBench `mfn`; its window is of two frames, and no other works there."""

    head: Literal["mfn"] = "mfn"
    dropout: Share = 0.3
    """In every network between the cells and the memory. Type: number from 0 to 1. Default: ... (MERBench)."""
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "hidden": (128, 256),
        "dropout": (0.0, 0.3, 0.5, 0.7),
        "lr": (0.001, 0.0001),
    }


class States(NamedTuple):
    """Hidden states and cells of text, audio and video at one frame, `(B, hidden)` each."""

    hidden: list[Tensor]
    cells: list[Tensor]


class MemoryNet(TrioNet):
    """Three LSTM cells and a memory; a subclass says what of two neighbouring frames the memory is told.

    Args:
        dims: Widths of audio, text and video.
        recipe: Its keys.
        told: Columns that `attend` gives.
        classes: Number of labels.
        valence: Whether to predict valence.
    """

    def __init__(self, dims: Sequence[int], recipe: Any, told: int, classes: int, valence: bool) -> None:
        super().__init__()
        h, mem = recipe.hidden, recipe.mem_dim
        audio, text, video = dims
        self.lstm_l, self.lstm_a, self.lstm_v = nn.LSTMCell(text, h), nn.LSTMCell(audio, h), nn.LSTMCell(video, h)
        self.att2_fc1, self.att2_fc2 = Linear(told, h), Linear(h, mem)
        self.gamma1_fc1, self.gamma1_fc2 = Linear(told + mem, h), Linear(h, mem)
        self.gamma2_fc1, self.gamma2_fc2 = Linear(told + mem, h), Linear(h, mem)
        self.out_fc1, self.out_fc2 = Linear(3 * h + mem, h), Linear(h, h // 2)
        self.dropout = nn.Dropout(recipe.dropout)
        self.width, self.memory_width = h, mem
        self.outputs(h // 2, classes, valence)

    @abstractmethod
    def attend(self, before: States, now: States) -> Tensor:
        """Return what the memory is told of two frames, `(B, told)`."""

    def through(self, name: str, x: Tensor) -> Tensor:
        """Run two layers, with ReLU and dropout between."""
        out: Tensor = getattr(self, f"{name}_fc2")(self.dropout(F.relu(getattr(self, f"{name}_fc1")(x))))
        return out

    def remember(self, audio: Tensor, text: Tensor, video: Tensor) -> Tensor:
        """Return the last hidden states and the memory, `(B, 3 * hidden + mem_dim)`, of frames `(B, L, D)`."""
        start = text.new_zeros(len(text), self.width)
        state, memory = States([start] * 3, [start] * 3), text.new_zeros(len(text), self.memory_width)
        cells = (self.lstm_l, self.lstm_a, self.lstm_v)
        for t in range(text.shape[1]):
            at = zip(cells, (text, audio, video), state.hidden, state.cells, strict=True)
            steps = [cell(x[:, t], (hidden, inner)) for cell, x, hidden, inner in at]
            now = States([hidden for hidden, _ in steps], [inner for _, inner in steps])
            told = self.attend(state, now)
            new = self.through("att2", told).tanh()
            both = torch.cat([told, memory], dim=1)
            keep, take = self.through("gamma1", both).sigmoid(), self.through("gamma2", both).sigmoid()
            memory, state = keep * memory + take * new, now
        return torch.cat([*state.hidden, memory], dim=1)

    def forward(self, audio: Tensor, text: Tensor, video: Tensor) -> Fused:
        return self.answer(self.through("out", self.remember(audio, text, video)))


class MfnNet(MemoryNet):
    """The network; the memory is told cells of both frames, each column weighed."""

    def __init__(self, dims: Sequence[int], recipe: Any, classes: int, valence: bool) -> None:
        cells = 6 * recipe.hidden
        super().__init__(dims, recipe, cells, classes, valence)
        self.att1_fc1, self.att1_fc2 = Linear(cells, recipe.hidden), Linear(recipe.hidden, cells)

    def attend(self, before: States, now: States) -> Tensor:
        cells = torch.cat([*before.cells, *now.cells], dim=1)
        return self.through("att1", cells).softmax(dim=1) * cells


class Mfn(TrioHead):
    """MERBench's memory fusion network."""

    Recipe: ClassVar[type[HeadRecipe]] = MfnRecipe
    frames_only = True
    sample: ClassVar[Mapping[str, Any]] = {"epochs": 15, "hidden": 16, "mem_dim": 8, "lr": 0.01, "feat_scale": 2}

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> MfnNet:
        return MfnNet(dims, self.recipe, classes, valence)
