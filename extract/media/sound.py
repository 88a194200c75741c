"""From decoded sound to 16 kHz mono: the samples that ffmpeg writes, silence in gaps, refusals of what is no sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np

from emo.extract.media.reading import AUDIO_RATE
from emo.featstore.errors import MediaError

# A jump of the time stamps from here on is a gap; below, it is rounding. (`min_hard_comp` of FFmpeg's aresample.)
GAP_S = 0.1
# Float sound may overshoot full scale: loud tracks by a little. Beyond this it was scaled like integers.
_PEAK = 4.0
# Of sound that is stored as float, so many samples may lie beyond full scale; ffmpeg clips them.
_CLIPPED_SHARE = 0.01
_CHANNELS, _RATE = 64, 768_000  # more is what damaged headers say


class Sound:
    """Collects the sound of a clip, frame by frame.

    Args:
        name: Name of the file, for messages.
        stored_float: The samples are stored as floats, not made by a lossy decoder.
        limit_s: Most that is collected.
    """

    def __init__(self, name: str, *, stored_float: bool, limit_s: float) -> None:
        self._name, self._stored_float = name, stored_float
        self._limit = int(limit_s * AUDIO_RATE)
        self._parts: list[np.ndarray] = []
        self._count = 0
        self._resampler: av.AudioResampler | None = None
        self._source: tuple[object, ...] = ()
        self._read = self._beyond = 0
        self._start_s: float | None = None
        self._read_s = 0.0
        self.gaps: list[tuple[float, float]] = []
        self.loud = False  # whether any of several channels was, before they were mixed

    def add(self, frame: av.AudioFrame) -> None:
        """Take a decoded frame.

        Raises:
            MediaError: `not-finite`, `out-of-range`, or `too-long`.
        """
        self._check(frame)
        self.loud = self.loud or (frame.layout.nb_channels > 1 and _is_loud(frame))
        self._fill(frame)
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if source != self._source:  # broadcasts change their layout half-way
            self._flush()
            self._resampler, self._source = av.AudioResampler("s16", "mono", AUDIO_RATE), source
        assert self._resampler is not None
        self._keep(out.to_ndarray()[0] for out in self._resampler.resample(frame))
        self._read_s += frame.samples / frame.sample_rate

    def samples(self) -> np.ndarray:
        """Everything collected, `(N,)` int16."""
        self._flush()
        share = self._beyond / max(self._read, 1)
        if share > _CLIPPED_SHARE:
            raise self._out_of_range(f"{share:.0%} of its samples lie beyond full scale")
        return np.concatenate(self._parts) if self._parts else np.empty(0, np.int16)

    def _check(self, frame: av.AudioFrame) -> None:
        channels = frame.layout.nb_channels
        if not (
            0 < channels <= _CHANNELS and 0 < frame.sample_rate <= _RATE
        ):  # a forged header; FFmpeg may crash of it
            raise MediaError(
                "not-media",
                f"{self._name} is no usable clip: its sound claims {channels} channels at {frame.sample_rate} Hz.",
                "Fetch or re-encode it.",
            )
        if frame.format.name[:3] not in ("flt", "dbl") or not frame.samples:
            return
        values = frame.to_ndarray()
        low, high = float(values.min()), float(values.max())  # NaN is passed on by both
        if not (np.isfinite(low) and np.isfinite(high)):
            raise MediaError(
                "not-finite",
                f"{self._name} has samples that are no numbers (NaN or infinite), about {self._read_s:.2f} s in.",
                "Write the sound again; nothing can be told from it.",
            )
        peak = max(-low, high)
        if peak > _PEAK:
            raise self._out_of_range(f"its samples reach {peak:.4g}, where full scale is 1")
        if self._stored_float:
            self._read += values.size
            self._beyond += int((np.abs(values) > 1).sum()) if peak > 1 else 0

    def _out_of_range(self, reason: str) -> MediaError:
        return MediaError(
            "out-of-range",
            f"{self._name}: {reason}; clipped, it would be noise.",
            "Scale the samples to [-1, 1]: integers were probably saved as floats.",
        )

    def _fill(self, frame: av.AudioFrame) -> None:
        """Put silence where the time stamps say that nothing was stored, so that what follows keeps its time."""
        if frame.pts is None or frame.time_base is None:
            return
        time_s = float(frame.pts * frame.time_base)
        if self._start_s is None:
            self._start_s = time_s
        gap_s = time_s - self._start_s - self._read_s
        if gap_s < GAP_S:
            return
        self._flush()
        self._resampler, self._source = None, ()
        self.gaps.append((self._read_s, gap_s))
        self._read_s += gap_s
        silence = min(round(self._read_s * AUDIO_RATE) - self._count, self._limit + 1)
        self._keep(iter([np.zeros(max(0, silence), np.int16)]))

    def _flush(self) -> None:
        if self._resampler is not None:
            self._keep(out.to_ndarray()[0] for out in self._resampler.resample(None))
            self._resampler = None

    def _keep(self, parts: Iterable[np.ndarray]) -> None:
        for part in parts:
            self._parts.append(part)
            self._count += len(part)
        if self._count > self._limit:
            raise too_long(self._name, self._limit / AUDIO_RATE / 60)


def _is_loud(frame: av.AudioFrame) -> bool:
    """Say whether a channel of a frame goes beyond 1 % of full scale."""
    values = frame.to_ndarray()
    if values.dtype == np.uint8:
        values = values.astype(np.int16) - 128
        return bool(np.abs(values).max(initial=0) > 1)
    full = np.iinfo(values.dtype).max if values.dtype.kind == "i" else 1
    return bool(max(values.max(initial=0), -float(values.min(initial=0))) > full / 100)


def too_long(name: str, limit_min: float, is_min: float | None = None) -> MediaError:
    """The refusal of a clip that is longer than one clip may be."""
    lasts = "lasts longer" if is_min is None else f"lasts {is_min:.1f} minutes, longer"
    return MediaError(
        "too-long",
        f"{name} {lasts} than the {limit_min:g} minutes that one clip may last.",
        "Cut it into utterances; or set max_minutes under [extract] in emo.toml and run with --retry-failed, for sound "
        "with HL-MERBench-UTT, which computes in chunks: the cost of HL-UTT grows with the square of the length.",
    )


def trimmed(frames: Iterator[Any], stop: float) -> Iterator[Any]:
    """Audio frames up to a time, in units of their time base, at which the last one is cut."""
    for frame in frames:
        keep = frame.samples if frame.pts is None else int((stop - frame.pts) * frame.time_base * frame.sample_rate)
        if keep >= frame.samples:
            yield frame
        elif keep > 0:
            values = frame.to_ndarray()  # planar (channels, N), packed (1, N * channels)
            values = values[:, : keep * (1 if frame.format.is_planar else frame.layout.nb_channels)]
            short = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), frame.format.name, frame.layout.name)
            short.sample_rate, short.time_base, short.pts = frame.sample_rate, frame.time_base, frame.pts
            yield short
