"""Sentiment sets (MOSI, MOSEI, SIMS): the sign of the valence, by MERBench's two rules for zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emo.featstore.clip import Label
from emo.featstore.errors import UsageError
from emo.featstore.page import Page
from emo.featstore.text import counted, some_of
from emo.train.answers import Answers, Prediction
from emo.train.metrics.base import Sample, Say
from emo.train.metrics.classification import Classified, OneLabel
from emo.train.metrics.labels import LEAVE_OUT, score
from emo.train.metrics.regression import regression_table

SIGNS = ("negative", "positive")
WORDS = {"negative": -1.0, "neutral": 0.0, "positive": 1.0}  # answers to a question about the sentiment


def by_sign(
    truth: Mapping[str, Label], predictions: Mapping[str, Prediction], allow_missing: bool = False
) -> tuple[dict[str, Label], dict[str, Prediction], list[str]]:
    """Truth and predictions as positive or negative, ready for `score` with policy `strict`.

    A clip whose true valence is exactly 0 is dropped; a predicted valence of 0 is negative (MERBench). A prediction's
    valence may also stand in its answer, as a number or as one of `WORDS`.

    Args:
        truth: By clip name; clips without a valence are dropped too, and not counted.
        predictions: By clip name.
        allow_missing: Leave out predictions without a valence, as clips without an answer, although others have one.

    Returns:
        Truth, predictions, and what must be said beside the score.

    Raises:
        UsageError: The truth holds no valence but 0; no prediction for a labelled clip has one, or some have none and
            that is not allowed.
    """
    valences = {name: label.valence for name, label in truth.items() if label.valence is not None}
    signs = {name: Label(SIGNS[value > 0]) for name, value in valences.items() if value != 0}
    if not signs:
        raise UsageError("The truth holds no valence other than 0, so there is no sign to score.")
    found = {name: _valence(each) for name, each in predictions.items()}
    told = _silence({name: found[name] for name in valences if name in found}, signs, predictions, allow_missing)
    said = {name: value for name, value in found.items() if name not in valences or name in signs}
    answers = {
        name: replace(predictions[name], answer=SIGNS[(value or 0) > 0], valence=None, probabilities=None)
        for name, value in said.items()
        if value is not None or name not in signs  # those of other clips are only counted
    }
    zeros = sum(said[name] == 0 for name in said if name in signs)
    notes = [
        "The sign of the valence is scored: a true 0 is dropped, a predicted 0 is negative (MERBench). "
        f"{len(valences) - len(signs)} of {len(valences)} clips dropped, {zeros} predictions of 0."
    ]
    return signs, answers, [*told, *notes]


def _silence(
    found: Mapping[str, float | None],
    signs: Mapping[str, Label],
    predictions: Mapping[str, Prediction],
    allow_missing: bool,
) -> list[str]:
    """Say which of the answers about labelled clips hold no number.

    Raises:
        UsageError: None of those about clips with a sign does, or some do not and that is not allowed.
    """
    silent = [name for name, value in found.items() if value is None]
    if not silent:
        return []
    shown = "; ".join(f"{name} answered {predictions[name].answer[:60]!r}" for name in silent[:3])
    told = f"{len(silent):,} of {counted(len(found), 'prediction holds', 'predictions hold')} no valence"
    signed = [value for name, value in found.items() if name in signs]
    if signed and all(value is None for value in signed):
        raise UsageError(f"{told}: {shown}.", "Give a column valence, or numbers as answers.")
    if not allow_missing and any(name in signs for name in silent):
        raise UsageError(
            f"{told}: {some_of(silent)}.",
            f"Give a column valence, or numbers as answers; or score the rest: {LEAVE_OUT}.",
        )
    return [f"{told} and count as without an answer, so they are in no number here. For example: {shown}."]


def _valence(each: Prediction) -> float | None:
    if each.valence is not None:
        return each.valence
    word = each.answer.strip().strip(".").lower()
    return WORDS[word] if word in WORDS else _number(each.answer)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _scale_notes(truth: Mapping[str, float], read: Mapping[str, float], said: Mapping[str, Prediction]) -> list[str]:
    """Say where answers are words, or on another scale than the truth, so that only their signs compare."""
    words = [name for name in read if said[name].valence is None and _number(said[name].answer) is None]
    notes = []
    if words:
        are = counted(len(words), "answer is a word", "answers are words")
        notes.append(f"{are}, which count as -1, 0 and 1 in the table of numbers: only their signs mean something.")
    most, reach = (max(map(abs, each.values()), default=0.0) for each in (truth, read))
    if not words and most > 1 >= reach:
        notes.append(
            f"The truth reaches {most:g}, and no answer is beyond 1: where answers are on another scale, the errors "
            "and classes of the table of numbers mean little; signs and the correlation do not depend on it."
        )
    return notes


@dataclass(frozen=True, kw_only=True)
class Sentiment(OneLabel):
    """The sign of the valence."""

    name = "sentiment"
    about = "the sign of the valence, zeros left out"
    task = "valence"

    def read(self, path: Path, column: str | None = None) -> Answers:
        found = super().read(path, column)
        both = [name for name, each in found.said.items() if None not in (each.valence, _number(each.answer))]
        if both and column is None:
            raise UsageError(
                f"{path} has two columns of numbers, and one of them may be the truth's valence.",
                "Name the predicted one: --column NAME.",
            )
        return replace(found, said=found.said | {name: replace(found.said[name], valence=None) for name in both})

    def scored(self, truth: Mapping[str, Label], said: Mapping[str, Prediction]) -> list[str]:
        named = [name for name, label in truth.items() if label.valence and name in said]
        return [name for name in named if _valence(said[name]) is not None]

    def score(
        self,
        truth: Mapping[str, Label],
        said: Mapping[str, Prediction],
        allow_missing: bool = False,
        say: Say | None = None,
    ) -> Classified:
        signs, answers, notes = by_sign(truth, said, allow_missing)
        found = score(signs, answers, "strict", SIGNS, allow_missing)
        real = {name: label.valence for name, label in truth.items() if label.valence is not None}
        read = {name: value for name in real if name in said and (value := _valence(said[name])) is not None}
        tables = (regression_table(real, read),)
        return Classified(found, signs, answers, (*notes, *_scale_notes(real, read, said)), tables)

    def page(self, found: Classified, title: str, notes: Sequence[str] = ()) -> Page:
        page = super().page(found, title, notes)
        return replace(page, value={**page.value, "regression": dict(found.tables[0].rows)})

    @classmethod
    def sample(cls, folder: Path) -> Sample:
        values = {"a": 1.5, "b": -1.0, "c": 2.0}
        path = folder / "truth.csv"
        path.write_text("name,label,valence\n" + "".join(f"{name},x,{value}\n" for name, value in values.items()))
        return Sample(path, {name: Prediction(str(value)) for name, value in values.items()}, {})
