"""BlazeFace (Bazarevsky et al., 2019, arXiv:1907.05047) finds faces, the face mesh their points.

Anchors, boxes and suppression as MediaPipe's graphs document them (`SsdAnchorsCalculatorOptions`,
`TensorsToDetectionsCalculatorOptions`, `NonMaxSuppressionCalculatorOptions` with the algorithm `WEIGHTED`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from emo.extract.media import facemesh
from emo.extract.media.align import TEMPLATE_MM
from emo.extract.media.container import Frame
from emo.extract.media.detect import Detection, Detections, Detector, iou
from emo.extract.media.facemesh import LEAST_PRESENCE, OPENFACE_68, FaceMesh
from emo.extract.media.picture import Rgb
from emo.extract.media.tflite import SHA256, TfLite
from emo.featstore.errors import UsageError


@dataclass(frozen=True)
class Ssd:
    """One of the networks, as its graph describes it.

    Attributes:
        file: A name in `tflite.SHA256`.
        side: Of its square input, in pixels.
        strides: Of its layers, in pixels.
        each: Anchors of a cell, by layer.
    """

    file: str
    side: int
    strides: tuple[int, ...]
    each: tuple[int, ...]

    def anchors(self) -> np.ndarray:
        """Middles of the anchors in pixels, `(N, 2)` as (x, y), row by row; all have the size of the input."""
        parts = []
        for stride, each in zip(self.strides, self.each, strict=True):
            line = (np.arange(self.side // stride) + 0.5) * stride
            x, y = np.meshgrid(line, line)
            parts.append(np.repeat(np.column_stack([x.ravel(), y.ravel()]), each, axis=0))
        return np.concatenate(parts).astype(np.float32)


NETWORKS = {
    "full-range": Ssd("face_detection_full_range.tflite", 192, (4,), (1,)),
    "full-range-sparse": Ssd("face_detection_full_range_sparse.tflite", 192, (4,), (1,)),
    "back": Ssd("face_detection_back.tflite", 256, (16, 32), (2, 6)),
    "short-range": Ssd("face_detection_short_range.tflite", 128, (8, 16), (2, 6)),
}


def decode(raw: np.ndarray, logits: np.ndarray, anchors: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Candidates above a score.

    Args:
        raw: `(N, 16)`: middle, width and height of the box, then six points, all from the anchor, in pixels.
        logits: `(N, 1)`.
        anchors: `(N, 2)`.
        least: Weakest score.

    Returns:
        `(M, 8, 2)`: two corners of the box and six points (the eye left in the image, the other one, nose tip, mouth,
        ears), and scores `(M,)`.
    """
    scores = 1 / (1 + np.exp(-np.clip(logits[:, 0], -80, 80)))
    keep = scores >= least
    places, scores = raw[keep].reshape(-1, 8, 2), scores[keep]
    half = places[:, 1] / 2
    places = places + anchors[keep][:, None]
    places[:, 1] = places[:, 0] + half
    places[:, 0] -= half
    return places, scores


def merge(places: np.ndarray, scores: np.ndarray, limit: float) -> list[tuple[np.ndarray, float]]:
    """One face for all candidates that overlap the best one by more than `limit`: their mean, weighted by score.

    Args:
        places: `(M, 8, 2)`; see `decode`.
        scores: `(M,)`.

    Returns:
        Places `(8, 2)` and the best score of each face, best first.
    """
    boxes, order = places[:, :2].reshape(-1, 4), np.argsort(-scores, kind="stable")
    found = []
    while len(order):
        same = iou(boxes[order[:1]], boxes[order])[0] > limit
        same[0] = True  # a box without area does not overlap itself
        group = order[same]
        weights = scores[group] / scores[group].sum()
        found.append(((places[group] * weights[:, None, None]).sum(axis=0), float(scores[order[0]])))
        order = order[~same]
    return found


