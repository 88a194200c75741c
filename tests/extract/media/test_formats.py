"""What counts as a clip: by suffix as by content; and what else a file is, where it is none."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import pytest

from emo.extract.media import open_media
from emo.extract.media.container import CONTAINERS
from emo.featstore.datasets.media import scan_media
from emo.featstore.datasets.tables import AUDIO_SUFFIXES, MEDIA_SUFFIXES
from emo.featstore.errors import MediaError

# What demuxers of clips also declare: pictures, subtitles.
NO_CLIPS = {"avif", "heic", "heif", "mks"}
# Containers whose readers declare no suffix: those that the writers of the same name give them.
WRITERS = {
    "mov": ("mov", "mp4", "ipod", "3gp", "3g2", "f4v", "ismv", "psp"),
    "mpegts": ("mpegts",),
    "mpeg": ("mpeg", "vob", "dvd"),
    "ogg": ("ogg", "oga", "ogv", "opus", "spx"),
    "mp3": ("mp3", "mp2"),
    "aac": ("adts",),
}


@pytest.mark.parametrize("container", CONTAINERS.split(","))
def test_every_suffix_that_the_decoder_opens_is_looked_for(container):
    readers = [name for name in av.formats_available if container in name.split(",")]
    declared: set[str] = set()
    for name, mode in [(name, "r") for name in readers] + [
        (name, "w") for name in WRITERS.get(container, (container,))
    ]:
        try:
            declared |= set(av.ContainerFormat(name, mode).extensions)
        except ValueError:
            continue  # it is only read, or only written
    declared |= {container} if container in ("wav", "w64") else set()
    assert declared
    assert {f".{suffix}" for suffix in declared - NO_CLIPS} <= {*MEDIA_SUFFIXES, *AUDIO_SUFFIXES}


def test_camcorder_files_are_found_and_come_before_sound(tmp_path):
    for name in ("a.MTS", "b.ts", "c.M2TS", "d.3gp", "pair.MTS", "pair.wav", "e.aiff", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    tree = scan_media(tmp_path)
    assert set(tree.files) == {"a", "b", "c", "d", "e", "pair"}
    assert tree.files["pair"].name == "pair.MTS"
    (problem,) = tree.problems
    assert "pair.MTS" in problem
    assert "pair.wav" in problem


PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"GIF89a" + bytes(80), "a GIF picture"),
        (PNG, "a PNG picture"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(80), "a JPEG picture"),
        (b"RIFF\x40\0\0\0WEBPVP8 " + bytes(80), "a WebP picture"),
        (b"\0\0\0\x1cftypavif" + bytes(80), "an AVIF or HEIF picture"),
        (b"\0\0\0\x1cftypheic" + bytes(80), "an AVIF or HEIF picture"),
        (b"BM\x36\x84\x03\0" + bytes(80), "a BMP picture"),
        (b"II*\0\x08\0\0\0" + bytes(80), "a TIFF picture"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF document"),
        (b"PK\3\4\x14\0" + bytes(80), "a ZIP archive"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"\xef\xbb\xbf<?xml version=1.0?>", "an XML text"),
        ("\u4eca\u5929\u5929\u6c14\u5f88\u597d".encode() * 9, "a text"),
        (b"BMW and MZ are names.", "a text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("name", ["a.mp4", "a.wav"])
def test_what_is_no_clip_is_called_what_it_is(tmp_path, content, what, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=f"{name} is {what}, not a clip") as caught:
        open_media(tmp_path / name)
    assert (caught.value.kind, caught.value.retry) == ("not-media", False)


@pytest.mark.parametrize("suffix", ["gif", "png", "jpg", "webp", "bmp", "tiff", "avif"])
def test_real_pictures(tmp_path, ffmpeg, suffix):
    made, path = tmp_path / f"a.{suffix}", tmp_path / "a.mp4"
    frames = ("-frames:v", "1") if suffix != "gif" else ()
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=0.5", *frames, made)
    os.rename(made, path)
    with pytest.raises(MediaError, match=r"a\.mp4 is an? .* picture, not a clip"):
        open_media(path)


def test_a_path_that_does_not_exist_is_called_so(tmp_path):
    with pytest.raises(MediaError, match=r"nothing\.mp4 does not exist"):
        open_media(tmp_path / "nothing.mp4")


@pytest.mark.parametrize("suffix", ["mp4", "wav", "flac", "mkv", "ogg", "avi"])
def test_metadata_that_are_not_utf8_are_no_reason(tmp_path, write_media, ffmpeg, suffix):
    path = tmp_path / f"a.{suffix}"
    title = os.fsdecode(b"title=\xc4\xe3\xba\xc3")  # GBK
    ffmpeg("-f", "lavfi", "-i", "sine=300:d=0.5", "-metadata", title, "-metadata:s:a:0", title, path)
    with open_media(path) as media:
        assert media.audio().size == pytest.approx(8000, abs=900)


class TestUnknownLength:
    """A program that writes to a pipe does not know the length: its file is read to the end."""

    @pytest.mark.parametrize(
        ("riff", "data"),
        [
            (0xFFFF_FFFF, 0xFFFF_FFFF),
            (0x8000_0024, 0x8000_0000),
            (0, 0),
            (0x7FFF_FFFF, 0x7FFF_FFDB),
            (0x7FFF_F024, 0x7FFF_F000),
            (36, 0),
        ],
    )
    def test_wav(self, tmp_path, peer_audio, riff, data):
        samples = b"".join(struct.pack("<h", (i * 37) % 9000 - 4500) for i in range(20_001))
        form = b"fmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
        path = tmp_path / "a.wav"
        path.write_bytes(
            b"RIFF" + struct.pack("<I", riff) + b"WAVE" + form + b"data" + struct.pack("<I", data) + samples
        )
        with open_media(path) as media:
            ours = media.audio()
        assert len(ours) == 20_001
        assert (ours == peer_audio(path)).all()


class TestOtherTracks:
    """Whether a clip is whole is decided by what is read of it."""

    @pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
    @pytest.mark.parametrize("longer", ["subtitle", "sound", "video"])
    def test_a_longer_track_that_is_not_read(self, tmp_path: Path, ffmpeg, suffix, longer):
        path, words = tmp_path / f"a.{suffix}", tmp_path / "s.srt"
        words.write_text("1\n00:00:00,500 --> 00:00:05,000\nhello\n\n")
        more = {
            "subtitle": ("-i", words),
            "sound": ("-f", "lavfi", "-i", "sine=500:d=5"),
            "video": ("-f", "lavfi", "-i", "color=red:s=64x48:r=5:d=5"),
        }
        subtitles = ("-c:s", "srt" if suffix == "mkv" else "mov_text")
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=160x120:r=10:d=3", "-f", "lavfi", "-i", "sine=300:d=3", *more[longer],
               "-map", "0", "-map", "1", "-map", "2", "-c:v", "mpeg4", "-c:a", "aac", *subtitles, path)  # fmt: skip
        with open_media(path) as media:
            assert sum(1 for _ in media.frames()) == 30
            assert media.audio().size / 16_000 == pytest.approx(3, abs=0.05)


def test_a_truncated_webm_is_not_the_disks_fault(tmp_path, write_media, ffmpeg):
    path = tmp_path / "a.webm"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=160x120:r=10:d=1", "-c:v", "libvpx", "-deadline", "realtime",
           "-live", "1", path)  # fmt: skip
    data = path.read_bytes()
    ends = set()
    for share in range(1, 50):
        path.write_bytes(data[: len(data) * share // 50])
        try:
            with open_media(path) as media:
                list(media.frames())
        except MediaError as error:
            ends.add((error.kind, error.retry))
    assert ends <= {("truncated", False), ("empty", False), ("not-media", False)}
    assert ("truncated", False) in ends
