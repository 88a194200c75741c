"""Sentiment sets: the sign of the valence, and what becomes of zero on either side."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, f1_score

from emo.featstore.clip import Label
from emo.featstore.errors import UsageError
from emo.train.answers import Prediction
from emo.train.metrics.labels import read_labels, score
from emo.train.metrics.valence import by_sign


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
        with pytest.raises(UsageError, match="1 predictions hold no valence: b"):
            by_sign(truth, {"a": Prediction("-0.5"), "b": Prediction(nothing)})
    with pytest.raises(UsageError, match="no valence other than 0"):
        by_sign({"a": Label("sad", 0.0)}, {"a": Prediction("1")})
