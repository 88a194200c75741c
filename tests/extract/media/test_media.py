"""One open, one demux, one decode; the numbers are ffmpeg's; what is broken is said so."""

from __future__ import annotations

import os
import random
import threading
import weakref
from pathlib import Path

import av
import numpy as np
import pytest

from emo.extract.media.container import open_media
from emo.extract.media.reading import Reading
from emo.featstore.errors import MediaError


def read(path: Path) -> tuple[list, np.ndarray]:
    with open_media(path) as media:
        return list(media.frames()), media.audio()


def trimmed_audio(path: Path) -> np.ndarray:
    """The sound as FFmpeg 9, which writes and reads the clips of these tests, ends it."""
    with open_media(path, Reading(sound_tail="trim")) as media:
        return media.audio()


def ffmpeg_audio(ffmpeg, path: Path) -> np.ndarray:
    raw = ffmpeg("-i", path, "-ar", "16000", "-ac", "1", "-f", "s16le", "-")
    return np.frombuffer(raw, np.int16).astype(np.float32) / 32768


def assert_same_audio(ours: np.ndarray, theirs: np.ndarray, path: Path) -> None:
    """Equal bit for bit; an ffmpeg before 9 may append padding of the encoder, up to 1024 samples at 44.1 kHz."""
    assert ours.size <= theirs.size <= ours.size + 400, path.name
    settled = ours.size if theirs.size == ours.size else ours.size - 40  # the resampler looks ahead
    np.testing.assert_array_equal(ours[:settled], theirs[:settled], err_msg=path.name)


class TestEqualToFfmpeg:
    def test_audio_of_the_real_clips(self, clips, ffmpeg):
        assert len(clips) == 16
        for path in clips:
            assert_same_audio(trimmed_audio(path), ffmpeg_audio(ffmpeg, path), path)

    def test_frames_of_a_real_clip(self, clips, ffmpeg):
        path = min(clips, key=lambda clip: clip.stat().st_size)
        raw = ffmpeg("-i", path, "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
        with open_media(path) as media:
            info = media.info
            theirs = np.frombuffer(raw, np.uint8).reshape(-1, info.height, info.width, 3)
            count = 0
            for frame in media.frames():
                np.testing.assert_array_equal(frame.rgb, theirs[frame.index])
                count += 1
        assert count == len(theirs) == info.n_frames

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("8 bit mono.wav", ["-ar", "8000", "-ac", "1", "-c:a", "pcm_u8"]),
            ("surround 24 bit.wav", ["-ar", "48000", "-ac", "6", "-c:a", "pcm_s24le"]),
            ("three channels float.wav", ["-ar", "44100", "-ac", "3", "-c:a", "pcm_f32le"]),
            ("24 bit.flac", ["-ar", "96000", "-ac", "2", "-sample_fmt", "s32"]),
            ("already right.flac", ["-ar", "16000", "-ac", "1"]),
            ("low rate.mp3", ["-ar", "22050", "-ac", "2"]),
            ("vorbis.ogg", ["-ar", "44100", "-ac", "2", "-c:a", "libvorbis"]),
            ("opus.mkv", ["-ar", "48000", "-ac", "2", "-c:a", "libopus"]),
            ("aac with delay.m4a", ["-ar", "44100", "-ac", "2", "-c:a", "aac"]),
            ("aac without edit list.ts", ["-ar", "44100", "-ac", "2", "-c:a", "aac"]),
            ("planar pcm.mov", ["-ar", "32000", "-ac", "2", "-c:a", "pcm_s16be"]),
        ],
    )
    def test_audio_of_odd_formats(self, tmp_path, ffmpeg, name, arguments):
        path = tmp_path / name
        sweep = "aevalsrc=0.4*sin(2*PI*t*(200+800*t))|0.2*sin(2*PI*t*3000):d=0.7:s=48000"
        ffmpeg("-f", "lavfi", "-i", sweep, *arguments, path)
        with open_media(path) as media:
            assert not media.info.has_video
        assert_same_audio(trimmed_audio(path), ffmpeg_audio(ffmpeg, path), path)

    def test_a_stream_that_starts_late_keeps_its_time(self, tmp_path, write_media, ffmpeg):
        source = write_media(tmp_path / "source.mp4", n_frames=25, audio_s=1.0)
        late_sound, late_picture = tmp_path / "late sound.mp4", tmp_path / "late picture.mp4"
        both = ("-i", source, "-itsoffset", "0.5", "-i", source)
        ffmpeg(*both, "-map", "0:v", "-map", "1:a", "-c", "copy", late_sound)
        ffmpeg(*both, "-map", "1:v", "-map", "0:a", "-c", "copy", late_picture)
        with open_media(late_sound) as media:
            assert media.info.audio_start_s == pytest.approx(0.5, abs=0.03)
        assert_same_audio(trimmed_audio(late_sound), ffmpeg_audio(ffmpeg, late_sound), late_sound)
        with open_media(late_picture) as media:
            assert next(media.frames()).time_s == pytest.approx(0.5)
            assert media.info.audio_start_s == 0
        assert_same_audio(trimmed_audio(late_picture), ffmpeg_audio(ffmpeg, late_picture), late_picture)

    def test_frames_before_an_edit_list_are_neither_counted_nor_shown(self, tmp_path, clips, ffmpeg):
        cut = tmp_path / "cut.mp4"
        ffmpeg("-ss", "0.7", "-i", clips[6], "-c", "copy", cut)
        with open_media(cut) as media:
            frames = list(media.frames())
            assert len(frames) == media.info.n_frames < 42
            assert frames[0].time_s == pytest.approx(0, abs=0.05)
        assert_same_audio(trimmed_audio(cut), ffmpeg_audio(ffmpeg, cut), cut)


