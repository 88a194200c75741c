"""Sentiment sets: the sign of the valence, and what becomes of zero on either side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from emo.featstore.clip import Label
from emo.featstore.errors import UsageError
from emo.train.answers import Prediction
from emo.train.metrics.labels import read_labels, score
from emo.train.metrics.regression import regression
from emo.train.metrics.valence import Sentiment, by_sign


def test_a_true_zero_is_dropped_and_a_predicted_zero_is_negative() -> None:
    truth = {"a": Label("0", -1.0), "b": Label("0", 0.0), "c": Label("0", 0.2), "d": Label("0", None)}
    said = {"a": Prediction("", 0.0), "b": Prediction("", 3.0), "c": Prediction("", 0.0), "d": Prediction("", 1.0)}
    signs, answers, notes = by_sign(truth, said)
    assert signs == {"a": Label("negative"), "c": Label("positive")}
    assert (answers["a"].answer, answers["c"].answer) == ("negative", "negative")
    assert score(signs, answers, "strict").accuracy == 0.5
    assert "1 of 3 clips dropped, 2 predictions of 0" in notes[0]


@pytest.mark.parametrize(("name", "n", "zeros"), [("mosi", 686, 30), ("sims", 457, 69)])
def test_real_labels_give_scikit_learns_numbers(shared: Path, name: str, n: int, zeros: int) -> None:
    truth = read_labels(shared / f"data/{name}/label.npz#test")
    assert len(truth) == n
    said = {clip: Prediction("", (i % 7) / 3 - 1) for i, clip in enumerate(truth)}
    signs, answers, _ = by_sign(truth, said)
    found = score(signs, answers, "strict")
    kept = [(label.valence, said[clip].valence) for clip, label in truth.items() if label.valence != 0]
    y, p = [t > 0 for t, _ in kept], [a > 0 for _, a in kept]
    assert found.n == n - zeros
    assert found.accuracy == pytest.approx(accuracy_score(y, p), abs=1e-12)
    assert found.f1_weighted == pytest.approx(f1_score(y, p, average="weighted"), abs=1e-12)


def test_a_number_may_be_the_answer_and_what_is_none_is_named() -> None:
    truth = {"a": Label("0", -1.0), "b": Label("0", 1.0)}
    _, answers, _ = by_sign(truth, {"a": Prediction("-0.5"), "b": Prediction("1e-3")})
    assert [each.answer for each in answers.values()] == ["negative", "positive"]
    for nothing in ("nice", "nan"):
        with pytest.raises(UsageError, match="1 of 2 predictions hold no valence: b"):
            by_sign(truth, {"a": Prediction("-0.5"), "b": Prediction(nothing)})
    with pytest.raises(UsageError, match="no valence other than 0"):
        by_sign({"a": Label("sad", 0.0)}, {"a": Prediction("1")})


def test_an_answer_without_a_number_counts_as_none_and_is_said() -> None:
    metric = Sentiment()
    truth = {"a": Label(valence=1.5), "b": Label(valence=-2.0), "c": Label(valence=0.0), "d": Label(valence=1.0)}
    said = {name: Prediction(text) for name, text in {"a": "1", "b": "I cannot tell.", "c": "0.5", "d": "-1"}.items()}
    with pytest.raises(UsageError, match="1 of 4 predictions hold no valence: b") as caught:
        metric.score(truth, said)
    assert "leave out --require-all" in caught.value.hint
    page = metric.page(metric.score(truth, said | {"x": Prediction("nice")}, allow_missing=True), "MOSI")
    assert "over 2 of 3 clips" in page.verdict
    assert (page.value["n"], page.value["missing_names"], page.value["extra"]) == (2, ["b"], 1)
    told = "1 of 4 predictions hold no valence and count as without an answer, so they are in no number here."
    assert page.value["notes"][0] == f"{told} For example: b answered 'I cannot tell.'."
    assert page.value["notes"][0] in page.parts
    assert "(3 clips)" in page.parts[1].title
    assert metric.scored(truth, said) == ["a", "d"]


def test_answers_none_of_which_is_a_number_are_refused_whatever_may_be_missing() -> None:
    truth = {"a": Label(valence=1.5), "b": Label(valence=-2.0), "c": Label(valence=0.0)}
    said = {"a": Prediction("happy"), "b": Prediction("sad"), "c": Prediction("0")}
    with pytest.raises(UsageError, match="2 of 3 predictions hold no valence: a answered 'happy'; b answered 'sad'"):
        Sentiment().score(truth, said, allow_missing=True)


def test_numbers_of_mosi_by_hand() -> None:
    found = regression([-2.6, 0.0, 1.4, 3.0], [-3.4, 0.2, -0.6, 2.0])
    assert found["MAE"] == pytest.approx((0.8 + 0.2 + 2.0 + 1.0) / 4)
    assert found["Corr"] == pytest.approx(np.corrcoef([-2.6, 0, 1.4, 3], [-3.4, 0.2, -0.6, 2])[0, 1])
    assert found["Acc-2, non-negative"] == 0.75  # a true 0 is positive, and so is 0.2
    assert found["Acc-2, non-zero"] == pytest.approx(2 / 3)
    assert found["Acc-7"] == 0.5  # -3 and -3, 0 and 0; 1 is not -1, 3 is not 2
    assert found["Acc-5"] == 0.75  # beyond 2 all is 2
    assert found["F1, non-zero"] == pytest.approx(2 / 3)


def test_numbers_of_sims_by_hand() -> None:
    found = regression([-1.0, 0.0, 0.1, 0.8], [-0.8, 0.0, 0.4, 0.6])
    assert found["Acc-2"] == 1.0  # 0 is negative there
    assert found["Acc-3"] == 0.75  # 0.1 is neutral, 0.4 is not
    assert found["Acc-5"] == 0.5
    assert found["F1-2"] == 1.0
    assert regression([0.5, 0.5], [0.1, 0.3])["Corr"] is None


def test_the_page_of_sentiments_shows_them() -> None:
    metric = Sentiment()
    truth = {"a": Label(valence=1.5), "b": Label(valence=-2.0), "c": Label(valence=0.0)}
    said = {name: Prediction(str(value)) for name, value in {"a": 1.0, "b": -1.0, "c": 0.5}.items()}
    page = metric.page(metric.score(truth, said), "MOSI")
    assert page.value["regression"]["MAE"] == pytest.approx(2 / 3)
    assert page.value["n"] == 2  # of the signs, true zeros are left out; of the numbers they are not
    assert "(3 clips)" in page.parts[1].title


def test_answers_on_another_scale_than_the_truth_are_said() -> None:
    truth = {"a": Label(None, 2.4), "b": Label(None, -1.0), "c": Label(None, 0.6)}
    small = {name: Prediction("", value) for name, value in {"a": 0.8, "b": -0.3, "c": 0.2}.items()}
    told = "The truth reaches 2.4, and no answer is beyond 1: "
    assert any(note.startswith(told) for note in Sentiment().score(truth, small).notes)
    large = small | {"a": Prediction("", 2.0)}
    assert len(Sentiment().score(truth, large).notes) == 1
    words = {"a": Prediction("positive"), "b": Prediction("Negative."), "c": Prediction("0.5")}
    assert any(note.startswith("2 answers are words") for note in Sentiment().score(truth, words).notes)
