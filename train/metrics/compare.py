"""Certainty of scores. Bootstrap intervals of one score; McNemar's test and a paired bootstrap for two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emo.featstore.clip import Label
from emo.featstore.errors import UsageError
from emo.featstore.page import Page, Table
from emo.featstore.text import counted
from emo.train.answers import Prediction
from emo.train.metrics.labels import Score, answer_set, parse_answers, score, too_few

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A number or a difference `b - a`, and the middle 95 % of its bootstrap distribution."""

    value: float
    low: float
    high: float


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1) of numbers of several runs, folds or judges; `None` of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """Predictions `a` and `b` of the same clips.

    Attributes:
        n: Clips that both have predicted.
        left_out: Labelled clips that one of them has not.
        accuracy: Of a and of b, on these clips.
        f1_weighted: Likewise.
        only_a: Clips that a alone has right.
        only_b: Clips that b alone has right.
        p: McNemar's exact test, two-sided: how probable so uneven a split of these clips is if both are equally good.
        accuracy_difference: With its interval.
        f1_difference: With its interval.
        resamples: Of the bootstrap.
        policy: How answers became labels.
    """

    n: int
    left_out: int
    accuracy: tuple[float, float]
    f1_weighted: tuple[float, float]
    only_a: int
    only_b: int
    p: float
    accuracy_difference: Interval
    f1_difference: Interval
    resamples: int
    policy: str

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)


