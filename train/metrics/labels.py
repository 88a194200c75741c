"""Answers + truth -> metrics: parse answers by a named policy, count what cannot be used, score the rest.

Numbers equal scikit-learn's (`zero_division=0`) and the MER2023 scripts'; nothing here imports more than numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from emo.featstore.clip import Label
from emo.featstore.datasets.tables import read_labels
from emo.featstore.errors import UsageError
from emo.featstore.labels import MER2023_LABELS
from emo.featstore.text import counted, some_of
from emo.train.answers import Prediction, read_predictions
from emo.train.metrics.nearest import parse_nearest

__all__ = ["POLICIES", "Prediction", "Score", "read_labels", "read_predictions", "score", "too_few"]

VALENCE_WEIGHT = 0.25  # combined = F1 - 0.25 * MSE, MERBench toolkit/utils/metric.py:9-11
FEW_CLIPS = 100  # below this the 95 % interval of an accuracy is wider than +-8 points
EXAMPLES = 10
LEAVE_OUT = "leave out --require-all (in Python: allow_missing=True)"


def parse_official(answer: str, labels: Sequence[str]) -> str | None:
    """Last space-separated word if it is exactly a label (Emotion-LLaMA eval_emotion.py:83-89), else `None`."""
    word = answer.split(" ")[-1]
    return word if word in labels else None


PARSERS: dict[str, Callable[[str, Sequence[str]], str | None]] = {
    "official": parse_official,
    "to-neutral": parse_official,  # `official` by the name that says what it does
    "strict": parse_official,
    "nearest": parse_nearest,
}
POLICIES = (*PARSERS, "likelihood")
TO_NEUTRAL = ("official", "to-neutral")  # policies under which an answer that does not parse counts as neutral


@dataclass(frozen=True)
class Score:
    """One scored set of predictions.

    Attributes:
        n: Clips scored.
        policy: How answers became labels.
        labels: Classes that occur in the truth or among the parsed answers, in alphabetical order.
        confusion: `(C, C)` counts, rows truth. Answers that stayed unparsed are in no column.
        per_class: By label: precision, recall, f1, support, unparsed.
        f1_macro: Mean over `labels`, as scikit-learn.
        uar: Mean recall over the classes that occur in the truth. `war` is the accuracy by its other name.
        unparsed: Answers outside the label set: neutral under `official` and `to-neutral`, else wrong.
        missing: Clips of the truth without a prediction, left out of every number.
        extra: Predictions for clips that the truth does not hold, ignored.
        mse: Of valence, over the `n_valence` clips that have one on both sides; `None` where either side has none.
        missing_valence: Clips whose truth has a valence and whose prediction has none, where others have; not in `mse`.
        combined: `f1_weighted - 0.25 * mse`.
    """

    n: int
    policy: str
    accuracy: float
    precision_weighted: float
    recall_weighted: float
    f1_weighted: float
    f1_macro: float
    uar: float
    war: float
    labels: tuple[str, ...]
    per_class: dict[str, dict[str, float]]
    confusion: list[list[int]]
    unparsed: int = 0
    unparsed_examples: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    missing_names: list[str] = field(default_factory=list)
    extra: int = 0
    n_valence: int = 0
    mse: float | None = None
    combined: float | None = None
    missing_valence: int = 0

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values, floats unrounded."""
        return asdict(self) | {"labels": list(self.labels)}


