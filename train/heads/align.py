"""Frames of several streams brought to common lengths, as MERBench does before a head reads them.

Every clip is compressed; `frm_align` then brings its streams to the length of its text, and both kinds put zero frames
in front until a clip is as long as the longest one. The zero frames are not masked: heads see them. Means are taken in
float64. Source, in MERTools: MERBench/toolkit/utils/read_data.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Align = Literal["frm_align", "frm_unalign"]
SCALES: dict[Align, int] = {"frm_align": 6, "frm_unalign": 12}  # frames of which one is made


def map_length(frames: np.ndarray, length: int) -> np.ndarray:
    """Bring frames `(T, D)` to `(length, D)`: zero frames in front of fewer, means of neighbours out of more.

    Frames that have the length already keep their type; else the result is float64. To take means, zero frames are put
    in front until every mean has as many frames as the others, and count in it.
    """
    each = -(-len(frames) // length)
    lacking = each * length - len(frames)
    if not lacking and each == 1:
        return frames
    padded = np.concatenate([np.zeros((lacking, frames.shape[1])), frames])
    return padded.reshape(length, each, -1).mean(axis=1)


def align_clip(streams: Sequence[np.ndarray], align: Align, scale: int, text: int) -> list[np.ndarray]:
    """Compress the streams of one clip, `(T, D)` each, and bring them to the length of its text where so aligned.

    Args:
        streams: Of one clip.
        align: Whether all streams get the length of stream `text`.
        scale: Frames of which one is made.
        text: Which stream is the text.
    """
    short = [map_length(frames, -(-len(frames) // scale)) for frames in streams]
    return short if align == "frm_unalign" else [map_length(frames, len(short[text])) for frames in short]


@dataclass(frozen=True)
class Frames:
    """Frames of all clips, and what was made of them; heads of one recipe share it.

    Attributes:
        rows: All rows of all clips `(R, D)`, per stream.
        offsets: Clip i owns the rows `offsets[i]:offsets[i + 1]`, per stream.
        device: Where the aligned rows go.
    """

    rows: tuple[np.ndarray, ...]
    offsets: tuple[np.ndarray, ...]
    device: str
    _aligned: dict[tuple[Align, int, int], list[tuple[Tensor, np.ndarray]]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over rows and offsets of every stream."""
        return iter(zip(self.rows, self.offsets, strict=True))

    def aligned(self, align: Align, scale: int, text: int) -> list[tuple[Tensor, np.ndarray]]:
        """Return aligned rows and their offsets per stream, see `align_clip`; made once."""
        key = (align, scale, text)
        if key not in self._aligned:
            clips = [
                align_clip([rows[o[i] : o[i + 1]] for rows, o in self], align, scale, text)
                for i in range(len(self.offsets[0]) - 1)
            ]
            self._aligned[key] = [self._joined(list(parts)) for parts in zip(*clips, strict=True)]
        return self._aligned[key]

    def _joined(self, parts: list[np.ndarray]) -> tuple[Tensor, np.ndarray]:
        rows = torch.from_numpy(np.concatenate(parts).astype(np.float32))
        return rows.to(self.device), np.cumsum([0, *map(len, parts)])


def pad_front(rows: Tensor, offsets: np.ndarray, clips: np.ndarray, length: int) -> Tensor:
    """Return the frames of some clips `(B, length, D)`, as `map_length` brings them to one length."""
    counts = offsets[clips + 1] - offsets[clips]
    at = np.arange(length) - (length - counts)[:, None]  # (B, length), negative where there is no frame
    places = torch.from_numpy(np.where(at < 0, 0, at + offsets[clips][:, None])).to(rows.device)
    out = rows[places].masked_fill(torch.from_numpy(at < 0).to(rows.device)[..., None], 0.0)
    for i in np.flatnonzero(counts > length):  # longer than any clip that was trained on
        own = rows[offsets[clips[i]] : offsets[clips[i] + 1]].cpu().numpy()
        out[i] = torch.from_numpy(map_length(own, length)).to(out)
    return out
