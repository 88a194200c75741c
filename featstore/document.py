"""A page as a folder that one can send: metrics.json, report.md, report.html (it asks nothing of any network), PNGs."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from emo import __version__
from emo.featstore.errors import UsageError
from emo.featstore.files import write_atomic
from emo.featstore.page import Page, Table
from emo.featstore.text import whole_text


@dataclass(frozen=True)
class Picture:
    """A PNG in a report.

    Attributes:
        name: Of its file.
        title: Above it.
        png: The bytes.
        table: The same as numbers.
        also: The same picture in other forms, by suffix: `{"svg": ..., "pdf": ...}`.
    """

    name: str
    title: str
    png: bytes
    table: Table | None = None
    also: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to a file: a link in HTML, its text elsewhere."""

    text: str
    target: Path

    def __str__(self) -> str:
        return self.text


Part = Table | Picture
_SPEAKING = re.compile(r"[|<>\[\]`&\\]|!(?=\[)")

STYLE = """
:root { color-scheme: light; --ink: #1b2533; --soft: #5a6472; --line: #e4e8ee; --blue: #2f6db5; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.6 system-ui, Roboto, Arial, sans-serif; }
main { max-width: 800px; margin: 0 auto; padding: 56px 24px 72px; }
h1 { font-size: 15px; font-weight: 500; color: var(--soft); margin: 0 0 10px; overflow-wrap: anywhere; }
h2 { font-size: 17px; font-weight: 600; margin: 52px 0 12px; }
.verdict { font-size: 23px; line-height: 1.4; font-weight: 600; letter-spacing: -.01em; margin: 0 0 28px; }
.notes { margin: 0 0 8px; padding: 2px 0 2px 18px; border-left: 3px solid var(--line); color: var(--soft); }
.notes p { margin: 6px 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-size: 12.5px; font-weight: 500; color: var(--soft); white-space: nowrap; }
td { overflow-wrap: break-word; }
td.n, th.n { text-align: right; padding: 7px 0 7px 14px; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
figure { margin: 0; } img { display: block; max-width: 100%; height: auto; }
details { margin-top: 10px; color: var(--soft); } summary { cursor: pointer; font-size: 13px; }
footer { margin-top: 64px; color: var(--soft); font-size: 12.5px; }
@media (max-width: 600px) {
  main { padding: 28px 14px 40px; }
  table { font-size: 12.5px; } th { font-size: 11px; }
  th, td { padding: 6px 8px 6px 0; } td.n, th.n { padding: 6px 0 6px 6px; }
  th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
}
@media print { main { padding: 0; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


def write_page(page: Page, folder: Path, title: str, pictures: Sequence[Picture] = ()) -> list[Path]:
    """Write what a command says as a report folder; the pictures come after the first table.

    Returns:
        The files written.
    """
    tables = [part for part in page.parts if isinstance(part, Table)]
    sentences = [part for part in page.parts if isinstance(part, str)]
    return write_parts(folder, page.value, title, page.verdict, sentences, [*tables[:1], *pictures, *tables[1:]])


def write_parts(
    folder: Path,
    value: Any,
    title: str,
    verdict: str,
    sentences: Sequence[str],
    parts: Sequence[Part],
    latex: bool = False,
) -> list[Path]:
    """Write metrics.json, report.md, report.html, the pictures, with `latex` tables.tex; earlier ones are replaced.

    Raises:
        UsageError: No folder of that name can be made, or it is the name of a file.
    """
    if folder.suffix.lower() in (".png", ".svg", ".pdf", ".html", ".md", ".tex", ".json") and not folder.is_dir():
        hint = f"Name a folder, such as {folder.stem}."
        raise UsageError(f"A report is a folder of files, and {folder} is the name of a file.", hint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a name of 300 letters, a file in the way
        raise UsageError(f"No report can be written to {str(folder)[:200]!r}: {error}.", "Name a folder.") from error
    texts = {
        "metrics.json": json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": _markdown(title, verdict, sentences, parts),
        "report.html": _html(title, verdict, sentences, parts),
    }
    if latex:
        tables = [part if isinstance(part, Table) else part.table for part in parts]
        texts["tables.tex"] = "\n".join(tex_table(table) for table in tables if table is not None)
    pictures = {part.name: part.png for part in parts if isinstance(part, Picture)}
    for part in parts:
        if isinstance(part, Picture):
            pictures |= {f"{Path(part.name).stem}.{suffix}": data for suffix, data in part.also.items()}
    files: dict[str, bytes | str] = {name: whole_text(text) for name, text in texts.items()} | pictures
    for name, data in files.items():
        write_atomic(folder / name, data)
    return [folder / name for name in files]


def cell(value: Any) -> str:
    """A table's cell as text: four digits for floats."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


TEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {c: f"\\{c}" for c in "&%$#_{}"}
)


def tex_table(table: Table) -> str:
    """Return a table in LaTeX, of the package booktabs."""

    def line(cells: Sequence[Any]) -> str:
        return " & ".join(cell(each).translate(TEX) for each in cells) + r" \\"

    kinds = "".join("r" if column in table.numbers else "l" for column in table.columns)
    head = [
        r"\begin{table}",
        rf"\caption{{{table.title.translate(TEX)}}}",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
    ]
    body = [line(table.columns), r"\midrule", *map(line, table.rows)]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _markdown(title: str, verdict: str, sentences: Sequence[str], parts: Sequence[Part]) -> str:
    lines = [f"# {_plain(title)}", "", _plain(verdict), "", *(f"- {_plain(sentence)}" for sentence in sentences), ""]
    for part in parts:
        table = part if isinstance(part, Table) else part.table
        if part.title != title:
            lines += [f"## {_plain(part.title)}", ""]
        if table is not None:
            rows = [[_plain(cell(each)) for each in row] for row in (table.columns, *table.rows)]
            text = ["| " + " | ".join(row) + " |" for row in rows]
            lines += [text[0], "|---" * len(table.columns) + "|", *text[1:], ""]
        if isinstance(part, Picture):
            lines += [f"![{_plain(part.title.lower())}]({part.name})", ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: no HTML, no links, no pictures, on one line."""
    text = "".join(each if each.isprintable() else " " for each in text)
    return _SPEAKING.sub(r"\\\g<0>", " ".join(text.split())).replace("://", ":\u200b//").replace("www.", "www\u200b.")


def _html(title: str, verdict: str, sentences: Sequence[str], parts: Sequence[Part]) -> str:
    body = [f"<h1>{escape(title)}</h1>", f'<p class="verdict">{escape(verdict)}</p>']
    if sentences:
        body += ['<div class="notes">', *(f"<p>{escape(each)}</p>" for each in sentences), "</div>"]
    for part in parts:
        if part.title != title:
            body.append(f"<h2>{escape(part.title)}</h2>")
        if isinstance(part, Table):
            body += _html_table(part)
            continue
        source = b64encode(part.png).decode()
        body.append(f'<figure><img alt="{escape(part.title)}" src="data:image/png;base64,{source}"></figure>')
        if part.table is not None:
            body += ["<details><summary>As numbers</summary>", *_html_table(part.table), "</details>"]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    end = f"<footer>emo {__version__}</footer>"
    start = f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body><main>'
    return "\n".join([start, *body, end, "</main></body></html>", ""])


def _marked_up(each: Any) -> str:
    if isinstance(each, Link):
        return f'<a href="{escape(each.target.absolute().as_uri())}">{escape(each.text)}</a>'
    return escape(cell(each))


def _html_table(table: Table) -> Iterable[str]:
    kinds = [' class="n"' if column in table.numbers else "" for column in table.columns]

    def row(tag: str, cells: Sequence[Any]) -> str:
        return (
            "<tr>"
            + "".join(f"<{tag}{kind}>{_marked_up(each)}</{tag}>" for kind, each in zip(kinds, cells, strict=True))
            + "</tr>"
        )

    yield '<div class="scroll"><table>'
    if any(table.columns):
        yield f"<thead>{row('th', table.columns)}</thead>"
    yield "<tbody>"
    yield from (row("td", cells) for cells in table.rows)
    yield "</tbody></table></div>"
