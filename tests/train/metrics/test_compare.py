"""Comparing two sets of predictions: the textbook test, an honest interval, and no difference where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from emo.featstore.clip import Label
from emo.featstore.errors import UsageError
from emo.train.answers import Prediction
from emo.train.metrics.compare import _resample, compare, comparison_page, intervals
from emo.train.metrics.labels import label_set, score

LABELS = ("angry", "happy", "neutral", "sad")


def said(words: list[str]) -> dict[str, Prediction]:
    return {f"clip{i:03d}": Prediction(word) for i, word in enumerate(words)}


def random_case(n: int, right_a: float, right_b: float) -> tuple[dict[str, Label], list[str], list[str], list[str]]:
    rng = np.random.default_rng(5)
    truth = [str(word) for word in rng.choice(LABELS, n)]

    def answers(right: float) -> list[str]:
        return [word if rng.random() < right else str(rng.choice(LABELS)) for word in truth]

    return {f"clip{i:03d}": Label(word) for i, word in enumerate(truth)}, truth, answers(right_a), answers(right_b)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    """9 clips only a has right, 1 only b: 2 (C(10,0) + C(10,1)) / 2^10."""
    truth = {f"clip{i:03d}": Label("happy" if i % 2 else "sad") for i in range(20)}
    right = [str(label.emotion) for label in truth.values()]
    wrong = {"happy": "sad", "sad": "happy"}
    a = [word if i != 0 else wrong[word] for i, word in enumerate(right)]
    b = [wrong[word] if 1 <= i <= 9 else word for i, word in enumerate(right)]
    found = compare(truth, said(a), said(b), "strict", resamples=100)
    assert (found.only_a, found.only_b) == (9, 1)
    assert found.p == pytest.approx(2 * 11 / 1024)
    assert found.accuracy == (19 / 20, 11 / 20)
    assert found.accuracy_difference.value == pytest.approx(-8 / 20)


def test_a_run_does_not_differ_from_itself() -> None:
    truth, _, a, _ = random_case(60, 0.6, 0.6)
    found = compare(truth, said(a), said(a), resamples=200)
    assert (found.p, found.only_a, found.only_b) == (1.0, 0, 0)
    for difference in (found.accuracy_difference, found.f1_difference):
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert comparison_page(found, ("a", "b")).verdict.startswith("No difference in weighted F1 beyond chance")


def test_what_a_run_may_say_is_no_unparsed_answer_though_the_list_lacks_it() -> None:
    chances = {"calm": 0.6, "neutral": 0.3, "fearful": 0.1}
    a = {"c0": Prediction("calm", probabilities=chances), "c1": Prediction("fearful", probabilities=chances)}
    b = {"c0": Prediction("neutral"), "c1": Prediction("fearful")}
    found = compare({"c0": Label("neutral"), "c1": Label("fearful")}, a, b, resamples=10)
    assert (found.accuracy, found.only_b) == ((0.5, 1.0), 1)


def test_the_bootstrap_draws_both_from_the_same_clips() -> None:
    """Against scikit-learn on the very same resamples, unparsed answers included."""
    truth, words, a, b = random_case(40, 0.5, 0.8)
    b[3] = b[17] = "no idea"
    found = compare(truth, said(a), said(b), "strict", resamples=300, seed=9)
    index = {label: i for i, label in enumerate(label_set(words))} | {"no idea": -1}
    triples = np.array([[index[word] for word in each] for each in zip(words, a, b, strict=True)])
    _, first, count = np.unique(triples, axis=0, return_index=True, return_counts=True)  # kinds of clips
    times = np.random.default_rng(9).multinomial(40, count / 40, size=300)
    drawn, right = [], []
    for row in times:
        pick = np.repeat(first, row)
        right.append(np.mean([(b[i] == words[i]) - (a[i] == words[i]) for i in pick]))
        f1 = [
            f1_score(
                [words[i] for i in pick], [each[i] for i in pick], labels=LABELS, average="weighted", zero_division=0
            )
            for each in (a, b)
        ]
        drawn.append(f1[1] - f1[0])
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert found.f1_difference.low == pytest.approx(low, abs=1e-12)
    ends = (found.accuracy_difference.low, found.accuracy_difference.high)
    assert ends == pytest.approx(np.percentile(right, [2.5, 97.5]), abs=1e-12)
    assert found.f1_difference.high == pytest.approx(high, abs=1e-12)
    assert found.f1_difference.low < found.f1_difference.value < found.f1_difference.high


def test_a_real_difference_is_seen_and_named() -> None:
    truth, _, a, b = random_case(300, 0.4, 0.9)
    found = compare(truth, said(a), said(b))
    assert found.p < 1e-6
    assert found.f1_difference.low > 0
    page = comparison_page(found, ("old", "new"), ["Text only."])
    assert page.verdict.startswith("new has the higher weighted F1 (300 clips")
    assert "Text only." in page.parts
    assert page.value["notes"] == ["Text only."]


def test_answers_that_do_not_parse_follow_the_policy() -> None:
    truth = {"clip000": Label("neutral"), "clip001": Label("sad")}
    a, b = said(["who knows", "sad"]), said(["neutral", "sad"])
    assert compare(truth, a, b, "official", resamples=10).only_b == 0  # unparsed is neutral
    assert compare(truth, a, b, "strict", resamples=10).only_b == 1


def test_only_shared_clips_count_and_the_others_are_told() -> None:
    truth, _, a, b = random_case(30, 0.6, 0.6)
    fewer = dict(list(said(b).items())[:25])
    found = compare(truth, said(a), fewer, resamples=50)
    assert (found.n, found.left_out) == (25, 5)
    assert any("5 labelled clips lack a prediction" in str(part) for part in comparison_page(found, ("a", "b")).parts)
    with pytest.raises(UsageError, match="no labelled clip in common"):
        compare(truth, said(a), {"other": Prediction("sad")})


@pytest.mark.parametrize("policy", ["official", "strict"])
def test_an_interval_of_one_score_is_what_scikit_learn_finds_on_the_same_resamples(policy: str) -> None:
    truth, words, a, _ = random_case(60, 0.6, 0.6)
    a[3] = a[17] = "no idea"
    found = intervals(score(truth, said(a), policy), resamples=100, seed=9)
    y, answers = (
        np.array(words),
        np.array([word if word != "no idea" or policy == "strict" else "neutral" for word in a]),
    )
    index = {label: i for i, label in enumerate(LABELS)} | {"no idea": -1}
    pairs = np.array([[index[word] for word in each] for each in zip(y, answers, strict=True)])
    _, first, count = np.unique(pairs, axis=0, return_index=True, return_counts=True)  # kinds of clips
    drawn: dict[str, list[float]] = {"accuracy": [], "f1_weighted": [], "uar": [], "sad": []}
    for row in np.random.default_rng(9).multinomial(60, count / 60, size=100):
        pick = np.repeat(first, row)
        recalls = recall_score(y[pick], answers[pick], labels=LABELS, average=None, zero_division=np.nan)
        f1 = f1_score(y[pick], answers[pick], labels=LABELS, average="weighted", zero_division=0)
        drawn["accuracy"].append(float((y[pick] == answers[pick]).mean()))
        drawn["f1_weighted"].append(f1)
        drawn["uar"].append(float(np.nanmean(recalls)))
        drawn["sad"].append(recalls[LABELS.index("sad")])
    for name, each in drawn.items():
        interval = found.recall["sad"] if name == "sad" else getattr(found, name)
        assert (interval.low, interval.high) == pytest.approx(np.nanpercentile(each, [2.5, 97.5]), abs=1e-12)
        assert interval.low < interval.value < interval.high


@pytest.mark.parametrize("n", [1, 3, 7])
def test_a_resample_of_an_odd_number_of_clips_has_as_many(n: int) -> None:
    """A resample has n clips, no fewer: what is right of them are n-ths, and the ends are known for one clip in n."""
    y, right = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
    right[0] = -1  # one clip is wrong
    support, answered, hits = _resample(y, [right], 1, 2000, seed=1)
    assert set(support.ravel()) == {n}
    assert np.array_equal(answered, hits)
    assert hits.max() <= n
    assert (hits == hits.round()).all()
    assert hits.mean() / n == pytest.approx((n - 1) / n, abs=0.03)
    found = intervals(score({f"c{i}": Label("sad") for i in range(n)}, {f"c{i}": Prediction("sad") for i in range(n)}))
    assert (found.accuracy.low, found.accuracy.high) == (1, 1)
    if n > 1:
        steps = {round(each * n, 9) % 1 for each in (hits / n).ravel()}
        assert steps == {0.0}


def test_a_perfect_score_has_no_width_and_a_class_without_truth_no_recall() -> None:
    found = intervals(score({"a": Label("sad"), "b": Label("sad")}, {"a": Prediction("sad"), "b": Prediction("sad")}))
    assert (found.accuracy.low, found.accuracy.high) == (1, 1)
    wrong = intervals(score({"a": Label("sad")}, {"a": Prediction("happy")}))
    assert set(wrong.recall) == {"sad"}
    assert set(wrong.f1) == {"happy", "sad"}
