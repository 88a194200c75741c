"""`misa`: what modalities share and what each has alone. MERTools: MERBench/toolkit/models/misa.py.

Three loss terms: the shared parts have like moments (CMD), shared and own parts have nothing in common, and together
they reconstruct the encoding. The adversarial variant of the paper is not part of MERBench.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from emo.train.heads.base import HeadRecipe
from emo.train.heads.gradient import SEARCHABLE
from emo.train.heads.layers import LayerNorm, Linear, batch_mean, matrix, row
from emo.train.heads.noise import Drop, WideDrop
from emo.train.heads.objective import Fused, Inner
from emo.train.heads.trio import TrioHead, TrioNet, TrioRecipe

HEADS, FEED_FORWARD, INNER_DROPOUT = 2, 2048, 0.1  # of the transformer layer; no setting reaches the last two
MOMENTS = 5
NORM_EPSILON = 1e-6  # added to the norm, not under its root
ROOT_EPSILON = 1e-12  # under the roots of the moments' distances, where safe
NUMBERS = {"t": 1, "v": 1, "a": 3}  # in the reference's names of its own parts


class MisaRecipe(TrioRecipe):
    """MERBench `misa`."""

    searchable: ClassVar[tuple[str, ...]] = (*SEARCHABLE, "sim_weight", "diff_weight", "recon_weight")
    head: Literal["misa"] = "misa"
    hidden: int = Field(default=128, ge=2, multiple_of=HEADS)
    sim_weight: float = Field(default=0.1, ge=0)
    """Weight of the difference between the shared parts' moments (CMD). Type: number. Default: ... (MERBench draws
    from 0, 0.1 and 0.2).
    """
    diff_weight: float = Field(default=0.1, ge=0)
    """Weight of what shared and own parts have in common. Type: number. Default: ... (MERBench draws from 0, 0.1
    and 0.2).
    """
    recon_weight: float = Field(default=0.1, ge=0)
    """Weight of the reconstruction error. Type: number. Default: ... (MERBench draws from 0, 0.1 and 0.2)."""
    safe: bool = False
    """true: a batch of one clip trains too; in MERBench its gradients are not a number. Type: true | false.
    Default: ... (MERBench).
    """
    search: dict[str, tuple[Any, ...]] = {  # noqa: RUF012
        "dropout": (0.2, 0.3, 0.4, 0.5),
        "hidden": (64, 128, 256),
        "sim_weight": (0.0, 0.1, 0.2),
        "diff_weight": (0.0, 0.1, 0.2),
        "recon_weight": (0.0, 0.1, 0.2),
        "grad_clip": (None, 0.8, 1.0),
        "lr": (0.001, 0.0001),
    }


class _Attention(nn.Module):
    """Self-attention over the tokens of a clip, in torch's names."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)
        self.attention_drop = Drop(HEADS * tokens**2, INNER_DROPOUT)

    def forward(self, x: Tensor, tokens: int) -> Tensor:
        split = x @ matrix(self.in_proj_weight).mT + row(self.in_proj_bias)  # (B * tokens, 3 * width)
        split = split.unflatten(-1, (3, HEADS, -1)).unflatten(-4, (-1, tokens)).transpose(-4, -2)
        query, key, value = split.unbind(dim=-3)  # (B, heads, tokens, width / heads)
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
        weights = self.attention_drop(weights.flatten(-3)).view(weights.shape)
        out: Tensor = self.out_proj((weights @ value).transpose(-3, -2).flatten(-2).flatten(-3, -2))
        return out


