"""Emotion wheels: how a word finds its place, what the score is, and that a hit rate can be bought."""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest

from emo.featstore.errors import UsageError
from emo.train.metrics.wheel import Wheels, hit_page, hit_rate, load_wheels, score_wheels, wheel_page

ROUND = {  # one wheel: mad > angry > furious; happy > glad > joyful, merry
    "level1": {"mad": "mad", "angry": "mad", "furious": "mad", "happy": "happy", "glad": "happy", "joyful": "happy"},
    "level2": {"mad": "angry", "angry": "angry", "furious": "angry", "happy": "glad", "glad": "glad", "joyful": "glad"},
    "level3": {
        **{"mad": "furious", "angry": "furious", "furious": "furious"},
        **{"happy": "joyful", "glad": "joyful", "joyful": "joyful"},
    },
}
SMALL = Wheels(
    forms={
        "furiously": ["furious"],
        "furious": ["furious"],
        "rage": ["rage"],
        "joy": ["joyful", "glee"],
        "glad": ["glad"],
    },
    bases={
        "furious": ["furious"],
        "rage": ["mad", "furious"],
        "joyful": ["joyful"],
        "glee": ["elated"],
        "glad": ["glad"],
    },
    maps={"wheel1": ROUND},
)


def test_a_word_is_reduced_in_steps() -> None:
    assert SMALL.base("furiously") == "furious"
    assert (SMALL.base("joy"), SMALL.wheel_word("joy")) == ("glee", "elated")  # the alphabetically first
    assert SMALL.wheel_word("rage") == "furious"
    first, second = (SMALL.place("wheel1", level) for level in ("level1", "level2"))
    assert (first("rage"), second("rage")) == ("mad", "angry")
    assert first("joy") == "happy"  # elated is not on the wheel, the next meaning is
    assert SMALL.base("neutral") is first("neutral") is None


def test_precision_and_recall_are_means_over_clips_and_f_is_of_the_means() -> None:
    truth = {"a": ["furious", "glad"], "b": ["rage"], "c": ["neutral"]}
    said = {"a": ["furiously"], "b": [], "c": ["glad"]}
    found = score_wheels(truth, said, SMALL)
    assert (found.precision, found.recall) == ((1 + 0) / 2, (1 / 2 + 0) / 2)  # c has no place and is skipped
    assert found.f == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    assert (found.n, found.wheels["level1"]["wheel1"].n) == (3, 2)
    assert (found.unknown_true, found.unknown_answered, found.empty_answers) == (1, 0, 1)
    assert "1 of the truth, 0 of the answers" in " ".join(map(str, wheel_page(found, "EW").parts))
    assert "over 2 of 3 clips, the others without a place on a wheel." in wheel_page(found, "EW").verdict
    whole = score_wheels({"a": truth["a"]}, {"a": said["a"]}, SMALL)
    assert wheel_page(whole, "EW").verdict.endswith("over 1 clip.")


def test_nothing_in_common_is_zero_and_no_division_by_zero() -> None:
    assert score_wheels({"a": ["furious"]}, {"a": ["glad"]}, SMALL).f == 0.0


def test_a_hit_rate_is_bought_by_naming_everything_and_the_mscore_tells() -> None:
    truth = {"a": ["furious"], "b": ["glad"]}
    honest = hit_rate(truth, {"a": ["rage"], "b": ["rage"]}, SMALL)
    assert (honest.hit_rate, honest.mscore, honest.words_answered) == (0.5, 0.5, 1.0)
    greedy = hit_rate(truth, {name: ["rage", "glad"] for name in truth}, SMALL)
    assert (greedy.hit_rate, greedy.mscore, greedy.words_answered) == (1.0, 0.5, 2.0)
    page = hit_page(greedy, "MER2023")
    assert "mscore 0.5000, 2.00 words per answer" in page.verdict
    assert "neither accuracy nor F1" in " ".join(map(str, page.parts))


def test_the_mscore_counts_only_answers_of_the_label_set() -> None:
    """`glad` has a place on the wheel (happy) and is no label here: it costs nothing; `rage` is a hit."""
    only_mad = hit_rate({"a": ["furious"], "b": ["furious"]}, {"a": ["rage", "glad"], "b": ["glad"]}, SMALL)
    assert (only_mad.hit_rate, only_mad.mscore) == (0.5, 0.5)
    both = hit_rate({"a": ["furious"], "b": ["glad"]}, {"a": ["rage", "glad"], "b": ["glad"]}, SMALL)
    assert (both.hit_rate, both.mscore) == (1.0, 0.75)


def test_the_hit_rate_skips_labels_without_a_place_and_refuses_sets() -> None:
    found = hit_rate({"a": ["furious"], "b": ["neutral"]}, {"a": ["rage"], "b": ["glad"]}, SMALL)
    assert (found.n, found.wheels["wheel1"]["n"]) == (2, 1)
    assert "over 1 of 2 clips, the others without a place on a wheel." in hit_page(found, "x").verdict
    with pytest.raises(UsageError, match="a has 2 true labels"):
        hit_rate({"a": ["furious", "glad"]}, {"a": ["rage"]}, SMALL)
    with pytest.raises(UsageError, match="No true label has a place"):
        hit_rate({"a": ["neutral"]}, {"a": ["rage"]}, SMALL)


