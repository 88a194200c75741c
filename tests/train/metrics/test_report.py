"""The report folder says everything the score knows, the awkward parts first."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emo.featstore.clip import Label
from emo.featstore.errors import UsageError
from emo.train.metrics.labels import Prediction, Score, score
from emo.train.metrics.pictures import reliability_forms
from emo.train.metrics.report import (
    class_rows,
    confusion_rows,
    hardest,
    reliability,
    remarks,
    score_page,
    summary_rows,
    verdict,
    write_report,
)


def example(policy: str = "strict") -> Score:
    truth = {"a": Label("sad", 1.0), "b": Label("happy", 2.0), "c": Label("sad", 0.0), "d": Label("angry", 0.0)}
    said = {"a": Prediction("sad", 1.0), "b": Prediction("sad", 2.0), "c": Prediction("sad.", 2.0)}
    return score(truth, said | {"x": Prediction("sad", 0.0)}, policy, allow_missing=True)


def test_every_awkward_fact_is_said() -> None:
    text = " ".join(remarks(example()))
    assert "1 of 3 answers could not be parsed, counted as wrong. For example: c answered 'sad.'." in text
    assert "1 labelled clip has no prediction" in text
    assert "1 prediction is for a clip without a label" in text
    assert "3 clips are too few for a score" in text
    assert "counted as neutral" in " ".join(remarks(example("official")))


def test_the_count_of_unparsed_answers_is_said_even_when_it_is_zero() -> None:
    clean = score({"a": Label("sad")}, {"a": Prediction("sad")})
    assert remarks(clean)[0] == "0 of 1 answers could not be parsed."


def test_rows_carry_four_digits_and_the_unparsed_column() -> None:
    result = example()
    assert ("accuracy (WAR)", "0.3333") in summary_rows(result)
    assert ("combined", f"{result.combined:.4f}") in summary_rows(result)
    assert class_rows(result)[0] == ("label", "precision", "recall", "f1", "support", "unparsed")
    assert confusion_rows(result) == [
        ("truth \\ answer", "happy", "sad", "unparsed"),
        ("happy", "0", "1", "0"),
        ("sad", "0", "1", "1"),
    ]
    assert "policy strict" in verdict(result)
    assert "unparsed" not in confusion_rows(example("official"))[0]


def test_the_folder_holds_numbers_text_and_picture(tmp_path: Path) -> None:
    note = "Features come from the tiny profile (random weights): no number here is an accuracy on people."
    write_report(example(), tmp_path / "report", "Test", [note])
    numbers = json.loads((tmp_path / "report/metrics.json").read_text())
    assert numbers["n"] == 3
    assert numbers["notes"][0] == note
    text = (tmp_path / "report/report.md").read_text()
    assert note in text
    assert "![confusion matrix](confusion.png)" in text
    picture = np.asarray(Image.open(tmp_path / "report/confusion.png").convert("L"))
    assert min(picture.shape) > 300
    assert picture.std() > 10  # something is drawn


def test_intervals_stand_beside_the_numbers() -> None:
    page = score_page(example(), "Test")
    table = page.parts[0]
    assert not isinstance(table, str)
    assert table.columns == ("", "value", "2.5 %", "97.5 %")
    accuracy = next(row for row in table.rows if row[0] == "accuracy (WAR)")
    ends = page.value["intervals"]["accuracy"]
    assert accuracy[1:] == ("0.3333", f"{ends['low']:.4f}", f"{ends['high']:.4f}")
    assert ends["low"] < ends["value"] < ends["high"]
    assert any("10,000 resamples of the clips" in str(part) for part in page.parts)


# ---- the page to look at ---------------------------------------------------------------------------------------------


def sure(**chances: float) -> Prediction:
    return Prediction(max(chances, key=chances.__getitem__), probabilities=chances)


TRUTH = {"a": Label("sad"), "b": Label("sad"), "c": Label("happy"), "d": Label("sad"), "e": Label("happy")}
CHANCES = {
    "a": sure(sad=0.95, happy=0.05),
    "b": sure(sad=0.3, happy=0.7),
    "c": sure(sad=0.9, happy=0.1),
    "d": sure(sad=0.75, happy=0.25),
    "e": sure(sad=0.24, happy=0.76),
}


class Requests(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.images = 0
        self.feed(text)
        self.found += re.findall(r"url\(|@import", text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        wanted = [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.found += [value for value in wanted if not value.startswith("data:image/png;base64,")]
        self.found += [tag] if tag in ("script", "link", "iframe") else []


def test_the_page_asks_nothing_of_any_network_and_holds_its_pictures(tmp_path: Path) -> None:
    files = write_report(score(TRUTH, CHANCES), tmp_path, "Test <&>", ["A note."], TRUTH, CHANCES)
    pictures = ("confusion", "classes", "reliability")
    names = {f"{name}.{suffix}" for name in pictures for suffix in ("png", "svg", "pdf")}
    names |= {"metrics.json", "report.md", "report.html", "tables.tex"}
    assert {file.name for file in files} == {file.name for file in tmp_path.iterdir()} == names
    page = Requests((tmp_path / "report.html").read_text())
    assert (page.found, page.images) == ([], 3)
    text = (tmp_path / "report.html").read_text()
    assert "<title>Test &lt;&amp;&gt;</title>" in text
    for part in ("A note.", "Confusion matrix", "Per class", "Reliability", "Hardest clips", "5 clips are too few"):
        assert part in text
    for name in ("classes.png", "reliability.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 10


def test_without_predictions_there_is_no_curve_and_no_hardest_clip(tmp_path: Path) -> None:
    write_report(score(TRUTH, CHANCES), tmp_path)
    assert not (tmp_path / "reliability.png").exists()
    assert "Hardest clips" not in (tmp_path / "report.html").read_text()


def test_the_hardest_clip_is_the_one_whose_truth_was_least_probable() -> None:
    assert [(each["name"], each["probability"]) for each in hardest(TRUTH, CHANCES, "likelihood")] == [
        ("c", 0.1),
        ("b", 0.3),
    ]


def test_without_probabilities_it_is_the_one_of_the_easiest_class() -> None:
    said = {name: Prediction(each.answer) for name, each in CHANCES.items()} | {"a": Prediction("who knows")}
    found = hardest(TRUTH, said, "strict")
    assert [(each["name"], each["answer"], each["probability"]) for each in found] == [
        ("c", "sad", None),  # happy: one of two is right; sad: one of three
        ("a", None, None),
        ("b", "happy", None),
    ]
    assert found[1]["said"] == "who knows"


def test_the_reliability_curve_compares_confidence_with_what_is_right() -> None:
    found = reliability(TRUTH, CHANCES)
    assert found is not None
    assert found["bins"] == [
        {"confidence": pytest.approx((0.7 + 0.75 + 0.76) / 3), "accuracy": pytest.approx(2 / 3), "n": 3},
        {"confidence": pytest.approx((0.95 + 0.9) / 2), "accuracy": 0.5, "n": 2},
    ]
    gaps = (3 * abs(2.21 / 3 - 2 / 3), 2 * abs(1.85 / 2 - 0.5))
    assert found["ece"] == pytest.approx(sum(gaps) / 5)
    doubled = {
        name: sure(**{k: 2 * v for k, v in (each.probabilities or {}).items()}) for name, each in CHANCES.items()
    }
    assert reliability(TRUTH, doubled)["bins"] == found["bins"]  # type: ignore[index]
    assert reliability(TRUTH, {"a": Prediction("sad")}) is None


def test_a_dot_of_the_reliability_curve_is_whole_where_nothing_is_right() -> None:
    def blue(accuracy: float) -> int:
        found = {"bins": [{"confidence": 0.5, "accuracy": accuracy, "n": 2}], "ece": 0.1, "n": 2}
        pixels = np.asarray(Image.open(BytesIO(reliability_forms(found, "")["png"])).convert("RGB"), int)
        return int((np.abs(pixels - [0x2F, 0x6D, 0xB5]).sum(axis=2) < 20).sum())

    assert blue(0.0) > 0.9 * blue(0.5) > 50


EVIL = (
    *("<script>alert(1)</script>", "[click](javascript:alert(1))", "![x](http://evil.example/x.png)", "&lt;b&gt;"),
    *("<http://evil.example>", "http://evil.example", "www.evil.example", "a|b`c", "\u202egnp.exe", "two\nlines"),
    *("\ud83d", "$x^$"),
)


def test_no_report_carries_markup_or_links_of_names_and_answers(tmp_path: Path) -> None:
    truth = {f"{i} {evil}": Label("sad") for i, evil in enumerate(EVIL)}
    said = {f"{i} {evil}": Prediction(f"happy {evil}") for i, evil in enumerate(EVIL)}
    for each in EVIL:
        write_report(score(truth, said, "strict"), tmp_path, f"Title {each}", [f"Note {each}"], truth, said)
        page = Requests((tmp_path / "report.html").read_text())
        assert (page.found, page.images) == ([], 2)
        text = (tmp_path / "report.md").read_text()
        assert not re.search(r"(?<!\\)<", text)  # every sign that could begin HTML is escaped
        assert set(re.findall(r"(?<!\\)\]\(([^)]*)\)", text)) == {"confusion.png", "classes.png"}
        assert "://" not in text
        assert "www.evil" not in text
        assert all(line.isprintable() for line in text.split("\n") if "\u200b" not in line)
        json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.parametrize("name", ["x" * 300, "file/below", "zero\0byte"])
def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="No report can be written to"):
        write_report(example(), tmp_path / name)
