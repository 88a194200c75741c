"""A small world for the tests of the store: three specs, deterministic records, and processes that can be killed."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.spec import EncoderSpec
from emo.featstore.storage import durable
from emo.featstore.storage.store import Store


def _spec(name: str, level: str, dim: int, rows: int | None, **recipe: Any) -> EncoderSpec:
    return EncoderSpec(name, "hubert", "audio", level, dim, rows, "tiny", "seed:0", 1, recipe)


class Lab:
    """Specs, records and what a store is expected to hold."""

    utt = _spec("HL-UTT", "utt", 8, 1)
    frame = _spec("HL-FRA", "frame", 4, None)
    tokens = _spec("eva_g_448", "tokens", 6, 5)
    specs = (utt, frame, tokens)
    spec = staticmethod(_spec)

    def media(self, i: int) -> str:
        return f"{i:032x}"

    def record(self, spec: EncoderSpec, media: str, version: int = 0) -> np.ndarray:
        """The one true feature of a medium; every seventh token record exceeds float16."""
        seed = int(media, 16) * 31 + len(spec.name) + 1000 * version
        rows = spec.rows or 1 + seed % 3
        scale = 1e6 if spec.level == "tokens" and seed % 7 == 0 else 1
        return (np.random.default_rng(seed).normal(size=(rows, spec.dim)) * scale).astype(np.float32)

    def stored(self, spec: EncoderSpec, media: str, version: int = 0) -> np.ndarray:
        """The same, in the dtype of the store."""
        record = self.record(spec, media, version)
        with np.errstate(over="ignore"):
            half = record.astype(np.float16)
        return record if spec.level == "utt" or not np.isfinite(half).all() else half

    def put(self, writer: Any, i: int, specs: Iterable[EncoderSpec] | None = None, version: int = 0) -> None:
        """Clip `c<i>` and its features."""
        writer.clip(f"c{i}", self.media(i))
        for spec in specs or self.specs:
            hop_s = 0.02 if spec.level == "frame" else None
            writer.add(spec, self.media(i), self.record(spec, self.media(i), version), t0_s=0.01 * i, hop_s=hop_s)

    def fill(self, store: Store, clips: Iterable[int], commit_every: int = 200) -> Store:
        with store.writer(commit_every=commit_every) as writer:
            for i in clips:
                self.put(writer, i)
        return store

    def resume(self, path: Path, clips: Iterable[int]) -> Store:
        """What an extraction does when it is run again: the work list, and nothing else."""
        store = Store.open(path)
        clips = list(clips)
        work = store.work(self.specs, [(f"c{i}", self.media(i)) for i in clips])
        with store.writer() as writer:
            for i in clips:
                todo = [spec for spec in self.specs if self.media(i) in work[spec.key]]
                writer.clip(f"c{i}", self.media(i))
                if todo:
                    self.put(writer, i, todo)
        return store

    def contents(self, store: Store) -> dict[tuple[str, str], tuple[Any, ...]]:
        """Everything the store says, row by row: (feature, clip) -> dtype, bytes, times, media."""
        found: dict[tuple[str, str], tuple[Any, ...]] = {}
        clips = store.clips()
        for info in store.features():
            for clip in np.array(clips)[store.has(info.spec, clips)]:
                feature = store.get(info.spec, str(clip))
                values = (feature.array.dtype, feature.array.tobytes(), feature.t0_s, feature.hop_s, feature.media)
                found[info.key, str(clip)] = values
        return found

    def expected(self, clips: Iterable[int]) -> dict[tuple[str, str], tuple[Any, ...]]:
        found: dict[tuple[str, str], tuple[Any, ...]] = {}
        for i in clips:
            for spec in self.specs:
                array = self.stored(spec, self.media(i))
                hop_s = 0.02 if spec.level == "frame" else None
                found[spec.key, f"c{i}"] = (array.dtype, array.tobytes(), 0.01 * i, hop_s, self.media(i))
        return found

    def fork(self, run: Callable[[], None]) -> int:
        """Starts `run` in a child process and returns its id. The child never returns here."""
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            run()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)

    def killed_at(self, step: str, run: Callable[[], None], nth: int = 1) -> bool:
        """Runs in a child that SIGKILLs itself at the nth time it reaches a step; returns whether it got there."""

        def child() -> None:
            seen = 0

            def reached(at: str) -> None:
                nonlocal seen
                seen += at == step
                if seen == nth:
                    os.kill(os.getpid(), signal.SIGKILL)

            durable.reached = reached
            run()

        _, status = os.waitpid(self.fork(child), 0)
        assert status in (0, signal.SIGKILL), "the child failed by itself"
        return status == signal.SIGKILL


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.create(tmp_path / "a.emo")


@pytest.fixture
def small_disk(tmpfs: Callable[[int], Path]) -> Path:
    """A disk of one megabyte."""
    return tmpfs(1)
