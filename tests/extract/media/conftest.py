"""The programs that the numbers are held against."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def peer() -> Callable[..., bytes]:
    """Runs the machine's own ffmpeg or ffprobe (4 to 8, as published extractors used) and returns its stdout."""
    programs = [shutil.which("ffmpeg"), shutil.which("ffprobe")]
    if None in programs:
        pytest.skip("no ffmpeg and ffprobe on the PATH to compare with: install the package ffmpeg")
    said = subprocess.run([str(programs[0]), "-version"], capture_output=True, text=True).stdout
    version = re.match(r"ffmpeg version n?(\d+)", said)
    if version is None or not 4 <= int(version[1]) <= 8:
        pytest.skip(f"{said.splitlines()[0]}: the published features were made by FFmpeg 4 to 8")

    def run(program: str, *arguments: str | Path) -> bytes:
        quiet = ["-nostdin", "-y"] if program == "ffmpeg" else []
        command = [program, "-v", "error", *quiet, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def peer_audio(peer: Callable[..., bytes]) -> Callable[[Path], np.ndarray]:
    """The samples that `ffmpeg -i IN -ac 1 -ar 16000 OUT.wav` writes, as float32 in [-1, 1)."""

    def run(path: Path) -> np.ndarray:
        raw = peer("ffmpeg", "-i", path, "-ac", "1", "-ar", "16000", "-f", "s16le", "-")
        return np.frombuffer(raw, np.int16).astype(np.float32) / 32768

    return run
