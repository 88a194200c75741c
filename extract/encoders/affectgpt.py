"""Encoders as AffectGPT 2025 reads clips: CLIP on eight faces or frames, HuBERT on eight windows of two seconds.

All are level `tokens`, eight rows of a clip in the order of time; `utt` is their mean. The recipe is that of MERTools'
`my_affectgpt` (datasets/datasets, processors, models/encoder; commit 89120b78), but for what depends on other clips: in
its training the normalisation of sound runs over a whole batch, and dropout is on. Here each clip is by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emo.extract.encoders.base import ClipInputs, Prepared, check_audio
from emo.extract.encoders.frames import Frames
from emo.extract.encoders.image import Image
from emo.extract.encoders.speech import Speech
from emo.extract.encoders.waves import WINDOW_S, WINDOWS, window_bounds
from emo.extract.media.preprocess import normalise_audio

FRAMES = 8  # n_frms of my_affectgpt
SIDE = 224  # cv2.resize of every face before it is CLIP's turn
_BITS = 11  # of OpenCV's weights


class EightFaces(Image):
    """CLIP on eight faces, spread evenly from the first on; the last one is repeated where there are fewer."""

    suffixes: ClassVar[Mapping[str, str]] = {"utt": "UTT", "tokens": "FRA"}
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"affectgpt": {"frames": FRAMES}}

    def recipe(self, level: str) -> dict[str, Any]:
        faces = {"colour": "BGR", "resized_first": {"side": SIDE, "resample": "bilinear, no antialiasing, 11 bits"}}
        return {**super().recipe(level), **faces}

    def prepare(self, inputs: ClipInputs) -> Prepared:
        return replace(super().prepare(inputs), hop_s=None)

    def resized(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One face (H, W, 3) RGB as CLIP gets it: blue first, as OpenCV read the reference's files."""
        return super().resized(bilinear(rgb[..., ::-1], SIDE))


class EightFrames(Frames):
    """CLIP on eight frames of the whole picture, decoded to 224 x 224 in one step as decord does it."""

    suffixes: ClassVar[Mapping[str, str]] = {"utt": "UTT", "tokens": "FRA"}
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "affectgpt": {"frames": FRAMES, "choice": "left", "frame_size": (SIDE, SIDE)}
    }


class EightWindows(Speech):
    """HuBERT on eight windows of 2 s each, spread over the clip; mean of the last four layers.

    The windows start at i (duration - 2) / 8, so the last one ends before the clip does. Clips under 2 s are padded
    with zeros at the end.
    """

    suffixes: ClassVar[Mapping[str, str]] = {"utt": "UTT", "tokens": "FRA"}
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"affectgpt": {"take": (-4, -3, -2, -1)}}

    def recipe(self, level: str) -> dict[str, Any]:
        windows = {"count": WINDOWS, "seconds": WINDOW_S, "step": "(duration - 2) / 8", "mean_removed": True}
        normalise = {"scope": "the windows of the clip together", "eps": 1e-7} if self.do_normalize else None
        mine = {"windows": windows, "normalise": normalise, "pool": "mean over layers, then over time"}
        return {**super().recipe(level), **mine}

    def rows(self, level: str) -> int | None:
        return WINDOWS

    def prepare(self, inputs: ClipInputs) -> Prepared:
        audio = check_audio(inputs.audio, self.shortest, self.name)
        bounds = window_bounds(len(audio))
        length = bounds[0][1]
        padded = np.pad(audio, (0, max(0, length - len(audio))))
        windows = np.stack([padded[start:end] for start, end in bounds]).astype(np.float32)
        windows -= windows.mean(1, keepdims=True)
        payload = self.normalised(windows)
        return Prepared(torch.from_numpy(payload), float(payload.size), inputs.audio_t0_s)

    def normalised(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Windows (8, N) with the mean and deviation of all of them together taken out."""
        if not self.do_normalize:
            return windows
        return normalise_audio(windows.ravel()).reshape(windows.shape)

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        """One row (8, D) per window: the mean over its frames, and over the layers taken."""
        frames = super().run(tensors, batch)
        return [each.unflatten(0, (WINDOWS, -1)).mean(1) / len(self.take) for each in frames]


def bilinear(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to (side, side, 3) without antialiasing, in the fixed point of OpenCV's INTER_LINEAR.

    Its vertical step keeps 7 of the 11 bits below the point (`VResizeLinear` in imgproc/resize.cpp). Builds with IPP
    differ from it by one level in 0.4 % of the values.
    """
    rows, columns = (_neighbours(size, side) for size in pixels.shape[:2])
    left, right = (pixels[:, places].astype(np.int64) for places in columns[:2])
    weight = columns[2][None, :, None]
    wide = left * ((1 << _BITS) - weight) + right * weight  # (H, side, 3)
    below = rows[2][:, None, None]
    parts = (((((1 << _BITS) - below) * (wide[rows[0]] >> 4)) >> 16), ((below * (wide[rows[1]] >> 4)) >> 16))
    return ((parts[0] + parts[1] + 2) >> 2).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Places on both sides of each new pixel's centre, and the weight of the second."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    first = np.floor(at).astype(np.int64)
    return first, np.minimum(first + 1, old - 1), np.rint((at - first) * (1 << _BITS)).astype(np.int64)