class TestOneDecode:
    def test_a_clip_is_opened_and_demuxed_once(self, tmp_path, write_media, monkeypatch):
        path = write_media(tmp_path / "clip.mp4")
        opened = []
        genuine = av.open
        monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(args) or genuine(*args, **kwargs))
        with open_media(path) as media:
            assert len(list(media.frames())) == media.info.n_frames
            assert media.audio().size
            assert media.audio() is media.audio()
        assert len(opened) == 1

    def test_frames_are_a_single_pass(self, tmp_path, write_media):
        with open_media(write_media(tmp_path / "clip.mp4")) as media:
            list(media.frames())
            with pytest.raises(RuntimeError, match=r"clip\.mp4 were asked for twice"):
                media.frames()

    def test_order_of_sound_and_picture_does_not_matter(self, tmp_path, write_media):
        path = write_media(tmp_path / "clip.mp4")
        with open_media(path) as media:
            audio, frames = media.audio(), list(media.frames())
        frames_first, audio_last = read(path)
        np.testing.assert_array_equal(audio, audio_last)
        np.testing.assert_array_equal(frames[-1].rgb, frames_first[-1].rgb)

    def test_frames_are_not_hoarded(self, tmp_path, write_media):
        path = write_media(tmp_path / "long.mp4", n_frames=120, size=(320, 240))
        references, most = [], 0
        with open_media(path) as media:
            for frame in media.frames():
                references.append(weakref.ref(frame.rgb))
                most = max(most, sum(reference() is not None for reference in references))
        assert len(references) == 120
        assert most <= 2  # the one in hand and the one before it

    def test_decoder_threads_change_nothing(self, tmp_path, write_media):
        path = write_media(tmp_path / "clip.mp4", n_frames=30, codec="libx264")
        with open_media(path, threads=1) as one, open_media(path, threads=3) as three:
            for a, b in zip(one.frames(), three.frames(), strict=True):
                assert (a.index, a.time_s) == (b.index, b.time_s)
                np.testing.assert_array_equal(a.rgb, b.rgb)

    def test_many_clips_decode_in_threads_at_once(self, tmp_path, write_media):
        path = write_media(tmp_path / "clip.mp4", n_frames=20)
        wanted, found = read(path)[1], []
        threads = [threading.Thread(target=lambda: found.append(read(path)[1])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert all(np.array_equal(audio, wanted) for audio in found)


class TestFrames:
    def test_indices_times_and_pixels(self, tmp_path, write_media):
        frames, _ = read(write_media(tmp_path / "clip.mp4", n_frames=12))
        assert [frame.index for frame in frames] == list(range(12))
        assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(12)])
        for frame in frames:
            assert frame.rgb.shape == (48, 64, 3)
            assert frame.rgb.dtype == np.uint8
            assert frame.rgb.flags.c_contiguous
            assert int(frame.rgb[24, 32].mean()) == pytest.approx(10 + 8 * frame.index, abs=6)

    @pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
    def test_variable_frame_rate_gives_true_times(self, tmp_path, write_media, codec):
        times_s = [0.0, 0.04, 0.08, 0.3, 0.31, 0.5, 0.9]
        path = write_media(tmp_path / "vfr.mkv", n_frames=7, times_s=times_s, codec=codec)
        with open_media(path) as media:
            assert [frame.time_s for frame in media.frames()] == pytest.approx(times_s, abs=0.002)
            assert media.info.n_frames == 7

    @pytest.mark.parametrize("rotation", [0, 90, 180, 270])
    def test_frames_stand_upright(self, tmp_path, write_media, corner_colours, rotation):
        path = write_media(tmp_path / "phone.mp4", rotation=rotation)
        with open_media(path) as media:
            frame = next(media.frames())
            assert media.info.rotation_deg == rotation
            assert frame.rgb.shape == (media.info.height, media.info.width, 3)
            assert frame.rgb.shape[:2] == ((48, 64) if rotation % 180 == 0 else (64, 48))
        corners = [frame.rgb[4, 4], frame.rgb[4, -5], frame.rgb[-5, -5], frame.rgb[-5, 4]]  # clockwise from top left
        names = ["top left", "top right", "bottom right", "bottom left"]
        turned = names[rotation // 90 :] + names[: rotation // 90]  # a quarter turn to the left brings the right end up
        for pixel, name in zip(corners, turned, strict=True):
            np.testing.assert_allclose(pixel.astype(int), corner_colours[name], atol=30)

    def test_a_mirrored_clip_is_mirrored_back(self, tmp_path, write_media, corner_colours, ffmpeg):
        flipped = tmp_path / "flipped.mp4"
        ffmpeg("-display_hflip", "-i", write_media(tmp_path / "clip.mp4"), "-c", "copy", flipped)
        frames, _ = read(flipped)
        np.testing.assert_allclose(frames[0].rgb[4, 4].astype(int), corner_colours["top right"], atol=30)

    def test_a_clip_of_one_frame(self, tmp_path, write_media):
        with open_media(write_media(tmp_path / "one.mp4", n_frames=1)) as media:
            assert media.info.n_frames == 1
            assert [(frame.index, frame.time_s) for frame in media.frames()] == [(0, 0.0)]

    @pytest.mark.parametrize("size", [(65, 49), (33, 64), (1442, 30), (17, 17)])
    def test_odd_sizes(self, tmp_path, write_media, size):
        frames, _ = read(write_media(tmp_path / "odd.mp4", size=size, n_frames=3))
        assert frames[0].rgb.shape == (size[1], size[0], 3)
        assert frames[0].rgb.flags.c_contiguous

    def test_info(self, tmp_path, write_media):
        with open_media(write_media(tmp_path / "clip.mp4", n_frames=25, audio_s=1.0)) as media:
            info = media.info
        assert (info.width, info.height, info.rotation_deg, info.n_frames) == (64, 48, 0, 25)
        assert info.fps == pytest.approx(25)
        assert info.duration_s == pytest.approx(1.0, abs=0.05)
        assert info.has_video
        assert info.has_audio


class TestSound:
    def test_30_ms(self, tmp_path, write_media):
        with open_media(write_media(tmp_path / "short.mp4", audio_s=0.03)) as media:
            audio = media.audio()
        assert audio.dtype == np.float32
        assert 400 <= audio.size <= 800
        assert 0.05 < np.abs(audio).max() < 1

    def test_an_audio_file_has_no_frames(self, tmp_path, write_media):
        with open_media(write_media(tmp_path / "sound.m4a", n_frames=0)) as media:
            info = media.info
            assert (info.has_video, info.width, info.fps, info.n_frames) == (False, None, None, 0)
            assert media.audio().size
            with pytest.raises(MediaError, match=r"sound\.m4a has no video stream") as caught:
                media.frames()
        assert (caught.value.kind, caught.value.retry) == ("no-video", False)

    def test_ravdess(self, shared):
        path = next((shared / "data/ravdess_speech_16k").glob("*.flac"))
        with open_media(path) as media:
            assert media.audio().size / 16_000 == pytest.approx(media.info.duration_s, abs=1e-3)

    def test_cover_art_is_no_video(self, tmp_path, write_media, ffmpeg):
        sound, song = write_media(tmp_path / "sound.m4a", n_frames=0), tmp_path / "song.m4a"
        ffmpeg("-i", sound, "-f", "lavfi", "-i", "color=red:s=64x64", "-frames:v", "1", "-map", "0", "-map", "1",
               "-c:a", "copy", "-c:v", "mjpeg", "-disposition:v", "attached_pic", song)  # fmt: skip
        with open_media(song) as media:
            assert not media.info.has_video
            assert media.audio().size

    def test_a_silent_film_has_no_audio(self, tmp_path, write_media):
        with open_media(write_media(tmp_path / "silent.mp4", audio_s=0)) as media:
            assert not media.info.has_audio
            assert len(list(media.frames())) == 10
            with pytest.raises(MediaError, match=r"silent\.mp4 has no audio stream") as caught:
                media.audio()
        assert caught.value.kind == "no-audio"


def overwrite(start: float, length: float, fill):
    """Damage that replaces a share of the bytes."""

    def damage(data: bytes) -> bytes:
        at, n = int(start * len(data)), int(length * len(data))
        return data[:at] + fill(n) + data[at + n :]

    return damage


NOISE = random.Random(0).randbytes


class TestBroken:
    @pytest.mark.parametrize(
        ("kind", "name", "content"),
        [
            ("empty", "nothing.mp4", b""),
            ("not-media", "text.mp4", b"This is a letter, not a film.\n" * 50),
            ("not-media", "noise.mp4", NOISE(4000)),
            ("not-media", "page.mp4", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
            ("not-media", "list.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
            ("not-media", "concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"),
            ("truncated", "stub.mp4", b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2"),
            ("truncated", "stub.flac", b"fLaC\x00\x00\x00\x22"),
        ],
    )
    def test_no_clip_at_all(self, tmp_path, kind, name, content):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(MediaError) as caught:
            open_media(path)
        assert (caught.value.kind, caught.value.retry) == (kind, False)
        assert name in caught.value.message
        assert caught.value.hint

    def test_a_container_without_packets(self, tmp_path, ffmpeg):
        path = tmp_path / "hollow.mp4"
        ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64:d=1", "-t", "0", path)
        with pytest.raises(MediaError) as caught:
            read(path)
        assert caught.value.kind == "empty"

    @pytest.mark.parametrize(
        ("name", "share"),
        [(name, share) for name in ("tail.mp4", "front.mp4") for share in (0.05, 0.5, 0.9, 0.9999)]
        + [(name, share) for name in ("c.mkv", "c.avi", "sound.flac", "sound.wav") for share in (0.3, 0.6, 0.9)],
    )
    def test_a_file_that_was_cut_off(self, tmp_path, write_media, ffmpeg, name, share):
        path = tmp_path / name
        if path.stem == "sound":
            ffmpeg("-f", "lavfi", "-i", "anoisesrc=d=4:seed=1", path)
        else:
            options = {"movflags": "faststart"} if path.stem == "front" else None
            write_media(path, n_frames=100, size=(160, 120), audio_s=4.0, options=options)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(MediaError) as caught:
            open_media(path)
        assert (caught.value.kind, caught.value.retry) == ("truncated", False)
        assert path.name in caught.value.message

    @pytest.mark.parametrize(
        ("damage", "kind"),
        [
            (overwrite(0.4, 0.2, bytes), "truncated"),
            (overwrite(0.4, 0.2, NOISE), "truncated"),
            (overwrite(0.25, 0.75, NOISE), ("truncated", "not-media")),
        ],
        ids=["zeros in the middle", "noise in the middle", "noise from a quarter on"],
    )
    def test_damage_does_not_pass_as_a_clip(self, tmp_path, clips, ffmpeg, damage, kind):
        path = tmp_path / "damaged.mp4"
        ffmpeg("-i", clips[6], "-c", "copy", "-movflags", "faststart", path)
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(MediaError) as caught:
            read(path)
        assert caught.value.kind in kind

    def test_a_broken_picture_leaves_the_sound(self, tmp_path, write_media, ffmpeg):
        source, path = write_media(tmp_path / "clip.mkv", codec="libx264"), tmp_path / "broken.mkv"
        ffmpeg("-i", source, "-c", "copy", "-bsf:v", "noise=amount=1", path)
        with open_media(path) as media:
            np.testing.assert_array_equal(media.audio(), read(source)[1])
            with pytest.raises(MediaError, match=r"broken\.mkv is no usable clip") as caught:
                media.frames()
        assert caught.value.kind == "not-media"

    def test_junk_after_the_clip_is_harmless(self, tmp_path, write_media):
        path = write_media(tmp_path / "clip.mp4")
        whole = read(path)[1]
        path.write_bytes(path.read_bytes() + b"an ID tag, or a mistake" * 9)
        np.testing.assert_array_equal(read(path)[1], whole)

    def test_what_the_file_system_refuses_can_be_tried_again(self, tmp_path):
        for path in (tmp_path / "gone.mp4", tmp_path):
            with pytest.raises(MediaError) as caught:
                open_media(path)
            assert (caught.value.kind, caught.value.retry) == ("unreadable", True)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_forbidden_file(self, tmp_path, write_media):
        path = write_media(tmp_path / "secret.mp4")
        path.chmod(0)
        with pytest.raises(MediaError) as caught:
            open_media(path)
        assert (caught.value.kind, caught.value.retry) == ("unreadable", True)

    def test_a_failed_open_closes_the_file(self, tmp_path, write_media):
        path = write_media(tmp_path / "clip.mkv", n_frames=50, audio_s=2.0)
        path.write_bytes(path.read_bytes()[:-9000])
        before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
        for _ in range(5):
            with pytest.raises(MediaError):
                open_media(path)
        after = len(os.listdir("/proc/self/fd")) if before else 0
        assert after == before


class TestNames:
    @pytest.mark.parametrize(
        "name", ["two words.mp4", "ångström 你好 ¿qué?.mp4", "a:b|c%d.mp4", "-i.mp4", "#1 50%.mp4"]
    )
    def test_any_name(self, tmp_path, write_media, name):
        frames, audio = read(write_media(tmp_path / name))
        assert len(frames) == 10
        assert audio.size
