"""Pages on a screen: tables that fit a terminal, and whole ones where the output goes into a file or a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emo.featstore.page import Page, Table

GAP = 2  # blanks between two columns
WORD = 24  # a longer word may be cut, so that a path does not push everything else off the screen
NAME = 48  # the same for the first column, which says what the row is about
USUAL = 80  # columns of a terminal that does not tell


def draw(page: Page, json: bool = False) -> None:
    """Write to standard output what a command has to say, for a program or for a person."""
    if json:
        from emo.featstore.page import page_json

        letters = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        print(page_json(page, ascii_only=not letters).encode(errors="backslashreplace").decode())
        return
    width, after_table = _width(sys.stdout), False
    for place, part in enumerate(page.parts):
        if place and (after_table or not isinstance(part, str)):
            _sentence(sys.stdout, "")
        after_table = not isinstance(part, str)
        if isinstance(part, str):
            _sentence(sys.stdout, part)
            continue
        title, *lines = table_lines(part, width)
        _sentence(sys.stdout, title, bold=True)
        for line in lines:
            _sentence(sys.stdout, line)
    if page.verdict:
        _sentence(sys.stdout, page.verdict, bold=True)


def say(text: str) -> None:
    """Write a message for people to standard error."""
    _sentence(sys.stderr, text)


def _width(file: IO[str]) -> int | None:
    """Columns of a terminal, as `COLUMNS` or the terminal itself says; `None` of what is none."""
    if not file.isatty():
        return None
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(file.fileno()).columns or USUAL
    except OSError:
        return USUAL


def _sentence(file: IO[str], text: str, bold: bool = False) -> None:
    """One text, broken between words where a terminal is narrower; a word, such as a path, stays in one piece.

    What would command a terminal, as an answer of a model may hold, is shown as a sign.
    """
    if not text.isprintable():
        text = "".join(each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in text)
    if (width := _width(file)) is not None:
        text = "\n".join(_broken(line, width) for line in text.split("\n"))
        if bold and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
            text = f"\x1b[1m{text}\x1b[0m"
    print(text, file=file, flush=True)


def _broken(line: str, width: int) -> str:
    """Break a line between words; what follows stands below the text that a gap sets off, or keeps the indentation."""
    indent = line[: len(line) - len(line.lstrip())]
    if indent and (gap := line.rfind(" " * GAP, 0, width // 2)) > len(indent):
        indent = " " * (gap + GAP)
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
        return [given.title, *_whole(given, columns, rows)]
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
    lines = _squeezed(given, columns[:kept], [row[:kept] for row in rows], width)
    return [given.title, *lines, *(each for each in legend if each)]


def _numbered(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Headers with a number in place of each that is wider than all its cells; and what the numbers mean."""
    found, legend = [], []
    for place, column in enumerate(columns):
        widest = max((_cells(row[place]) for row in rows), default=0)
        long = place > 0 and _cells(column) > max(widest, len(str(place)))
        found.append(str(place) if long else column)
        legend.append(f"{place}: {column}" if long else "")
    return found, legend


def _needs(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Width of each column in one piece, with the gap before the next."""
    cells = zip(columns, *rows, strict=True)
    return [max(_cells(line) for cell in each for line in cell.split("\n")) + GAP for each in cells]


def _least(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Width that is enough where texts are broken between words."""
    return sum(_least_of(columns, rows))


def _least_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    found = []
    for place, (needs, cells) in enumerate(zip(_needs(columns, rows), zip(columns, *rows, strict=True), strict=True)):
        longest = max((_cells(word) for cell in cells for word in cell.split()), default=0)
        found.append(min(needs, max(min(longest, WORD if place else NAME), 6) + GAP))
    return found


def _cells(text: str) -> int:
    """Columns that a text takes: two for a Chinese sign."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _whole(given: Table, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in which nothing is broken."""
    widths = [needs - GAP for needs in _needs(columns, rows)]
    right = [name in given.numbers for name in map(str, given.columns)]
    lines = []
    for row in (columns, *rows):
        for parts in zip_longest(*(cell.split("\n") for cell in row), fillvalue=""):
            blanks = [" " * (width - _cells(part)) for part, width in zip(parts, widths, strict=True)]
            cells = [gap + part if last else part + gap for part, gap, last in zip(parts, blanks, right, strict=True)]
            lines.append((" " * GAP).join(cells).rstrip())
    rule = min(sum(widths) + GAP * (len(widths) - 1), max(USUAL, len(lines[0])))  # a cell may be a line of a file long
    return [lines[0], "-" * rule, *lines[1:]]


def _squeezed(given: Table, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of a table whose texts are broken between words."""
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
