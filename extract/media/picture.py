"""From decoded frames to what a viewer sees: upright RGB in display shape, each at its time."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type as SideData

# Pixels count as square up to here: encoders round sizes to even numbers, and players do not stretch by a column.
_SQUARE = 0.01


class Rgb:
    """Turns frames into RGB as `ffmpeg -pix_fmt rgb24` does: by the same filters, so with the same bits.

    A clip whose frames change size half-way keeps the shape of its first one.

    Args:
        aspect: Width of a pixel by its height, as the container says; `None` where it says nothing.
    """

    def __init__(self, aspect: Fraction | None) -> None:
        self._aspect = float(aspect) if aspect else 1.0
        self._shape: tuple[int, int] | None = None
        self._graphs: dict[str, tuple[tuple[object, ...], Graph]] = {}

    def shape(self, frame: Any) -> tuple[int, int]:
        """Height and width of the upright frames, as a player shows them."""
        if self._shape is None:
            width, height = frame.width, frame.height
            if abs(self._aspect - 1) > _SQUARE:
                width = max(1, round(width * self._aspect))
            self._shape = (width, height) if "transpose" in str(_turns(frame)) else (height, width)
        return self._shape

    def __call__(self, frame: Any) -> np.ndarray:
        """Convert one frame to `(H, W, 3)` uint8."""
        height, width = self.shape(frame)
        return self._convert(frame, width, height, "bicubic")  # the flags that ffmpeg gives its scaler

    def small(self, frame: Any, side: int) -> np.ndarray:
        """Convert one frame to `(h, w, 3)` uint8 with `side` pixels on its longer side, without a large one between."""
        return self._convert(frame, *shrunk(self.shape(frame), side), "area")

    def scaled(self, frame: Any, width: int, height: int) -> np.ndarray:
        """Convert one frame to `(height, width, 3)` uint8 in one step of scaling and colour, as decord does."""
        return self._convert(frame, width, height, "bilinear")

    def _convert(self, frame: Any, width: int, height: int, flags: str) -> np.ndarray:
        looks = (frame.format.name, frame.width, frame.height, int(frame.colorspace), int(frame.color_range))
        turns = _turns(frame)
        key = (looks, turns, width, height)
        known, graph = self._graphs.get(flags, ((), None))
        if graph is None or known != key:
            graph = _graph(looks, turns, width, height, flags)
            self._graphs[flags] = (key, graph)
        graph.push(frame)
        return np.ascontiguousarray(graph.pull().to_ndarray())


def shrunk(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of a frame `(height, width)` with `side` pixels on its longer side."""
    return max(1, round(shape[1] * side / max(shape))), max(1, round(shape[0] * side / max(shape)))


def _graph(looks: tuple[Any, ...], turns: tuple[tuple[str, str], ...], width: int, height: int, flags: str) -> Graph:
    form, wide, high, space, span = looks
    graph = Graph()
    graph.threads = 1
    source = f"video_size={wide}x{high}:pix_fmt={form}:time_base=1/1000:colorspace={space}:range={span}"
    chain = [graph.add("buffer", source), *(graph.add(*turn) for turn in turns)]
    chain.append(graph.add("scale", f"w={width}:h={height}:flags={flags}"))
    chain += [graph.add("format", "pix_fmts=rgb24"), graph.add("buffersink")]
    for one, other in pairwise(chain):
        one.link_to(other)
    graph.configure()
    return graph


def _turns(frame: Any) -> tuple[tuple[str, str], ...]:
    """Filters that turn and mirror a frame as its display matrix says."""
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return ()
    a, b, _, c, d = (int(value) for value in np.frombuffer(data, np.int32)[:5])  # x' = a x + c y, y' = b x + d y
    if abs(a) >= abs(b):
        return tuple((name, "") for name, turned in (("hflip", a < 0), ("vflip", d < 0)) if turned)
    kind = {(False, False): "cclock_flip", (False, True): "clock", (True, False): "cclock", (True, True): "clock_flip"}
    return (("transpose", kind[b < 0, c < 0]),)


class Clock:
    """When frames are shown: the best effort of ffprobe, which never runs backwards here.

    Args:
        time_base: Seconds per unit of the stream's time stamps.
        origin_s: What counts as 0.
        step_s: Time between frames, for those without a time stamp.
        stored_order: The container knows only when frames are decoded (AVI); a frame is then shown when the packet
            that completes it comes in.
    """

    def __init__(self, time_base: Fraction, origin_s: float, step_s: float, *, stored_order: bool) -> None:
        self._base, self._origin_s, self._step_s, self._stored = time_base, origin_s, step_s, stored_order
        self._last_pts = self._last_dts = -(2**63)
        self._bad_pts = self._bad_dts = 0
        self._now_s: float | None = None

    def time_s(self, frame: Any) -> float:
        """Presentation time of the next frame."""
        stamp = self._stamp(None if self._stored and frame.dts is not None else frame.pts, frame.dts)
        if stamp is None or (self._stored and frame.dts is None):
            time_s = 0.0 if self._now_s is None else self._now_s + self._step_s
        else:
            time_s = float(stamp * self._base) - self._origin_s
        self._now_s = time_s if self._now_s is None else max(time_s, self._now_s)
        return self._now_s

    def _stamp(self, pts: int | None, dts: int | None) -> int | None:
        """`guess_correct_pts` of FFmpeg's libavcodec/decode.c: whichever of the two has run backwards less often."""
        if dts is not None:
            self._bad_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._bad_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        return pts if pts is not None and (self._bad_pts <= self._bad_dts or dts is None) else dts
