"""A score as rows to print and as a report folder: numbers, text, a page to look at, and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.clip import Label
from emo.featstore.document import Link, Part, Picture, cell, write_parts
from emo.featstore.page import Page, Table
from emo.featstore.text import counted, whole_text
from emo.train.answers import Prediction
from emo.train.metrics.compare import Intervals, intervals
from emo.train.metrics.labels import TO_NEUTRAL, Score, answer_set, parse_answers, too_few
from emo.train.metrics.pictures import Forms, classes_forms, columns_of, confusion_forms, reliability_forms

Row = tuple[str, ...]
HARDEST = 20
BINS = 10  # of the reliability curve, equally wide


def verdict(score: Score) -> str:
    """One line that says how it went."""
    line = f"F1 {score.f1_weighted:.4f} (weighted), accuracy {score.accuracy:.4f}, UAR {score.uar:.4f}"
    if score.combined is not None:
        line += f", combined {score.combined:.4f}"
        if score.missing_valence:
            line += f" (valence of {score.n_valence:,} of {score.n_valence + score.missing_valence:,} clips)"
    of = f" of {score.n + score.missing:,}" if score.missing else ""
    return f"{line} over {score.n}{of} clips, policy {score.policy}."


def remarks(score: Score) -> list[str]:
    """Remarks that belong beside the numbers, one sentence each: answers, clips and predictions that did not count."""
    told = "counted as neutral" if score.policy in TO_NEUTRAL else "counted as wrong"
    lines = [f"{score.unparsed} of {score.n} answers could not be parsed" + (f", {told}." if score.unparsed else ".")]
    if score.unparsed:
        some = list(score.unparsed_examples.items())[:3]
        lines[0] += " For example: " + "; ".join(f"{name} answered {answer!r}" for name, answer in some) + "."
    if score.missing:
        have = ("labelled clip has no prediction and is", "labelled clips have no prediction and are")
        lines.append(f"{counted(score.missing, *have)} in no number here.")
    if score.missing_valence:
        have = ("prediction lacks a valence and is", "predictions lack a valence and are")
        lines.append(f"{counted(score.missing_valence, *have)} not in the MSE.")
    if score.extra:
        are = ("prediction is for a clip", "predictions are for clips")
        lines.append(f"{counted(score.extra, *are)} without a label here, and ignored.")
    if sum(row["support"] > 0 for row in score.per_class.values()) < 2:
        lines.append("All clips carry one label, so this is no measure of telling emotions apart.")
    if few := too_few(score.n):
        lines.append(few)
    return lines


def summary_rows(score: Score) -> list[Row]:
    """`(name, number)` rows of the whole score."""
    numbers = {
        "clips": score.n,
        "accuracy (WAR)": score.accuracy,
        "precision, weighted": score.precision_weighted,
        "recall, weighted": score.recall_weighted,
        "F1, weighted": score.f1_weighted,
        "F1, macro": score.f1_macro,
        "UAR": score.uar,
        "valence MSE": score.mse,
        "combined": score.combined,
    }
    return [(name, cell(value)) for name, value in numbers.items() if value is not None]


def class_rows(score: Score) -> list[Row]:
    """Header and one row per label: precision, recall, F1, clips, unparsed answers."""
    header: Row = ("label", "precision", "recall", "f1", "support", "unparsed")
    return [header, *((label, *(cell(row[key]) for key in header[1:])) for label, row in score.per_class.items())]


def confusion_rows(score: Score) -> list[Row]:
    """Header and one row per true label; a last column holds unparsed answers where there are any."""
    labels, counts = columns_of(score)
    return [
        ("truth \\ answer", *labels),
        *((label, *map(str, row)) for label, row in zip(score.labels, counts.tolist(), strict=True)),
    ]


def score_page(score: Score, title: str, notes: Sequence[str] = ()) -> Page:
    """A score with its intervals and the sentences that must stand beside it."""
    found = intervals(score)
    lines = dict.fromkeys([*remarks(score), _ends(found), *notes])
    value = {**score.to_json(), "intervals": found.to_json(), "notes": list(notes)}
    return Page(value, [*_tables(score, found, title), *lines], verdict(score))


def _ends(found: Intervals) -> str:
    return f"2.5 % and 97.5 %: of the same number over {found.resamples:,} resamples of the clips."


def _tables(score: Score, found: Intervals, title: str) -> list[Table]:
    ends = {"accuracy (WAR)": found.accuracy, "F1, weighted": found.f1_weighted, "UAR": found.uar}
    rows = [
        (name, value, *((cell(ends[name].low), cell(ends[name].high)) if name in ends else ("", "")))
        for name, value in summary_rows(score)
    ]
    columns = ("", "value", "2.5 %", "97.5 %")
    (header, *classes), (answers, *counts) = class_rows(score), confusion_rows(score)
    return [
        Table(title, columns, rows, columns[1:]),
        Table("Per class", header, classes, header[1:]),
        Table("Confusion (rows: truth)", answers, counts, answers[1:]),
    ]


def hardest(
    truth: Mapping[str, Label], predictions: Mapping[str, Prediction], policy: str, labels: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Clips that are answered wrongly, the most surprising first.

    That is the clip whose true label got the least probability; without probabilities, a clip of the class that is
    otherwise answered best.

    Returns:
        `{"name", "truth", "answer", "said", "probability"}`, the last one of the true label and `None` without
        probabilities; `answer` is `None` where what was said did not parse.
    """
    emotions = {n: label.emotion for n, label in truth.items() if label.emotion is not None and n in predictions}
    answers = {n: predictions[n] for n in emotions}
    parsed = parse_answers(answers, policy, labels or answer_set(emotions.values(), answers.values(), policy))
    right: dict[str, list[bool]] = {}
    for name, emotion in emotions.items():
        right.setdefault(emotion, []).append(parsed[name] == emotion)
    wrong = []
    for name, emotion in emotions.items():
        if parsed[name] != emotion:
            each = predictions[name]
            chance = each.probabilities.get(emotion, 0.0) if each.probabilities else None
            row = {"name": name, "truth": emotion, "answer": parsed[name], "said": each.answer, "probability": chance}
            wrong.append(row)

    def ease(row: dict[str, Any]) -> tuple[float, float, str]:
        chance = 1.0 if row["probability"] is None else row["probability"]
        return chance, -float(np.mean(right[row["truth"]])), row["name"]

    return sorted(wrong, key=ease)


