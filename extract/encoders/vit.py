"""One pre-norm vision transformer for MAE, VideoMAE and EVA, with the key names of their original checkpoints.

The three differ only in what `ViTConfig` says: 2-D patches or 3-D tubelets, a CLS token or none, a learned or a fixed
position table, a key bias or none, and which final norm exists. `ViT.forward` returns the raw residual stream of the
last block; the recipes decide what is normalised and averaged, because that is exactly where they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ViTConfig:
    """Sizes and variants of a vision transformer.

    Attributes:
        img: Side of the square input, in pixels.
        patch: Side of a patch, in pixels.
        dim: Width of the residual stream.
        depth: Number of blocks.
        heads: Attention heads.
        mlp: Hidden width of the MLP.
        eps: Epsilon of every LayerNorm in the blocks, and of the final one.
        bias: `qkv` (one bias of 3 * dim) or `qv` (BEiT style `q_bias` and `v_bias`; the key bias is zero).
        cls: Whether a CLS token stands in front.
        pos: `learned` position table (a parameter) or fixed `sinusoid` (not in the checkpoint).
        norm: Name of the final LayerNorm in the checkpoint, or `None` where there is none.
        frames: Frames per input; 1 for images.
        tubelet: Frames per tubelet (3-D patches), or `None` for 2-D patches.
    """

    img: int
    patch: int
    dim: int
    depth: int
    heads: int
    mlp: int
    eps: float
    bias: Literal["qkv", "qv"]
    cls: bool
    pos: Literal["learned", "sinusoid"]
    norm: Literal["norm", "fc_norm"] | None
    frames: int = 1
    tubelet: int | None = None

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along time, height and width."""
        side = self.img // self.patch
        return self.frames // (self.tubelet or 1), side, side

    @property
    def tokens(self) -> int:
        """Rows of the output, the CLS token included."""
        t, h, w = self.grid
        return t * h * w + self.cls


def sinusoid_table(tokens: int, dim: int) -> Tensor:
    """Fixed position table of VideoMAE (`get_sinusoid_encoding_table`), computed in float64: (1, tokens, dim)."""
    j = np.arange(dim)
    angle = np.arange(tokens)[:, None] / np.power(10000.0, 2 * (j // 2) / dim)
    table = np.where(j % 2 == 0, np.sin(angle), np.cos(angle))
    return torch.from_numpy(table.astype(np.float32))[None]


def interpolate_positions(table: Tensor, side: int) -> Tensor:
    """Resize a learned position table with a CLS row to another grid, as `interpolate_pos_embed` of EVA does.

    Bicubic, float32, `align_corners=False`, no antialiasing; the CLS row is kept as it is.

    Args:
        table: (1, 1 + g * g, D) in any dtype.
        side: Patches per side of the new grid.

    Returns:
        (1, 1 + side * side, D) float32.
    """
    table = table.float()
    old = round((table.shape[1] - 1) ** 0.5)
    patches = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)  # (1, D, g, g)
    patches = F.interpolate(patches, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


class PatchEmbed(nn.Module):
    """Patches or tubelets to tokens. The weights are a convolution's; its stride equals its kernel, so it is one
    matrix product, which is faster in half precision and never runs in TF32 behind the caller's back."""

    def __init__(self, cfg: ViTConfig) -> None:
        super().__init__()
        self.tubelet, self.patch = cfg.tubelet or 1, cfg.patch
        if cfg.tubelet is None:
            self.proj: nn.Module = nn.Conv2d(3, cfg.dim, cfg.patch, cfg.patch)
        else:
            kernel = (cfg.tubelet, cfg.patch, cfg.patch)
            self.proj = nn.Conv3d(3, cfg.dim, kernel, kernel)

    def forward(self, x: Tensor) -> Tensor:
        b, c, f, h, w = x.shape
        t, p = self.tubelet, self.patch
        x = x.reshape(b, c, f // t, t, h // p, p, w // p, p).permute(0, 2, 4, 6, 1, 3, 5, 7)
        x = x.reshape(b, (f // t) * (h // p) * (w // p), c * t * p * p)  # (B, N, C * t * p * p)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention with one fused qkv weight."""

    def __init__(self, cfg: ViTConfig) -> None:
        super().__init__()
        self.heads = cfg.heads
        self.qkv = nn.Linear(cfg.dim, 3 * cfg.dim, bias=cfg.bias == "qkv")
        if cfg.bias == "qv":
            self.q_bias = nn.Parameter(torch.zeros(cfg.dim))
            self.v_bias = nn.Parameter(torch.zeros(cfg.dim))
        self.proj = nn.Linear(cfg.dim, cfg.dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        bias = self.qkv.bias
        if bias is None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, head dim)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between."""

    def __init__(self, cfg: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(cfg.dim, cfg.mlp)
        self.fc2 = nn.Linear(cfg.mlp, cfg.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x += attn(norm1 x); x += mlp(norm2 x)."""

    def __init__(self, cfg: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(cfg.dim, eps=cfg.eps)
        self.attn = Attention(cfg)
        self.norm2 = nn.LayerNorm(cfg.dim, eps=cfg.eps)
        self.mlp = Mlp(cfg)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """The transformer; `forward` gives the residual stream after the last block, without the final norm."""

    def __init__(self, cfg: ViTConfig) -> None:
        super().__init__()
        if cfg.dim % cfg.heads or cfg.img % cfg.patch or cfg.frames % (cfg.tubelet or 1):
            raise ValueError(f"the sizes do not go together: {cfg}")
        self.cfg = cfg
        self.patch_embed = PatchEmbed(cfg)
        if cfg.cls:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, cfg.dim))
        if cfg.pos == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, cfg.tokens, cfg.dim))
        else:
            self.register_buffer("pos_embed", sinusoid_table(cfg.tokens, cfg.dim), persistent=False)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.depth))
        if cfg.norm:
            self.add_module(cfg.norm, nn.LayerNorm(cfg.dim, eps=cfg.eps))

    @property
    def final_norm(self) -> nn.Module:
        """The final LayerNorm under whatever name the checkpoint gives it; identity where there is none."""
        return getattr(self, self.cfg.norm) if self.cfg.norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks.

        Args:
            x: (B, 3, H, W) images or (B, 3, F, H, W) clips, float.

        Returns:
            (B, tokens, dim); the residual stream stays float32 under autocast, as in the original code.
        """
        x = self.patch_embed(x if x.dim() == 5 else x.unsqueeze(2))
        if self.cfg.cls:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x.to(self.cls_token.dtype)], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x
