"""A store in memory, with the few methods that training uses."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import Clip, Label
from emo.featstore.errors import FeatureMissing
from emo.featstore.spec import EncoderSpec

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")


@dataclass(frozen=True)
class FakeFeature:
    array: np.ndarray


@dataclass(frozen=True)
class FakeFailure:
    feature: str
    clip: str
    kind: str


@dataclass(frozen=True)
class FakeInfo:
    spec: EncoderSpec
    ok: int = 1

    @property
    def key(self) -> str:
        return self.spec.key


@dataclass
class FakeStore:
    """Features by name and clip; counts nothing, checks nothing, decodes nothing."""

    specs: dict[str, EncoderSpec] = field(default_factory=dict)
    rows: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    failed: list[FakeFailure] = field(default_factory=list)
    path: str = "memory"
    media: dict[str, str] = field(default_factory=dict)

    def add(self, spec: EncoderSpec, rows: Mapping[str, np.ndarray]) -> None:
        self.specs[spec.name] = spec
        self.rows[spec.name] = dict(rows)

    def features(self) -> list[FakeInfo]:
        return [FakeInfo(spec) for spec in self.specs.values()]

    def resolve(self, name: str) -> EncoderSpec:
        spec = self.specs.get(name.partition("@")[0])
        if spec is None or name not in (spec.name, spec.key):
            raise FeatureMissing(f"no {name}")
        return spec

    def has(self, feature: str, clip_ids: Sequence[str]) -> np.ndarray:
        return np.array([clip in self.rows[self.resolve(feature).name] for clip in clip_ids], dtype=bool)

    def failures(self) -> list[FakeFailure]:
        return self.failed

    def fail(self, name: str, clip: str, kind: str) -> None:
        del self.rows[name][clip]
        self.failed.append(FakeFailure(self.specs[name].key, clip, kind))

    def clip_row(self, clip_id: str) -> tuple[str, str | None, int, int] | None:
        return (self.media[clip_id], None, 0, 0) if clip_id in self.media else None

    def get(self, feature: str, clip_id: str) -> FakeFeature:
        return FakeFeature(self.rows[self.resolve(feature).name][clip_id])

    def checksums(self, feature: str, clip_ids: Sequence[str]) -> np.ndarray:
        rows = self.rows[self.resolve(feature).name]
        return np.array([zlib.crc32(rows[clip].tobytes()) if clip in rows else -1 for clip in clip_ids])

    def utterances(self, feature: str, clip_ids: Sequence[str], missing: str = "error") -> np.ndarray:
        spec = self.resolve(feature)
        zero = np.zeros((1, spec.dim), np.float32)
        rows = self.rows[spec.name]
        return np.concatenate([rows[clip] if missing == "error" else rows.get(clip, zero) for clip in clip_ids])


def make_spec(name: str, dim: int, level: str = "utt", rows: int | None = 1, profile: str = "tiny") -> EncoderSpec:
    return EncoderSpec(name, "fake", "audio", level, dim, rows, profile, "seed:0")


@pytest.fixture
def fill() -> Callable[..., tuple[FakeStore, list[Clip]]]:
    """Make a store of three utterance features, one frame and one token feature, that tell the emotion of its clips."""

    def make(n: int = 40, classes: int = 3, test: int = 6, unlabelled: int = 2, **options: Any) -> Any:
        rng = np.random.default_rng(options.pop("seed", 7))
        profile = options.pop("profile", "tiny")
        store = FakeStore()
        names = [f"clip_{i:03d}" for i in range(n + test + unlabelled)]
        emotion = rng.integers(classes, size=len(names))
        emotion[:classes] = np.arange(classes)
        clips = []
        for i, name in enumerate(names):
            label = Label(LABELS[emotion[i]], float(emotion[i]) - 1.0 if i % 5 else None)
            clips.append(
                Clip(
                    name,
                    split="train" if i < n else "test1" if i < n + test else "pool",
                    label=label if i < n + test else None,
                )
            )
        plan = [("HL-UTT", 6, "utt", 1), ("mae_340_UTT", 5, "utt", 1), ("maeV_399_UTT", 4, "utt", 1)]
        for name, dim, level, fixed in [*plan, ("frames", 3, "frame", None), ("eva_g_448", 4, "tokens", 9)]:
            centre = rng.normal(size=(classes, dim)) * 2
            spec = make_spec(name, dim, level, fixed, profile)
            store.add(
                spec,
                {
                    clip: (centre[emotion[i]] + rng.normal(size=(fixed or 2 + i % 4, dim)) * 0.5).astype(np.float32)
                    for i, clip in enumerate(names)
                },
            )
        return store, clips

    return make
