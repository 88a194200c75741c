"""The samples are those of the published extractors; what is no sound is refused; a gap keeps its length."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from emo.extract.media import Reading, open_media
from emo.extract.media.reading import SOUND
from emo.featstore.errors import MediaError, UsageError

STEP = 1 / 32768


def sound(path: Path, **reading: object) -> np.ndarray:
    with open_media(path, Reading(**reading)) as media:  # type: ignore[arg-type]
        return media.audio()


def float_wav(path: Path, samples: np.ndarray, rate: int = 16_000, kind: type = np.float32) -> Path:
    """A mono wav of float samples, any value."""
    data = np.asarray(samples, kind).tobytes()
    width = np.dtype(kind).itemsize
    form = struct.pack("<HHIIHH", 3, 1, rate, width * rate, width, 8 * width)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def tone(seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    return 0.2 * np.sin(2 * np.pi * 300 * np.arange(int(seconds * rate)) / rate)


class TestTail:
    """Published features keep the last packet of an mp4's sound; cutting at the edit list is another recipe."""

    def test_the_real_clips_are_what_the_published_extractors_read(self, clips, peer_audio):
        assert len(clips) == 16
        for path in clips:
            ours, theirs = sound(path), peer_audio(path)
            assert ours.shape == theirs.shape, path.name
            assert np.abs(ours - theirs).max() <= STEP, path.name  # lossy decoders round from version to version

    def test_the_last_packet_is_kept_or_trimmed(self, tmp_path, write_media):
        path = write_media(tmp_path / "a.mp4", audio_s=1.0, rate=44_100)
        kept, trimmed = sound(path), sound(path, sound_tail="trim")
        packets = -(-(44_100 + 1024) // 1024)  # of 1024 samples, one of them the encoder's delay
        assert len(kept) == -(-(packets - 1) * 1024 * 16_000 // 44_100)
        assert len(trimmed) == 16_000
        assert len(kept) > len(trimmed) + 100
        np.testing.assert_array_equal(kept[: len(trimmed) - 40], trimmed[:-40])  # the resampler looks ahead

    def test_they_are_two_recipes(self):
        keep, trim, second = Reading(), Reading(sound_tail="trim"), Reading(audio_track=2)
        recipes = [keep.audio_recipe, trim.audio_recipe, second.audio_recipe]
        assert all(recipes.count(each) == 1 for each in recipes)
        assert [Reading.of_recipe(each) for each in recipes] == [keep, trim, second]
        assert keep.audio_recipe["audio"] == SOUND

    def test_a_recipe_of_another_version_is_refused(self):
        with pytest.raises(UsageError, match="another way"):
            Reading.of_recipe({"audio": "ffmpeg s16 mono 16000 Hz, without encoder delay and padding"})

    @pytest.mark.parametrize("given", [{"audio_track": 0}, {"sound_tail": "cut"}, {"max_minutes": 0}])
    def test_settings_that_make_no_sense(self, given):
        with pytest.raises(UsageError):
            Reading(**given)


class TestWhatIsNoSound:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    @pytest.mark.parametrize("share", ["one", "some", "all"])
    def test_samples_that_are_no_numbers(self, tmp_path, value, kind, share):
        samples = tone()
        samples[{"one": slice(12_345, 12_346), "some": slice(4000, 4400), "all": slice(None)}[share]] = value
        with pytest.raises(MediaError, match="no numbers") as caught:
            sound(float_wav(tmp_path / "a.wav", samples, kind=kind))
        assert (caught.value.kind, caught.value.retry) == ("not-finite", False)

    @pytest.mark.parametrize("scale", [128, 32_768, 2**23, 2**31, 1e300])
    def test_integers_saved_as_floats(self, tmp_path, scale):
        kind = np.float64 if scale > 1e30 else np.float32
        with pytest.raises(MediaError, match="full scale") as caught:
            sound(float_wav(tmp_path / "a.wav", tone() * scale, kind=kind))
        assert caught.value.kind == "out-of-range"
        assert "floats" in caught.value.hint

    def test_much_of_it_a_little_beyond_full_scale(self, tmp_path):
        with pytest.raises(MediaError, match=r"\d+% of its samples lie beyond full scale") as caught:
            sound(float_wav(tmp_path / "a.wav", tone() * 10))
        assert caught.value.kind == "out-of-range"

    def test_a_few_overshoots_are_clipped_as_ffmpeg_does(self, tmp_path, peer_audio):
        samples = tone()
        samples[500:510] = 1.4
        path = float_wav(tmp_path / "a.wav", samples)
        np.testing.assert_array_equal(sound(path), peer_audio(path))
        assert sound(path).max() == 1 - STEP

    def test_a_healthy_float_file(self, tmp_path, peer_audio):
        for kind in (np.float32, np.float64):
            path = float_wav(tmp_path / "a.wav", tone(), kind=kind)
            np.testing.assert_array_equal(sound(path), peer_audio(path))


def test_a_forged_header_of_sound_is_refused(tmp_path):
    """FFmpeg 8 ends the process on some of these."""
    path = float_wav(tmp_path / "a.wav", tone())
    data = bytearray(path.read_bytes())
    data[22:24], data[24:28], data[32:34] = (
        struct.pack("<H", 127),
        struct.pack("<I", 16_777_215),
        struct.pack("<H", 508),
    )
    path.write_bytes(data)
    with pytest.raises(MediaError, match="127 channels at 16777215 Hz") as caught:
        sound(path)
    assert caught.value.kind == "not-media"


class TestGaps:
    def gap(self, ffmpeg, path: Path, *codec: str) -> Path:
        """Three seconds of a tone whose time stamps jump by three seconds after the first one."""
        ffmpeg("-f", "lavfi", "-i", "sine=300:d=3", "-af", "asetpts='PTS+if(gte(T,1),3/TB,0)'", *codec, path)
        return path

    @pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
    def test_what_follows_keeps_its_time(self, tmp_path, ffmpeg, suffix):
        codec = ("-c:a", "pcm_s16le") if suffix == ".mkv" else ("-c:a", "aac")
        path = self.gap(ffmpeg, tmp_path / f"gap{suffix}", *codec)
        with open_media(path) as media:
            samples = media.audio()
            assert "1 gap" in media.notes["sound-gap"]
        assert len(samples) / 16_000 == pytest.approx(6, abs=0.1)
        loud = np.abs(samples).reshape(-1)[: 16_000 * 6 // 160 * 160].reshape(-1, 160).max(1) > 0.02
        silent = np.flatnonzero(~loud) * 0.01
        assert silent.min() == pytest.approx(1.0, abs=0.08)
        assert silent[silent < 5].max() == pytest.approx(4.0, abs=0.08)
        assert loud[:95].all()
        assert loud[410:590].all()

    def test_without_a_gap_nothing_is_put_in(self, tmp_path, write_media):
        with open_media(write_media(tmp_path / "a.mkv", audio_s=2.0)) as media:
            media.audio()
            assert media.notes == {}


class TestTracks:
    @pytest.fixture
    def two(self, tmp_path, ffmpeg) -> Path:
        path = tmp_path / "two.mov"
        quiet, loud = ("-f", "lavfi", "-i", "anullsrc=cl=mono:r=16000"), ("-f", "lavfi", "-i", "sine=300:d=1:r=16000")
        ffmpeg(*quiet, *loud, "-map", "0", "-map", "1", "-t", "1", "-c:a", "pcm_s16le", path)
        return path

    def test_the_first_of_two_is_silent_and_that_is_said(self, two):
        with open_media(two) as media:
            assert media.info.audio_tracks == 2
            assert not media.audio().any()
            assert "2 sound tracks" in media.notes["sound-tracks"]
            assert "digital silence" in media.notes["constant-sound"]

    def test_another_one_is_chosen(self, two):
        with open_media(two, Reading(audio_track=2)) as media:
            assert np.abs(media.audio()).max() > 0.1
            assert set(media.notes) == {"sound-tracks"}
        assert not sound(two, audio_track=1).any()

    def test_a_track_that_is_not_there(self, two):
        with pytest.raises(MediaError, match=r"2 sound tracks, and no number 3") as caught:
            sound(two, audio_track=3)
        assert caught.value.kind == "no-audio"

    @pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32le", "flac"])
    def test_channels_that_cancel_each_other_are_said(self, codec, tmp_path, ffmpeg):
        path, one = tmp_path / "anti.mov", ("-f", "lavfi", "-i", "sine=300:d=1:r=16000")
        kept = ("-c:a", codec) if codec != "flac" else ("-c:a", codec, "-f", "flac")
        ffmpeg(*one, "-af", "pan=stereo|c0=c0|c1=-1*c0", *kept, path)
        with open_media(path) as media:
            assert np.abs(media.audio()).max() < 0.001
            assert set(media.notes) == {"channels-cancel"}
            assert "The channels of anti.mov cancel each other" in media.notes["channels-cancel"]
        ffmpeg(*one, "-af", "pan=stereo|c0=c0|c1=0*c0", *kept, "-y", path)
        with open_media(path) as media:
            media.audio()
            assert not media.notes

    def test_one_channel_beyond_what_encoders_hear_cancels_nothing(self, tmp_path, ffmpeg):
        path = tmp_path / "high.wav"
        ffmpeg("-f", "lavfi", "-i", "sine=21000:d=1:r=48000", "-c:a", "pcm_s16le", path)
        with open_media(path) as media:
            media.audio()
            assert "channels-cancel" not in media.notes

    def test_constant_sound_that_is_not_silence(self, tmp_path):
        with open_media(float_wav(tmp_path / "dc.wav", np.full(16_000, 0.25))) as media:
            media.audio()
            assert "constantly" in media.notes["constant-sound"]


class TestLength:
    def test_two_hours_in_a_small_file_are_refused_before_they_are_decoded(self, tmp_path, ffmpeg):
        path = tmp_path / "long.flac"
        ffmpeg("-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", "7200", "-c:a", "flac", path)
        with pytest.raises(MediaError, match=r"120\.0 minutes, longer than the 5 minutes") as caught:
            open_media(path)
        assert (caught.value.kind, caught.value.retry) == ("too-long", False)
        assert "max_minutes" in caught.value.hint

    def test_the_limit_is_a_setting(self, tmp_path, write_media):
        path = write_media(tmp_path / "a.mkv", audio_s=2.0)
        assert len(sound(path, max_minutes=1 / 20)) > 30_000
        with pytest.raises(MediaError, match=r"longer than the 0\.02 minutes"):
            sound(path, max_minutes=0.02)

    def test_time_stamps_cannot_hide_it(self, tmp_path, ffmpeg):
        path = tmp_path / "squeezed.mkv"
        ffmpeg("-f", "lavfi", "-i", "sine=300:d=30:r=8000", "-c:a", "pcm_s16le", "-bsf:a", "setts=ts=PTS/100", path)
        with open_media(path, Reading(max_minutes=0.1)) as media, pytest.raises(MediaError) as caught:
            media.audio()
        assert caught.value.kind == "too-long"
