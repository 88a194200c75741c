"""The report folder says everything the score knows, the awkward parts first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from emo.featstore.clip import Label
from emo.train.report import class_rows, confusion_rows, remarks, summary_rows, verdict, write_report
from emo.train.score import Prediction, Score, score


def example(policy: str = "strict") -> Score:
    truth = {"a": Label("sad", 1.0), "b": Label("happy", 2.0), "c": Label("sad", 0.0), "d": Label("angry", 0.0)}
    said = {"a": Prediction("sad", 1.0), "b": Prediction("sad", 2.0), "c": Prediction("sad.", 2.0)}
    return score(truth, said | {"x": Prediction("sad", 0.0)}, policy, allow_missing=True)


def test_every_awkward_fact_is_said() -> None:
    text = " ".join(remarks(example()))
    assert "1 of 3 answers could not be parsed, counted as wrong. For example: c answered 'sad.'." in text
    assert "1 labelled clips have no prediction" in text
    assert "1 predictions are for clips without a label" in text
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
