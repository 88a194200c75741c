"""The faces of a clip: how they are found and followed (`extract.media.follow`), and which person is chosen.

OpenFace output that a user already has is read by `read_openface` instead.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from emo.extract.media.align import TEMPLATE_MM, similarity
from emo.extract.media.detect import Detector, Network
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.meant import DETECTOR, EVERY, FACE

VERSION = 2  # raised when the same settings give other crops, here or in `follow` and `join`

COLUMNS = (
    *("frame", "time_s", "track", "chosen", "score", "left", "top", "right", "bottom"),
    *("right_eye_x", "right_eye_y", "left_eye_x", "left_eye_y", "nose_x", "nose_y"),
    *("mouth_right_x", "mouth_right_y", "mouth_left_x", "mouth_left_y"),
)
"""Columns of `FaceTracks.table`; right and left as the person sees it, so the right eye is left in the image."""

OPENFACE_RECIPE = {"source": "openface", "version": VERSION}
"""Face recipe of features whose crops come from `read_openface`."""


def open_detector(name: str, **options: Any) -> Detector:
    """A detector by name.

    Raises:
        UsageError: No such detector.
    """
    if name not in DETECTORS:
        raise UsageError(f"There is no face detector {name!r}.", f"Known: {', '.join(DETECTORS)}.")
    module, kind = DETECTORS[name].split(":")
    found: Detector = getattr(importlib.import_module(module), kind)(**options)
    return found


DETECTORS = {"centerface": "emo.extract.media.detect:CenterFace", "blazeface": "emo.extract.media.blazeface:BlazeFace"}


@dataclass(frozen=True)
class FaceConfig:
    """How faces are found, followed, chosen and cut out.

    Attributes:
        detector: Name of the detector.
        long_side: Longer side of the frame that the detector sees, in pixels; `None` for the detector's own.
        every: Detect in each `every`-th frame of a shot and in its last one. 1: in all frames.
        rule: Which track is taken where there are several: a name in `RULES`.
        size: Side of the crops in pixels.
        scale: Similarity scale of the crops, in pixels per millimetre of OpenFace's mean shape.
        mask: Whether everything outside the face is black, as OpenFace does by default.
        min_score: Weakest detection that starts a track.
        keep_score: Weakest detection that continues one.
        min_iou: Least overlap of a face with where a track expects it.
        min_frames: Who is seen in fewer frames is never chosen (unless the clip itself is shorter).
        max_faces: Only the so many largest faces of a frame start a track.
        cut_level: Mean change of brightness from frame to frame, in [0, 1], that counts as a camera cut.

    Raises:
        UsageError: A value is out of range or a rule unknown.
    """

    detector: str = DETECTOR
    long_side: int | None = None
    every: int = EVERY
    rule: str = FACE
    size: int = 112
    scale: float = 0.7
    mask: bool = True
    min_score: float = 0.5
    keep_score: float = 0.3
    min_iou: float = 0.3
    min_frames: int = 3
    max_faces: int = 4
    cut_level: float = 0.1

    def __post_init__(self) -> None:
        _rule(self.rule)
        for name in ("long_side", "every", "size", "min_frames", "max_faces"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"face setting {name} = {value} must be at least 1.")
        if not 0 < self.keep_score <= self.min_score < 1:
            raise UsageError(
                f"face settings must satisfy 0 < keep_score <= min_score < 1, not {self.keep_score}, {self.min_score}."
            )

    def open_detector(self, network: Network | None = None) -> Detector:
        """The detector of these settings; one serves any number of clips and threads."""
        options = {} if network is None else {"network": network}
        return open_detector(self.detector, long_side=self.long_side, min_score=self.keep_score, **options)

    def recipe(self) -> dict[str, Any]:
        """Everything that changes the crops, as plain JSON values, for a feature's fingerprint."""
        detector = _detector_recipe(self)
        return {
            "source": "emo",
            "version": VERSION,
            **asdict(self),
            "long_side": detector["long_side"],
            "detector": detector,
        }


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """One person.

    Attributes:
        index: Frame numbers, `(T,)` int64, rising; frames in which the person is out of sight are absent.
        time_s: Presentation times, `(T,)` float64.
        boxes: Left, top, right, bottom, `(T, 4)` float32.
        landmarks: Five points per frame, `(T, 5, 2)` float32, in the order of `Detection`.
        score: Confidence, `(T,)` float32; interpolated where the detector did not look.
        crops: Aligned faces, RGB, `(T, size, size, 3)` uint8.
        mesh: Points of the face mesh, `(T, 468, 3)` float32 in pixels, NaN where it sees no face; `None` if not asked.
    """

    index: np.ndarray
    time_s: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    score: np.ndarray
    crops: np.ndarray
    mesh: np.ndarray | None = None

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Points `(N, 468, 3)` and times `(N,)` of the frames in which the mesh sees the face."""
        assert self.mesh is not None
        seen = np.isfinite(self.mesh).all(axis=(1, 2))
        return self.mesh[seen], self.time_s[seen]

    @cached_property
    def area(self) -> float:
        """Mean area of the box in square pixels."""
        return float(np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1).mean())

    @cached_property
    def facing(self) -> float:
        """How much the person faces the camera: near 1 in front view, about 0.3 in profile.

        `1 / (1 + (r / 15 mm)^2)` with r the root mean square distance of the aligned landmarks from the mean shape.
        """
        marks = self.landmarks.astype(np.float64)
        matrix = similarity(marks, TEMPLATE_MM)
        miss = marks @ matrix[..., :2].transpose(0, 2, 1) + matrix[..., None, :, 2] - TEMPLATE_MM  # (T, 5, 2)
        return float((1 / (1 + (miss**2).sum(axis=2).mean(axis=1) / 15**2)).mean())

    @cached_property
    def mouth_movement(self) -> float:
        """Mean change of brightness per frame around the mouth beyond that around the nose, in [0, 1]."""
        following = np.diff(self.index) == 1
        if not following.any():
            return 0.0
        size = self.crops.shape[1]

        def change(top: float, bottom: float) -> float:
            sides = slice(int(0.27 * size), int(0.73 * size))  # where the mean shape has mouth and cheeks
            part = self.crops[:, int(top * size) : int(bottom * size), sides]
            grey = part[..., 0].astype(np.int16) + part[..., 1] + part[..., 2]  # 0 to 765
            return float(np.abs(np.diff(grey, axis=0)[following]).mean()) / 765

        return max(0.0, change(0.58, 0.84) - change(0.34, 0.52))


@dataclass(frozen=True, eq=False)
class FaceTracks:
    """All people found in a clip.

    Attributes:
        tracks: In order of appearance.
        n_frames: Frames of the clip.
        width: Columns of its frames.
        height: Rows of its frames.
        config: How they were found.
        name: Name of the clip, for messages.
        glimpses: Faces that could be followed through less than `min_frames` frames.
    """

    tracks: tuple[FaceTrack, ...]
    n_frames: int
    width: int
    height: int
    config: FaceConfig
    name: str
    glimpses: tuple[FaceTrack, ...] = ()

    def choose(self, rule: str | None = None) -> FaceTrack:
        """The track of one person.

        Args:
            rule: A name in `RULES`; the one of the settings when `None`.

        Raises:
            MediaError: `no-face`; `face-not-followed` where faces were seen, each for a moment only.
            UsageError: No such rule.
        """
        judge = _rule(rule or self.config.rule)
        if not self.tracks and self.glimpses:
            raise self._not_followed()
        if not self.tracks:
            raise MediaError("no-face", f"No face was found in the {self.n_frames} frames of {self.name}.")
        longest = max(len(track.index) for track in self.tracks)
        # Whatever the rule, somebody who is seen for less than half as long as another is a passer-by.
        present = [track for track in self.tracks if len(track.index) * 2 >= longest]
        return max(present, key=lambda track: judge(track, self))

    def _not_followed(self) -> MediaError:
        frames = len(set().union(*(track.index.tolist() for track in self.glimpses)))
        seen = f"Faces were seen in {frames} of the {self.n_frames} frames of {self.name}"
        sentence = f"{seen}, but none could be followed through {self.config.min_frames} frames."
        if self.config.every > 1:
            return MediaError("face-not-followed", sentence, "Set faces_every = 1 under [extract] to look more often.")
        return MediaError("face-not-followed", sentence, "Give OpenFace output for it: `faces` under [data.NAME].")

    def table(self, rule: str | None = None) -> np.ndarray:
        """Boxes, landmarks and choice, `(R, 19)` float32, of all that was seen; the columns are `COLUMNS`."""
        people = (*self.tracks, *self.glimpses)
        if not people:
            return np.empty((0, len(COLUMNS)), np.float32)
        chosen = self.choose(rule) if self.tracks else None
        return np.concatenate(
            [
                np.column_stack(
                    [
                        track.index,
                        track.time_s,
                        np.full(len(track.index), number),
                        np.full(len(track.index), track is chosen),
                        track.score,
                        track.boxes,
                        track.landmarks.reshape(-1, 10),
                    ]
                ).astype(np.float32)
                for number, track in enumerate(people)
            ]
        )


def _prominent(track: FaceTrack, clip: FaceTracks) -> float:
    """Size x length x facing the camera x mouth (1 still, up to 2 talking): who a viewer takes for the subject."""
    size = track.area / (clip.width * clip.height)
    seen = len(track.index) / clip.n_frames
    # Talking faces of real clips move by 0.005 to 0.02: a mouth must not outweigh a face that is twice as large.
    return size * seen * track.facing * (1 + min(1.0, 20 * track.mouth_movement))


def _largest(track: FaceTrack, clip: FaceTracks) -> float:
    """Mean area of the box."""
    return track.area


def _longest(track: FaceTrack, clip: FaceTracks) -> float:
    """Number of frames; of equal ones the larger face."""
    return len(track.index) + track.area / (clip.width * clip.height)


def _central(track: FaceTrack, clip: FaceTracks) -> float:
    """Nearness of the box to the middle of the frame."""
    middle = (track.boxes[:, :2] + track.boxes[:, 2:]).mean(axis=0) / 2
    return -math.dist(middle / (clip.width, clip.height), (0.5, 0.5))


def _talking(track: FaceTrack, clip: FaceTracks) -> float:
    """Mouth movement."""
    return track.mouth_movement


RULES: dict[str, Callable[[FaceTrack, FaceTracks], float]] = {
    "prominent": _prominent,
    "largest": _largest,
    "longest": _longest,
    "central": _central,
    "talking": _talking,
}
"""Rules that choose one of several tracks, by name: the highest value wins."""


def _rule(name: str) -> Callable[[FaceTrack, FaceTracks], float]:
    if name not in RULES:
        raise UsageError(f"There is no rule {name!r} for the choice of a face.", f"Known: {', '.join(RULES)}.")
    return RULES[name]


@lru_cache(maxsize=8)
def _detector_recipe(config: FaceConfig) -> dict[str, Any]:
    return config.open_detector().recipe()


def read_openface(folder: Path | str) -> np.ndarray:
    """Aligned faces of one clip from an OpenFace run.

    Args:
        folder: A folder of bmp files, or one that holds `<clip>_aligned/` (OpenFace, MERTools' MER2023), taken in order
            of their names; or a `.npy`, or a folder that holds one (MERBench: `(N, h, w, 3)` uint8 in BGR).

    Returns:
        `(T, h, w, 3)` uint8 RGB.

    Raises:
        MediaError: `no-face` where OpenFace found none; `bad-faces` where the files are not images or differ in size;
            `unreadable` where the folder is not there.
    """
    folder = Path(folder)
    try:
        arrays = [folder] if folder.suffix == ".npy" else sorted(folder.glob("*.npy"))
        if arrays:
            return _read_npy(arrays[0])
        images = sorted(folder.glob("*.bmp")) or sorted(folder.glob("*_aligned/*.bmp"))
        if not images and not folder.is_dir():
            raise FileNotFoundError(2, "No such folder")
        crops = [np.asarray(Image.open(path).convert("RGB")) for path in images]
    except (UnidentifiedImageError, ValueError, EOFError) as error:
        raise MediaError(
            "bad-faces", f"The faces in {folder} cannot be read: {error}.", "Run OpenFace again."
        ) from error
    except OSError as error:
        if error.errno is None:  # Pillow's way to say that an image is cut off
            raise MediaError(
                "bad-faces", f"The faces in {folder} are damaged: {error}.", "Run OpenFace again."
            ) from error
        raise MediaError(
            "unreadable", f"The faces in {folder} cannot be read ({error.strerror}).", "Check the folder.", retry=True
        ) from error
    if not crops:
        raise MediaError("no-face", f"OpenFace left no faces in {folder}.")
    if len({crop.shape for crop in crops}) > 1:
        raise MediaError("bad-faces", f"The faces in {folder} are of different sizes.", "Run OpenFace again.")
    return np.stack(crops)


def _read_npy(path: Path) -> np.ndarray:
    faces = np.load(path, allow_pickle=False)
    if faces.size == 0:  # MERBench saves an empty list as (0,) float64
        raise MediaError("no-face", f"OpenFace found no face: {path} is empty.")
    if faces.ndim != 4 or faces.shape[3] != 3 or faces.dtype != np.uint8:
        raise MediaError(
            "bad-faces", f"{path} holds {faces.dtype} {faces.shape}, not uint8 (N, h, w, 3).", "Run OpenFace again."
        )
    return np.ascontiguousarray(faces[..., ::-1])
