"""Image models on several frames of the whole picture, chosen evenly over the clip: recipes of video language models.

`videollama2` is SigLIP as VideoLLaMA2.1 sees a video (branch `audio_visual`, commit 8cedfbda: mm_utils.py,
model/encoder.py): the middles of 16 equal parts, put into a grey square as its training does, all patches of the last
layer but one, before the final norm. `videollama2-stretch` does not keep the aspect ratio, as its inference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Prepared, check_pixels
from emo.extract.encoders.image import Image
from emo.extract.media.preprocess import midpoint_indices, pad_square, uniform_indices
from emo.featstore.errors import MediaError

CHOICES: Mapping[str, Callable[[int, int], list[int]]] = {"middles": midpoint_indices, "left": uniform_indices}
GREY = 127  # int(255 * 0.5): the mean of SigLIP's pixels (mm_utils.py, expand2square)
_SAMPLE = (90, 160)


class Frames(Image):
    """An image model of the catalog on some frames of the whole picture; one row per frame."""

    modality = "frame"
    needs = "frames"
    choice: str = "middles"  # which frames: the middles of equal parts, or equal steps from the first one on
    square: str = "stretch"  # `pad` puts a frame into a grey square, `stretch` does not keep the aspect ratio

    def recipe(self, level: str) -> dict[str, Any]:
        grey = GREY if self.square == "pad" else None
        how = {"choice": self.choice, "square": self.square, "grey": grey, "decoded_to": list(self.frame_size)}
        return {**super().recipe(level), **how}

    def pick(self, n: int) -> Sequence[int]:
        return CHOICES[self.choice](n, self.frames)

    def prepare(self, inputs: ClipInputs) -> Prepared:
        frames = check_pixels(inputs.frames, 4, "no-frame", "frames")
        if len(frames) != self.frames:
            raise MediaError("bad-input", f"{self.name} looks at {self.frames} frames, and got {len(frames)}.")
        pixels = np.stack([self.resized(each) for each in frames])
        return Prepared(torch.from_numpy(pixels), float(len(pixels)), inputs.frame_time_s)

    def resized(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return super().resized(pad_square(rgb, GREY) if self.square == "pad" else rgb)

    @classmethod
    def sample(cls, size: int, seed: int = 0) -> ClipInputs:
        rng, (height, width) = np.random.default_rng(seed), cls.frame_size[::-1] or _SAMPLE
        return ClipInputs(frames=rng.integers(0, 256, (cls.frames, height + size, width, 3), dtype=np.uint8))


class FrameTokens(Frames):
    """All patches of every frame: level `tokens` is (frames * patches, D), frame by frame, row by row."""

    budget: ClassVar[Mapping[str, float]] = {"cpu": 16, "cuda": 64}  # images
    suffixes: ClassVar[Mapping[str, str]] = {"utt": "UTT", "tokens": "FRA"}
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "videollama2": {"frames": 16, "take": (-2,), "square": "pad"},
        "videollama2-stretch": {"frames": 16, "take": (-2,)},
    }

    def rows(self, level: str) -> int | None:
        return self.frames * (self._steps["side"] // self.full.patch_size) ** 2

    def vectors(self, model: nn.Module, pixels: Tensor) -> Tensor:
        """All patches of every image, (N, P, D) float32."""
        return self.summed(model(pixel_values=pixels, output_hidden_states=True))

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        return [each.flatten(0, 1) for each in super().run(tensors, batch)]