def confusion_matrix(truth: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """Counts `(C, C)`, rows truth. An answer of -1 (unparsed) is in no column."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    parsed = answer >= 0
    np.add.at(counts, (truth[parsed], answer[parsed]), 1)
    return counts


def class_scores(confusion: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 per class, each `(C,)`; 0 where a denominator is 0."""
    hits = np.diag(confusion).astype(np.float64)
    answered = confusion.sum(axis=0)
    precision = np.divide(hits, answered, out=np.zeros_like(hits), where=answered > 0)
    recall = np.divide(hits, support, out=np.zeros_like(hits), where=support > 0)
    f1 = np.divide(2 * hits, support + answered, out=np.zeros_like(hits), where=support + answered > 0)
    return precision, recall, f1


def weighted_f1(truth: np.ndarray, answer: np.ndarray, classes: int) -> float:
    """F1 weighted by support ("WAF"), from class indices; an answer of -1 is wrong.

    Shape:
        truth, answer: `(N,)` integers, N > 0.
    """
    support = np.bincount(truth, minlength=classes)
    return float(class_scores(confusion_matrix(truth, answer, classes), support)[2] @ support / support.sum())


def combined_metric(f1_weighted: float, mse: float) -> float:
    """MER2023's overall metric ("emoval"): weighted F1 minus a quarter of the valence's squared error."""
    return f1_weighted - VALENCE_WEIGHT * mse


def too_few(n: int) -> str | None:
    """The sentence that must stand beside a score over few clips, or `None`."""
    if n >= FEW_CLIPS:
        return None
    are = counted(n, "clip is", "clips are")
    return f"{are} too few for a score: it shows that the path works and means nothing else."


def score(
    truth: Mapping[str, Label],
    predictions: Mapping[str, Prediction],
    policy: str = "official",
    labels: Sequence[str] | None = None,
    allow_missing: bool = False,
) -> Score:
    """Score predictions against the truth.

    Args:
        truth: By clip name; clips without an emotion are not scored.
        predictions: By clip name.
        policy: `official` (unparsed answers become neutral, as published; also named `to-neutral`), `strict` (same
            parse, unparsed answers are wrong and counted apart), `nearest` (near words too), `likelihood` (most
            probable label).
        labels: Words that an answer may be. Default: as `answer_set`.
        allow_missing: Score the clips that have a prediction although others of the truth have none; likewise those
            whose prediction has a valence.

    Raises:
        UsageError: Nothing to score, a clip without a prediction, an unknown policy or label, or a partial valence.
    """
    if policy not in POLICIES:
        raise UsageError(f"Unknown answer policy {policy!r}.", f"Policies: {', '.join(POLICIES)}.")
    emotions = {name: label.emotion for name, label in truth.items() if label.emotion is not None}
    if not emotions:
        raise UsageError("The truth holds no emotion label, so there is nothing to score.")
    allowed = tuple(
        labels or answer_set(emotions.values(), (predictions[n] for n in emotions if n in predictions), policy)
    )
    if strange := sorted(set(emotions.values()) - set(allowed)):
        raise UsageError(f"The truth holds labels outside the label set: {', '.join(strange)}.", _set_hint(allowed))

    names, missing = shared_clips(list(emotions), predictions, allow_missing)
    parsed = _parse({name: predictions[name] for name in names}, policy, allowed)
    unparsed = {name: predictions[name].answer for name in names if parsed[name] is None}
    answers = _settle(parsed, policy)

    classes = sorted({emotions[name] for name in names} | {answer for answer in answers.values() if answer})
    index = {label: i for i, label in enumerate(classes)}
    y = np.array([index[emotions[name]] for name in names])  # (N,)
    p = np.array([index.get(answers[name] or "", -1) for name in names])  # (N,)
    mse, n_valence, silent = _valence_error({name: truth[name] for name in names}, predictions, allow_missing)
    numbers = _numbers(y, p, classes)
    return Score(
        n=len(names),
        policy=policy,
        labels=tuple(classes),
        **numbers,
        unparsed=len(unparsed),
        unparsed_examples=dict(list(unparsed.items())[:EXAMPLES]),
        missing=len(missing),
        missing_names=missing,
        extra=sum(name not in truth for name in predictions),
        n_valence=n_valence,
        mse=mse,
        combined=None if mse is None else combined_metric(numbers["f1_weighted"], mse),
        missing_valence=silent,
    )


def _numbers(y: np.ndarray, p: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Compute what a `Score` says of classes `y` `(N,)` answered by `p` `(N,)`, where -1 is an unparsed answer."""
    support = np.bincount(y, minlength=len(classes))
    confusion = confusion_matrix(y, p, len(classes))
    precision, recall, f1 = class_scores(confusion, support)
    weight = support / len(y)
    accuracy = float((y == p).mean())
    return {
        "accuracy": accuracy,
        "precision_weighted": float(precision @ weight),
        "recall_weighted": float(recall @ weight),
        "f1_weighted": float(f1 @ weight),
        "f1_macro": float(f1.mean()),
        "uar": float(recall[support > 0].mean()),
        "war": accuracy,
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
                "unparsed": int(((y == i) & (p < 0)).sum()),
            }
            for i, label in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }


def shared_clips(
    labelled: Sequence[str], predicted: Collection[str], allow_missing: bool = False
) -> tuple[list[str], list[str]]:
    """Labelled clips that have a prediction, and those that have none, in the order of the labels.

    Raises:
        UsageError: None has one, or some have none and that is not allowed.
    """
    names = [name for name in labelled if name in predicted]
    missing = [name for name in labelled if name not in predicted]
    if not names:
        there = f"the predictions name {some_of(list(predicted), 3)}" if predicted else "there are no predictions"
        raise UsageError(
            f"None of the {len(labelled)} labelled clips has a prediction: the labels name {some_of(labelled, 3)}; "
            f"{there}.",
            "Do the clip names agree? A run predicts clips whose features are in the store: emo extract.",
        )
    if missing and not allow_missing:
        raise UsageError(
            f"{len(missing)} of {len(labelled)} labelled clips have no prediction: {some_of(missing)}.",
            f"Predict them, or score the rest: {LEAVE_OUT}.",
        )
    return names, missing


def label_set(words: Iterable[str]) -> tuple[str, ...]:
    """The words that an answer may be where nobody says: MER2023's six if the truth uses no other, else its own."""
    words = set(words)
    return MER2023_LABELS if words <= set(MER2023_LABELS) else tuple(sorted(words))


def answer_set(words: Iterable[str], predictions: Iterable[Prediction], policy: str) -> tuple[str, ...]:
    """Return the words that an answer may be where nobody says: `label_set`, and what has a probability.

    So a list that happens to lack a class of the model does not make its answers unparsed, which may become neutral.
    Under `likelihood` probabilities that leave out a true label add nothing: they are of another label set.

    Args:
        words: Labels of the truth.
        predictions: The answers to be scored.
        policy: As in `score`.
    """
    words, offered = set(words), {label for each in predictions for label in each.probabilities or ()}
    labels = label_set(words)
    return labels if policy == "likelihood" and words - offered else (*labels, *sorted(offered - set(labels)))


def sayable(words: Iterable[str], policy: str, labels: Iterable[str]) -> set[str]:
    """Return the labels that answers of these words can count as, but for what becomes neutral."""
    parser, labels = PARSERS.get(policy, parse_official), list(labels)
    return {label for word in words if (label := parser(word, labels)) is not None}


def parse_answers(predictions: Mapping[str, Prediction], policy: str, labels: Sequence[str]) -> dict[str, str | None]:
    """The label that each answer counts as under a policy; `None` where it counts as wrong whatever the truth is."""
    return _settle(_parse(predictions, policy, labels), policy)


def _settle(parsed: Mapping[str, str | None], policy: str) -> dict[str, str | None]:
    lost = "neutral" if policy in TO_NEUTRAL else None
    return {name: answer or lost for name, answer in parsed.items()}


def _parse(predictions: Mapping[str, Prediction], policy: str, labels: Sequence[str]) -> dict[str, str | None]:
    if policy != "likelihood":
        return {name: PARSERS[policy](each.answer, labels) for name, each in predictions.items()}
    best: dict[str, str | None] = {}
    for name, each in predictions.items():
        if not each.probabilities:
            raise UsageError(
                f"Policy likelihood needs probabilities, and the prediction of {name} carries none.",
                "Score with --answers official, strict or nearest.",
            )
        if strange := sorted(set(each.probabilities) - set(labels)):
            raise UsageError(f"{name} has a probability of {', '.join(strange)}.", _set_hint(labels))
        best[name] = max(each.probabilities, key=each.probabilities.__getitem__)
    return best


def _valence_error(
    truth: Mapping[str, Label], predictions: Mapping[str, Prediction], allow_missing: bool
) -> tuple[float | None, int, int]:
    """Mean squared error over the clips where both sides have a valence, their number, and clips with the truth's only.

    Where no prediction has a valence, none was asked for: no error, and no such clips.
    """
    pairs = {n: (label.valence, predictions[n].valence) for n, label in truth.items() if label.valence is not None}
    silent = [name for name, (_, answer) in pairs.items() if answer is None]
    if len(silent) == len(pairs):
        return None, 0, 0
    if silent and not allow_missing:
        raise UsageError(
            f"{len(silent):,} of {len(pairs):,} predictions lack a valence: {some_of(silent)}.",
            f"Give every prediction a valence, or none; or score the rest: {LEAVE_OUT}.",
        )
    errors = [(t - p) ** 2 for t, p in pairs.values() if t is not None and p is not None]
    return float(np.mean(errors)), len(errors), len(silent)


def _set_hint(labels: Sequence[str]) -> str:
    return f"The label set is: {', '.join(labels)}."
