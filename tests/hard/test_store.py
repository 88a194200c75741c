"""Bytes of a store changed at random: `verify` finds them and raises nothing untyped, and no other numbers are read."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from damage import changed, in_child, other_word, try_all

SHORT, LONG = 200, 5000  # damaged stores
# What describes bytes that have a checksum each: space and words in it that no reader asks for may differ.
DESCRIPTIONS = {"emo.json", "zarr.json"}


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


def child(root: Path, trials: int) -> None:
    """Damage one file of a store, read it, verify it, put the file back; again and again."""
    from emo.featstore.errors import EmoError
    from emo.featstore.storage.store import Store

    path = root / "s.emo"
    make(path)
    truth, whole = contents(path), {each: each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}
    hit = next(iter(whole))

    def damaged(number: int) -> str:
        nonlocal hit
        hit.write_bytes(whole[hit])
        dice = random.Random(f"store {number}")
        hit = dice.choice(list(whole))
        data = other_word(whole[hit], dice) if dice.randrange(3) == 0 else changed(whole[hit], dice)
        hit.write_bytes(data)
        return f"{number} {hit.relative_to(path)} {'the same bytes' if data == whole[hit] else 'changed'}"

    def once(number: int) -> str:
        same = hit.read_bytes() == whole[hit]
        try:
            found = contents(path)
        except EmoError:
            found = {}
        other = [key for key, value in found.items() if truth.get(key) != value]
        try:
            problems = list(map(str, Store.open(path).verify()))
        except EmoError as error:  # it cannot be opened at all
            problems = [error.message]
        if other:
            return f"other content of {other[:3]}"
        if bool(problems) == same and hit.name not in DESCRIPTIONS:
            return "verify sees nothing" if problems == [] else f"verify cries wolf: {problems[:1]}"
        return "refused" if problems else "same"

    try_all(trials, damaged, once)


def test_damage_to_a_store_is_found_and_never_read_as_numbers(hard: bool, tmp_path: Path) -> None:
    trials = LONG if hard else SHORT
    ends = in_child(__file__, tmp_path, trials, trials=trials)
    assert ends["refused"] > trials // 2, ends
    print(f"store: {dict(ends)}")


if __name__ == "__main__":
    child(Path(sys.argv[1]), int(sys.argv[2]))
