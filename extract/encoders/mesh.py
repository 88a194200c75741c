"""`mesh_UTT`: geometry of the face's 468 points, in columns that a person can read (docs/mesh.md lists them).

The points come with the decoded clip: the face mesh looks at the chosen person in every frame. Here they are turned
into the frame of the head and measured by the distance of the outer corners of the eyes. So position, size and pose are
gone from every column but the three angles. There is no network in here; the mesh's is part of the media recipe.

Head frame: x to the person's left (right in the image), y down, z away from the camera. x is the mean direction of four
pairs of points at the same height that expressions do not move; y is the line from the top of the forehead to the base
of the nose, made upright to x. A pitch of 0 means that this line is parallel to the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Encoder, Prepared
from emo.extract.media.facemesh import POINTS, FaceMesh
from emo.extract.weights import State
from emo.featstore.errors import MediaError

PAIRS = np.array([(33, 263), (133, 362), (127, 356), (234, 454)])  # right, left: corners of the eyes, temples, cheeks
FOREHEAD, NOSE_BASE = 10, 2
EYES = (33, 263)  # outer corners: their distance is 1

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One number of a face.

    Attributes:
        name: Of the column.
        unit: `eye distance` (that of the outer corners), `ratio` or `degrees`.
        about: Meaning, and the sign of it.
        measure: Points `(T, 468, 3)` in the frame of the head and head axes `(T, 3, 3)` to values `(T,)`.
    """

    name: str
    unit: str
    about: str
    measure: Callable[[Points, Points], Points]


def head_frame(points: Points) -> tuple[Points, Points]:
    """Points in the frame of the head, and its axes.

    Args:
        points: `(T, 468, 3)`, pixels.

    Returns:
        `(T, 468, 3)` in eye distances from their mean, and `(T, 3, 3)`: rows are x, y and z of the head in the image.
    """
    across = points[:, PAIRS[:, 1]] - points[:, PAIRS[:, 0]]
    x = _unit((across / np.linalg.norm(across, axis=2, keepdims=True)).mean(axis=1))
    down = points[:, NOSE_BASE] - points[:, FOREHEAD]
    y = _unit(down - (down * x).sum(axis=1, keepdims=True) * x)
    axes = np.stack([x, y, np.cross(x, y)], axis=1)
    size = np.linalg.norm(points[:, EYES[1]] - points[:, EYES[0]], axis=1)[:, None, None]
    middle = points.mean(axis=1, keepdims=True)
    return (points - middle) @ axes.transpose(0, 2, 1) / size, axes


def _unit(vectors: Points) -> Points:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)


def _between(a: int, b: int) -> Callable[[Points, Points], Points]:
    """Distance of two points."""
    return lambda p, _: np.linalg.norm(p[:, a] - p[:, b], axis=1)


def _above(a: int, *others: int) -> Callable[[Points, Points], Points]:
    """Height of a point over the mean of others, along the head's y."""
    return lambda p, _: p[:, list(others), 1].mean(axis=1) - p[:, a, 1]


def _lids(outer: int, inner: int, *pairs: tuple[int, int]) -> Callable[[Points, Points], Points]:
    """Mean gap of the lids by the width of the eye."""

    def measure(p: Points, _: Points) -> Points:
        gaps = np.stack([np.linalg.norm(p[:, up] - p[:, low], axis=1) for up, low in pairs])
        return gaps.mean(axis=0) / np.maximum(np.linalg.norm(p[:, outer] - p[:, inner], axis=1), 1e-12)

    return measure


def _slope(inner: int, outer: int) -> Callable[[Points, Points], Points]:
    """Angle by which a line rises from its inner to its outer end, seen from the front."""

    def measure(p: Points, _: Points) -> Points:
        along = p[:, outer] - p[:, inner]
        return np.degrees(np.arctan2(-along[:, 1], np.abs(along[:, 0])))

    return measure


def _yaw(_: Points, axes: Points) -> Points:
    return np.degrees(np.arcsin(np.clip(axes[:, 0, 2], -1, 1)))


def _pitch(_: Points, axes: Points) -> Points:
    return np.degrees(np.arctan2(-axes[:, 1, 2], axes[:, 2, 2]))


def _roll(_: Points, axes: Points) -> Points:
    return np.degrees(np.arctan2(axes[:, 0, 1], axes[:, 0, 0]))


def _both(
    name: str, unit: str, about: str, make: Callable[..., Any], right: Sequence[Any], left: Sequence[Any]
) -> list[Column]:
    """The same column of the person's right and left side."""
    return [
        Column(f"{name}_{side}", unit, f"{about}, {side}", make(*points))
        for side, points in (("right", right), ("left", left))
    ]


