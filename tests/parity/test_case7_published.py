"""Case 7: the published MER2023 test3 result, from its labels and from answers that lead to its confusion matrix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.clip import Label
from emo.train.score import Prediction, Score, read_labels, read_predictions, score

CASE = "case7_published"
FILES = ("predictions.csv", "raw_answers.json")


class Golden:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.case: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.labels: list[str] = self.case["label_order_of_confusion_matrix"]

    @property
    def truth(self) -> dict[str, Label]:
        (path,) = self.folder.glob("*.txt")
        return read_labels(path)

    def predictions(self, file: str) -> dict[str, Prediction]:
        return read_predictions(self.folder / file)

    def score(self, file: str, policy: str) -> Score:
        return score(self.truth, self.predictions(file), policy, self.labels)


@pytest.fixture(scope="module", params=[CASE])
def golden(request: pytest.FixtureRequest, goldens: Path) -> Golden:
    folder = goldens / request.param
    if not folder.is_dir():
        pytest.skip(f"{goldens} has no {CASE}")
    return Golden(folder)


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
    assert got["F1"] == pytest.approx(case["published"]["F1 Score"], abs=tolerance)
    assert result.uar == pytest.approx(case["UAR"], abs=tolerance)
    assert list(result.labels) == golden.labels
    assert result.confusion == case["confusion_matrix"]
    recalls = [result.per_class[label]["recall"] for label in golden.labels]
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
    neutral = golden.labels.index("neutral")
    assert sum(row[neutral] for row in official.confusion) - sum(row[neutral] for row in strict.confusion) == len(
        unparsed
    )
    assert sum(map(sum, strict.confusion)) == golden.case["n"] - len(unparsed)


def test_the_raw_answers_hold_some_that_cannot_be_parsed(golden: Golden) -> None:
    assert golden.score("raw_answers.json", "strict").unparsed > 0
    assert golden.score("predictions.csv", "strict").unparsed == 0
