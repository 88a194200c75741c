"""Odd clips for the tests of extraction, written with PyAV or with the ffmpeg binary of imageio-ffmpeg."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

CORNERS = {
    "top left": (220, 30, 30),
    "top right": (30, 200, 30),
    "bottom left": (30, 30, 220),
    "bottom right": (200,) * 3,
}


def _write_media(
    path: Path,
    *,
    n_frames: int = 10,
    size: tuple[int, int] = (64, 48),
    times_s: Sequence[float] | None = None,
    fps: int = 25,
    rotation: int = 0,
    codec: str = "mpeg4",
    audio_s: float = 0.4,
    rate: int = 44_100,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a clip whose frames have four coloured corners and a middle that grows brighter with each frame.

    Args:
        path: File to write; the suffix chooses the container.
        n_frames: 0 leaves the video stream out.
        size: Width and height.
        times_s: Presentation times; evenly spaced by default.
        fps: Frame rate.
        rotation: Counter-clockwise turn that a player must apply.
        codec: Video encoder.
        audio_s: Length of a two-tone stereo sound; 0 leaves the audio stream out.
        rate: Sampling rate of the sound.
        options: Container options, such as `{"movflags": "faststart"}`.
    """
    width, height = size
    with av.open(f"file:{path}", "w", options=options or {}) as container:
        if n_frames:
            video = container.add_stream(codec, rate=fps)
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            video.time_base = video.codec_context.time_base = Fraction(1, 1000 if times_s is not None else fps)
            if rotation:
                video.set_display_rotation(rotation)
        if audio_s:
            audio = container.add_stream("aac", rate=rate, layout="stereo")
        for index in range(n_frames):
            image = np.full((height, width, 3), 10 + 8 * (index % 30), np.uint8)
            h, w = height // 3, width // 3
            image[:h, :w], image[:h, -w:] = CORNERS["top left"], CORNERS["top right"]
            image[-h:, :w], image[-h:, -w:] = CORNERS["bottom left"], CORNERS["bottom right"]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base = video.codec_context.time_base
            frame.pts = index if times_s is None else round(1000 * times_s[index])
            container.mux(video.encode(frame))
        if n_frames:
            container.mux(video.encode())
        if audio_s:
            t = np.arange(max(1, round(audio_s * rate))) / rate
            tones = np.stack([0.5 * np.sin(2 * np.pi * 440 * t), 0.3 * np.sin(2 * np.pi * 1000 * t)])
            sound = av.AudioFrame.from_ndarray(tones.astype(np.float32), format="fltp", layout="stereo")
            sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
            container.mux(audio.encode(sound))
            container.mux(audio.encode())
    return path


@pytest.fixture(scope="session")
def write_media() -> Callable[..., Path]:
    """Writes a clip as ordered; see `_write_media`."""
    return _write_media


@pytest.fixture(scope="session")
def corner_colours() -> dict[str, tuple[int, int, int]]:
    """Colours of the corners of a written clip, upright."""
    return CORNERS


@pytest.fixture(scope="session")
def clips(shared: Path) -> list[Path]:
    """The 16 real clips."""
    return sorted((shared / "data/mer2023/clips").glob("*.mp4"))
