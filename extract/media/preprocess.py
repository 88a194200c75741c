"""From decoded pixels and samples to what the encoders saw when they were trained.

Images are resized by Pillow on uint8, because Pillow's antialiased resize is what every published extractor used; a
float tensor resize moves MAE features by up to 6e-3. Frame choices are pure functions of the number of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP; blip_processors.py of Emotion-LLaMA
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # preprocessor_config.json of MCG-NJU/videomae-large
IMAGENET_STD = (0.229, 0.224, 0.225)
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize_square(rgb: NDArray[np.uint8], size: int, resample: str) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to exactly (size, size, 3); the aspect ratio is not kept."""
    return np.array(_resize(Image.fromarray(rgb), size, size, resample))


def resize_crop(
    rgb: NDArray[np.uint8], size: int, resample: str, crop: int | None = None, rounds: bool = False
) -> NDArray[np.uint8]:
    """Resize the short side to `size`, the long one to `int(size * long / short)`, and cut the centre square out.

    Args:
        rgb: (H, W, 3).
        size: The short side.
        resample: `bilinear` or `bicubic`.
        crop: Side of the square; `size` by default.
        rounds: Whether half a pixel of margin is rounded to even, as torchvision does; transformers cuts it off.
    """
    height, width = rgb.shape[:2]
    short, long = min(height, width), max(height, width)
    other = int(size * long / short)
    new_width, new_height = (size, other) if width <= height else (other, size)
    resized = np.asarray(_resize(Image.fromarray(rgb), new_width, new_height, resample))
    side = crop or size
    margins = ((new_height - side) / 2, (new_width - side) / 2)
    top, left = (round(each) if rounds else int(each) for each in margins)
    return resized[top : top + side, left : left + side]


def _resize(image: Image.Image, width: int, height: int, resample: str) -> Image.Image:
    """Rows first, then columns, as Pillow did until version 12; since 13 it turns the order round for tall images."""
    return image.resize((width, image.height), RESAMPLE[resample]).resize((width, height), RESAMPLE[resample])


def resize(pixels: Tensor, size: int, resample: str) -> Tensor:
    """`resize_square` of many images at once, on their device: the same bits as Pillow's.

    Pillow's `Resample.c` for 8 bits per channel: rows first, then columns, each a weighted sum of neighbours with
    weights of 22 binary digits, rounded to uint8 in between.

    Args:
        pixels: (N, H, W, 3) uint8.
        size: Side of the square.
        resample: `bilinear` or `bicubic`.

    Returns:
        (N, size, size, 3) uint8.
    """
    if pixels.shape[1:3] == (size, size):
        return pixels
    if pixels.device.type == "cpu":
        return torch.from_numpy(np.stack([resize_square(each, size, resample) for each in pixels.numpy()]))
    return resample_exactly(pixels, size, resample)


def resample_exactly(pixels: Tensor, size: int, resample: str) -> Tensor:
    """`resize` with tensor operations, for devices that Pillow does not know."""
    for axis in (2, 1):
        if pixels.shape[axis] != size:
            pixels = _resample(pixels, axis, *_taps(pixels.shape[axis], size, resample, pixels.device))
    return pixels


def _resample(pixels: Tensor, axis: int, places: Tensor, weights: Tensor) -> Tensor:
    shape = [-1 if i == axis else 1 for i in range(4)]
    total: Tensor | int = 1 << (_BITS - 1)
    for place, weight in zip(places, weights, strict=True):
        total = total + pixels.index_select(axis, place).int() * weight.view(shape)
    assert isinstance(total, Tensor)
    return (total >> _BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=32)
def _taps(old: int, new: int, resample: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which pixels of a row of `old` go into each of `new`, and with what weight: (K, new) each."""
    scale = max(old / new, 1.0)
    centre = (np.arange(new) + 0.5) * (old / new)
    reach, kernel = _KERNELS[resample]
    first = np.maximum((centre - reach * scale + 0.5).astype(int), 0)
    last = np.minimum((centre + reach * scale + 0.5).astype(int), old)
    places = first + np.arange((last - first).max())[:, None]  # (K, new)
    weights = np.where(places < last, kernel((places - centre + 0.5) / scale), 0.0)
    weights = weights / weights.sum(0) * (1 << _BITS)
    rounded = np.trunc(weights + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    return torch.from_numpy(np.minimum(places, old - 1)).to(device), torch.from_numpy(rounded).to(device)


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x, a = np.abs(x), -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_BITS = 22  # of Pillow's weights
_KERNELS = {"bilinear": (1, _triangle), "bicubic": (2, _cubic)}


def to_float(pixels: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
    """uint8 pixels (..., H, W, 3) to float32 (..., 3, H, W) in [0, 1], then `(x - mean) / std` where given."""
    x = pixels.movedim(-1, -3).to(torch.float32) / 255
    if mean is None or std is None:
        return x
    shape = (3, 1, 1)
    return (x - x.new_tensor(mean).view(shape)) / x.new_tensor(std).view(shape)


def segment_indices(n: int, segments: int = 8, duration: int = 2) -> list[int]:
    """TSN test sampling of the `maeV_399_UTT` extractor: `duration` consecutive frames in each of `segments` parts.

    With `n <= segments + duration - 1` frames every part starts at frame 0, as the original code has it.
    """
    tick = (n - duration + 1) / segments
    offsets = [int(tick / 2 + tick * x) for x in range(segments)] if n > segments + duration - 1 else [0] * segments
    return [min(offset + i, n - 1) for offset in offsets for i in range(duration)]


def uniform_indices(n: int, count: int = 16) -> list[int]:
    """MERBench's `resample_frames_uniform`: left-aligned equal steps, padded by repeating the last index."""
    m = min(count, n)
    indices = np.arange(0, n, n / m).astype(int)[:m].tolist()
    return indices + [indices[-1]] * (count - m)


def midpoint_indices(n: int, count: int = 16) -> list[int]:
    """VideoLLaMA2's uniform choice: the middles of equal parts of 0 to n - 1, rounded half to even (`frame_sample`)."""
    part = (n - 1) / count
    return [int(np.round((i * part + (i + 1) * part) / 2 + 1e-6)) for i in range(count)]


def pad_square(rgb: NDArray[np.uint8], grey: int) -> NDArray[np.uint8]:
    """Put (H, W, 3) into the middle of a grey square as long as its longer side."""
    height, width = rgb.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), grey, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = rgb
    return square


def window_indices(n: int, count: int = 16) -> list[list[int]]:
    """MER2024's `sunlicai` choice: every 4th frame, padded by the last one, as a window at the start and at the end."""
    indices = list(range(0, n, 4))
    indices += [indices[-1]] * (count - len(indices))
    return [indices[:count], indices[-count:]]


def normalise_audio(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero mean and unit variance over the whole clip, float32, eps 1e-7 (`Wav2Vec2FeatureExtractor`)."""
    samples = np.asarray(samples, dtype=np.float32)
    return ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)
