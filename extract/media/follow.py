"""Follows the faces of a clip, frame by frame, while it is decoded.

`FaceTracker` looks for faces in every k-th frame of a shot and in its first and last one, links what it finds by
overlap with where each face should be by now, and interpolates boxes and landmarks in between. Where a link breaks (a
face is lost, a new one is there, or one has moved far) it looks into every frame of that gap. A link that could as well
be another is not made. It keeps at most k full frames, or a few times as many where results come later
(`Detector.ahead`).

Tracks end at a camera cut: after one, the same place may show somebody else. `join` puts tracks of one person together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from emo.extract.media.align import align_faces
from emo.extract.media.container import Frame
from emo.extract.media.detect import Detection, Detections, Detector, iou
from emo.extract.media.facemesh import FaceMesh
from emo.extract.media.faces import FaceConfig, FaceTrack, FaceTracks
from emo.extract.media.join import FACE, Part, dress, join

SAME_SHOT = (
    0.6  # least correlation of neighbouring glances of one shot; real clips: 0.86 and more, 0.5 and less at cuts
)
PLAIN = 0.02  # standard deviation of a glance that shows nothing
CHANGED = 0.1  # a face whose colour changes by more is another; real ones change by 0.05 from search to search
STRAIGHT = 0.5  # least overlap of two boxes between which the motion is taken to be straight
CLEAR = 0.7  # a link is clear if no other of the same face or track overlaps more than so many times as much


@dataclass
class _Track:
    """A track that is still growing.

    Attributes:
        shot: Number of its shot.
        seen: Frame and box of the last two detections; what is interpolated does not count.
        dress: Colours where the face was detected, `(3, 3)` each; see `join.dress`.
    """

    shot: int
    seen: list[tuple[int, np.ndarray]] = field(default_factory=list)
    dress: list[np.ndarray] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    time_s: list[float] = field(default_factory=list)
    detections: list[Detection] = field(default_factory=list)
    crops: list[np.ndarray] = field(default_factory=list)
    mesh: list[np.ndarray] = field(default_factory=list)

    def expected(self, index: int) -> np.ndarray:
        """Box `(4,)` in a later frame, if the face goes on moving and growing as it did."""
        (before, old), (now, box) = self.seen[0], self.seen[-1]
        if now == before:
            return box
        ahead = box + (box - old) * np.float32((index - now) / (now - before))
        middle, half = (ahead[:2] + ahead[2:]) / 2, (box[2:] - box[:2]) / 2
        half = np.clip((ahead[2:] - ahead[:2]) / 2, half / 2, half * 2)
        return np.concatenate([middle - half, middle + half])

    def freeze(self) -> FaceTrack:
        """The track as it is handed out."""
        return FaceTrack(
            np.array(self.index, np.int64),
            np.array(self.time_s, np.float64),
            np.stack([d.box for d in self.detections]).astype(np.float32),
            np.stack([d.landmarks for d in self.detections]).astype(np.float32),
            np.array([d.score for d in self.detections], np.float32),
            np.concatenate(self.crops),
            np.stack(self.mesh) if self.mesh else None,
        )


@dataclass(frozen=True, eq=False)
class _Face:
    """A detection with its colours."""

    detection: Detection
    dress: np.ndarray


@dataclass(frozen=True, eq=False)
class _Search:
    """A frame that is being looked at, and those before it that are not."""

    between: list[Frame]
    frame: Frame
    begun: Detections

    @cached_property
    def found(self) -> list[_Face]:
        """Its faces, waiting for them; the largest first."""
        faces = sorted(self.begun(), key=lambda each: -float(np.prod(each.box[2:] - each.box[:2])))
        return [_Face(each, dress(self.frame.rgb, each.box)) for each in faces]


class FaceTracker:
    """Finds and follows the faces of one clip, frame by frame.

    Args:
        detector: Shared between clips; see `FaceConfig.open_detector`.
        config: Settings.
        name: Name of the clip, for messages.
        mesh: Looks at every face in every frame, where its points are wanted.
    """

    def __init__(
        self, detector: Detector, config: FaceConfig | None = None, name: str = "the clip", mesh: FaceMesh | None = None
    ) -> None:
        self._detector, self._config, self._name, self._mesh = detector, config or FaceConfig(), name, mesh
        self._waiting: list[Frame] = []  # frames after the last one that is searched
        self._begun: deque[_Search | None] = deque()  # searches whose results nobody has asked for; `None` ends a shot
        self._growing: list[_Track] = []
        self._tracks: list[_Track] = []
        self._shot = 0
        self._glance: _Glance | None = None
        self._n_frames, self._width, self._height = 0, 0, 0

    def feed(self, frame: Frame) -> None:
        """Take the next frame of the clip."""
        glance = _Glance(frame.rgb)
        changed = self._glance is None or _is_cut(self._glance, glance, self._config.cut_level)
        if changed:
            self._end_shot()
        self._glance = glance
        self._n_frames += 1
        self._height, self._width = frame.rgb.shape[:2]
        self._waiting.append(frame)
        if changed or len(self._waiting) == self._config.every:
            self._search()

    def finish(self) -> FaceTracks:
        """Search the last frame and hand out what was found."""
        self._end_shot()
        self._settle(0)
        people = join([Part(track.freeze(), track.shot, np.stack(track.dress)) for track in self._tracks])
        least = min(self._config.min_frames, self._n_frames)
        tracks = tuple(track for track in people if len(track.index) >= least)
        glimpses = tuple(track for track in people if len(track.index) < least)
        return FaceTracks(tracks, self._n_frames, self._width, self._height, self._config, self._name, glimpses)

    def _end_shot(self) -> None:
        if self._waiting:
            self._search()
        self._begun.append(None)
        self._settle(self._detector.ahead)

    def _search(self) -> None:
        """Begin to look for faces in the newest waiting frame."""
        *between, frame = self._waiting
        self._waiting = []
        self._begun.append(_Search(between, frame, self._detector.begin_frame(frame)))
        self._settle(self._detector.ahead)

    def _settle(self, left: int) -> None:
        """Take the results of searches, oldest first, until so many are left."""
        while len(self._begun) > left:
            search = self._begun.popleft()
            if search is None:
                self._growing = []
                self._shot += 1
            else:
                self._follow(search)

    def _follow(self, search: _Search) -> None:
        """Extend the tracks to a frame; through every frame before it where a face is lost, new or swift."""
        links = self._links(search)
        linked = {j for _, j in links}
        far = any(_far(self._growing[i], search.found[j].detection) for i, j in links)
        lost = len(links) < len(self._growing) or any(j not in linked for j in self._new(search))
        if search.between and (far or lost):
            for other in self._begun:  # answers come in the order of the questions
                _ = other and other.found
            for each in [_Search([], frame, self._detector.begin_frame(frame)) for frame in search.between]:
                self._step(each)
            search.between.clear()
        self._step(search)

    def _step(self, search: _Search) -> None:
        """Link the faces of a frame to the tracks, and fill in the frames before it."""
        links = self._links(search)
        frames = [*search.between, search.frame]
        growing = []
        for track, face in [(self._growing[i], search.found[j]) for i, j in links]:
            shares = [number / len(frames) for number in range(1, len(frames))]
            between = [_between(track.detections[-1], face.detection, share) for share in shares]
            self._add(track, frames, between, face)
            growing.append(track)
        linked = {j for _, j in links}
        for number in self._new(search):
            if number not in linked:
                growing.append(_Track(self._shot))
                self._add(growing[-1], [search.frame], [], search.found[number])
                self._tracks.append(growing[-1])
        self._growing = growing

    def _links(self, search: _Search) -> list[tuple[int, int]]:
        """Pairs of a growing track and a face in this frame that are the same person beyond doubt."""
        if not self._growing or not search.found:
            return []
        expected = np.stack([track.expected(search.frame.index) for track in self._growing])
        overlap = iou(expected, np.stack([face.detection.box for face in search.found]))
        colours = [
            np.stack([each[FACE] for each in ends])
            for ends in ([track.dress[-1] for track in self._growing], [face.dress for face in search.found])
        ]
        overlap[np.abs(colours[0][:, None] - colours[1]).max(axis=2) > CHANGED] = 0
        return _link(overlap, self._config.min_iou)

    def _new(self, search: _Search) -> list[int]:
        """The faces that may start a track: the largest, where the detector is sure enough."""
        largest = enumerate(search.found[: self._config.max_faces])
        return [number for number, face in largest if face.detection.score >= self._config.min_score]

    def _add(self, track: _Track, frames: Sequence[Frame], between: Sequence[Detection], face: _Face) -> None:
        config, detections = self._config, [*between, face.detection]
        track.seen = [*track.seen[-1:], (frames[-1].index, face.detection.box)]
        track.dress.append(face.dress)
        track.index += [frame.index for frame in frames]
        track.time_s += [frame.time_s for frame in frames]
        track.detections += detections
        whole = all(detection.points is not None for detection in detections)
        landmarks = np.stack([detection.points if whole else detection.landmarks for detection in detections])
        shape = {"size": config.size, "scale": config.scale, "mask": config.mask}
        track.crops.append(align_faces([frame.rgb for frame in frames], landmarks, **shape))
        if self._mesh is not None:
            for frame, each in zip(frames, detections, strict=True):
                across = each.landmarks[1] - each.landmarks[0]
                track.mesh.append(self._mesh.follow(frame.rgb, each.box, float(np.arctan2(across[1], across[0]))))


def _far(track: _Track, face: Detection) -> bool:
    """Say whether a face is so far from where it was that it need not have moved straight."""
    return bool(iou(track.detections[-1].box[None], face.box[None])[0, 0] < STRAIGHT)


class _Glance:
    """A grey thumbnail of about 32 x 18 in [0, 1], enough to see a cut; point samples, so that it costs nothing.

    Attributes:
        grey: Pixels.
        pattern: Pixels less their mean.
        contrast: Standard deviation.
    """

    def __init__(self, rgb: np.ndarray) -> None:
        step = max(1, min(rgb.shape[0] // 18, rgb.shape[1] // 32))
        self.grey = rgb[step // 2 :: step, step // 2 :: step].mean(axis=2, dtype=np.float32) / 255
        self.pattern = self.grey - self.grey.mean()
        self.contrast = self.pattern.std()


def _is_cut(before: _Glance, now: _Glance, level: float) -> bool:
    """Whether two glances are of two shots: of other brightness, or of another pattern."""
    if np.abs(now.grey - before.grey).mean() > level:
        return True
    if min(before.contrast, now.contrast) <= PLAIN:
        return False
    return bool((before.pattern * now.pattern).mean() < SAME_SHOT * before.contrast * now.contrast)


def _link(overlap: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Pairs of rows and columns that belong together: greedy, best overlap first; none where another is as likely."""
    pairs = []
    while overlap.max() >= least:
        i, j = (int(at) for at in np.unravel_index(overlap.argmax(), overlap.shape))
        best, overlap[i, j] = float(overlap[i, j]), -1
        if max(overlap[i].max(), overlap[:, j].max()) < CLEAR * best:
            pairs.append((i, j))
        overlap[i, :] = overlap[:, j] = -1
    return pairs


def _between(a: Detection, b: Detection, share: float) -> Detection:
    """Linear interpolation."""
    return Detection(
        a.box + (b.box - a.box) * np.float32(share),
        a.landmarks + (b.landmarks - a.landmarks) * np.float32(share),
        a.score + (b.score - a.score) * share,
        None if a.points is None or b.points is None else a.points + (b.points - a.points) * np.float32(share),
    )