D, R, A = "eye distance", "ratio", "degrees"
COLUMNS: tuple[Column, ...] = (
    Column("yaw", A, "head turned to the person's left (positive) or right", _yaw),
    Column("pitch", A, "head turned up (positive) or down", _pitch),
    Column("roll", A, "head tilted to the person's left shoulder (positive) or right", _roll),
    *_both(
        *("eye_open", R, "gap of the lids by the width of the eye", _lids),
        (33, 133, (160, 144), (159, 145), (158, 153)),
        (263, 362, (387, 373), (386, 374), (385, 380)),
    ),
    *_both("eye_width", D, "from the outer to the inner corner of the eye", _between, (33, 133), (263, 362)),
    *_both("brow_inner", D, "inner end of the brow above the inner corner of the eye", _above, (107, 133), (336, 362)),
    *_both(
        "brow_middle", D, "middle of the brow above the corners of the eye", _above, (105, 33, 133), (334, 263, 362)
    ),
    *_both("brow_outer", D, "outer end of the brow above the outer corner of the eye", _above, (70, 33), (300, 263)),
    *_both("brow_slope", A, "brow rising from its inner to its outer end (positive)", _slope, (107, 70), (336, 300)),
    Column("brow_gap", D, "between the inner ends of the brows; small in a frown", _between(107, 336)),
    *_both("cheek_gap", D, "cheek below the lower lid; small where cheeks are raised", _between, (50, 145), (280, 374)),
    *_both(
        "nose_gap",
        D,
        "wing of the nose below the inner corner of the eye; small in disgust",
        _above,
        (133, 129),
        (362, 358),
    ),
    Column("nose_width", D, "between the wings of the nose", _between(129, 358)),
    Column("mouth_open", D, "between the inner edges of the lips", _between(13, 14)),
    Column("mouth_width", D, "between the corners of the mouth", _between(61, 291)),
    *_both(
        "mouth_corner",
        D,
        "corner of the mouth above its middle; positive in a smile",
        _above,
        (61, 13, 14),
        (291, 13, 14),
    ),
    *_both(
        "mouth_slope", A, "lower lip rising from its middle to the corner of the mouth", _slope, (17, 61), (17, 291)
    ),
    Column("lip_upper", D, "height of the upper lip; small where lips are pressed", _between(0, 13)),
    Column("lip_lower", D, "height of the lower lip", _between(14, 17)),
    Column(
        "lip_forward",
        D,
        "lips in front of the base of the nose (positive)",
        lambda p, _: p[:, 2, 2] - p[:, [0, 17], 2].mean(1),
    ),
    Column("philtrum", D, "from the base of the nose to the upper lip", _between(2, 0)),
    Column("chin_drop", D, "chin below the base of the nose; large where the jaw is open", _above(2, 152)),
    Column("chin_gap", D, "from the lower lip to the chin", _between(17, 152)),
    Column(
        "jaw_shift",
        D,
        "chin to the person's left of the base of the nose (positive)",
        lambda p, _: p[:, 152, 0] - p[:, 2, 0],
    ),
    Column("jaw_width", D, "between the corners of the jaw", _between(172, 397)),
    Column("face_width", D, "between the cheeks at the ears", _between(234, 454)),
    Column("face_height", D, "from the top of the forehead to the chin", _between(10, 152)),
)
"""The columns, in their order."""


def measure(points: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Columns `(T, D)` of points `(T, 468, 3)` in pixels."""
    head, axes = head_frame(np.asarray(points, np.float64))
    return np.stack([column.measure(head, axes) for column in COLUMNS], axis=1).astype(np.float32)


class Mesh(Encoder):
    """`mesh_UTT`: the columns, computed on the CPU by `prepare`; one row per frame in which the mesh sees the face."""

    name = "mesh_UTT"
    names: ClassVar[Mapping[str, str]] = {"utt": "mesh_UTT", "frame": "mesh_FRA"}
    family = "mesh"
    modality = "face"
    needs = "points"
    budget: ClassVar[Mapping[str, float]] = {"cpu": 64}  # clips
    learned = False
    extra = "pocket"

    def configure(self, config: Any) -> None:
        FaceMesh()  # says what is missing

    @property
    def dim(self) -> int:
        return len(COLUMNS)

    def recipe(self, level: str) -> dict[str, Any]:
        columns = [f"{column.name} ({column.unit})" for column in COLUMNS]
        return {"columns": columns, "frame": "head: 4 pairs across, forehead to nose", "pooling": "mean"}

    def build(self) -> nn.Module:
        return nn.Identity()

    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        return state, {}, []

    def prepare(self, inputs: ClipInputs) -> Prepared:
        points = inputs.points
        if points is None or not len(points):
            raise MediaError("no-face", "The mesh sees no face in any frame of the clip.")
        if points.ndim != 3 or points.shape[1:] != (POINTS, 3) or not np.issubdtype(points.dtype, np.floating):
            raise MediaError("bad-input", f"Points must be floats (T, {POINTS}, 3), not {points.dtype} {points.shape}.")
        if not np.isfinite(points).all():
            raise MediaError("bad-input", "The points of the face hold values that are not finite.")
        with np.errstate(invalid="ignore", divide="ignore"):
            rows = measure(points)
        if not np.isfinite(rows).all():
            raise MediaError("bad-input", "The points of the face lie on one spot: there is nothing to measure by.")
        return Prepared(torch.from_numpy(rows), 1.0, inputs.points_t0_s, inputs.points_hop_s)

    def collate(self, batch: Sequence[Prepared]) -> list[Tensor]:
        return [self.join([item.payload for item in batch])]

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Sequence[Tensor]:
        return tensors[0].split([len(item.payload) for item in batch])
