"""BEATs (Chen et al. 2022) and its filter bank, written out, with the key names of the authors' checkpoints.

Facts of the numbers: BEATs.py, backbone.py and modules.py of microsoft/unilm, as VideoLLaMA2.1 holds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, DEVIATION = 15.41663, 6.55582  # of the filter bank, BEATs.py; twice the deviation is divided by
NORM_EPS = 1e-6  # under the root of the positional convolution's weight norm
EPS = torch.finfo(torch.float32).eps  # least energy of a filter, as Kaldi has it


@dataclass(frozen=True)
class BeatsConfig:
    """Sizes, under the names of the `cfg` in the authors' checkpoints; those of BEATs iter3+ AS2M by default.

    Attributes:
        input_patch_size: Side of a patch, in frames and in mel bands.
        embed_dim: Channels of the patches.
        encoder_embed_dim: Width of the transformer.
        encoder_layers: Number of its layers.
        encoder_ffn_embed_dim: Hidden width of a layer.
        encoder_attention_heads: Heads of a layer.
        conv_pos: Kernel of the positional convolution.
        conv_pos_groups: Its groups.
        num_buckets: Rows of the table of distances.
        max_distance: Distance from which on the last bucket counts.
    """

    input_patch_size: int = 16
    embed_dim: int = 512
    encoder_embed_dim: int = 768
    encoder_layers: int = 12
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800


class PositionalConv(nn.Module):
    """A grouped convolution along the tokens; its weight has one norm per place of the kernel."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width, self.groups = config.encoder_embed_dim, config.conv_pos_groups
        self.bias = nn.Parameter(torch.empty(width))
        self.weight_g = nn.Parameter(torch.empty(1, 1, config.conv_pos))
        self.weight_v = nn.Parameter(torch.empty(width, width // self.groups, config.conv_pos))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same, GELU included."""
        v = self.weight_v.float()
        weight = v * torch.rsqrt(v.square().sum((0, 1), keepdim=True) + NORM_EPS) * self.weight_g.float()
        kernel = weight.shape[-1]
        y = F.conv1d(
            x.transpose(1, 2), weight.to(x.dtype), self.bias.to(x.dtype), padding=kernel // 2, groups=self.groups
        )
        if kernel % 2 == 0:
            y = y[..., :-1]
        return F.gelu(y).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with a bias by distance, gated by head and query; layer 0 alone holds the table of distances."""

    def __init__(self, config: BeatsConfig, first: bool) -> None:
        super().__init__()
        width, self.heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.grep_linear = nn.Linear(width // self.heads, 8)
        self.grep_a = nn.Parameter(torch.empty(1, self.heads, 1, 1))
        if first:
            self.relative_attention_bias = nn.Embedding(config.num_buckets, self.heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, T, D) with the bias (H, T, T) of distances to (B, T, D)."""
        projected = (each(x) for each in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in projected)
        a, b = self.grep_linear(q).unflatten(-1, (2, 4)).sum(-1).sigmoid().unsqueeze(-2).unbind(-1)  # (B, H, T, 1)
        gate = a * (b * self.grep_a - 1) + 2
        mask = (gate * bias).to(q.dtype)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A post-norm layer whose input counts more (deep norm)."""

    def __init__(self, config: BeatsConfig, first: bool) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.self_attn = Attention(config, first)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.alpha = (2 * config.encoder_layers) ** 0.25

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = self.self_attn_layer_norm(x * self.alpha + self.self_attn(x, bias))
        return self.final_layer_norm(x * self.alpha + self.fc2(F.gelu(self.fc1(x))))


class Transformer(nn.Module):
    """Positions, then the layers."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        self.pos_conv = nn.ModuleList([PositionalConv(config)])
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        self.layers = nn.ModuleList(Layer(config, i == 0) for i in range(config.encoder_layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the output of the last layer, without a norm of its own."""
        x = self.layer_norm(x + self.pos_conv[0](x))
        places = torch.arange(x.shape[1], device=x.device)
        number = buckets(places[None] - places[:, None], self.config.num_buckets, self.config.max_distance)
        bias = self.layers[0].self_attn.relative_attention_bias(number).permute(2, 0, 1)  # (H, T, T)
        for layer in self.layers:
            x = layer(x, bias)
        return x


class Beats(nn.Module):
    """From a filter bank to one row per patch, the patches of one time after the other."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        patch = config.input_patch_size
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, patch, patch, bias=False)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj = nn.Linear(config.embed_dim, config.encoder_embed_dim)
        self.encoder = Transformer(config)

    def forward(self, fbank: Tensor) -> Tensor:
        """Filter banks (B, T, M), not normalised, to (B, T // 16 * M // 16, D)."""
        return self.encoder(self.post_extract_proj(self.patches(fbank)))

    def patches(self, fbank: Tensor) -> Tensor:
        """Normed patches (B, N, E)."""
        normal = (fbank - MEAN) / (2 * DEVIATION)
        return self.layer_norm(self.patch_embedding(normal[:, None]).flatten(2).transpose(1, 2))


def buckets(distance: Tensor, count: int, farthest: int) -> Tensor:
    """Rows of the table for distances of keys from queries: half for those ahead; near ones exactly, then by log."""
    half = count // 2
    exact = half // 2
    near = distance.abs()
    far = exact + (torch.log(near.clamp(min=1).float() / exact) / math.log(farthest / exact) * (half - exact)).long()
    return half * (distance > 0) + torch.where(near < exact, near, far.clamp(max=half - 1))


def fbank(samples: Tensor, bands: int = 128, rate: int = 16_000) -> Tensor:
    """Logarithmic mel filter bank as Kaldi computes it, without dither: (N,) samples in 16-bit units to (T, bands).

    Frames of 25 ms every 10 ms, whole ones only; each without its mean, pre-emphasised by 0.97, in a Povey window of
    512 points; filters from 20 Hz to half the rate (feature-fbank.cc, feature-window.cc, mel-computations.cc).
    """
    length, shift = rate // 40, rate // 100
    size = 1 << (length - 1).bit_length()
    frames = samples.unfold(0, length, shift)
    frames = frames - frames.mean(1, keepdim=True)
    before = F.pad(frames[None], (1, 0), mode="replicate")[0, :, :-1]
    window = torch.hann_window(length, periodic=False, dtype=samples.dtype).pow(0.85)
    frames = F.pad((frames - 0.97 * before) * window, (0, size - length))
    power = torch.fft.rfft(frames).abs().pow(2.0)  # (T, size / 2 + 1)
    filters = F.pad(_filters(bands, size, rate), (0, 1)).to(power.dtype)
    return (power @ filters.T).clamp(min=EPS).log()


def _mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


def _filters(bands: int, size: int, rate: int) -> Tensor:
    """Triangles on the mel scale (bands, size / 2)."""
    low, high = _mel(20.0), _mel(rate / 2)
    step = (high - low) / (bands + 1)
    number = torch.arange(bands)[:, None]
    left, centre, right = (low + (number + i) * step for i in range(3))
    mel = 1127.0 * (1.0 + (rate / size) * torch.arange(size // 2) / 700.0).log()[None]
    return torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp(min=0)
