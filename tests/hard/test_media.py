"""Media files that were changed at random: every one ends in frames and samples or in a `MediaError`, and soon.

A crash of the decoder ends the process that it happens in, so each kind of file is read in a process of its own.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import watched

SHORT, LONG = 12, 1000  # changed files of each kind
LIMIT_S = 20  # one file; none has more than a second of sound

KINDS = {
    "mp4": "-c:v mpeg4 -c:a aac",
    "mov": "-c:v libx264 -bf 2 -c:a pcm_s16le",
    "mkv": "-c:v libx264 -c:a aac",
    "webm": "-c:v libvpx -deadline realtime -c:a libvorbis",
    "avi": "-c:v mpeg4 -bf 2 -c:a pcm_s16le",
    "flv": "-c:v flv1 -c:a libmp3lame -ar 44100",
    "ts": "-c:v libx264 -c:a aac",
    "mpg": "-c:v mpeg2video -c:a mp2",
    "ogv": "-c:v libtheora -c:a libvorbis",
    "wmv": "-c:v wmv2 -c:a wmav2",
    "mxf": "-c:v mpeg2video -c:a pcm_s16le -ar 48000",
    "wav": "-vn -c:a pcm_f32le",
    "w64": "-vn -c:a pcm_s16le",
    "aiff": "-vn -c:a pcm_s16be",
    "au": "-vn -c:a pcm_s16be",
    "caf": "-vn -c:a pcm_s16be",
    "flac": "-vn -c:a flac",
    "mp3": "-vn -c:a libmp3lame",
    "m4a": "-vn -c:a alac",
    "ogg": "-vn -c:a libvorbis",
    "opus": "-vn -c:a libopus -ar 48000",
    "aac": "-vn -c:a aac",
    "ac3": "-vn -c:a ac3",
}
CLIP = [
    "-f",
    "lavfi",
    "-i",
    "testsrc2=s=64x48:r=25:d=0.4",
    "-f",
    "lavfi",
    "-i",
    "sine=300:d=0.4",
    "-fflags",
    "+bitexact",
]


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 3, 20])):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def head(data: bytes, draw: random.Random) -> bytes:
    """Changes where headers are: the first bytes, in words of large or small numbers."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 2, 6])):
        at = draw.randrange(min(len(changed), 600))
        changed[at : at + 4] = draw.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"])
    return bytes(changed)


def hole(data: bytes, draw: random.Random) -> bytes:
    at, count = draw.randrange(len(data)), draw.randrange(1, len(data) // 4)
    fill = draw.choice([bytes(count), draw.randbytes(count), b""])
    return data[:at] + fill + data[at + count :]


def twice(data: bytes, draw: random.Random) -> bytes:
    at, count = draw.randrange(len(data)), draw.randrange(1, len(data) // 4)
    return data[: at + count] + data[at:]


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [cut, flip, head, hole, twice]


def read(path: Path) -> str:
    """How reading ends: the kind of a `MediaError`, or `read`."""
    from emo.extract.media import open_media
    from emo.featstore.errors import MediaError

    try:
        with open_media(path) as media:
            ends = []
            for part in (lambda: sum(frame.rgb.size for frame in media.frames()), lambda: media.audio().size):
                try:
                    part()
                    ends.append("read")
                except MediaError as error:
                    if not error.message.endswith("."):
                        raise ValueError(f"no sentence: {error.message}") from error
                    ends.append(error.kind)
            return " and ".join(sorted(set(ends)))
    except MediaError as error:
        return error.kind


def child(folder: Path) -> None:
    """Read every file of a folder; a line before each, so that a crash and a hang have a name."""
    for path in sorted(folder.iterdir()):
        print("open", path.name, flush=True)
        start_s = time.monotonic()
        end = read(path)
        print("end", f"{time.monotonic() - start_s:.1f}", end, flush=True)


@pytest.mark.parametrize("suffix", KINDS)
def test_changed_files_end_typed_and_soon(suffix: str, ffmpeg, hard: bool, tmp_path: Path) -> None:
    clip, folder = tmp_path / f"whole.{suffix}", tmp_path / "changed"
    ffmpeg(*CLIP, *KINDS[suffix].split(), clip)
    folder.mkdir()
    data, draw = clip.read_bytes(), random.Random(f"media {suffix}")
    (folder / f"0 whole.{suffix}").write_bytes(data)
    for number in range(LONG if hard else SHORT):
        change = CHANGES[number % len(CHANGES)]
        (folder / f"{number:04d} {change.__name__}.{suffix}").write_bytes(change(data, draw))
    count = len(list(folder.iterdir()))
    command = [sys.executable, __file__, str(folder)]
    done = watched(command)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]} {done.stderr[-2000:]}"
    ends = [re.fullmatch(r"end ([\d.]+) (.+)", line) for line in lines if line.startswith("end ")]
    assert len(ends) == count
    assert max(float(end[1]) for end in ends if end) < LIMIT_S
    found = Counter(end[2] for end in ends if end)
    assert found.total() == count
    assert "internal" not in found
    print(suffix, dict(found.most_common()))


if __name__ == "__main__":
    child(Path(sys.argv[1]))
