"""`mfm`: factors of label and modalities, which generate the frames. MERTools: MERBench/toolkit/models/mfm.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from emo.train.heads.base import HeadRecipe
from emo.train.heads.gradient import SEARCHABLE, Share
from emo.train.heads.layers import Linear
from emo.train.heads.mfn import MemoryRecipe, MfnNet
from emo.train.heads.objective import Fused, Inner
from emo.train.heads.trio import TrioHead, TrioNet

WEIGHTS = ("lda_xl", "lda_xa", "lda_xv", "lda_mmd")


class MfmRecipe(MemoryRecipe):
    """MERBench `mfm`."""

    searchable: ClassVar[tuple[str, ...]] = (*SEARCHABLE, *WEIGHTS)
    head: Literal["mfm"] = "mfm"
    dropout: Share = 0.3
    """In every network but the LSTMs. Type: number from 0 to 1. Default: ... (MERBench)."""
    hidden: int = Field(default=128, ge=2, multiple_of=2)
    lda_xl: float = Field(default=0.1, ge=0)
    """Weight of the text's reconstruction. Type: number. Default: ... (MERBench draws from 0.01, 0.1, 0.5 and 1)."""
    lda_xa: float = Field(default=0.1, ge=0)
    """Weight of the audio's reconstruction. Type: number. Default: ... (MERBench draws from 0.01, 0.1, 0.5 and 1)."""
    lda_xv: float = Field(default=0.1, ge=0)
    """Weight of the video's reconstruction. Type: number. Default: ... (MERBench draws from 0.01, 0.1, 0.5 and 1)."""
    lda_mmd: float = Field(default=10.0, ge=0)
    """Weight of the four factors' distance from a normal distribution (MMD). Type: number. Default: ... (MERBench
    draws from 10, 50 and 100).
    """
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "hidden": (128, 256),
        "dropout": (0.0, 0.3, 0.5, 0.7),
        "lda_xl": (0.01, 0.1, 0.5, 1.0),
        "lda_xa": (0.01, 0.1, 0.5, 1.0),
        "lda_xv": (0.01, 0.1, 0.5, 1.0),
        "lda_mmd": (10, 50, 100),
        "lr": (0.001, 0.0001),
    }


class _Encoder(nn.Module):
    """Frames `(B, L, D)` to a code `(B, hidden)`."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.lstm, self.fc1 = nn.LSTMCell(dim, width), Linear(width, width)

    def forward(self, frames: Tensor) -> Tensor:
        state = None
        for frame in frames.unbind(dim=1):
            state = self.lstm(frame, state)
        out: Tensor = self.fc1(state[0])  # type: ignore[index]
        return out


class _Decoder(nn.Module):
    """Factors `(B, hidden)` to frames: they are the first input, and its own hidden state is every other."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.lstm, self.fc1 = nn.LSTMCell(width, width), Linear(width, dim)

    def forward(self, factors: Tensor, frames: int) -> Tensor:
        state, x, made = None, factors, []
        for _ in range(frames):
            state = self.lstm(x, state)
            x = state[0]
            made.append(self.fc1(x))
        return torch.stack(made, dim=1)


class MfmNet(TrioNet):
    """The network. A whole `mfn` is inside; its own output layers are never reached.

    Attributes:
        noise: Draws from a normal distribution, given a code's name and the code.
    """

    def __init__(self, dims: Sequence[int], recipe: Any, classes: int, valence: bool) -> None:
        super().__init__()
        h, audio, text, video = recipe.hidden, *dims
        for m, dim in (("l", text), ("a", audio), ("v", video)):
            self.add_module(f"encoder_{m}", _Encoder(dim, h))
            self.add_module(f"decoder_{m}", _Decoder(h, dim))
        self.mfn_encoder = MfnNet(dims, recipe, classes, valence)
        self.last_to_zy_fc1 = Linear(3 * h + recipe.mem_dim, h)
        for each in "ylav":
            self.add_module(f"z{each}_to_f{each}_fc1", Linear(h, h // 2))
            self.add_module(f"z{each}_to_f{each}_fc2", Linear(h // 2, h // 2))
        self.fy_to_y_fc1, self.fy_to_y_fc2 = Linear(h // 2, h // 2), Linear(h // 2, h // 2)
        self.dropout = nn.Dropout(recipe.dropout)
        self.weights = {name: getattr(recipe, name) for name in WEIGHTS}
        self.noise: Callable[[str, Tensor], Tensor] = lambda name, like: torch.randn(like.shape).to(like)
        self.outputs(h // 2, classes, valence)

    def _two(self, name: str, x: Tensor) -> Tensor:
        out: Tensor = getattr(self, f"{name}_fc2")(self.dropout(F.relu(getattr(self, f"{name}_fc1")(x))))
        return out

    def forward(self, audio: Tensor, text: Tensor, video: Tensor) -> Fused:
        frames = {"l": text, "a": audio, "v": video}
        codes = {m: getattr(self, f"encoder_{m}")(x) for m, x in frames.items()}
        codes["y"] = self.last_to_zy_fc1(self.mfn_encoder.remember(audio, text, video))
        factors = {each: F.relu(self._two(f"z{each}_to_f{each}", code)) for each, code in codes.items()}

        def terms(real: Tensor) -> Mapping[str, Tensor]:
            found = {}
            for each in ("l", "a", "v", "y"):
                code = codes[each][real]
                found[f"mmd.z{each}"] = _discrepancy(self.noise(f"z{each}", code), code)
            for m, x in frames.items():
                made = getattr(self, f"decoder_{m}")(torch.cat([factors["y"], factors[m]], dim=1), x.shape[1])
                found[f"recon.{m}"] = (made - x)[real].square().mean()
            return found

        weights = {f"mmd.z{each}": self.weights["lda_mmd"] for each in codes}
        weights |= {f"recon.{m}": self.weights[f"lda_x{m}"] for m in frames}
        return self.answer(self._two("fy_to_y", factors["y"]), Inner(terms, weights))


def _discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Maximum mean discrepancy; the kernel divides by the width twice, as the reference does."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[:, None] - b[None]).square().mean(dim=2) / a.shape[1]).exp().mean()

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


class Mfm(TrioHead):
    """MERBench's multimodal factorisation model."""

    Recipe: ClassVar[type[HeadRecipe]] = MfmRecipe
    frames_only = True
    sample: ClassVar[Mapping[str, Any]] = {
        "epochs": 25,
        "hidden": 32,
        "mem_dim": 8,
        "lr": 0.01,
        "feat_scale": 1,
        "dropout": 0.0,
        "lda_mmd": 0.1,
    }

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> MfmNet:
        return MfmNet(dims, self.recipe, classes, valence)
