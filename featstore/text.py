"""Words that messages share: the name that was meant, and the first few of many names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import takewhile

MOST_BYTES = 200  # of a folder's name: 255 on every usual file system, and files are named after it
SHOWN = 10  # names in a message before "and 3 more"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the known name that `name` most likely stands for; `None` where none is near, or several are as near.

    Case, `-`, `_`, `.` and spaces do not count. Of names that are as near, the one with the same beginning is meant.
    """
    plain, given = {_plain(each): each for each in reversed(list(known))}, _plain(name)
    found = {
        each: (difflib.SequenceMatcher(None, each, given).ratio(), _beginning(each, given))
        for each in difflib.get_close_matches(given, plain, n=5, cutoff=cutoff)
    }
    best = [each for each, near in found.items() if near == max(found.values())]
    return plain[best[0]] if len(best) == 1 else None


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return `Did you mean X?`, or an empty text where no known name is near."""
    found = nearest(name, known, cutoff)
    return f"Did you mean {found}?" if found else ""


def slips(name: str, meant: str) -> int:
    """Return how many letters of two names are not shared, in order; a letter in place of another counts once."""
    blocks = difflib.SequenceMatcher(None, name, meant, autojunk=False).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for what, i1, i2, j1, j2 in blocks if what != "equal")


def counted(number: int, noun: str, many: str | None = None) -> str:
    """Return a number with its noun in the right form: `1 clip`, `1,440 clips`."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def size_text(size_bytes: int | None) -> str:
    """Return a size in powers of ten, as disks and model pages give it: `1.26 GB`, `12.30 MB`; nothing for `None`."""
    if size_bytes is None:
        return ""
    for unit, power, digits in (("GB", 9, 2), ("MB", 6, 2), ("kB", 3, 1)):
        if round(size_bytes / 10**power, digits) >= 1:
            return f"{size_bytes / 10**power:.{digits}f} {unit}"
    return f"{size_bytes} B"


def some_of(names: Iterable[str], limit: int = SHOWN) -> str:
    """Return the first names of many and how many more there are: `a, b and 3 more`."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def quoted(names: Iterable[str], limit: int = 5) -> str:
    """Return what `some_of` does, with each name in quotes: `'a', 'b' and 3 more`."""
    return some_of([repr(name) for name in names], limit)


def is_plain_name(name: str) -> bool:
    """Say whether a name can be that of a folder on every usual system, with files beside it named after it."""
    odd = not name.isprintable() or name != whole_text(name) or len(name.encode("utf-8", "replace")) > MOST_BYTES
    return not odd and name not in ("", ".", "..") and not set("/\\") & set(name)


def whole_text(text: str) -> str:
    """Replace halves of characters, which JSON can spell and no file or screen can hold."""
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def _beginning(a: str, b: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _plain(name: str) -> str:
    return re.sub(r"[-_. ]", "", str(name)).lower()
