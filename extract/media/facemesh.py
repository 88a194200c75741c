"""The 468 points of a face (Kartynnik et al., 2019, arXiv:1907.06724), and those of them that OpenFace's 68 stand for.

MediaPipe's graph `face_landmark`: a square 1.5 times the longer side of the face's box, turned so that the eyes are
level, resized to 192 x 192, RGB in [0, 1]. Out come x, y and z of each point in pixels of that square (z grows away
from the camera, in the same unit, from an origin near the middle of the head) and a logit that there is a face at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from emo.extract.media.tflite import SHA256, TfLite

SIDE = 192
POINTS = 468
GROWN = 1.5
LEAST_PRESENCE = 0.5  # as in the graph
ELSEWHERE = 0.04  # share of the side of a box by which points may lie elsewhere before the mesh looks again
EYE_CORNERS = (33, 263)  # the outer ones
FILE = "face_landmark.tflite"

RIGHT_EYE, LEFT_EYE = (33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380)
JAW = (127, 93, 132, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 361, 323, 356)
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
NOSE = (168, 197, 5, 4, 75, 97, 2, 326, 305)
OUTER_LIPS = (61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91)
INNER_LIPS = (78, 82, 13, 312, 308, 317, 14, 87)
OPENFACE_68 = np.array([*JAW, *BROWS, *NOSE, *RIGHT_EYE, *LEFT_EYE, *OUTER_LIPS, *INNER_LIPS])
"""Mesh points at the places of OpenFace's 68 (the 300-W markup), in its order: `(68,)`.

The jaw's were chosen on 55 frontal faces of four people as those of the mesh's outline nearest to the mean shape.
"""


def recipe() -> dict[str, Any]:
    """Return everything that changes the points, as plain JSON values."""
    return {
        "weights": f"sha256:{SHA256[FILE]}",
        "roi": f"{GROWN:g} x longer side, eyes level",
        "side": SIDE,
        "least_presence": LEAST_PRESENCE,
    }


def follow_recipe() -> dict[str, Any]:
    """Return everything that changes the points of a face that is followed from frame to frame."""
    return {**recipe(), "again_beyond": ELSEWHERE}


class FaceMesh:
    """Finds the points of faces whose place is known. May be asked from several threads at once.

    Raises:
        WeightsMissing: The package with the file is not installed.
        UsageError: The package that runs it is not installed.
        ModelError: The file is damaged.
    """

    def __init__(self) -> None:
        self._net = TfLite(FILE)

    def find(self, rgb: np.ndarray, middle: np.ndarray, side: float, turn: float = 0.0) -> tuple[np.ndarray, float]:
        """Points of one face.

        Args:
            rgb: The frame, `(H, W, 3)` uint8.
            middle: Of the face's box, `(2,)`, continuous pixel coordinates.
            side: Longer side of the face's box, in pixels.
            turn: By how much the eyes are turned, in radians, clockwise in the image.

        Returns:
            Points `(468, 3)` float32 in pixels of the frame, z included, and how sure it is that they are of a face.
        """
        step = GROWN * side / SIDE
        linear = step * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shift = middle - linear @ (SIDE / 2, SIDE / 2)
        points, logit = self._net(np.asarray(_cut(rgb, linear, shift), np.float32) / 255)
        found = points.reshape(POINTS, 3)
        flat = found[:, :2] @ linear.T + shift
        return np.column_stack([flat, found[:, 2] * step]).astype(np.float32), float(1 / (1 + np.exp(-logit.item())))

    def follow(self, rgb: np.ndarray, box: np.ndarray, turn: float) -> np.ndarray:
        """Points of a face whose box somebody else gives; NaN where the mesh sees no face.

        Where the points reach elsewhere than the box, the mesh looks again at where they are: detectors' boxes differ.

        Args:
            rgb: The frame, `(H, W, 3)` uint8.
            box: `(4,)`: left, top, right, bottom.
            turn: Of the eyes, in radians, clockwise in the image.

        Returns:
            `(468, 3)` float32; see `find`.
        """
        points, presence = self.find(rgb, *_square(box), turn)
        own = np.concatenate([points[:, :2].min(axis=0), points[:, :2].max(axis=0)])
        (middle, side), (new, size) = _square(box), _square(own)
        if np.abs(new - middle).max() > ELSEWHERE * side or abs(size - side) > ELSEWHERE * side:
            across = points[EYE_CORNERS[1]] - points[EYE_CORNERS[0]]
            points, presence = self.find(rgb, new, size, float(np.arctan2(across[1], across[0])))
        return points if presence >= LEAST_PRESENCE else np.full_like(points, np.nan)


def _square(box: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle of a box and its longer side."""
    return (box[:2] + box[2:]) / 2, float(max(box[2:] - box[:2]))


def _cut(rgb: np.ndarray, linear: np.ndarray, shift: np.ndarray) -> Image.Image:
    """A square of the frame, `SIDE` pixels wide; bilinear, black where the frame ends."""
    corners = np.array([[0, 0], [SIDE, 0], [0, SIDE], [SIDE, SIDE]]) @ linear.T + shift
    limit = np.array(rgb.shape[1::-1])
    low = np.clip(np.floor(corners.min(axis=0)) - 2, 0, limit - 1).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 2, low + 1, limit).astype(int)
    part = Image.fromarray(np.ascontiguousarray(rgb[low[1] : high[1], low[0] : high[0]]))
    row = np.column_stack([linear, shift - low]).ravel().tolist()
    return part.transform((SIDE, SIDE), Image.Transform.AFFINE, row, Image.Resampling.BILINEAR)
