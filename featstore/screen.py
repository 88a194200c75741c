"""Pages on a screen: tables that fit a terminal, and whole ones where the output goes into a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from textwrap import wrap
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from emo.featstore.page import Page, Table

GAP = 2  # blanks between two columns
WORD = 24  # a longer word may be cut, so that a path does not push everything else off the screen
WIDE = 100_000  # columns of an output that is no terminal: nothing is cut


def draw(page: Page, json: bool = False) -> None:
    """Write to standard output what a command has to say, for a program or for a person."""
    if json:
        from emo.featstore.page import json_text

        letters = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        print(json_text(page, ascii_only=not letters).encode(errors="backslashreplace").decode())
        return
    console = _console(sys.stdout)
    after_table = False
    for place, part in enumerate(page.parts):
        if place and (after_table or not isinstance(part, str)):
            _sentence(console, "")
        after_table = not isinstance(part, str)
        if isinstance(part, str):
            _sentence(console, part)
            continue
        title, *lines = table_lines(part, console.width if console.is_terminal else None)
        _sentence(console, title, style="bold")
        for line in lines:
            _sentence(console, line)
    if page.verdict:
        _sentence(console, page.verdict, style="bold")


def say(text: str) -> None:
    """Write a message for people to standard error."""
    _sentence(_console(sys.stderr), text)


def _console(file: IO[str]) -> Console:
    from rich.console import Console

    return Console(file=file, highlight=False)


def _sentence(console: Console, text: str, style: str | None = None) -> None:
    """One text, broken between words where a terminal is narrower; a word, such as a path, stays in one piece.

    What would command a terminal, as an answer of a model may hold, is shown as a sign.
    """
    if not text.isprintable():
        text = "".join(each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in text)
    if console.is_terminal:
        text = "\n".join(_broken(line, console.width) for line in text.split("\n"))
    console.print(text, markup=False, soft_wrap=True, style=style)


def _broken(line: str, width: int) -> str:
    """Break a line between words; what follows keeps its indentation."""
    indent = line[: len(line) - len(line.lstrip())]
    parts = wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(parts) or line


# ---- tables ----------------------------------------------------------------------------------------------------------


def table_lines(given: Table, width: int | None) -> list[str]:
    """Lines of a table that are no longer than a terminal is wide; `None`: as long as they need to be.

    Where it does not fit, texts are broken between words; then headers that are longer than their cells become numbers
    with a legend; then the last columns are left out, and named.
    """
    columns = [str(column) for column in given.columns]
    rows = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in given.rows]
    if width is None or sum(_needs(columns, rows)) <= width:
        return [given.title, *_drawn(given, columns, rows, WIDE)]
    legend: list[str] = []
    if _least(columns, rows) > width:
        columns, legend = _numbered(columns, rows)
    kept = len(columns)
    while kept > 1 and _least(columns[:kept], [row[:kept] for row in rows]) > width:
        kept -= 1
    if left_out := list(given.columns)[kept:]:
        legend = legend[:kept]
        which = ", ".join(map(str, left_out))
        legend.append(f"{len(left_out)} more: {which}; in a wider terminal, through a pipe, or --json")
    lines = _drawn(given, columns[:kept], [row[:kept] for row in rows], width)
    return [given.title, *lines, *(each for each in legend if each)]


def _numbered(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Headers with a number in place of each that is wider than all its cells; and what the numbers mean."""
    from rich.cells import cell_len

    found, legend = [], []
    for place, column in enumerate(columns):
        widest = max((cell_len(row[place]) for row in rows), default=0)
        long = place > 0 and cell_len(column) > max(widest, len(str(place)))
        found.append(str(place) if long else column)
        legend.append(f"{place}: {column}" if long else "")
    return found, legend


def _needs(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Width of each column in one piece, with the gap before the next."""
    from rich.cells import cell_len

    cells = zip(columns, *rows, strict=True)
    return [max(cell_len(line) for cell in each for line in cell.split("\n")) + GAP for each in cells]


def _least(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Width that is enough where texts are broken between words."""
    return sum(_least_of(columns, rows))


def _least_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    found = []
    for needs, cells in zip(_needs(columns, rows), zip(columns, *rows, strict=True), strict=True):
        longest = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
        found.append(min(needs, max(min(longest, WORD), 6) + GAP))
    return found


def _drawn(given: Table, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    from io import StringIO

    from rich.box import Box
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text

    line_below_head = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    table = Drawn(box=line_below_head, show_edge=False, padding=(0, GAP - 1, 0, 0), pad_edge=False, header_style="")
    needs = _needs(columns, rows)
    least = _least_of(columns, rows) if sum(needs) > width else needs
    names = list(map(str, given.columns))
    for place, column in enumerate(columns):
        justify: Any = "right" if names[place] in given.numbers else "left"
        table.add_column(Text(column), justify=justify, overflow="fold", min_width=least[place] - GAP)
    for row in rows:
        table.add_row(*map(Text, row))
    paper = StringIO()
    Console(file=paper, width=min(width, sum(needs)), color_system=None, highlight=False).print(table)
    return [line.rstrip() for line in paper.getvalue().splitlines()]
