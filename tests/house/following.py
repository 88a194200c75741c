"""A page of the documents, followed: its blocks, and its lines run one by one as somebody types them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emo.cli import app

ROOT = Path(__file__).resolve().parents[2]
Before = Mapping[str, Callable[[Path], None]]


def blocks(page: Path, language: str) -> list[str]:
    """Blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def lines(page: Path, language: str = "sh") -> list[str]:
    """Lines of all blocks, without their comments."""
    told = (line.partition(" #")[0].strip() for block in blocks(page, language) for line in block.splitlines())
    return [line for line in told if line and not line.startswith("#")]


def follow(
    told: list[str],
    start: Path,
    skipped: Mapping[str, str],
    before: Before,
    shortened: Mapping[str, tuple[str, str]] | None = None,
) -> Iterator[tuple[str, str]]:
    """Run lines in one process, each where the one before has left off; `cd` goes where it says.

    Args:
        told: From `lines`.
        start: Folder to begin in.
        skipped: Lines that are not run, each with the reason.
        before: What a line needs and a reader has: called with the folder in which the line is run.
        shortened: Lines that are run in another form, which takes less time, each with that form and the reason.

    Returns:
        Each line with what it printed; those that were skipped are not among them.
    """
    shortened = shortened or {}
    unknown = {*skipped, *before, *shortened} - set(told)
    assert not unknown, f"the page has not these lines: {unknown}"
    assert all(skipped.values())
    assert all(reason for _, reason in shortened.values())
    back, here = Path.cwd(), start
    try:
        for line in told:
            os.chdir(here)
            if line in before:
                before[line](here)
            if line in skipped:
                continue
            name, *words = shlex.split(shortened.get(line, (line,))[0])
            if name == "cd":
                here = here / words[0]
                assert here.is_dir(), line
                continue
            assert name == "emo", line
            result = CliRunner().invoke(app, words)
            if result.exit_code:
                hint = getattr(result.exception, "hint", "")
                pytest.fail(f"{line}\nexit code {result.exit_code}: {result.exception} {hint}\n{result.output}")
            yield line, result.stdout
    finally:
        os.chdir(back)
