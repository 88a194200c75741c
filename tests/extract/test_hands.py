"""Files of strangers are looked into by a process that is bounded and can be killed."""

from __future__ import annotations

import os
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from emo.extract import hands
from emo.extract.demo import generate_clip
from emo.extract.hands import Hands, Killed
from emo.featstore.errors import EmoError, MediaError

NEVER = threading.Event()


@pytest.fixture(scope="module")
def looker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hands]:
    made = Hands(tmp_path_factory.mktemp("root"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    generate_clip(path, "happy", seed=1)
    return path


def write_video(path: Path, size: tuple[int, int]) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=5)
        video.width, video.height, video.pix_fmt = *size, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), np.uint8), format="rgb24")
        for _ in range(3):
            container.mux(video.encode(frame))
        container.mux(video.encode())


def test_a_clip_is_described_with_its_waveform(looker: Hands, clip: Path) -> None:
    found = looker.look(clip, 60, 1_000_000, NEVER)
    assert (found["width"], found["height"], found["fps"]) == (320, 240, 25)
    assert len(found["wave"]) == hands.BINS
    assert 0.1 < max(found["wave"]) <= 1
    assert found["duration_s"] == pytest.approx(1.5, abs=0.1)


def test_what_is_no_clip_or_beyond_the_bounds_ends_in_a_sentence(looker: Hands, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("words " * 1000)
    with zipfile.ZipFile(tmp_path / "bomb.mp4", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("zeros", bytes(50_000_000))
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-3000])
    write_video(tmp_path / "large.avi", (4000, 3000))
    write_video(tmp_path / "mute.avi", (64, 64))
    for name, kind in (("text.mp4", "not-media"), ("bomb.mp4", "not-media"), ("cut.mp4", "truncated")):
        with pytest.raises(MediaError) as caught:
            looker.look(tmp_path / name, 60, 9_000_000, NEVER)
        assert caught.value.kind == kind, name
    with pytest.raises(MediaError, match="pixels in a frame"):
        looker.look(tmp_path / "large.avi", 60, 9_000_000, NEVER)
    with pytest.raises(MediaError, match="longer than"):
        looker.look(clip, 0.5, 9_000_000, NEVER)
    assert looker.look(tmp_path / "mute.avi", 60, 9_000_000, NEVER)["wave"] == []


def endless(folder: Path) -> dict[str, object]:
    """Make a file that never gives its first byte."""
    os.mkfifo(folder / "pipe.mp4")
    return {"path": str(folder / "pipe.mp4"), "most_s": 60, "most_pixels": 1}


def test_a_process_that_hangs_is_killed_when_time_is_up_or_nobody_waits(tmp_path: Path) -> None:
    process, given = hands._Process(), endless(tmp_path)
    with pytest.raises(MediaError, match="given up"):
        process.call("look", given, print, NEVER, limit_s=0.5)
    gone = threading.Event()
    threading.Timer(0.3, gone.set).start()
    begun = time.monotonic()
    with pytest.raises(Killed):
        process.call("look", given, print, gone, limit_s=50)
    assert time.monotonic() - begun < 20
    process.kill()


def test_a_process_that_dies_is_a_sentence_and_the_next_call_has_a_new_one(clip: Path, tmp_path: Path) -> None:
    process = hands._Process()
    given = {"path": str(clip), "most_s": 60, "most_pixels": 1_000_000}
    assert process.call("look", given, print, NEVER, 60)["n_frames"] > 30
    process._process.kill()
    process._process.join()
    assert process.call("look", given, print, NEVER, 60)["n_frames"] > 30
    threading.Timer(0.5, process._process.kill).start()
    with pytest.raises(EmoError, match="ended"):
        process.call("look", endless(tmp_path), print, NEVER, limit_s=50)
    process.kill()
