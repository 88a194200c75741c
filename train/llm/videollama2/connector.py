"""VideoLLaMA2's spatial-temporal convolution connector (STC), written out with the names of its checkpoints.

A stage of four blocks on every frame, a convolution that halves time, height and width, a second stage, a read-out
(projector.py of DAMO-NLP-SG/VideoLLaMA2; the blocks are those of timm's RegNet, with one channel per group). Shapes: B
clips, T frames, P patches of a frame, D width of a patch, H width of the language model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from emo.featstore.errors import ModelError, UsageError
from emo.featstore.reading import read_json

DEPTH = 4  # blocks of a stage
EPS = 1e-5  # of timm's LayerNormAct2d
PADDING: Mapping[str, int] = {"stc_v35": 0, "stc_v1": 1}  # of the convolution that halves, by version
PUBLISHED: Mapping[str, str] = {"stc_connector_v35": "stc_v35", "stc_connector": "stc_v1"}  # as config.json names them
SQUEEZE = 4  # of a block's input, how much narrower its squeeze is


class ConvNorm(nn.Module):
    """A convolution without bias, and a norm over channels; names as timm's ConvNormAct."""

    def __init__(self, before: int, after: int, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.LayerNorm(after, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C', h, w)."""
        return self.bn(self.conv(x).movedim(1, -1)).movedim(-1, 1)


class Squeeze(nn.Module):
    """Channels weighted by their means over the picture."""

    def __init__(self, channels: int, narrow: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, narrow, 1)
        self.fc2 = nn.Conv2d(narrow, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same."""
        return x * self.fc2(nn.functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class Block(nn.Module):
    """A bottleneck of RegNet: 1 x 1, depthwise 3 x 3, squeeze, 1 x 1, and the input added."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(before, after)
        self.conv2 = ConvNorm(after, after, 3, groups=after)
        self.se = Squeeze(after, round(before / SQUEEZE))
        self.conv3 = ConvNorm(after, after)
        self.downsample = ConvNorm(before, after) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C', h, w)."""
        y = nn.functional.silu(self.conv1(x))
        y = self.conv3(self.se(nn.functional.silu(self.conv2(y))))
        return nn.functional.silu(y + self.downsample(x))


class Stage(nn.Module):
    """Four blocks, `b1` to `b4`."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        for i in range(1, DEPTH + 1):
            setattr(self, f"b{i}", Block(before if i == 1 else after, after))

    def blocks(self) -> list[Block]:
        """Blocks in order."""
        return [getattr(self, f"b{i}") for i in range(1, DEPTH + 1)]


class StcConnector(nn.Module):
    """From the patches of frames to rows for a language model.

    Args:
        width: D.
        hidden: H.
        version: `stc_v35` (VideoLLaMA2.1), whose convolution drops odd last rows, columns and frames; or `stc_v1`.

    Attributes:
        recompute: Keep the input of every block only, and compute it again in the backward pass.
    """

    def __init__(self, width: int, hidden: int, version: str = "stc_v35") -> None:
        super().__init__()
        self.recompute, self.padding = False, PADDING[version]
        self.s1 = Stage(width, hidden)
        halved = nn.Conv3d(hidden, hidden, kernel_size=2, stride=2, padding=self.padding)
        self.sampler = nn.Sequential(halved, nn.SiLU())
        self.s2 = Stage(hidden, hidden)
        self.readout = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def forward(self, patches: Tensor) -> Tensor:
        """(B, T, P, D), patches row by row of a square, to (B, N, H) with N as `rows` says, by time, row and column."""
        clips, frames, count, _ = patches.shape
        side = math.isqrt(count)
        x = self._stage(self.s1, patches.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side)))
        x = self.sampler(x.unflatten(0, (clips, frames)).transpose(1, 2))  # (B, H, T', h', w')
        x = self._stage(self.s2, x.transpose(1, 2).flatten(0, 1)).unflatten(0, (clips, -1))
        return self.readout(x.movedim(2, -1).flatten(1, 3))

    def _stage(self, stage: Stage, x: Tensor) -> Tensor:
        again = self.recompute and torch.is_grad_enabled()
        for block in stage.blocks():
            one: Callable[[Tensor], Tensor] = block
            x = checkpoint(one, x, use_reentrant=False) if again else one(x)
        return x


def rows(frames: int, patches: int, version: str = "stc_v35") -> int:
    """Rows that a connector makes of T frames of P patches."""
    side, more = math.isqrt(patches), 2 * PADDING[version]
    return (frames + more) // 2 * ((side + more) // 2) ** 2


def version_beside(path: Path) -> str | None:
    """Version of the connector in a file or folder, which its tensors do not tell: both versions have the same.

    Returns:
        What the reference's config.json or the manifest of a run's checkpoint says that lies there; `None` where
        neither does.

    Raises:
        ModelError: Such a file is damaged.
    """
    folder = path if path.is_dir() else path.parent
    found = PUBLISHED.get(str(told(folder / "config.json").get("mm_projector_type")))
    sizes = told(folder / "manifest.json").get("sizes")
    own = sizes.get("connector") if isinstance(sizes, Mapping) else None
    return found or (own if own in PADDING else None)


def told(file: Path) -> Mapping[str, Any]:
    """Content of a JSON file beside a checkpoint; empty where there is none.

    Raises:
        ModelError: It is damaged.
    """
    if not file.is_file():
        return {}
    try:
        table = read_json(file)
    except UsageError as error:
        raise ModelError(error.message, "Fetch the folder again.") from error
    return table if isinstance(table, Mapping) else {}