class BlazeFace(Detector):
    """BlazeFace's full-range network finds faces, the mesh says where their points are and whether they are faces.

    Why this network: `tests/benchmarks/faces.py` compares four on the probe frames of real clips. Why the mesh is
    asked: below a score of 0.6, what it takes for no face there were ears, backs of heads, hands and patterns. Above it
    were faces in the dark: those are given out with BlazeFace's own landmarks, and without the 68 points.

    Args:
        long_side: Side of the network's input; 192 is the only one.
        min_score: Weakest detection that is given out.

    Raises:
        WeightsMissing: The package with the files is not installed.
        UsageError: The package that runs them is not installed, or another size is asked for.
        ModelError: A file is damaged.
    """

    name = "blazeface"
    runtime = "ai-edge-litert"
    NMS_IOU = 0.3  # as in the graph
    SURE = 0.6  # score of a face whatever the mesh says; the least one in the graph

    def __init__(self, long_side: int | None = None, min_score: float = 0.3) -> None:
        self._ssd = NETWORKS[NETWORK]
        if long_side not in (None, self._ssd.side):
            raise UsageError(
                f"blazeface sees frames of {self._ssd.side} pixels, not {long_side}.", "Leave long_side out."
            )
        self.long_side, self.min_score = self._ssd.side, min_score
        self._net, self._mesh, self._anchors = TfLite(self._ssd.file), FaceMesh(), self._ssd.anchors()

    def recipe(self) -> dict[str, Any]:
        """Networks by their hashes, input size and thresholds."""
        return {
            "name": self.name,
            "network": NETWORK,
            "weights": f"sha256:{SHA256[self._ssd.file]}",
            "long_side": self.long_side,
            "resize": "ffmpeg area, from the decoded frame",
            "min_score": self.min_score,
            "nms_iou": self.NMS_IOU,
            "mesh": facemesh.recipe(),
            "sure": self.SURE,
            "alignment": "68 points of the mesh, as OpenFace; else five landmarks",
        }

    def begin(self, rgb: np.ndarray) -> Detections:
        """See `Detector.begin`; it is finished when this returns."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        return self._begin(rgb, Rgb(None).small(frame, self.long_side))

    def begin_frame(self, frame: Frame) -> Detections:
        """See `Detector.begin_frame`."""
        return self.begin(frame.rgb) if frame.small is None else self._begin(frame.rgb, frame.small(self.long_side))

    def _begin(self, rgb: np.ndarray, small: np.ndarray) -> Detections:
        found = [face for place, score in self._search(rgb, small) if (face := self._look(rgb, place, score))]
        return lambda: found

    def _search(self, rgb: np.ndarray, small: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Places `(8, 2)` in the frame and scores, best first; the small frame lies in the middle of a black square."""
        side, (height, width) = self.long_side, small.shape[:2]
        left, top = (side - width) // 2, (side - height) // 2
        square = np.full((side, side, 3), -1, np.float32)
        square[top : top + height, left : left + width] = small.astype(np.float32) / 127.5 - 1
        faces = merge(*decode(*self._net(square), self._anchors, self.min_score), self.NMS_IOU)
        stretch = np.array([rgb.shape[1] / width, rgb.shape[0] / height], np.float32)
        return [((place - (left, top)) * stretch, score) for place, score in faces]

    def _look(self, rgb: np.ndarray, place: np.ndarray, score: float) -> Detection | None:
        """The face at a place; `None` where neither the mesh nor BlazeFace alone is sure that there is one."""
        low, high, right_eye, left_eye, nose, mouth = place[:6]
        across = left_eye - right_eye
        points, presence = self._mesh.find(rgb, (low + high) / 2, max(high - low), np.arctan2(across[1], across[0]))
        whole, extent = points[OPENFACE_68, :2], points[:, :2]
        if presence >= LEAST_PRESENCE:
            box = np.concatenate([extent.min(axis=0), extent.max(axis=0)])
            five = np.stack([whole[36:42].mean(axis=0), whole[42:48].mean(axis=0), whole[30], whole[48], whole[54]])
        elif score >= self.SURE:
            box, whole = np.concatenate([low, high]), None
            five = np.stack([right_eye, left_eye, nose, mouth - MOUTH * across, mouth + MOUTH * across])
        else:
            return None
        box = np.clip(box, 0, np.array(rgb.shape[1::-1] * 2))
        return Detection(box.astype(np.float32), five.astype(np.float32), score, whole)


NETWORK = "full-range"
MOUTH = np.float32(0.5 * np.ptp(TEMPLATE_MM[3:, 0]) / np.ptp(TEMPLATE_MM[:2, 0]))
"""Half the width of the mouth by the distance of the eyes, in OpenFace's mean shape: BlazeFace sees its middle only."""
