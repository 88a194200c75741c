"""EVA-02 as timm publishes it: `eva02_base_patch14_224` of MERBench's table, without timm.

Norms before each part, rotary positions on patches beside learned ones, a gated feed-forward with a norm inside. The
feature is the mean of the patches, then `fc_norm`. timm resizes to 248 px, and rounds half a pixel of margin to even.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from emo.extract.encoders.base import Encoder
from emo.extract.encoders.image import CLIP, Image
from emo.extract.encoders.settings import MODEL, check_names, unlike
from emo.extract.weights import LoadReport
from emo.featstore.errors import ModelError

BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_hidden": 2048, "img_size": 224, "patch_size": 14}
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_hidden": 48, "img_size": 56, "patch_size": 14}
EPS = 1e-6
BASE_ANGLE = 10_000
CROP_SHARE = 0.9  # crop_pct of timm's configuration: 224 px out of 248


def rotary_table(grid: int, width: int) -> tuple[Tensor, Tensor]:
    """Sines and cosines of the patches of a grid, (grid * grid, width) each: of rows first, then of columns."""
    angles = BASE_ANGLE ** -(torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    places = torch.arange(grid, dtype=torch.float32)[:, None] * angles  # (grid, width / 4)
    rows = places[:, None].expand(-1, grid, -1)
    columns = places[None].expand(grid, -1, -1)
    both = torch.cat([rows, columns], -1).reshape(grid * grid, -1).repeat_interleave(2, -1)
    return both.sin(), both.cos()


def rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Turn pairs of columns of all tokens but the first: (B, H, N, width)."""
    patches = x[:, :, 1:]
    turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], -1).flatten(-2)
    return torch.cat([x[:, :, :1], patches * cos + turned * sin], 2).type_as(x)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, H, N, width)
        mixed = nn.functional.scaled_dot_product_attention(rotate(q, sin, cos), rotate(k, sin, cos), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _Gated(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, eps=EPS)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(nn.functional.silu(self.fc1_g(x)) * self.fc1_x(x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attn, self.mlp = _Attention(width, heads), _Gated(width, hidden)

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), sin, cos)
        return x + self.mlp(self.norm2(x))


class _Network(nn.Module):
    """The transformer, in timm's key names."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        width, heads, patch = sizes["embed_dim"], sizes["num_heads"], sizes["patch_size"]
        self.grid, self.head_width = sizes["img_size"] // patch, width // heads
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2 + 1, width))
        self.blocks = nn.ModuleList(_Block(width, heads, sizes["mlp_hidden"]) for _ in range(sizes["depth"]))
        self.fc_norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S) to tokens (N, 1 + patches, D) after the last block."""
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1).type_as(x), x], 1) + self.pos_embed
        sin, cos = (table.to(x.device) for table in rotary_table(self.grid, self.head_width))
        for block in self.blocks:
            x = block(x, sin, cos)
        return x


class Eva02(Image):
    """An EVA-02 model of the catalog."""

    family = "eva02"
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"merbench": {"rounds": True, "pool_tokens": "patches"}}
    ignore = (
        (r"head\..*|mask_token|(.*\.)?rope\..*", "a head, or what pre-training used"),
        (r"norm\..*", "a norm of the class token, which the feature does not pass"),
    )
    spare: ClassVar[Mapping[str, str]] = {}
    rounds: bool = True  # half a pixel of margin to even

    def configure(self, config: Any) -> dict[str, Any]:
        published = BASE | self.entry.sizes
        sizes = dict(config or (TINY if self.profile == "tiny" else published))
        if self.weights is not None and config is None:
            stated = self.weights.config()
            if stated is None or "eva02" not in str(stated.get("architecture")):
                message = f"{self.weights.source} holds no config.json of a timm EVA-02."
                raise ModelError(message, f"{self.name} needs the whole folder of {self.source.where}.")
            own = stated.get("model_args") or {}
            check_names(own, BASE, f"{self.weights.source}/{MODEL}")
            sizes = BASE | {key: value for key, value in own.items() if key in BASE}
            hidden = self.weights.tensors().get("blocks.0.mlp.fc2.weight")
            sizes["mlp_hidden"] = sizes["mlp_hidden"] if hidden is None else hidden.shape[1]
            if self.profile == "paper" and sizes != published:
                raise ModelError(f"{self.weights.source} is an EVA-02 of other sizes: {sizes}.", "Is it another model?")
            self.notes += unlike(f"{self.weights.source}/{MODEL}", sizes, published)
        self.full = SimpleNamespace(
            model_type="eva02",
            hidden_size=sizes["embed_dim"],
            image_size=sizes["img_size"],
            num_hidden_layers=sizes["depth"],
            patch_size=sizes["patch_size"],
        )
        side = sizes["img_size"]
        self._steps = {
            "short_side": int(side / CROP_SHARE),
            "side": side,
            "resample": "bicubic",
            "mean": CLIP["image_mean"],
            "std": CLIP["image_std"],
            "rounds": self.rounds,
        }
        return sizes

    def recipe(self, level: str) -> dict[str, Any]:
        return {**super().recipe(level), "rounds": self.rounds, "of": "mean of the patches, then fc_norm"}

    def build(self) -> nn.Module:
        return _Network(self.config)

    def load(self) -> LoadReport:
        return Encoder.load(self)  # the network is our own: its tensors are fitted one by one

    def vectors(self, model: nn.Module, pixels: Tensor) -> Tensor:
        return model.fc_norm(model(pixels)[:, 1:].mean(1)).float()
