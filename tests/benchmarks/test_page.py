"""docs/benchmarks.md holds what its scripts wrote: every section has the seal that `record.record` put below it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SUMMARY = runpy.run_path(str(HERE / "summary.py"))
PAGE: Path = SUMMARY["PAGE"]
SECTIONS = ["## " + part for part in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]]


@pytest.fixture(scope="module")
def sealed(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        import record

        yield record.sealed


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_a_section_is_as_its_script_wrote_it(section: str, sealed) -> None:
    assert sealed(section) == section.rstrip("\n") + "\n", "run the command that the section names"


def test_a_sentence_by_hand_is_found(sealed) -> None:
    said = "An earlier run of the same day on another such machine gave 5.9x."
    section = SECTIONS[0].replace("\n<!-- sealed", f"\n{said}\n\n<!-- sealed")
    assert sealed(section) != section.rstrip("\n") + "\n"


def test_the_first_table_is_made_of_the_sections() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert SUMMARY["summarised"](text) == text, "run tests/benchmarks/summary.py"