def reliability(truth: Mapping[str, Label], predictions: Mapping[str, Prediction]) -> dict[str, Any] | None:
    """How often the most probable label is right, by its probability; `None` where nothing has probabilities.

    Returns:
        `{"ece", "n", "bins": [{"confidence", "accuracy", "n"}]}`; ece is the expected calibration error over 10 bins of
        equal width (Guo et al. 2017). Probabilities are divided by their sum.
    """
    confidence, right = [], []
    for name, label in truth.items():
        chances = predictions[name].probabilities if name in predictions else None
        if label.emotion is not None and chances and (total := sum(chances.values())) > 0:
            best = max(chances, key=chances.__getitem__)
            confidence.append(chances[best] / total)
            right.append(best == label.emotion)
    if not confidence:
        return None
    sure, hit = np.array(confidence), np.array(right)  # (N,)
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = [
        {"confidence": float(sure[at].mean()), "accuracy": float(hit[at].mean()), "n": int(at.sum())}
        for at in (place == i for i in range(BINS))
        if at.any()
    ]
    ece = sum(each["n"] * abs(each["accuracy"] - each["confidence"]) for each in bins) / len(sure)
    return {"ece": float(ece), "n": len(sure), "bins": bins}


def score_pictures(score: Score, found: Intervals, foot: str) -> list[Picture]:
    """The pictures that every score has; `foot` says below them of what they are."""
    _, classes, confusion = _tables(score, found, "")
    return [
        _picture("confusion", "Confusion matrix", confusion_forms(score, foot), confusion),
        _picture("classes", "Per class", classes_forms(score, found, foot), classes),
    ]


