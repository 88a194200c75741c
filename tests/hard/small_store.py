"""A small store with everything in it, and all that it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def make(path: Path) -> None:
    """Two features and records in several segments, a failure, a compaction, and commits after it."""
    from emo.featstore.errors import MediaError
    from emo.featstore.spec import EncoderSpec
    from emo.featstore.storage.records import record_spec
    from emo.featstore.storage.store import Store

    rng = np.random.default_rng(0)
    specs = [EncoderSpec("HL-UTT", "any", "audio", "utt", 6, 1, "tiny", "seed:0")]
    specs += [EncoderSpec("HL-FRA", "any", "audio", "frame", 4, None, "tiny", "seed:0")]
    said = record_spec("whisper.transcript", "asr", "none")
    store = Store.create(path)
    for part in range(4):
        with store.writer() as writer:
            for i in range(part * 4, part * 4 + 4):
                media = f"{i:032x}"
                writer.clip(f"c{i:02d}", media)
                writer.add_record(said, media, {"text": f"sentence {i}"})
                writer.add(specs[1], media, rng.normal(size=(1 + i % 3, 4)).astype(np.float32))
                if i == 5:
                    writer.fail(specs[0], media, MediaError("no-sound", "It has no sound."))
                else:
                    writer.add(specs[0], media, rng.normal(size=(1, 6)).astype(np.float32))
        if part == 2:
            store.compact()
            store.gc()


def contents(path: Path) -> dict[tuple[str, str], Any]:
    """All that a store says, opened anew; a record that is refused is left out."""
    from emo.featstore.errors import EmoError
    from emo.featstore.storage.store import Store

    store = Store.open(path)
    found: dict[tuple[str, str], Any] = {("clips", ""): sorted(store.clips())}
    found["failures", ""] = sorted((each.clip, each.feature, each.kind, each.message) for each in store.failures())

    def take(key: tuple[str, str], read: Callable[[], Any]) -> None:
        try:
            found[key] = read()
        except EmoError:
            return

    for clip in [f"c{i:02d}" for i in range(16)]:
        for name in ("HL-UTT", "HL-FRA"):
            take((name, clip), lambda: store.get(name, clip).array.tobytes())  # noqa: B023 - called at once
        take(("text", clip), lambda: store.record("whisper.transcript", clip))  # noqa: B023
    return found
