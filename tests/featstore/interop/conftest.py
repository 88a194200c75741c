"""A store of seven clips as an extraction leaves it: six features, of which not every clip has every one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import Clip, Label
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

SPLITS = ("train_corpus", "train_corpus", "val_corpus", "test3", "test3", "test3", "test3")
EMOTIONS = ("happy", "sad", "neutral", "angry", "worried", "surprise", "happy")


def spec(name: str, modality: str, level: str, dim: int, rows: int | None) -> EncoderSpec:
    return EncoderSpec(name, "tiny", modality, level, dim, rows, "tiny", "seed:0")


class Source:
    """The store, its clips as a dataset tells them, and what is asked of it."""

    audio = spec("HL-UTT", "audio", "utt", 16, 1)
    face = spec("mae_340_UTT", "face", "utt", 16, 1)
    video = spec("maeV_399_UTT", "face", "utt", 16, 1)
    text = spec("BERT-UTT", "text", "utt", 8, 1)
    frames = spec("HL-FRA", "audio", "frame", 6, None)
    tokens = spec("eva_g_448", "frame", "tokens", 4, 5)
    specs = (audio, face, video, text, frames, tokens)
    clips = tuple(
        Clip(
            f"clip ü{i}" if i == 6 else f"sample_0000{i}",
            split=SPLITS[i],
            label=Label(EMOTIONS[i], valence=i - 2.5),
            transcripts={"english": f"Sentence {i}, with a comma."} if i != 4 else {},
        )
        for i in range(7)
    )

    def __init__(self, path: Path) -> None:
        self.store = Store.create(path)
        rng = np.random.default_rng(0)
        with self.store.writer() as writer:
            for i, clip in enumerate(self.clips):
                media = f"{i:032x}"
                writer.clip(clip.id, media)
                for each in self.specs:
                    rows = each.rows or 2 + i
                    if self.has(each, clip.id):
                        array = rng.normal(size=(rows, each.dim)).astype(np.float32)
                        times = (0.01 * i, 0.02) if each.level == "frame" else (0.0, None)
                        writer.add(each, media, array, *times)

    def has(self, feature: EncoderSpec, clip: str) -> bool:
        """Clip 5 has no face, clip 3 no tokens."""
        lacking = {"sample_00005": (self.face, self.video), "sample_00003": (self.tokens,)}
        return feature not in lacking.get(clip, ())


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "source.emo")


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "target.emo")


@pytest.fixture
def put(tmp_path: Path) -> Any:
    """Writes .npy files of a feature folder: `put("HL-UTT", a=array, b=bytes)`; returns the folder above."""

    def write(feature: str, **files: Any) -> Path:
        folder = tmp_path / "features" / feature
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if isinstance(content, bytes):
                (folder / f"{name}.npy").write_bytes(content)
            else:
                np.save(folder / f"{name}.npy", content)
        return folder.parent

    return write
