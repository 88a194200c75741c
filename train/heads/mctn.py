"""`mctn`: text is translated to video and back, then to audio. MERTools: MERBench/toolkit/models/mctn.py.

The reference's recurrence, attention and teacher forcing run over the clips of a batch, and frames take the part of the
clips: an answer depends on the clips beside it and on their order. `safe` translates along the frames of each clip.
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
from emo.train.heads.layers import Linear, LstmEncoder
from emo.train.heads.objective import Fused, Inner
from emo.train.heads.trio import AlignedRecipe, TrioHead, TrioNet


class MctnRecipe(AlignedRecipe):
    """MERBench `mctn`; its `teacher_forcing_ratio` has no effect there and is no key here."""

    searchable: ClassVar[tuple[str, ...]] = (*SEARCHABLE, "loss_weight")
    head: Literal["mctn"] = "mctn"
    dropout: Share = 0.1
    grad_clip: float | None = Field(default=0.8, gt=0)
    loss_weight: float = Field(default=0.3, ge=0)
    """Weight of the three translation errors. Type: number. Default: ... (MERBench draws from 0.1, 0.3, 0.5, 0.8
    and 1).
    """
    safe: bool = False
    """false: MERBench mixes up clips and frames, so that an answer depends on the other clips of its batch (of
    batch_size, in the order that is asked for). true: translation runs along the frames of each clip. Type: true |
    false. Default: ... (MERBench).
    """
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "hidden": (64, 128, 256),
        "dropout": (0.0, 0.1, 0.2, 0.3),
        "loss_weight": (0.1, 0.3, 0.5, 0.8, 1.0),
        "grad_clip": (0.6, 0.8, 1.0),
        "lr": (0.001, 0.0001),
    }

    @property
    def remark(self) -> str:
        """Say that answers depend on each other, unless they are safe from it."""
        if self.safe:
            return ""
        return (
            "As in MERBench, an answer of mctn depends on the clips beside it in its batch and on their order, so a "
            "clip alone may get another one; --set safe=true is without this."
        )


class _Encoder(nn.Module):
    """Steps `(S, N, D)` to a join `(S, N, hidden)` and a first state `(N, hidden)`."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.rnn = nn.LSTM(dim, hidden, bidirectional=True)
        self.fc = nn.Linear(hidden, hidden, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out, (state, _) = self.rnn(x)
        forward, backward = out.chunk(2, dim=2)
        return self.dropout(forward + backward), self.fc(state[0] + state[1]).tanh()


class _Attention(nn.Module):
    """Weighted sum of a join over its steps, given a state: `(N, hidden)`."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.attn = nn.Linear(2 * hidden, hidden, bias=False)
        self.v = nn.Linear(hidden, 1, bias=False)

    def forward(self, state: Tensor, join: Tensor) -> Tensor:
        energy = self.attn(torch.cat([state.expand_as(join), join], dim=2)).tanh()
        return (self.v(energy).softmax(dim=0) * join).sum(dim=0)


class _Decoder(nn.Module):
    """One step: the frame before, the state and the context to a frame and the next state."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(dim + hidden, hidden, bidirectional=True)
        self.fc_out = Linear(2 * hidden, dim)

    def forward(self, frame: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        out, (state, _) = self.rnn(torch.cat([frame, context], dim=1)[None])
        forward, backward = out[0].chunk(2, dim=1)
        return self.fc_out(torch.cat([forward + backward, context], dim=1)), state[0] + state[1]


class MctnNet(TrioNet):
    """The network; all inputs are widened to the widest with zeros."""

    def __init__(self, dims: Sequence[int], recipe: Any, classes: int, valence: bool) -> None:
        super().__init__()
        h, self.dim, self.safe, self.loss_weight = recipe.hidden, max(dims), recipe.safe, recipe.loss_weight
        self.encoder1, self.encoder2 = _Encoder(self.dim, h, recipe.dropout), _Encoder(h, h, recipe.dropout)
        self.attn1, self.attn2 = _Attention(h), _Attention(h)
        self.decoder1, self.decoder2 = _Decoder(self.dim, h), _Decoder(self.dim, h)
        self.fc_out_0 = LstmEncoder(h, h, recipe.dropout)
        self.outputs(h, classes, valence)

    def _translate(self, number: int, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return a reconstruction of the target, whose first step is zero, and the join on the way, `(B, L, D)`."""
        if self.safe:
            x, target = x.transpose(0, 1), target.transpose(0, 1)
        attention, decoder = getattr(self, f"attn{number}"), getattr(self, f"decoder{number}")
        join, state = getattr(self, f"encoder{number}")(x)
        made = [torch.zeros_like(target[0])]
        for step in range(1, len(target)):
            frame, state = decoder(target[step - 1], attention(state, join))  # the true frame, always
            made.append(frame)
        out = torch.stack(made)
        return (out.transpose(0, 1), join.transpose(0, 1)) if self.safe else (out, join)

    def forward(self, audio: Tensor, text: Tensor, video: Tensor) -> Fused:
        audio, text, video = (F.pad(x, (0, self.dim - x.shape[2])) for x in (audio, text, video))
        as_video, join = self._translate(1, text, video)
        as_text, _ = self._translate(1, as_video, text)
        as_audio, join = self._translate(2, join, audio)
        made = {"loss_v": (as_video, video), "loss_t": (as_text, text), "loss_a": (as_audio, audio)}

        def terms(real: Tensor) -> Mapping[str, Tensor]:
            return {name: (x - y)[real].square().mean() for name, (x, y) in made.items()}

        return self.answer(self.fc_out_0(join), Inner(terms, dict.fromkeys(made, self.loss_weight)))


class Mctn(TrioHead):
    """MERBench's MCTN."""

    Recipe: ClassVar[type[HeadRecipe]] = MctnRecipe
    frames_only = True
    sample: ClassVar[Mapping[str, Any]] = {"epochs": 15, "hidden": 16, "lr": 0.01, "feat_scale": 2, "safe": True}

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> MctnNet:
        return MctnNet(dims, self.recipe, classes, valence)

    def eval_rows(self) -> int:
        """Return the clips of a batch in training, where an answer depends on the others of its batch."""
        return super().eval_rows() if self.recipe.safe else int(self.recipe.batch_size)
