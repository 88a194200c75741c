"""What the documents say is so: their Python runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import emo
from emo.train.metrics.ledger import write_ledger

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every `emo ...` line of a shell block, without comments."""
    lines = [
        line.split("#")[0].split() for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()
    ]
    return [words for words in lines if words[:1] == ["emo"]]


def test_the_python_page_runs(demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    shutil.copytree(demo[0], tmp_path / "emo-demo")
    source = "\n".join(blocks(ROOT / "docs" / "python.md", "python"))
    assert source.count("import") > 5
    ran = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "nobody" in ran.stdout


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_in_the_documents_exists_with_its_flags(words: list[str]) -> None:
    verb = [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
    if verb[0] == "bench":
        verb = ["bench", "ensemble" if verb[1:] == ["ensemble"] else "run"]
    elif verb[0] not in ("store", "data", "weights", "annotate"):
        verb = verb[:1]
    shown = subprocess.run([sys.executable, "-m", "emo.cli", *verb, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for flag in (word.split("=")[0] for word in words if word.startswith("--")):
        assert flag in shown.stdout, f"{flag} of `{' '.join(words)}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_files_that_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:featstore|extract|train|tests|docs)/[\w./-]+)`", text)
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), f"docs/architecture.md names {name}"


def test_the_ledger_is_as_the_command_writes_it(tmp_path: Path) -> None:
    """No value is typed in by hand: without reports of runs, the page is what `emo data ledger` makes of nothing."""
    write_ledger(tmp_path / "page.md", {})
    assert (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8") == (tmp_path / "page.md").read_text(
        encoding="utf-8"
    )


def test_every_public_name_can_be_imported() -> None:
    for name in emo.__all__:
        assert getattr(emo, name).__doc__, name
    with pytest.raises(AttributeError, match="open_store"):
        emo.nothing  # noqa: B018
