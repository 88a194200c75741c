"""Protocols of several folds: each fold's score, their mean, and the score of all clips together. They differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.clip import Label
from emo.featstore.datasets.tables import read_csv, read_labels
from emo.featstore.document import write_page
from emo.featstore.errors import UsageError
from emo.featstore.labels import DFEW_LABELS
from emo.featstore.page import Page, Table
from emo.train.answers import Prediction
from emo.train.metrics.compare import deviation, intervals
from emo.train.metrics.labels import Score, score, shared_clips, too_few
from emo.train.metrics.report import class_rows, remarks, score_pictures

# Label 1..7 of DFEW's csv files. Emotion-LLaMA answers with nine words, of which worried, contempt and doubt are not
# among these, and never says disgust: how such answers count is the policy, and it is printed beside every number.
IEMOCAP_LABELS = ("happy", "sad", "neutral", "angry", "excited", "frustrated")  # by index; the 4-way set has four
PROTOCOLS = ("dfew", "iemocap")
MEASURES = ("uar", "war", "f1_weighted")
Folds = dict[str, dict[str, Label]]


def read_folds(protocol: str, path: Path) -> tuple[Folds, tuple[str, ...]]:
    """The truth of each test fold, and the label set.

    Args:
        protocol: `dfew`: its root, the folder of `set_1.csv` to `set_5.csv`, or one of these files. `iemocap`: labels
            of any form that `read_labels` takes; a fold is a session.
        path: As above.

    Raises:
        UsageError: Unknown protocol, or no such files.
    """
    if protocol == "dfew":
        return _read_dfew(path), DFEW_LABELS
    if protocol != "iemocap":
        raise UsageError(f"Unknown protocol {protocol!r}.", f"Protocols: {', '.join(PROTOCOLS)}.")
    folds: Folds = {}
    for name, label in read_labels(path, classes=IEMOCAP_LABELS).items():
        session = name[4:5]  # Ses01F_impro01_F000
        if not session.isdigit():
            raise UsageError(f"{path}: {name} is no IEMOCAP clip, whose fifth character is the session.")
        folds.setdefault(session, {})[name] = label
    words = {label.emotion for truth in folds.values() for label in truth.values()}
    return dict(sorted(folds.items())), tuple(label for label in IEMOCAP_LABELS if label in words)


def _read_dfew(path: Path) -> Folds:
    if path.is_dir():
        for folder in (path / "EmoLabel_DataSplit" / "test(single-labeled)", path / "test(single-labeled)", path):
            if files := sorted(folder.glob("set_[1-5].csv")):
                break
        else:
            raise UsageError(f"{path} holds no set_1.csv to set_5.csv.", "They lie in DFEW's test(single-labeled).")
    else:
        files = [path]
    folds: Folds = {}
    for file in files:
        truth: dict[str, Label] = {}
        for row in read_csv(file, [("video_name", "name"), "label"]):
            number = row.fields["label"]
            if not re.fullmatch(r"[1-7]", number):
                raise UsageError(f"{file} line {row.line}: label {number!r} is not one of DFEW's 1 to 7.")
            truth[_dfew_name(row.fields["video_name"])] = Label(DFEW_LABELS[int(number) - 1])
        folds[file.stem.removeprefix("set_")] = truth
    return folds


def plain_names(protocol: str, names: Iterable[str]) -> dict[str, str]:
    """Return clip names as `read_folds` has them, with the names as they were given."""
    return {_dfew_name(name) if protocol == "dfew" else name: name for name in names}


def clip_names(protocol: str, names: Iterable[str]) -> list[str]:
    """Return names as `read_folds` has them as the clips of the dataset are called."""
    return [f"{int(name):05d}" if protocol == "dfew" and name.isdigit() else name for name in names]


def _dfew_name(name: str) -> str:
    """DFEW's clips are numbers, which folders of frames pad with zeros."""
    return str(int(name)) if name.isdigit() else name


@dataclass(frozen=True)
class FoldScores:
    """One score per fold, and over all of them.

    Attributes:
        protocol: By which the folds were made.
        policy: How answers became labels.
        labels: That an answer may be.
        folds: By fold.
        pooled: Of all clips together.
        mean: Over folds, of `uar`, `war` and `f1_weighted`.
        spread: Their standard deviation over folds; `None` for one fold.
    """

    protocol: str
    policy: str
    labels: tuple[str, ...]
    folds: dict[str, Score]
    pooled: Score
    mean: dict[str, float]
    spread: dict[str, float] | None

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values; the pooled score's own fields are at the top, as in `emo score`."""
        return {
            **self.pooled.to_json(),
            "protocol": self.protocol,
            "policy": self.policy,
            "label_set": list(self.labels),
            "folds": {fold: each.to_json() for fold, each in self.folds.items()},
            "mean": self.mean,
            "spread": self.spread,
        }


