"""Bytes of a store changed at random: `verify` finds them and raises nothing untyped, and no other numbers are read."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from damage import changed, in_child, other_word, try_all
from small_store import contents, make

SHORT, LONG = 200, 5000  # damaged stores
# What describes bytes that have a checksum each: space and words in it that no reader asks for may differ.
DESCRIPTIONS = {"emo.json", "zarr.json"}


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
