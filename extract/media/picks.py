"""Frames of the whole picture that encoders pick out of a clip, kept while it is decoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo.extract.media.container import Frame

Size = tuple[int, ...]  # width and height; empty: as the frame is


class Picks:
    """Looks at every frame in order, and keeps those that somebody asked for, each once per size.

    Args:
        wanted: By name of who asks: numbers of the frames, and the size in which they are wanted.
    """

    def __init__(self, wanted: Mapping[str, tuple[Sequence[int], Size]]) -> None:
        self.wanted = dict(wanted)
        self._sizes: dict[int, set[Size]] = {}
        for numbers, size in self.wanted.values():
            for number in numbers:
                self._sizes.setdefault(number, set()).add(size)
        self._kept: dict[tuple[int, Size], tuple[NDArray[np.uint8], float]] = {}
        self._latest: Frame | None = None

    @property
    def last(self) -> int:
        """Highest number that is wanted; -1 where none is."""
        return max(self._sizes, default=-1)

    def feed(self, frame: Frame) -> None:
        """Take the next frame."""
        self._latest = frame
        for size in self._sizes.get(frame.index, ()):
            self._kept[frame.index, size] = _shaped(frame, size), frame.time_s

    def of(self, name: str) -> dict[str, Any]:
        """Frames (n, H, W, 3) of one who asked, and the time of the first, as `ClipInputs` calls them.

        Where the container promised more frames than there are, the last one stands in.
        """
        numbers, size = self.wanted[name]
        assert self._latest is not None
        end = _shaped(self._latest, size), self._latest.time_s
        found = [self._kept.get((number, size), end) for number in numbers]
        return {"frames": np.stack([pixels for pixels, _ in found]), "frame_time_s": found[0][1]}


def _shaped(frame: Frame, size: Size) -> NDArray[np.uint8]:
    return frame.scaled(*size) if size and frame.scaled is not None else frame.rgb
