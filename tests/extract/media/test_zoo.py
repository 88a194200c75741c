"""Every container against ffprobe and ffmpeg: frames, times, pixels, samples; whole, through a pipe, and cut off."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emo.extract.media import open_media
from emo.featstore.errors import MediaError

STEP = 1 / 32768  # of 16 bits; resamplers and lossy decoders round differently from version to version of FFmpeg


@dataclass(frozen=True)
class Kind:
    """One kind of file: how ffmpeg writes it, and what may be asked of it.

    Attributes:
        name: File name.
        arguments: For ffmpeg.
        form: Name of its container for ffmpeg, where it is written to a pipe; empty where that cannot be.
        states: Whether the container states its length, or where its last piece ends.
    """

    name: str
    arguments: str
    form: str
    states: bool = True

    @property
    def video(self) -> bool:
        return "-c:v" in self.arguments


FRAGMENTS = "-movflags frag_keyframe+empty_moov"
ZOO = [
    Kind("h264.mp4", "-c:v libx264 -c:a aac", f"mp4 {FRAGMENTS}"),
    Kind("b-frames.mp4", "-c:v libx264 -bf 3 -c:a aac -movflags faststart", ""),
    Kind("mpeg4.mov", "-c:v mpeg4 -c:a pcm_s16le", f"mov {FRAGMENTS}"),
    Kind("phone.3gp", "-c:v h263 -vf scale=176:144,setsar=1 -c:a aac -ar 16000 -ac 1", f"3gp {FRAGMENTS}"),
    Kind("h264.mkv", "-c:v libx264 -c:a aac", "matroska"),
    Kind("hevc 10 bit.mkv", "-c:v libx265 -x265-params log-level=none -pix_fmt yuv420p10le -c:a flac", ""),
    Kind("vp8.webm", "-c:v libvpx -deadline realtime -c:a libvorbis", "webm"),
    Kind("vp9.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus", ""),
    Kind("xvid.avi", "-c:v mpeg4 -bf 2 -c:a libmp3lame", "avi"),
    Kind("h264.avi", "-c:v libx264 -c:a pcm_s16le", "avi"),
    Kind("motion jpeg.avi", "-c:v mjpeg -q:v 3 -pix_fmt yuvj420p -c:a pcm_s16le", ""),
    Kind("h264.flv", "-c:v libx264 -c:a aac", "flv"),
    Kind("sorenson.flv", "-c:v flv1 -c:a libmp3lame", "flv"),
    Kind("broadcast.ts", "-c:v libx264 -c:a aac", "mpegts"),
    Kind("mpeg2.ts", "-c:v mpeg2video -c:a mp2", ""),
    Kind("camcorder.m2ts", "-c:v libx264 -c:a ac3 -f mpegts -mpegts_m2ts_mode 1", ""),
    Kind("disc.mpg", "-c:v mpeg2video -c:a mp2", "mpeg"),
    Kind("mpeg1.mpg", "-c:v mpeg1video -c:a mp2 -f mpeg", ""),
    Kind("disc.vob", "-c:v mpeg2video -c:a ac3", "vob"),
    Kind("theora.ogv", "-c:v libtheora -q:v 7 -c:a libvorbis", "ogg"),
    Kind("windows.wmv", "-c:v wmv2 -c:a wmav2", "asf"),
    Kind("studio.mxf", "-c:v mpeg2video -c:a pcm_s16le -ar 48000", "mxf"),
    Kind("a.wav", "-c:a pcm_s16le", "wav"),
    Kind("24 bit.wav", "-c:a pcm_s24le -ar 48000", "wav"),
    Kind("float.wav", "-c:a pcm_f32le", "wav"),
    Kind("large.wav", "-c:a pcm_s16le -rf64 always", ""),
    Kind("a.w64", "-c:a pcm_s16le", ""),
    Kind("a.aiff", "-c:a pcm_s16be", ""),
    Kind("a.au", "-c:a pcm_s16be", "au"),
    Kind("a.caf", "-c:a pcm_s16be", "caf"),
    Kind("a.flac", "-c:a flac", "flac"),
    Kind("a.mp3", "-c:a libmp3lame", "mp3"),
    Kind("no length.mp3", "-c:a libmp3lame -write_xing 0 -id3v2_version 0", "", states=False),
    Kind("a.m4a", "-c:a aac", f"ipod {FRAGMENTS}"),
    Kind("lossless.m4a", "-c:a alac", ""),
    Kind("a.mka", "-c:a libvorbis", "matroska"),
    Kind("vorbis.ogg", "-c:a libvorbis", "ogg"),
    Kind("a.opus", "-c:a libopus -ar 48000", "opus"),
    Kind("a.wma", "-c:a wmav2", "asf"),
    Kind("a.aac", "-c:a aac", "adts"),
    Kind("a.ac3", "-c:a ac3", "ac3", states=False),
]


def each(kinds):
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.name)


names = each(ZOO)
videos = each([kind for kind in ZOO if kind.video])
piped = each([kind for kind in ZOO if kind.form])  # the others cannot be, or are of the same container as another

VIDEO = ["-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=1.6"]
AUDIO = ["-f", "lavfi", "-i", "aevalsrc=0.4*sin(2*PI*t*(200+300*t))|0.2*sin(2*PI*t*3000):d=1.6:s=44100"]


def arguments(kind: Kind) -> list[str]:
    return [*(VIDEO if kind.video else []), *AUDIO, *kind.arguments.split(), "-fflags", "+bitexact"]


@pytest.fixture(scope="module")
def zoo(peer, tmp_path_factory) -> dict[str, Path]:
    """A file of each kind, by its name."""
    folder = tmp_path_factory.mktemp("zoo")
    for kind in ZOO:
        peer("ffmpeg", *arguments(kind), folder / kind.name)
    return {kind.name: folder / kind.name for kind in ZOO}


def frames_of(peer, path: Path) -> tuple[list[float], float]:
    """Best-effort times of all frames by ffprobe, and where its clock starts; NaN where it knows none."""
    entries = "frame=best_effort_timestamp_time:format=start_time"
    said = peer("ffprobe", "-select_streams", "v:0", "-show_entries", entries, "-of", "json", path)
    found = json.loads(said)
    start_s = float(found["format"].get("start_time", 0))
    return [float(row.get("best_effort_timestamp_time", "nan")) for row in found["frames"]], start_s


@names
def test_frames_and_times_are_ffprobes(zoo, peer, kind):
    path = zoo[kind.name]
    with open_media(path) as media:
        if not kind.video:
            assert not media.info.has_video
            return
        times_s = np.array([frame.time_s for frame in media.frames()])
        n_frames = media.info.n_frames
    theirs, start_s = frames_of(peer, path)
    assert len(times_s) == len(theirs) == n_frames
    theirs_s = np.array(theirs) - start_s
    known = np.isfinite(theirs_s)  # of the last frames of an AVI with B-frames it knows none
    assert known.mean() > 0.9
    steps_s, their_steps_s = times_s[known] - times_s[known][0], theirs_s[known] - theirs_s[known][0]
    np.testing.assert_allclose(steps_s, their_steps_s, atol=0.0015)
    assert times_s[0] == pytest.approx(theirs_s[0], abs=0.008)  # whether the clock starts before the delay of Opus
    assert (np.diff(times_s) > 0).all()


@videos
def test_pixels_are_ffmpegs(zoo, peer, kind):
    raw = peer("ffmpeg", "-i", zoo[kind.name], "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    with open_media(zoo[kind.name]) as media:
        theirs = np.frombuffer(raw, np.uint8).reshape(-1, media.info.height, media.info.width, 3)
        for frame in media.frames():
            np.testing.assert_array_equal(frame.rgb, theirs[frame.index])
    assert frame.index == len(theirs) - 1


@names
def test_samples_are_ffmpegs(zoo, peer_audio, kind):
    with open_media(zoo[kind.name]) as media:
        ours, theirs = media.audio(), peer_audio(zoo[kind.name])
        assert not media.notes
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 3 * STEP


@piped
def test_a_file_from_a_pipe_is_read_to_its_end(zoo, peer, peer_audio, kind, tmp_path):
    path = tmp_path / kind.name
    path.write_bytes(peer("ffmpeg", *arguments(kind), "-f", *kind.form.split(), "pipe:1"))
    with open_media(path) as media:
        ours, theirs = media.audio(), peer_audio(path)
        assert sum(1 for _ in media.frames()) == 40 if kind.video else True
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 3 * STEP


@names
@pytest.mark.parametrize("share", [0.1, 0.38, 0.6, 0.9, 0.95])
def test_a_cut_is_seen_wherever_a_length_is_stated(zoo, kind, share, tmp_path):
    data = zoo[kind.name].read_bytes()
    path = tmp_path / kind.name
    cut = int(share * len(data)) // 188 * 188 + 77  # not where a packet of a broadcast ends
    path.write_bytes(data[:cut])
    if kind.states:
        with pytest.raises(MediaError) as caught, open_media(path) as media:
            media.audio()
        assert (caught.value.kind, caught.value.retry) == ("truncated", False)
        return
    with open_media(path) as media:  # what is there is read, and docs/your-own-clips.md says so
        assert len(media.audio()) / 16_000 == pytest.approx(share * 1.6, abs=0.15)