def _picture(name: str, title: str, forms: Forms, table: Table) -> Picture:
    others = {suffix: data for suffix, data in forms.items() if suffix != "png"}
    return Picture(f"{name}.png", title, forms["png"], table, others)


def share_table(score: Score) -> Table:
    """The confusion matrix in per cent of each true class."""
    labels, counts = columns_of(score)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [(label, *(f"{each:.1f}" for each in row)) for label, row in zip(score.labels, share.tolist(), strict=True)]
    return Table("Confusion in per cent of the true class", ("truth \\ answer", *labels), rows, labels)


def write_report(
    score: Score,
    folder: Path,
    title: str = "Score",
    notes: Sequence[str] = (),
    truth: Mapping[str, Label] | None = None,
    predictions: Mapping[str, Prediction] | None = None,
    labels: Sequence[str] | None = None,
    line: str = "",
    made: Mapping[str, str] | None = None,
    media: Mapping[str, Path] | None = None,
    tables: Sequence[Table] = (),
) -> list[Path]:
    """Write metrics.json, report.md, report.html, tables.tex and the pictures as PNG, SVG and PDF into a folder.

    Args:
        score: What to report.
        folder: Made if absent; files of an earlier report are replaced.
        title: Heading of text and pictures.
        notes: Further sentences that must stand beside the numbers, such as the features' profile.
        truth: With `predictions`, for the hardest clips and the reliability curve.
        predictions: What was scored.
        labels: The label set, as given to `score`.
        line: The verdict, where it says more than the score alone.
        made: How the answers were made, as texts by what they are of.
        media: Files of clips by name, to which the hardest ones lead.
        tables: Further numbers, shown after the first table.

    Returns:
        The files written.
    """
    title, found = whole_text(title), intervals(score)
    sentences = list(dict.fromkeys([*notes, *remarks(score), _ends(found)]))
    foot = " · ".join([title, *notes[:1]])
    confusion, *others = score_pictures(score, found, foot)
    parts: list[Part] = [_tables(score, found, title)[0], *tables, confusion, share_table(score), *others]
    value = {**score.to_json(), "title": title, "intervals": found.to_json(), "notes": sentences}
    if truth is not None and predictions is not None:
        if calibration := reliability(truth, predictions):
            value["reliability"] = calibration
            forms = reliability_forms(calibration, foot)
            columns = ("confidence", "accuracy", "n")
            rows = [[each[key] for key in columns] for each in calibration["bins"]]
            parts.append(_picture("reliability", "Reliability", forms, Table("Reliability", columns, rows, columns)))
        value["hardest"] = wrong = hardest(truth, predictions, score.policy, labels)[:HARDEST]
        if wrong:
            parts.append(_hardest_table(wrong, media or {}))
    if made:
        value["made"] = dict(made)
        parts.append(Table("How it was made", ("", "what"), [*made.items()]))
    return write_parts(folder, value, title, line or verdict(score), sentences, parts, latex=True)


def _hardest_table(wrong: Sequence[Mapping[str, Any]], media: Mapping[str, Path]) -> Table:
    sure = any(each["probability"] is not None for each in wrong)
    columns = ("clip", "truth", "answer", *(["probability of the truth"] if sure else []))
    rows = []
    for each in wrong:
        said = each["answer"] or "unparsed"
        if each["said"].split(" ")[-1] != said:
            said += f": {each['said'][:60]!r}"
        chance = "" if each["probability"] is None else each["probability"]
        name = each["name"]
        shown = Link(name, media[name]) if name in media else name
        rows.append((shown, each["truth"], said, *([chance] if sure else [])))
    return Table("Hardest clips", columns, rows, columns[3:])