def score_folds(
    protocol: str,
    folds: Mapping[str, Mapping[str, Label]],
    predictions: Mapping[str, Prediction],
    labels: Sequence[str],
    policy: str = "official",
    fold: str | None = None,
    allow_missing: bool = False,
) -> FoldScores:
    """Score predictions fold by fold; each clip is in one test fold, so one set of predictions serves all.

    Args:
        protocol: `dfew` or `iemocap`.
        folds: Truth by fold, from `read_folds`.
        predictions: By clip name. Under `likelihood`, probabilities of other labels than `labels` are ignored.
        labels: The label set, likewise.
        policy: As in `score`.
        fold: Score this one only.
        allow_missing: As in `score`, but a fold without any prediction is always an error.

    Raises:
        UsageError: Unknown fold; or as `score`, naming the fold.
    """
    if fold is not None and fold not in folds:
        raise UsageError(f"There is no fold {fold!r}.", f"Folds: {', '.join(folds)}.")
    chosen = {fold: folds[fold]} if fold is not None else dict(folds)
    plain = plain_names(protocol, predictions)
    if len(plain) < len(predictions):
        raise UsageError("The predictions name a clip twice, with and without leading zeros.", "Keep one of them.")
    predictions = {name: predictions[each] for name, each in plain.items()}
    known = {name: _only(each, labels) for name, each in predictions.items()} if policy == "likelihood" else predictions
    pooled = {name: label for truth in chosen.values() for name, label in truth.items()}
    shared_clips(list(pooled), known, allow_missing=True)
    found = {}
    for number, truth in chosen.items():
        if not any(name in known for name in truth):
            have = [each for each, clips in chosen.items() if any(name in known for name in clips)]
            raise UsageError(
                f"Fold {number} has no prediction at all; folds {', '.join(have)} have some.",
                f"Score one that has: --fold {have[0]}.",
            )
        found[number] = score(truth, known, policy, labels, allow_missing)
    table = {key: np.array([getattr(each, key) for each in found.values()]) for key in MEASURES}  # each (F,)
    return FoldScores(
        protocol=protocol,
        policy=policy,
        labels=tuple(labels),
        folds=found,
        pooled=score(pooled, known, policy, labels, allow_missing),
        mean={key: float(values.mean()) for key, values in table.items()},
        spread={key: spread for key, values in table.items() if (spread := deviation(values)) is not None} or None,
    )


def _only(each: Prediction, labels: Sequence[str]) -> Prediction:
    """A prediction that chooses among the labels alone."""
    if not each.probabilities:
        return each
    return replace(each, probabilities={label: p for label, p in each.probabilities.items() if label in labels})


def folds_page(found: FoldScores, title: str, notes: Sequence[str] = ()) -> Page:
    """Scores of folds with the sentences that must stand beside them."""
    columns = ("fold", "clips", "UAR", "WAR", "F1, weighted", "unparsed")
    rows: list[Sequence[Any]] = [
        (name, each.n, each.uar, each.war, each.f1_weighted, each.unparsed) for name, each in found.folds.items()
    ]
    if found.spread is not None:
        whole = found.pooled
        rows.append(("mean of folds", "", *found.mean.values(), ""))
        rows.append(("standard deviation", "", *found.spread.values(), ""))
        rows.append(("all clips together", whole.n, whole.uar, whole.war, whole.f1_weighted, whole.unparsed))
    header, *classes = class_rows(found.pooled)
    said = dict(zip(found.pooled.labels, np.sum(found.pooled.confusion, axis=0), strict=True))
    lines = remarks(found.pooled)
    if never := [label for label in found.labels if not said.get(label)]:
        lines.append(f"No answer is {' or '.join(never)}.")
    if found.spread is None:
        lines.append("One fold: publications give the mean over all.")
    elif few := next((few for each in found.folds.values() if (few := too_few(each.n))), None):
        lines.append(f"In a fold, {few}")
    if found.spread is None:
        what = f"fold {next(iter(found.folds))}, {found.pooled.n} clips"
    else:
        what = f"mean of {len(found.folds)} folds"
        what += f"; all {found.pooled.n} clips together: UAR {found.pooled.uar:.4f}, WAR {found.pooled.war:.4f}"
    return Page(
        {**found.to_json(), "notes": list(notes)},
        [
            Table(title, columns, rows, columns[1:]),
            Table("Per class, all folds together", header, classes, header[1:]),
            *dict.fromkeys([*lines, *notes]),
        ],
        f"UAR {found.mean['uar']:.4f}, WAR {found.mean['war']:.4f} ({what}); {found.protocol}, policy {found.policy}.",
    )


def write_folds(found: FoldScores, folder: Path, title: str, notes: Sequence[str] = (), remark: str = "") -> list[Path]:
    """Write scores of folds as a report folder, with the pictures of all clips together; a remark ends the verdict."""
    foot = " · ".join([title, "all folds together" if found.spread else "one fold", *notes[:1]])
    pictures = score_pictures(found.pooled, intervals(found.pooled), foot)
    page = folds_page(found, title, notes)
    summary, _, *sentences = page.parts  # the classes are below their picture
    page = replace(page, parts=[summary, *sentences], verdict=page.verdict + remark)
    return write_page(page, folder, title, pictures)
