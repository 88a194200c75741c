"""Case 7: the published MER2023 test3 result, from its labels and from answers that lead to its confusion matrix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emo.featstore.clip import Label
from emo.train.metrics.labels import Prediction, Score, read_labels, read_predictions, score

GOLDEN_CASES = ["case7_published"]
FILES = ("predictions.csv", "raw_answers.json")


class Golden:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.case: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.labels: list[str] = self.case["label_order_of_confusion_matrix"]

    @property
    def truth(self) -> dict[str, Label]:
        return read_labels(next(self.folder.glob("*.txt")))

    def predictions(self, file: str) -> dict[str, Prediction]:
        return read_predictions(self.folder / file)

    def table(self, result: Score) -> list[list[int]]:
        """Confusion matrix over all labels of the case: those that occur in neither truth nor answers are empty."""
        at = {label: i for i, label in enumerate(result.labels)}
        assert set(at) <= set(self.labels)
        return [[result.confusion[at[a]][at[b]] if {a, b} <= set(at) else 0 for b in self.labels] for a in self.labels]

    def score(self, file: str, policy: str) -> Score:
        return score(self.truth, self.predictions(file), policy, self.labels)


@pytest.fixture
def golden(golden: Any) -> Golden:
    return Golden(golden.folder)


@pytest.mark.parametrize("file", FILES)
def test_official_gives_the_published_numbers(golden: Golden, file: str) -> None:
    result, case = golden.score(file, "official"), golden.case
    tolerance = case["tolerance"]["metrics"]
    got = {
        "Accuracy": result.accuracy,
        "Precision": result.precision_weighted,
        "Recall": result.recall_weighted,
        "F1": result.f1_weighted,
    }
    assert got == pytest.approx(case["metrics"], abs=tolerance)
    published = case["published"]
    got = {**got, "F1 Score": got["F1"]}
    assert published == pytest.approx({key: got[key] for key in published}, abs=tolerance)
    assert result.uar == pytest.approx(case["UAR"], abs=tolerance)
    assert golden.table(result) == case["confusion_matrix"]
    recalls = [result.per_class[label]["recall"] if label in result.labels else 0 for label in golden.labels]
    assert recalls == pytest.approx(case["per_class_recall"], abs=tolerance)
    assert (result.n, result.missing, result.extra) == (case["n"], 0, 0)
    assert (result.n_valence, result.combined) == (0, None)  # test3 has no valence: -10 is not a number to score


@pytest.mark.parametrize("file", FILES)
def test_strict_reports_what_official_calls_neutral(golden: Golden, file: str) -> None:
    answers = golden.predictions(file)
    unparsed = {name for name, each in answers.items() if each.answer.split(" ")[-1] not in golden.labels}
    strict, official = golden.score(file, "strict"), golden.score(file, "official")
    assert strict.unparsed == official.unparsed == len(unparsed)
    assert set(strict.unparsed_examples) <= unparsed
    assert sum(map(sum, strict.confusion)) == golden.case["n"] - len(unparsed)
    more = np.sum(golden.table(official), axis=0) - np.sum(golden.table(strict), axis=0)
    assert more.tolist() == [len(unparsed) if label == "neutral" else 0 for label in golden.labels]
