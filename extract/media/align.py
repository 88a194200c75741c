"""Aligned face crops in OpenFace's geometry, from its 68 points or from five landmarks.

MAE and VideoMAE of Emotion-LLaMA were trained on crops of OpenFace 2 (`FeatureExtraction`, default flags): a similarity
transform of the face onto the mean shape of its point distribution model, 112 x 112 pixels, scale 0.7, everything
outside the face black. OpenFace fits 68 points. Where a detector gives them, they are treated as OpenFace treats its
own; where it gives five landmarks, the same mean shape is reduced to these.

Coordinates are continuous: a pixel `i` covers `[i, i + 1)`, its centre is `i + 0.5`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

# Mean shape of OpenFace's `model/pdms/In-the-wild_aligned_PDM_68.txt` (millimetres, origin at the mean of the points),
# reduced to: mean of the six points of each eye (36-41, 42-47), nose tip (30), mouth corners (48, 54).
# At size 112 and scale 0.7 they lie at (32.9, 29.2) (79.0, 28.9) (56.9, 50.1) (35.8, 76.0) (76.2, 75.7), pixel indices.
TEMPLATE_MM = np.array(
    [[-32.935, -38.287], [32.788, -38.765], [1.227, -8.415], [-28.916, 28.613], [28.794, 28.080]], np.float64
)
"""Right eye (left in the image), left eye, nose tip, mouth corner left in the image, mouth corner right: `(5, 2)`."""

# The same mean shape, all of it, to 0.01 mm: jaw, brows, nose, eyes, outer and inner lips (300-W markup).
# fmt: off
MEAN_SHAPE_MM = np.array([
    (-73.39, -29.80), (-72.78, -10.95), (-70.53, 7.93), (-66.85, 26.07), (-59.79, 42.56), (-48.37, 56.48),
    (-34.12, 67.25), (-17.88, 75.06), (0.10, 77.06), (17.48, 74.76), (32.65, 66.93), (46.37, 56.31), (57.34, 42.42),
    (64.39, 25.46), (68.21, 6.99), (70.49, -11.67), (71.38, -30.37), (-61.12, -49.36), (-51.29, -58.77),
    (-37.80, -62.00), (-24.02, -61.03), (-11.64, -56.69), (12.06, -57.39), (25.11, -61.90), (38.34, -62.78),
    (51.19, -59.30), (60.05, -50.19), (0.65, -42.19), (0.80, -30.99), (0.99, -19.94), (1.23, -8.41), (-14.77, 2.60),
    (-7.18, 4.75), (0.56, 6.56), (8.27, 4.66), (15.21, 2.64), (-46.05, -37.47), (-37.67, -42.73), (-27.88, -42.71),
    (-19.65, -36.75), (-28.27, -35.13), (-38.08, -34.92), (19.27, -37.03), (27.89, -43.34), (37.44, -43.11),
    (45.17, -38.09), (38.20, -35.53), (28.76, -35.48), (-28.92, 28.61), (-17.53, 22.17), (-6.68, 19.03), (0.38, 20.72),
    (8.38, 19.04), (18.88, 22.39), (28.79, 28.08), (19.06, 36.30), (8.96, 39.63), (0.38, 40.40), (-7.43, 39.84),
    (-18.16, 36.68), (-24.38, 28.68), (-6.90, 25.48), (0.34, 26.01), (8.44, 25.33), (24.47, 28.32), (8.45, 30.60),
    (0.21, 31.41), (-7.20, 30.84),
], np.float64)
# fmt: on
"""`(68, 2)`; its mean is the origin."""
RIGID = np.array([1, 2, 3, 4, 12, 13, 14, 15, 27, 28, 29, 31, 32, 33, 34, 35, 36, 39, 40, 41, 42, 45, 46, 47])
"""Points that hardly move with expression: OpenFace aligns by these (`extract_rigid_points`, `Face_utils.cpp`)."""

# Hull of the same mean shape, clockwise from the right ear, to the millimetre. `AlignFaceMask` in OpenFace's
# `FaceAnalyser/src/Face_utils.cpp` lifts the brows (17-26) and the ends of the jaw (0, 16) by 30 / 0.7 mm, so that the
# forehead stays in.
_FOREHEAD_MM = 30 / 0.7
_UPPER_MM = [(-73, -30), (-61, -49), (-51, -59), (-38, -62), (38, -63), (51, -59), (60, -50), (71, -30)]
_JAW_MM = [(70, -12), (68, 7), (64, 25), (57, 42), (46, 56), (33, 67), (17, 75), (0, 77)]
_JAW_MM += [(-18, 75), (-34, 67), (-48, 56), (-60, 43), (-67, 26), (-71, 8), (-73, -11)]
OUTLINE_MM = np.array([(x, y - _FOREHEAD_MM) for x, y in _UPPER_MM] + _JAW_MM, np.float64)


def to_pixels(points_mm: np.ndarray, size: int = 112, scale: float = 0.7) -> np.ndarray:
    """Return where points of the mean shape lie in an aligned crop.

    OpenFace puts the origin of the mean shape on the pixel of index `size / 2`, whose centre is half a pixel further.

    Args:
        points_mm: `(N, 2)`.
        size: Side of the crop in pixels.
        scale: Pixels per millimetre of the mean shape (OpenFace's `-simscale`).
    """
    return points_mm * scale + size / 2 + 0.5


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift that brings points onto others; never a reflection.

    As in OpenFace (`AlignShapesWithScale`), the rotation is the least-squares one and the scale is the ratio of the two
    root mean square radii.

    Args:
        source: `(..., N, 2)`, any number of sets of points.
        target: `(N, 2)`.

    Returns:
        `(..., 2, 3)` matrices `M` with `target ~ source @ M[:, :2].T + M[:, 2]`.
    """
    from_centre, to_centre = source.mean(axis=-2), target.mean(axis=0)
    a = (source - from_centre[..., None, :]) @ (1, 1j)  # (..., N) points as complex numbers: a similarity is a product
    b = (target - to_centre) @ (1, 1j)
    product = a.conj() @ b
    spread = np.linalg.norm(a, axis=-1)
    spot = (spread == 0) | (product == 0)  # all landmarks on one spot: no direction and no size to go by
    with np.errstate(invalid="ignore", divide="ignore"):
        turn = np.where(spot, 1, product / abs(product) * np.linalg.norm(b) / spread)
    linear = np.stack([np.stack([turn.real, -turn.imag], -1), np.stack([turn.imag, turn.real], -1)], -2)
    shift = to_centre - (linear @ from_centre[..., None])[..., 0]
    return np.concatenate([linear, shift[..., None]], axis=-1)


def into_crop(points: np.ndarray, size: int = 112, scale: float = 0.7) -> np.ndarray:
    """The similarity that brings faces to where they lie in an aligned crop.

    Of 68 points, rotation and scale come from the `RIGID` ones, and the mean of all 68 goes to the origin of the mean
    shape. So does OpenFace's `AlignFaceMask`, but for the shift it takes the translation of the shape model that it
    fitted, which is the mean of the model's points.

    Args:
        points: `(..., 5, 2)` in the order of `TEMPLATE_MM`, or `(..., 68, 2)`; continuous pixel coordinates.
        size: Side of the crops in pixels.
        scale: Pixels per millimetre of the mean shape.

    Returns:
        `(..., 2, 3)`; see `similarity`.
    """
    points = np.asarray(points, np.float64)
    if points.shape[-2] == len(TEMPLATE_MM):
        return similarity(points, to_pixels(TEMPLATE_MM, size, scale))
    linear = similarity(points[..., RIGID, :], to_pixels(MEAN_SHAPE_MM[RIGID], size, scale))[..., :2]
    origin = to_pixels(np.zeros(2), size, scale)
    shift = origin - (linear @ points.mean(axis=-2)[..., None])[..., 0]
    return np.concatenate([linear, shift[..., None]], axis=-1)


@lru_cache(maxsize=8)
def face_mask(size: int = 112, scale: float = 0.7) -> np.ndarray:
    """Which pixels of an aligned crop show the face.

    It is the hull of the mean shape, the same for every face; OpenFace draws it anew from the 68 points of each frame.
    In an aligned crop the two differ by how much a face differs from the mean one.

    Returns:
        `(size, size)` bool, read-only.
    """
    fine = 4
    image = Image.new("L", (size * fine, size * fine))
    ImageDraw.Draw(image).polygon([tuple(p) for p in to_pixels(OUTLINE_MM, size, scale) * fine], fill=255)
    mask = np.asarray(image.resize((size, size), Image.Resampling.BOX)) > 127
    mask.setflags(write=False)
    return mask


@lru_cache(maxsize=8)
def _mask_of_channels(size: int, scale: float) -> np.ndarray:
    """The mask as factors of crops, `(size, size, 3)` uint8: of one type with them, which is thirty times as fast."""
    return np.repeat(face_mask(size, scale)[..., None], 3, axis=2).astype(np.uint8)


def align_faces(
    frames: Sequence[np.ndarray], landmarks: np.ndarray, *, size: int = 112, scale: float = 0.7, mask: bool = True
) -> np.ndarray:
    """Cut one face out of each frame so that its landmarks come to lie on the mean shape.

    Args:
        frames: T frames `(H, W, 3)` uint8, all of one size.
        landmarks: `(T, 5, 2)` in the order of `TEMPLATE_MM`, or OpenFace's `(T, 68, 2)`; continuous pixel coordinates.
        size: Side of the crops in pixels.
        scale: Pixels per millimetre of the mean shape.
        mask: Whether everything outside `face_mask` becomes black.

    Returns:
        `(T, size, size, 3)` uint8; bilinear, black where the frame ends.
    """
    crops = np.zeros((len(frames), size, size, 3), np.uint8)
    matrix = into_crop(landmarks, size, scale)
    linear = np.linalg.inv(matrix[..., :2])  # (T, 2, 2) from the crop to the frame
    shift = -(linear @ matrix[..., 2:])[..., 0]
    square = np.array([[0, 0], [size, 0], [0, size], [size, size]])
    corners = square @ linear.transpose(0, 2, 1) + shift[:, None]  # (T, 4, 2)
    limit = np.array(frames[0].shape[1::-1])
    low = np.clip(np.floor(corners.min(axis=1)) - 2, 0, limit).astype(int)
    high = np.clip(np.ceil(corners.max(axis=1)) + 2, 0, limit).astype(int)
    rows = np.concatenate([linear, (shift - low)[..., None]], axis=2).reshape(-1, 6).tolist()
    boxes = zip(*low.T.tolist(), *high.T.tolist(), strict=True)
    for crop, rgb, row, (left, top, right, bottom) in zip(crops, frames, rows, boxes, strict=True):
        if right > left and bottom > top:
            part = Image.fromarray(np.ascontiguousarray(rgb[top:bottom, left:right]))
            crop[:] = part.transform((size, size), Image.Transform.AFFINE, row, Image.Resampling.BILINEAR)
    if mask:
        crops *= _mask_of_channels(size, scale)
    return crops