# ---- tables ----------------------------------------------------------------------------------------------------------


def write_xlsx(path: Path, rows: list[list[str]]) -> None:
    """A sheet as spreadsheets write it: shared strings, and blank cells left out."""
    strings = sorted({text for row in rows for text in row if text})
    name = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    cells = [
        "".join(
            f'<c r="{chr(65 + column)}{number}" t="s"><v>{strings.index(text)}</v></c>'
            for column, text in enumerate(row)
            if text
        )
        for number, row in enumerate(rows, 1)
    ]
    body = "".join(f'<row r="{number}">{each}</row>' for number, each in enumerate(cells, 1))
    with zipfile.ZipFile(path, "w") as archive:
        shared = "".join(f"<si><t>{escape(text)}</t></si>" for text in strings)
        archive.writestr("xl/sharedStrings.xml", f"<sst {name}>{shared}</sst>")
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet {name}><sheetData>{body}</sheetData></worksheet>")


def test_the_folder_of_2025_is_read(tmp_path: Path) -> None:
    rows = [
        ["level1", "level2", "level3"],
        ["Mad", "Angry", "Furious "],
        ["", "", "Enraged"],
        ["Happy", "Glad", "Joyful"],
    ]
    for i in range(1, 6):
        write_xlsx(tmp_path / f"wheel{i}.xlsx", rows)
    header = [name for run in range(1, 9) for name in (f"word_run{run}", f"synonym_run{run}")]
    synonyms = [["furious", "['livid', 'wild']"] * 8, ["joyful", "['glad', 'livid']"] * 8]
    write_xlsx(tmp_path / "synonym.xlsx", [header, *synonyms])
    (tmp_path / "format.csv").write_text('name,format\nlivid,"livid,lividly"\njoyful,joyfully\n')
    found = load_wheels(tmp_path)
    assert found.maps["wheel5"]["level1"]["enraged"] == "mad"
    assert found.maps["wheel1"]["level2"] == {
        **dict.fromkeys(("mad", "angry", "furious", "enraged"), "angry"),
        **dict.fromkeys(("happy", "glad", "joyful"), "glad"),
    }
    assert found.maps["wheel1"]["level3"] == {
        **{"mad": "enraged", "angry": "enraged", "furious": "furious", "enraged": "enraged"},
        **dict.fromkeys(("happy", "glad", "joyful"), "joyful"),
    }
    assert found.bases["livid"] == ["furious", "joyful"]
    assert found.place("wheel1", "level1")("lividly") == "mad"
    (tmp_path / "format.csv").write_text("name,format\nstrange,strangely\n")
    with pytest.raises(UsageError, match=r"synonym\.xlsx lacks: strange"):
        load_wheels(tmp_path)


def test_the_real_tables_have_the_known_sizes(shared: Path) -> None:
    found = load_wheels(shared / "data/openvocab/wheel_mapping.npz")
    assert (len(found.forms), len(found.bases)) == (7356, 1255)
    sizes = [(len(set(levels["level1"].values())), len(levels["level1"])) for levels in found.maps.values()]
    assert sizes == [(6, 114), (7, 126), (6, 78), (6, 102), (6, 77)]
    for levels in found.maps.values():  # the npz has two levels; the third goes on from them
        first, second, third = levels["level1"], levels["level2"], levels["level3"]
        assert third.keys() == second.keys()
        assert all((first[outer], second[outer]) == (first[word], second[word]) for word, outer in third.items())
        outermost = [word for word in third if word not in {*first.values(), *second.values()}]
        assert all(third[word] == word for word in outermost)
        assert len(set(third.values())) >= len(outermost) > 0


def test_tables_that_would_run_code_or_are_none_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("boom",))

    np.savez(tmp_path / "bomb.npz", format_mapping=np.array({"a": Bomb()}, dtype=object))
    with pytest.raises(UsageError, match="refused"):
        load_wheels(tmp_path / "bomb.npz")
    np.savez(
        tmp_path / "other.npz",
        format_mapping=np.array({"a": 3}),
        raw_mapping=np.array({}),
        wheel_map_whole=np.array({}),
    )
    with pytest.raises(UsageError, match="does not hold MER2026's tables"):
        load_wheels(tmp_path / "other.npz")
    with pytest.raises(UsageError, match="does not exist"):
        load_wheels(tmp_path)
    (tmp_path / "wheel1.xlsx").write_text("no zip")
    with pytest.raises(UsageError, match="no readable xlsx"):
        load_wheels(tmp_path)
    with pytest.raises(UsageError, match="no emotion wheels"):
        load_wheels(tmp_path / "wheels.txt")
