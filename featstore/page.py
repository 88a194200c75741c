"""Result of a command before anybody draws it: one JSON value, and the same as tables and sentences."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        title: Line above it.
        columns: Header.
        rows: Cells; a float is shown with four digits.
        numbers: Columns that are aligned on the right.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numbers: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """Everything that one command says.

    Attributes:
        value: For programs; dataclasses in it become tables of their fields, and what is no JSON its text.
        parts: For people, in order.
        verdict: The one line that sums it up, shown last.
        exit_code: Of the command.
    """

    value: Any
    parts: Sequence[Table | str] = ()
    verdict: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class Arg:
    """Marks a parameter of a page's function as an argument of its command: `Annotated[str, Arg("What it is.")]`.

    The command line makes commands of such functions: what it can fill in by itself (`store`, `workspace`, `say`) has
    no mark.
    """

    help: str


@dataclass(frozen=True)
class Flag:
    """Marks a parameter as a flag; `name` where it is not the parameter's own, as in `--list`; the least number."""

    help: str
    name: str = ""
    least: int | None = None


def throttle(say: Callable[[str], None], every_s: float = 5.0) -> Callable[[str], None]:
    """Return a `say` that passes a sentence on only where the last one is `every_s` seconds old: for progress."""
    last = -math.inf

    def speak(sentence: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every_s:
            last = time.monotonic()
            say(sentence)

    return speak


def size_text(size_bytes: int | None) -> str:
    """`1.5 MiB`; nothing for `None`."""
    if size_bytes is None:
        return ""
    value, units = float(size_bytes), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"
