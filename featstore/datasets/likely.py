"""Names that were probably meant to be one: `2` in a table for the file `0002`, `C:\\clips\\A.MP4` for `a`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from emo.featstore.datasets.cells import visible
from emo.featstore.datasets.tables import without_suffix

SHOWN = 3  # pairs in a sentence
# What programs do to names, in the order in which it is undone, each as it is told.
_CHANGES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("signs that nobody sees, or full-width ones", visible),
    ("a folder before the name", lambda name: re.split(r"[/\\]", name)[-1]),
    ("a suffix", lambda name: re.sub(r"\.[A-Za-z]\w{1,4}$", "", without_suffix(name))),
    ("upper and lower case", str.casefold),
    ("a number with decimals", lambda name: re.sub(r"^(\d+)\.0+$", r"\1", name)),
    ("blanks, - or _ between words", lambda name: re.sub(r"[\s_-]+", "_", name)),
    ("leading zeros", lambda name: re.sub(r"(?<!\d)0+(?=\d)", "", name)),
)


def likely_pairs(listed: Iterable[str], there: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Pairs of a listed name and one that is there, by what makes the difference; a name is in one pair at most.

    Each change is undone on top of those before it; of names that become one, none is taken.
    """
    here, found = {name: name for name in listed}, {name: name for name in there}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for what, undo in _CHANGES:
        here = {name: undo(plain) for name, plain in here.items()}
        found = {name: undo(plain) for name, plain in found.items()}
        mine, others = _unique(here), _unique(found)
        both = [(mine[plain], others[plain]) for plain in mine if plain in others]
        if both:
            pairs[what] = both
            for name, other in both:
                del here[name], found[other]
    return pairs


def _unique(plain: dict[str, str]) -> dict[str, str]:
    names: dict[str, list[str]] = {}
    for name, text in plain.items():
        names.setdefault(text, []).append(name)
    return {text: those[0] for text, those in names.items() if len(those) == 1 and text}


def told_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """`'1' for '0001', '2' for '0002' and 2 more`."""
    shown = ", ".join(f"{name!r} for {other!r}" for name, other in pairs[:SHOWN])
    return shown if len(pairs) <= SHOWN else f"{shown} and {len(pairs) - SHOWN:,} more"
