"""`mult`: crossmodal transformers over frames. MERTools: MERBench/toolkit/models/mult.py.

Positions are not embedded; order comes in by the causal mask alone, which the crossmodal attention has too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from emo.train.heads.base import HeadRecipe
from emo.train.heads.gradient import SEARCHABLE, Share
from emo.train.heads.layers import Linear
from emo.train.heads.objective import Fused
from emo.train.heads.trio import FrameRecipe, TrioHead, TrioNet

LEAST_LAYERS = 3  # of an encoder over two crossmodal ones
PAIRS = {"l": ("a", "v"), "a": ("l", "v"), "v": ("l", "a")}  # a query and its keys; l is text


class MultRecipe(FrameRecipe):
    """MERBench `mult`."""

    searchable: ClassVar[tuple[str, ...]] = (*SEARCHABLE, "conv1d_kernel_size")
    head: Literal["mult"] = "mult"
    hidden: int = Field(default=64, ge=2)
    dropout: Share = 0.1
    """Everywhere in the transformers. Type: number from 0 to 1. Default: ... (MERBench)."""
    grad_clip: float | None = Field(default=0.8, gt=0)
    layers: int = Field(default=4, ge=1)
    """Layers of each crossmodal encoder; those over two of them have 3 at least. Type: whole number. Default: ...
    (MERBench draws from 2, 4 and 6).
    """
    num_heads: int = Field(default=8, ge=1)
    """Attention heads; hidden is a multiple of it. Type: whole number. Default: ... (MERBench)."""
    conv1d_kernel_size: int = Field(default=1, ge=1)
    """Frames that the convolution in front sees. Type: whole number. Default: ... (MERBench draws from 1 and 3)."""
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "layers": (2, 4, 6),
        "dropout": (0.0, 0.1, 0.2, 0.3),
        "hidden": (64, 128, 256),
        "conv1d_kernel_size": (1, 3),
        "grad_clip": (0.6, 0.8, 1.0),
        "lr": (0.001, 0.0001),
    }

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.hidden % self.num_heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of num_heads {self.num_heads}")
        return self


def _linear(into: int, out: int) -> Linear:
    layer = Linear(into, out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class _Attention(nn.Module):
    """Attention of queries to keys `(B, L, D)` that are not later than they, in torch's names."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = _linear(width, width)
        self.heads, self.dropout = heads, nn.Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )  # (B, heads, L, D / heads)
        queries, keys = q.shape[2], k.shape[2]
        late = torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(1 + abs(keys - queries))
        scores = (q @ k.mT / q.shape[3] ** 0.5).masked_fill(late, -torch.inf)
        out: Tensor = self.out_proj((self.dropout(scores.softmax(dim=3)) @ v).transpose(1, 2).flatten(2))
        return out


class _Layer(nn.Module):
    """Attention and two linear layers, normalised before each; query and keys share a normalisation."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = _Attention(width, heads, dropout)
        self.fc1, self.fc2 = _linear(width, 4 * width), _linear(4 * width, width)
        self.layer_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, key: Tensor | None, value: Tensor | None) -> Tensor:
        norm = self.layer_norms[0]
        query = norm(x)
        attended = self.self_attn(query, query if key is None else norm(key), query if value is None else norm(value))
        x = x + self.dropout(attended)
        wide = self.dropout(F.relu(self.fc1(self.layer_norms[1](x))))
        out: Tensor = x + self.dropout(self.fc2(wide))
        return out


class _Encoder(nn.Module):
    """Layers over queries, whose keys and values are the same in all of them, or the queries themselves."""

    def __init__(self, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.scale = width**0.5
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        x = self.dropout(self.scale * x)
        key, value = (None if keys is None else self.dropout(self.scale * keys) for _ in range(2))  # a mask each
        for layer in self.layers:
            x = layer(x, key, value)
        out: Tensor = self.layer_norm(x)
        return out


class MultNet(TrioNet):
    """The network."""

    def __init__(self, dims: Sequence[int], recipe: Any, classes: int, valence: bool) -> None:
        super().__init__()
        h, rest = recipe.hidden, (recipe.num_heads, recipe.layers, recipe.dropout)
        audio, text, video = dims
        for m, dim in (("l", text), ("a", audio), ("v", video)):
            self.add_module(f"proj_{m}", nn.Conv1d(dim, h, recipe.conv1d_kernel_size, bias=False))
            for other in PAIRS[m]:
                self.add_module(f"trans_{m}_with_{other}", _Encoder(h, *rest))
            over_two = (recipe.num_heads, max(recipe.layers, LEAST_LAYERS), recipe.dropout)
            self.add_module(f"trans_{m}_mem", _Encoder(2 * h, *over_two))
        self.proj1, self.proj2 = Linear(6 * h, 6 * h), Linear(6 * h, 6 * h)
        self.dropout = nn.Dropout(recipe.dropout)
        self.out_layer = Linear(6 * h, h // 2)
        self.outputs(h // 2, classes, valence)

    def forward(self, audio: Tensor, text: Tensor, video: Tensor) -> Fused:
        frames = {"l": text, "a": audio, "v": video}
        x = {m: getattr(self, f"proj_{m}")(each.mT).mT for m, each in frames.items()}  # (B, L, hidden)
        last = []
        for m, others in PAIRS.items():
            crossed = [getattr(self, f"trans_{m}_with_{other}")(x[m], x[other]) for other in others]
            last.append(getattr(self, f"trans_{m}_mem")(torch.cat(crossed, dim=2))[:, -1])
        h = torch.cat(last, dim=1)
        return self.answer(self.out_layer(h + self.proj2(self.dropout(F.relu(self.proj1(h))))))


class Mult(TrioHead):
    """MERBench's MulT."""

    Recipe: ClassVar[type[HeadRecipe]] = MultRecipe
    frames_only = True
    sample: ClassVar[Mapping[str, Any]] = {
        "epochs": 8,
        "hidden": 16,
        "num_heads": 2,
        "layers": 1,
        "lr": 0.003,
        "feat_scale": 2,
    }

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> MultNet:
        return MultNet(dims, self.recipe, classes, valence)

    def least_frames(self) -> int:
        return int(self.recipe.conv1d_kernel_size)
