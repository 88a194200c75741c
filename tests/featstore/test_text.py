"""The words that messages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from emo.featstore.text import did_you_mean, nearest, quoted, size_text, some_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HL_UTT", "HL-UTT"),
        ("hlutt", "HL-UTT"),
        ("mae304", "mae_340_UTT"),
        ("mae_340_utt", "mae_340_UTT"),
        ("zzz", None),
    ],
)
def test_case_and_separators_do_not_count(name: str, meant: str | None) -> None:
    assert nearest(name, ["HL-UTT", "mae_340_UTT"]) == meant
    assert did_you_mean(name, ["HL-UTT", "mae_340_UTT"]) == (f"Did you mean {meant}?" if meant else "")


def test_of_two_names_that_look_alike_the_first_is_meant() -> None:
    assert nearest("ab", ["a-b", "a_b"]) == "a-b"


def test_of_names_that_are_just_as_near_none_is_guessed() -> None:
    years = ["mer2023", "mer2024", "mer2025"]
    assert nearest("mer2022", years) is None
    assert nearest("mer23", years) == "mer2023"
    assert nearest("tow", ["own", "two"]) == "two"


def test_a_few_of_many_names() -> None:
    names = [f"c{i}" for i in range(5)]
    assert some_of(names, 5) == "c0, c1, c2, c3, c4"
    assert some_of(names, 2) == "c0, c1 and 3 more"
    assert quoted(names, 1) == "'c0' and 4 more"
    assert some_of(map(str, range(2000)), 1) == "0 and 1,999 more"
    assert some_of([]) == ""


def test_there_is_one_did_you_mean() -> None:
    for room in ("featstore", "extract", "train"):
        for path in (ROOT / room).rglob("*.py"):
            assert path == ROOT / "featstore" / "text.py" or "difflib" not in path.read_text(), path


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (949, "949 B"),
        (994_949, "994.9 kB"),
        (995_100, "1.00 MB"),
        (12_300_000, "12.30 MB"),
        (3_950_000_000, "3.95 GB"),
    ],
)
def test_sizes_count_in_powers_of_ten(size_bytes: int | None, text: str) -> None:
    assert size_text(size_bytes) == text


def test_there_is_one_way_to_write_a_size() -> None:
    own = {path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] in ("extract", "featstore", "train")}
    assert [path for path in own if "def size_text" in path.read_text()] == [ROOT / "featstore/text.py"]
    assert [path for path in own if "/ 1e9" in path.read_text() or "2**30" in path.read_text()] == []
