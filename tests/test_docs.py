"""What the documents say is so: their Python runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from following import ROOT, blocks
from typer.testing import CliRunner

import emo
from emo.cli import app
from emo.train.metrics.ledger import write_ledger

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ZH = sorted((ROOT / "docs" / "zh").glob("*.md"))


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
    shown = CliRunner().invoke(app, [*verb, "--help"])
    assert shown.exit_code == 0, shown.output
    for flag in (word.split("=")[0] for word in words if word.startswith("--")):
        assert flag in shown.output, f"{flag} of `{' '.join(words)}`"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.zh.md", *ZH], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


TRANSLATED = [("README.md", "README.zh.md"), *((f"docs/{p.name}", f"docs/zh/{p.name}") for p in ZH)]


def _commands(page: Path) -> list[str]:
    """Lines of all blocks of a page, without comments."""
    text = page.read_text(encoding="utf-8")
    lines = "".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).splitlines()
    return [line.partition("#")[0].rstrip() for line in lines]


@pytest.mark.parametrize(("page", "other"), TRANSLATED, ids=lambda name: name)
def test_a_translation_has_the_commands_and_headings_of_its_page(page: str, other: str) -> None:
    """Whoever changes a block or a heading of the English page changes it in docs/zh too: copy the block as it is."""
    assert _commands(ROOT / other) == _commands(ROOT / page)
    bare = [re.sub(r"(?ms)^```.*?^```", "", (ROOT / each).read_text(encoding="utf-8")) for each in (page, other)]
    levels, theirs = (re.findall(r"^(#+) ", text, re.MULTILINE) for text in bare)
    assert theirs == levels


def test_files_that_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:featstore|extract|train|tests|docs)/[\w./-]+)`", text)
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), f"docs/architecture.md names {name}"


def test_the_packages_that_emo_lists_are_as_many_as_the_page_says() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lines = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if line.startswith("| emo "))
    assert row.split("|")[3].strip() == f"{len(listed)}, none pinned"
    assert not any("==" in each for each in listed)


def test_the_ledger_is_as_the_command_writes_it(tmp_path: Path) -> None:
    """No value is typed in by hand: the page is what `emo data ledger --reports docs/reports` makes of the reports."""
    reports = sorted((ROOT / "docs" / "reports").glob("*.json"))
    assert len(reports) >= 7
    write_ledger(tmp_path / "page.md", {file.stem: file for file in reports})
    assert (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8") == (tmp_path / "page.md").read_text(
        encoding="utf-8"
    )


def test_every_public_name_can_be_imported() -> None:
    for name in emo.__all__:
        assert getattr(emo, name).__doc__, name
    with pytest.raises(AttributeError, match="open_store"):
        emo.nothing  # noqa: B018


@pytest.mark.parametrize("page", ["docs/mer2023.md", "docs/zh/mer2023.md"])
def test_lists_are_not_said_to_be_checked_by_the_command_for_json(page: str) -> None:
    """`emo annotate check` reads MERR's JSON files, and no list such as MER2023_pseudo_label.txt."""
    rows = [line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if "emo annotate check` |" in line]
    assert not [row for row in rows if ".txt" in row]
    assert "`emo doctor`" in next(
        line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line.startswith("| `MER2023_pseudo")
    )
