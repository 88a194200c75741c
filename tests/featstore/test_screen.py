"""Tables on screens of any width, and without one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from emo.featstore.page import Page, Table
from emo.featstore.screen import _broken, draw, table_lines

FEATURES = [f"chinese-hubert-large-{n}-UTT" for n in range(14)]
CLIPS = Table("3 clips", ["clip", *FEATURES], [[f"sample_0000000{n}", *["yes"] * 14] for n in range(3)])
FINDINGS = Table(
    "emo doctor", ("", "area", "what"), [["ok", "disk", "9 GB free, of which four thousand clips take one"]]
)


@pytest.mark.parametrize("table", [CLIPS, FINDINGS], ids=["many columns", "one long text"])
@pytest.mark.parametrize("width", [30, 80, 200])
def test_no_line_is_longer_than_the_screen_and_no_word_is_cut(table: Table, width: int) -> None:
    lines = table_lines(table, width)
    body = lines if table is FINDINGS else [line for line in lines if line.startswith(("clip", "sample"))]
    assert max(map(len, body)) <= width
    words = " ".join(lines).split()
    for row in table.rows:
        assert set(" ".join(row).split()) <= set(words)


def test_headers_wider_than_their_cells_become_numbers_with_a_legend() -> None:
    lines = table_lines(CLIPS, 90)
    assert lines[1].split() == ["clip", *map(str, range(1, 15))]
    assert [line for line in lines if line.startswith("14: ")] == [f"14: {FEATURES[13]}"]


def test_columns_that_do_not_fit_are_named() -> None:
    lines = table_lines(CLIPS, 40)
    assert "more: " in lines[-1]
    left_out = lines[-1].partition(": ")[2].partition(";")[0].split(", ")
    assert left_out == FEATURES[-len(left_out) :]
    shown = [line.partition(": ")[2] for line in lines if line.partition(": ")[0].isdigit()]
    assert shown + left_out == FEATURES


def test_without_a_terminal_a_table_is_as_wide_as_it_is() -> None:
    title, head, rule, *rows = table_lines(CLIPS, None)
    assert title == "3 clips"
    assert head.split() == ["clip", *FEATURES]
    assert set(rule) == {"-"}
    assert [row.split() for row in rows] == [list(row) for row in CLIPS.rows]


def test_without_a_terminal_one_long_cell_draws_no_long_rule() -> None:
    table = Table("run", ("", "value"), [["command", "emo train " * 100]])
    _, _, rule, row = table_lines(table, None)
    assert (set(rule), len(rule)) == ({"-"}, 80)
    assert len(row) > 900


@pytest.mark.parametrize(
    ("line", "below"),
    [
        ("  get it:   " + "word " * 30, 12),
        ("  what is below other text keeps " + "its own margin " * 9, 2),
        ("one sentence  with a gap " + "word " * 30, 0),
    ],
)
def test_what_does_not_fit_stands_below_the_text_it_belongs_to(line: str, below: int) -> None:
    lines = _broken(line, 60).split("\n")
    assert len(lines) > 1
    assert {len(each) - len(each.lstrip()) for each in lines[1:]} == {below}
    assert " ".join(each.strip() for each in lines).split() == line.split()


def test_a_terminal_gets_its_own_width_and_a_pipe_everything(tmp_path: Path) -> None:
    """The command itself, on a pseudo-terminal of 60 columns and through a pipe."""
    words = [sys.executable, "-m", "emo.cli", "submit"]
    env = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    piped = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=env).stdout
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, cwd=tmp_path, stdout=theirs, stderr=subprocess.DEVNULL, env=env) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert process.wait() == 0
    assert max(len(line) for line in piped.splitlines()) > 100, piped
    lines = shown.decode().splitlines()
    assert all(len(line) <= 60 or " " not in line.strip() for line in lines)  # a path alone may be longer
    sentences = piped.splitlines()[-2:]  # below the table, whose columns may be fewer and whose words may be cut
    assert set(" ".join(sentences).split()) <= set(shown.decode().split())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""


def test_what_would_command_a_terminal_is_shown_as_a_sign(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Page({}, ["happy\x1b[2J\x1b]0;title\x07", Table("t", ("a",), [["sad\x1b[31m"]])], verdict="so\x9b1m"))
    said = capsys.readouterr().out
    assert not any(each in said for each in "\x1b\x07\x9b")
    assert "happy\N{REPLACEMENT CHARACTER}[2J" in said


def test_the_name_of_a_row_is_not_cut_where_other_columns_can_go() -> None:
    name = "chinese-hubert-large-affectgpt"
    rows = [[name, "absent", "a licence of many words, which wraps", "x" * 20, "y" * 20]]
    lines = table_lines(Table("t", ("name", "here", "licence", "one", "two"), rows), 80)
    assert any(line.startswith(name) for line in lines)
    assert all(len(line) <= 80 for line in lines)
