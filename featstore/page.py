"""Result of a command before anybody draws it: one JSON value, and the same as tables and sentences."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
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


def page_json(page: Page, ascii_only: bool = False) -> str:
    """Return the value of a page as one JSON text, as `--json` prints it and the HTTP interface sends it."""

    def plain(thing: Any) -> Any:
        return asdict(thing) if is_dataclass(thing) and not isinstance(thing, type) else str(thing)

    return json.dumps(page.value, ensure_ascii=ascii_only, default=plain)


@dataclass(frozen=True)
class Arg:
    """Marks a parameter of a page's function as an argument of its command: `Annotated[str, Arg("What it is.")]`.

    The command line makes commands of such functions: what it can fill in by itself (`store`, `workspace`, `say`,
    `quiet`, `extract`) has no mark.
    """

    help: str


@dataclass(frozen=True)
class Flag:
    """Marks a parameter as a flag; `name` where it is not the parameter's own, as in `--list`; the least number."""

    help: str
    name: str = ""
    least: int | None = None


# A pass over clips, for pages of `train`, which does not know `extract`: the command line fills in that parameter. It
# takes what `ExtractArgs` takes, and `show`: whether what failed is shown too. Ctrl-C in it ends the command.
Extract = Callable[..., None]


def throttle(say: Callable[[str], None], every_s: float = 5.0) -> Callable[[str], None]:
    """Return a `say` that passes a sentence on only where the last one is `every_s` seconds old: for progress."""
    last = -math.inf

    def speak(sentence: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every_s:
            last = time.monotonic()
            say(sentence)

    return speak


def span_text(seconds: float) -> str:
    """`40 s`, `25 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