class _Layer(nn.Module):
    """One transformer layer over the tokens of a clip, normalised after each sum."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.self_attn = _Attention(width, tokens)
        self.linear1, self.linear2 = Linear(width, FEED_FORWARD), Linear(FEED_FORWARD, width)
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.dropout1, self.dropout2 = Drop(tokens * width, INNER_DROPOUT), Drop(tokens * width, INNER_DROPOUT)
        self.dropout = WideDrop(INNER_DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[-2]

        def drop(layer: nn.Module, rows: Tensor) -> Tensor:  # dropout takes a clip per row
            return layer(rows.unflatten(-2, (-1, tokens)).flatten(-2)).unflatten(-1, (tokens, -1)).flatten(-3, -2)

        rows = x.flatten(-3, -2)  # (B * tokens, width)
        rows = self.norm1(rows + drop(self.dropout1, self.self_attn(rows, tokens)))
        wide = drop(self.dropout, F.relu(self.linear1(rows)))
        rows = self.norm2(rows + drop(self.dropout2, self.linear2(wide)))
        return rows.unflatten(-2, (-1, tokens))


class MisaNet(TrioNet):
    """The network; the six tokens are the own parts of text, video and audio, then their shared parts."""

    def __init__(self, dims: Sequence[int], recipe: Any, frames: bool, classes: int, valence: bool) -> None:
        super().__init__()
        h = recipe.hidden
        self.encoders(dims, h, recipe.dropout, frames)
        for m, number in NUMBERS.items():
            project = {f"project_{m}": Linear(h, h), f"project_{m}_layer_norm": LayerNorm(h)}
            self.add_module(f"project_{m}", nn.ModuleDict(project))
            self.add_module(f"private_{m}", nn.ModuleDict({f"private_{m}_{number}": Linear(h, h)}))
            self.add_module(f"recon_{m}", nn.ModuleDict({f"recon_{m}_1": Linear(h, h)}))
        self.shared = nn.ModuleDict({"shared_1": Linear(h, h)})
        self.transformer_encoder = nn.ModuleDict({"layers": nn.ModuleList([_Layer(h, 2 * len(NUMBERS))])})
        self.fusion = nn.ModuleDict({"fusion_layer_1": Linear(6 * h, 3 * h), "fusion_layer_3": Linear(3 * h, h // 2)})
        self.fusion_dropout = Drop(3 * h, recipe.dropout)
        self.outputs(h // 2, classes, valence)
        self.epsilon = ROOT_EPSILON if recipe.safe else 0.0
        for name in ("sim_weight", "diff_weight", "recon_weight"):
            self.register_buffer(name, torch.tensor(getattr(recipe, name)), persistent=False)

    def forward(self, audio: Tensor, text: Tensor, video: Tensor) -> Fused:
        encoded = {"t": self.text_encoder(text), "v": self.video_encoder(video), "a": self.audio_encoder(audio)}
        origin, private, shared, again = {}, {}, {}, {}
        for m, number in NUMBERS.items():
            project = getattr(self, f"project_{m}")
            origin[m] = project[f"project_{m}_layer_norm"](F.relu(project[f"project_{m}"](encoded[m])))
            private[m] = getattr(self, f"private_{m}")[f"private_{m}_{number}"](origin[m]).sigmoid()
            shared[m] = self.shared["shared_1"](origin[m]).sigmoid()
            again[m] = getattr(self, f"recon_{m}")[f"recon_{m}_1"](private[m] + shared[m])
        tokens = torch.stack([*private.values(), *shared.values()], dim=-2)  # (B, 6, hidden)
        x = self.fusion["fusion_layer_1"](self.transformer_encoder["layers"][0](tokens).flatten(-2))
        features = self.fusion["fusion_layer_3"](F.relu(self.fusion_dropout(x)))

        def terms(real: Tensor) -> Mapping[str, Tensor]:
            own = [(private[m], shared[m]) for m in NUMBERS] + list(combinations(private.values(), 2))
            diff = torch.stack([_likeness(x, y, real) for x, y in own]).sum(dim=0)
            like = [_distance(x, y, real, self.epsilon) for x, y in combinations(shared.values(), 2)]
            errors = [batch_mean((again[m] - origin[m]).square(), real).mean(dim=(-2, -1)) for m in NUMBERS]
            return {"diff": diff, "cmd": torch.stack(like).mean(dim=0), "recon": torch.stack(errors).mean(dim=0)}

        weights = {"diff": self.diff_weight, "cmd": self.sim_weight, "recon": self.recon_weight}
        return self.answer(features, Inner(terms, weights))


def _likeness(x: Tensor, y: Tensor, real: Tensor) -> Tensor:
    """Mean square of the products of centred columns; the rows' norms are constants to the gradient."""

    def rows(z: Tensor) -> Tensor:
        z = (z - batch_mean(z, real)) * real.unsqueeze(-1)
        return z / (z.norm(dim=-1, keepdim=True).detach() + NORM_EPSILON)

    return (rows(x).mT @ rows(y)).square().mean(dim=(-2, -1))


def _distance(x: Tensor, y: Tensor, real: Tensor, epsilon: float) -> Tensor:
    """Central moment discrepancy: distance of the means, and of the central moments of orders 2 to 5."""
    means = batch_mean(x, real), batch_mean(y, real)
    parts = [means[0] - means[1]]
    parts += [
        batch_mean((x - means[0]) ** k, real) - batch_mean((y - means[1]) ** k, real) for k in range(2, MOMENTS + 1)
    ]
    return torch.stack([(part.square().sum(dim=(-2, -1)) + epsilon).sqrt() for part in parts]).sum(dim=0)


class Misa(TrioHead):
    """MERBench's MISA."""

    Recipe: ClassVar[type[HeadRecipe]] = MisaRecipe
    sample: ClassVar[Mapping[str, Any]] = {"epochs": 15, "hidden": 32, "batch_size": 8, "safe": True}
    stackable = True

    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> MisaNet:
        return MisaNet(dims, self.recipe, frames, classes, valence)
