"""`mmim`: fusion that keeps mutual information with every modality. MERTools: MERBench/toolkit/models/mmim.py.

One optimizer takes one joint step; the paper's memory bank and entropy term are not part of MERBench.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from emo.train.heads.base import HeadRecipe
from emo.train.heads.gradient import SEARCHABLE, Share
from emo.train.heads.layers import Linear, batch_mean
from emo.train.heads.noise import Drop
from emo.train.heads.objective import Fused, Inner
from emo.train.heads.trio import TrioHead, TrioNet, TrioRecipe

EPSILON = 1e-8  # added to norms, where safe


class MmimRecipe(TrioRecipe):
    """MERBench `mmim`."""

    searchable: ClassVar[tuple[str, ...]] = (*SEARCHABLE, "cpc_layers", "alpha", "beta")
    head: Literal["mmim"] = "mmim"
    hidden: int = Field(default=128, ge=4)
    dropout: Share = 0.1
    grad_clip: float | None = Field(default=0.8, gt=0)
    cpc_layers: int = Field(default=1, ge=1)
    """Layers of the networks that predict each encoding from the fusion. Type: whole number. Default: ... (MERBench
    draws from 1 to 4).
    """
    alpha: float = Field(default=0.1, ge=0)
    """Weight of the three prediction terms (InfoNCE). Type: number. Default: ... (MERBench draws from 0, 0.1 and
    0.2).
    """
    beta: float = Field(default=0.1, ge=0)
    """Weight of the two likelihood terms (text to video, text to audio). Type: number. Default: ... (MERBench draws
    from 0, 0.1 and 0.2).
    """
    safe: bool = False
    """true: an encoding of zeros is divided by a small number instead of by 0, and the spread of the likelihood
    terms stays bounded; MERBench does neither, and its training may diverge. Type: true | false. Default: ...
    (MERBench).
    """
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "hidden": (64, 128, 256),
        "dropout": (0.0, 0.1, 0.2, 0.3),
        "cpc_layers": (1, 2, 3, 4),
        "alpha": (0.0, 0.1, 0.2),
        "beta": (0.0, 0.1, 0.2),
        "grad_clip": (0.6, 0.8, 1.0),
        "lr": (0.001, 0.0001),
    }


class _Likelihood(nn.Module):
    """How likely one encoding is, given another: a normal distribution whose mean and log-variance are learned."""

    def __init__(self, width: int, safe: bool) -> None:
        super().__init__()
        self.mlp_mu, self.mlp_logvar = (
            nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, width)) for _ in range(2)
        )
        self.entropy_prj = nn.Sequential(Linear(width, width // 4))  # of the paper's entropy term: never used
        self.safe = safe

    def forward(self, x: Tensor, y: Tensor, real: Tensor) -> Tensor:
        logvar = self.mlp_logvar(x)
        if self.safe:
            logvar = logvar.tanh()  # as in the paper; else nothing bounds it
        each = -((self.mlp_mu(x) - y) ** 2) / 2 / logvar.exp()
        return batch_mean(each, real).sum(dim=(-2, -1))


class _Prediction(nn.Module):
    """InfoNCE of an encoding and what the fusion predicts of it, against those of the batch's other clips."""

    def __init__(self, width: int, layers: int, safe: bool) -> None:
        super().__init__()
        more = [Linear(width, width) for _ in range(layers - 1)]
        self.net = nn.Sequential(Linear(width, width), nn.Tanh(), *more) if more else Linear(width, width)
        self.epsilon = EPSILON if safe else 0.0

    def forward(self, x: Tensor, fusion: Tensor, real: Tensor) -> Tensor:
        x, predicted = self._unit(x), self._unit(self.net(fusion))
        every = (x @ predicted.mT).masked_fill(~real.unsqueeze(-2), -torch.inf)
        each = every.logsumexp(dim=-1, keepdim=True) - (x * predicted).sum(dim=-1, keepdim=True)  # (B, 1)
        return batch_mean(each, real).sum(dim=(-2, -1))

    def _unit(self, x: Tensor) -> Tensor:
        return x / (x.norm(dim=-1, keepdim=True) + self.epsilon)


class MmimNet(TrioNet):
    """The network."""

    def __init__(self, dims: Sequence[int], recipe: Any, frames: bool, classes: int, valence: bool) -> None:
        super().__init__()
        h = recipe.hidden
        self.encoders(dims, h, recipe.dropout, frames)
        self.mi_tv, self.mi_ta = _Likelihood(h, recipe.safe), _Likelihood(h, recipe.safe)
        self.cpc_zt, self.cpc_zv, self.cpc_za = (_Prediction(h, recipe.cpc_layers, recipe.safe) for _ in dims)
        self.fusion_dropout = Drop(3 * h, recipe.dropout)
        self.fusion_prj = nn.ModuleDict({"linear_1": Linear(3 * h, h), "linear_2": Linear(h, h)})
        self.outputs(h, classes, valence)
        for name in ("alpha", "beta"):
            self.register_buffer(name, torch.tensor(getattr(recipe, name)), persistent=False)

    def forward(self, audio: Tensor, text: Tensor, video: Tensor) -> Fused:
        t, a, v = self.text_encoder(text), self.audio_encoder(audio), self.video_encoder(video)
        x = self.fusion_prj["linear_1"](self.fusion_dropout(torch.cat([t, a, v], dim=-1))).tanh()
        fusion = self.fusion_prj["linear_2"](x).tanh()

        def terms(real: Tensor) -> Mapping[str, Tensor]:
            return {
                "lld_tv": self.mi_tv(t, v, real),
                "lld_ta": self.mi_ta(t, a, real),
                "nce_t": self.cpc_zt(t, fusion, real),
                "nce_v": self.cpc_zv(v, fusion, real),
                "nce_a": self.cpc_za(a, fusion, real),
            }

        nce = dict.fromkeys(("nce_t", "nce_v", "nce_a"), self.alpha)
        return self.answer(fusion, Inner(terms, nce | dict.fromkeys(("lld_tv", "lld_ta"), -self.beta)))


class Mmim(TrioHead):
    """MERBench's MMIM."""

    Recipe: ClassVar[type[HeadRecipe]] = MmimRecipe
    sample: ClassVar[Mapping[str, Any]] = {"epochs": 25, "hidden": 16, "lr": 0.01, "safe": True}
    stackable = True

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> MmimNet:
        return MmimNet(dims, self.recipe, frames, classes, valence)