def compare(
    truth: Mapping[str, Label],
    a: Mapping[str, Prediction],
    b: Mapping[str, Prediction],
    policy: str = "official",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two sets of predictions on the clips that both of them have.

    McNemar's test in its exact form (Dietterich 1998): of the clips that just one has right, each is a fair coin. The
    bootstrap draws clips with replacement, the same ones for both (percentile method).

    Args:
        truth: By clip name.
        a: By clip name.
        b: By clip name.
        policy: As in `score`.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        UsageError: They share no labelled clip; or as `score`.
    """
    labelled = [name for name, label in truth.items() if label.emotion is not None]
    shared = [name for name in labelled if name in a and name in b]
    if not shared:
        raise UsageError(
            "The two sets of predictions have no labelled clip in common.", "Do they speak of the same clips?"
        )
    both = {name: truth[name] for name in shared}
    answered = (said[name] for said in (a, b) for name in shared)
    labels = answer_set((str(truth[name].emotion) for name in labelled), answered, policy)
    index = {label: i for i, label in enumerate(labels)}
    y = np.array([index[str(truth[name].emotion)] for name in shared])  # (N,)
    scores, answers = [], []
    for said in (a, b):
        said = {name: said[name] for name in shared}
        scores.append(score(both, said, policy, labels, allow_missing=True))  # valence is not compared
        parsed = parse_answers(said, policy, labels)
        answers.append(np.array([index.get(parsed[name] or "", -1) for name in shared]))  # (N,)
    right = [answer == y for answer in answers]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    support, answered, hits = _resample(y, answers, len(labels), resamples, seed)
    accuracy = hits.sum(2) / len(shared)  # (2, S)
    f1 = (_f1(support, answered, hits) * support).sum(2) / len(shared)  # (2, S)
    return Comparison(
        n=len(shared),
        left_out=len(labelled) - len(shared),
        accuracy=(scores[0].accuracy, scores[1].accuracy),
        f1_weighted=(scores[0].f1_weighted, scores[1].f1_weighted),
        only_a=only_a,
        only_b=only_b,
        p=_mcnemar(only_a, only_b),
        accuracy_difference=_interval(scores[1].accuracy - scores[0].accuracy, accuracy[1] - accuracy[0]),
        f1_difference=_interval(scores[1].f1_weighted - scores[0].f1_weighted, f1[1] - f1[0]),
        resamples=resamples,
        policy=policy,
    )


def comparison_page(found: Comparison, names: Sequence[str], notes: Sequence[str] = ()) -> Page:
    """A comparison with the sentences that must stand beside it."""
    a, b = names
    rows = [
        [what, *pair, *(f"{number:+.4f}" for number in (difference.value, difference.low, difference.high))]
        for what, pair, difference in (
            ("accuracy", found.accuracy, found.accuracy_difference),
            ("F1, weighted", found.f1_weighted, found.f1_difference),
        )
    ]
    columns = ("", "a", "b", "b - a", "2.5 %", "97.5 %")
    lines = [
        f"{found.only_a} clips only a has right, {found.only_b} only b; McNemar's exact test: p = {found.p:.4g}.",
        "2.5 % and 97.5 %: of the differences over resampled clips, which are the same ones for both.",
    ]
    if found.left_out:
        lack = (
            "labelled clip lacks a prediction on one side and is",
            "labelled clips lack a prediction on one side and are",
        )
        lines.append(f"{counted(found.left_out, *lack)} in no number here.")
    if few := too_few(found.n):
        lines.append(few)
    better = b if found.f1_difference.value > 0 else a
    apart = found.f1_difference.low > 0 or found.f1_difference.high < 0
    what = f"{better} has the higher weighted F1" if apart else "No difference in weighted F1 beyond chance"
    return Page(
        {**found.to_json(), "a": a, "b": b, "notes": list(notes)},
        [Table(f"a: {a}, b: {b}", columns, rows, columns[1:]), *dict.fromkeys([*lines, *notes])],
        f"{what} ({found.n} clips, bootstrap of {found.resamples:,}, policy {found.policy}).",
    )


def _mcnemar(only_a: int, only_b: int) -> float:
    from scipy.stats import binomtest

    n = only_a + only_b
    return 1.0 if n == 0 else float(binomtest(min(only_a, only_b), n, 0.5).pvalue)


@dataclass(frozen=True)
class Intervals:
    """95 % bootstrap intervals of one score; the clips are what is drawn again.

    Attributes:
        accuracy: Of all clips.
        f1_weighted: Likewise.
        uar: Over the classes that a resample holds.
        f1: By label.
        recall: By label; over the resamples that hold the label.
        resamples: Of the bootstrap.
    """

    accuracy: Interval
    f1_weighted: Interval
    uar: Interval
    f1: dict[str, Interval]
    recall: dict[str, Interval]
    resamples: int

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)


def intervals(found: Score, resamples: int = RESAMPLES, seed: int = 0) -> Intervals:
    """Intervals of a score, from its confusion matrix: clips of one truth and one answer are interchangeable."""
    classes = len(found.labels)
    lost = np.array([[found.per_class[label]["unparsed"]] for label in found.labels], dtype=np.int64)
    cells = np.hstack([np.array(found.confusion, dtype=np.int64), lost])  # (C, C + 1)
    truth, answer = np.nonzero(cells)
    times = cells[truth, answer]
    y, said = np.repeat(truth, times), np.repeat(np.where(answer == classes, -1, answer), times)  # (N,)
    support, (answered,), (hits,) = _resample(y, [said], classes, resamples, seed)
    recall = np.divide(hits, support, out=np.full_like(hits, np.nan), where=support > 0)  # (S, C)
    f1 = _f1(support, answered, hits)
    per_class = found.per_class
    known = [(i, label) for i, label in enumerate(found.labels) if per_class[label]["support"] > 0]
    return Intervals(
        accuracy=_interval(found.accuracy, hits.sum(1) / found.n),
        f1_weighted=_interval(found.f1_weighted, (f1 * support).sum(1) / found.n),
        uar=_interval(found.uar, np.nanmean(recall, axis=1)),
        f1={label: _interval(per_class[label]["f1"], f1[:, i]) for i, label in enumerate(found.labels)},
        recall={label: _interval(per_class[label]["recall"], recall[:, i]) for i, label in known},
        resamples=resamples,
    )


def _resample(
    y: np.ndarray, answers: Sequence[np.ndarray], classes: int, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of resampled clips per class: support `(S, C)`, answers and hits of each set of answers `(A, S, C)`.

    Clips are drawn with replacement, the same ones for all sets. Clips with the same truth and the same answers are
    interchangeable, so it is their kinds that are counted; the cost does not grow with the number of clips.

    Args:
        y: Class per clip, `(N,)`.
        answers: Classes likewise; -1 is an answer of no class.
        classes: C.
        resamples: S.
        seed: Of the drawing.
    """
    kinds, count = np.unique(np.stack([y, *answers], axis=1), axis=0, return_counts=True)  # (K, 1 + A), (K,)
    eye = np.eye(classes + 1)[:, :classes]  # -1 picks the last row, which is zero
    truth, *said = (eye[column] for column in kinds.T)  # each (K, C)
    times = np.random.default_rng(seed).multinomial(len(y), count / len(y), size=resamples)  # (S, K)
    return times @ truth, np.array([times @ each for each in said]), np.array([times @ (truth * each) for each in said])


def _f1(support: np.ndarray, answered: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """F1 per class; 0 where there is neither truth nor answer."""
    return np.divide(2 * hits, support + answered, out=np.zeros_like(hits), where=support + answered > 0)


def _interval(value: float, drawn: np.ndarray) -> Interval:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high))
