"""The drawn talking face: found by the detector, different for each emotion, the same for each seed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from emo.extract.demo import EMOTIONS, generate_clip, generate_dataset
from emo.extract.media.container import open_media
from emo.extract.media.detect import CenterFace
from emo.extract.media.reading import Reading
from emo.featstore.errors import UsageError


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with open_media(path) as media:
        return np.stack([frame.rgb for frame in media.frames()]), media.audio()


def test_a_clip_is_as_long_and_large_as_asked(tmp_path):
    said = generate_clip(tmp_path / "clip.mp4", "neutral", seed=0, duration_s=0.8, fps=30, size=(256, 192))
    with open_media(tmp_path / "clip.mp4", Reading(sound_tail="trim")) as media:
        info = media.info
        assert (info.width, info.height, info.n_frames) == (256, 192, 24)
        assert info.fps == pytest.approx(30)
        assert media.audio().size == pytest.approx(0.8 * 16_000, abs=16)
    assert said[0].isupper()


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_the_detector_finds_the_face(tmp_path, emotion):
    detector = CenterFace(min_score=0.4)
    for seed in range(3):
        path = tmp_path / f"{seed}.mp4"
        generate_clip(path, emotion, seed)
        frames, _ = read(path)
        for index in (0, 19, 37):
            assert len(detector.detect(frames[index])) == 1, f"{emotion}, seed {seed}, frame {index}"


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    a, b, c = (tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4"))
    assert generate_clip(a, "sad", 5) == generate_clip(b, "sad", 5)
    generate_clip(c, "sad", 6)
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()


def test_the_voice_tells_the_emotion(tmp_path):
    loudness = {}
    for emotion in ("angry", "sad"):
        levels = []
        for seed in range(4):
            generate_clip(tmp_path / "clip.mp4", emotion, seed, duration_s=0.6)
            levels.append(np.sqrt((read(tmp_path / "clip.mp4")[1] ** 2).mean()))
        loudness[emotion] = np.mean(levels)
    assert loudness["angry"] > 2 * loudness["sad"]


def test_the_mouth_moves_and_the_background_does_not(tmp_path):
    generate_clip(tmp_path / "clip.mp4", "surprise", 2)
    frames, _ = read(tmp_path / "clip.mp4")
    face = CenterFace(min_score=0.3).detect(frames[0])[0]
    x, y = face.landmarks[3:].mean(axis=0).astype(int)
    moving = frames.std(axis=0).mean(axis=2)
    assert moving[y - 5 : y + 12, x - 8 : x + 8].mean() > 3 * moving[:40, :40].mean()


@pytest.mark.parametrize("wrong", [{"emotion": "bored"}, {"size": (321, 240)}, {"size": (32, 32)}, {"duration_s": 0.0}])
def test_nonsense_is_refused(tmp_path, wrong):
    with pytest.raises(UsageError):
        generate_clip(tmp_path / "clip.mp4", **({"emotion": "happy", "seed": 0} | wrong))


def test_a_dataset(tmp_path):
    names = generate_dataset(tmp_path / "set", n_per_emotion=4, seed=7)
    assert len(names) == 24
    assert sorted(path.stem for path in (tmp_path / "set" / "clips").iterdir()) == names
    with open(tmp_path / "set" / "labels.csv", newline="", encoding="utf-8") as file:
        labels = list(csv.DictReader(file))
    assert [row["name"] for row in labels] == names
    for emotion in EMOTIONS:
        splits = sorted(row["split"] for row in labels if row["emotion"] == emotion)
        assert splits == ["test", "train", "train", "train"]
    assert [row["emotion"] for row in labels] != sorted(row["emotion"] for row in labels)
    with open(tmp_path / "set" / "transcripts.csv", newline="", encoding="utf-8") as file:
        transcripts = list(csv.DictReader(file))
    assert [row["name"] for row in transcripts] == names
    assert all(row["english"] for row in transcripts)
