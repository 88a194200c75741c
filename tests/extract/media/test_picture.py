"""Pixels are those of ffmpeg's rgb24, in the shape that a player shows; times never run backwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emo.extract.media import open_media

SOURCE = ("-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=0.4")


def frames(path: Path) -> np.ndarray:
    with open_media(path) as media:
        return np.stack([frame.rgb for frame in media.frames()])


def theirs(ffmpeg, path: Path, size: tuple[int, int], *filters: str) -> np.ndarray:
    raw = ffmpeg("-i", path, *filters, "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 3)


FORMATS = [
    "yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuv410p", "nv12", "gray", "rgb24", "bgra", "pal8", "yuva420p",
    "yuv420p10le", "yuv422p10le", "yuv444p12le", "gray10le", "gbrp10le", "rgb48le", "yuv420p16le",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", ["160x120", "161x121"])
def test_every_pixel_format(tmp_path, ffmpeg, form, size):
    path = tmp_path / "a.nut.mkv"
    codec = ("-c:v", "png") if form == "pal8" else ("-c:v", "rawvideo") if form == "nv12" else ("-c:v", "ffv1")
    ffmpeg("-f", "lavfi", "-i", f"testsrc=s={size}:r=25:d=0.12", *codec, "-pix_fmt", form, path)
    width, height = map(int, size.split("x"))
    np.testing.assert_array_equal(frames(path), theirs(ffmpeg, path, (width, height)))


@pytest.mark.parametrize("space", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("span", ["tv", "pc"])
def test_every_colour_space(tmp_path, ffmpeg, space, span):
    path = tmp_path / "a.mkv"
    tags = ("-vf", f"setparams=colorspace={space}:range={span}", "-colorspace", space, "-color_range", span)
    ffmpeg(*SOURCE, "-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", *tags, path)
    np.testing.assert_array_equal(frames(path), theirs(ffmpeg, path, (160, 120)))


@pytest.mark.parametrize("field", ["tff", "bff"])
def test_interlaced_frames_are_converted_as_they_are(tmp_path, ffmpeg, field):
    path = tmp_path / "a.mp4"
    flags = ("-vf", f"setfield={field}", "-flags", "+ilme+ildct", "-x264-params", f"{field}=1")
    ffmpeg(*SOURCE, *flags, "-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", path)
    np.testing.assert_array_equal(frames(path), theirs(ffmpeg, path, (160, 120)))


@pytest.mark.parametrize("turn", ["-display_rotation:v 90", "-display_rotation:v 180", "-display_rotation:v 270",
                                  "-display_hflip:v", "-display_vflip:v"])  # fmt: skip
@pytest.mark.parametrize("form", ["yuv420p", "yuv420p10le"])
def test_turned_frames(tmp_path, ffmpeg, turn, form):
    flat, path = tmp_path / "flat.mp4", tmp_path / "a.mp4"
    ffmpeg(*SOURCE, "-c:v", "libx265", "-x265-params", "log-level=none:lossless=1", "-pix_fmt", form, flat)
    ffmpeg(*turn.split(), "-i", flat, "-c", "copy", path)
    size = (120, 160) if "90" in turn or "270" in turn else (160, 120)
    np.testing.assert_array_equal(frames(path), theirs(ffmpeg, path, size))


class TestNonSquarePixels:
    @pytest.mark.parametrize(("aspect", "shape"), [("64/45", (256, 144)), ("16/15", (192, 144)), ("8/9", (160, 144))])
    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
    def test_frames_have_the_shape_that_a_player_shows(self, tmp_path, ffmpeg, aspect, shape, suffix):
        path = tmp_path / f"a.{suffix}"
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=180x144:r=25:d=0.4", "-vf", f"setsar={aspect}", "-c:v", "mpeg4", path)
        with open_media(path) as media:
            assert (media.info.width, media.info.height) == pytest.approx(shape, abs=3)
            size = (media.info.width, media.info.height)
        scale = ("-vf", f"scale={size[0]}:{size[1]}:flags=bicubic")
        np.testing.assert_array_equal(frames(path), theirs(ffmpeg, path, size, *scale))

    def test_turned_as_well(self, tmp_path, ffmpeg):
        flat, path = tmp_path / "flat.mp4", tmp_path / "a.mp4"
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=180x144:r=25:d=0.4", "-vf", "setsar=64/45", "-c:v", "mpeg4", flat)
        ffmpeg("-display_rotation:v", "90", "-i", flat, "-c", "copy", path)
        with open_media(path) as media:
            assert (media.info.width, media.info.height) == (144, 256)
            assert next(media.frames()).rgb.shape == (256, 144, 3)

    def test_a_column_more_or_less_is_rounding(self, tmp_path, ffmpeg):
        path = tmp_path / "a.mp4"
        ffmpeg(*SOURCE, "-vf", "setsar=359/360", "-c:v", "mpeg4", path)
        assert frames(path).shape[1:] == (120, 160, 3)


def test_a_size_that_changes_half_way_keeps_the_shape_of_the_first_frame(tmp_path, ffmpeg):
    parts = []
    for number, size in enumerate(("160x120", "80x60")):
        parts.append(tmp_path / f"{number}.ts")
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25:d=0.4", "-c:v", "mpeg2video", parts[-1])
    both, path = tmp_path / "both.txt", tmp_path / "both.ts"
    both.write_text("".join(f"file {part.name}\n" for part in parts))
    ffmpeg("-f", "concat", "-i", both, "-c", "copy", path)
    with open_media(path) as media:
        shapes = [frame.rgb.shape for frame in media.frames()]
    assert len(shapes) >= 18
    assert set(shapes) == {(120, 160, 3)}


class TestTimes:
    @pytest.mark.parametrize("rate", [8, 15, 25])
    @pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
    def test_avi_with_b_frames_never_runs_backwards(self, tmp_path, ffmpeg, rate, codec):
        path = tmp_path / "a.avi"
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=160x120:r={rate}:d=4", "-c:v", codec, "-bf", "3", path)
        with open_media(path) as media:
            times_s = np.array([frame.time_s for frame in media.frames()])
        assert len(times_s) == 4 * rate
        assert np.diff(times_s).min() > 0
        np.testing.assert_allclose(np.diff(times_s)[3:], 1 / rate, atol=0.001)

    def test_an_avi_with_sound_is_as_ffprobe_says(self, tmp_path, peer):
        path = tmp_path / "a.avi"
        sound = ("-f", "lavfi", "-i", "sine=300:d=2")
        peer("ffmpeg", "-f", "lavfi", "-i", "testsrc2=s=160x120:r=15:d=2", *sound, "-c:v", "libx264", path)
        said = peer("ffprobe", "-select_streams", "v", "-show_entries", "frame=best_effort_timestamp_time", "-of",
                    "csv=p=0", path).decode().split()  # fmt: skip
        known = [float(word.rstrip(",")) for word in said if word[0].isdigit()]
        with open_media(path) as media:
            times_s = [frame.time_s for frame in media.frames()]
        assert len(known) >= 27
        assert times_s[: len(known)] == pytest.approx(known, abs=0.001)
