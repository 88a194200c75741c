"""Cells put together: averages of their probabilities, and routing by what the best one says. No model is run.

Which way is taken, with which weights, is decided by validation clips alone: every way is fitted on four fifths of them
and judged on the last, in turn. The other splits are answered by the chosen way, and scored once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emo.featstore.clip import Label
from emo.featstore.document import Part, write_parts
from emo.featstore.errors import UsageError
from emo.featstore.files import write_json, write_jsonl
from emo.featstore.page import Page, Table
from emo.featstore.reading import read_json
from emo.featstore.text import counted, some_of
from emo.train.answers import Prediction
from emo.train.bench.cell import RANKED, cell_folder
from emo.train.bench.ledger import Ledger
from emo.train.bench.recipe import VALIDATION, Cell
from emo.train.bench.run import read_rows
from emo.train.bench.setup import Setup, identity
from emo.train.heads.folds import group_clips, make_folds
from emo.train.metrics.labels import score, weighted_f1
from emo.train.runs import check_listed

PARTS = 5  # of the validation clips
ROUNDS = 20  # of the greedy choice
FEW = 10  # clips of one answer below which it is not routed
FOLDER = "ensemble"


class Way(ABC):
    """A way to make one answer of many.

    Shape:
        p: `(K, N, C)` probabilities of K cells. y: `(N,)` class indices.
    """

    name: str

    @abstractmethod
    def fit(self, p: np.ndarray, y: np.ndarray) -> Any:
        """Decide, by clips whose truth is known; a plain JSON value."""

    @abstractmethod
    def apply(self, decided: Any, p: np.ndarray) -> np.ndarray:
        """Return probabilities `(N, C)`."""

    @abstractmethod
    def tell(self, decided: Any, cells: Sequence[str], labels: Sequence[str]) -> str:
        """Say what was decided."""


def _f1(p: np.ndarray, y: np.ndarray) -> float:
    return float(weighted_f1(y, p.argmax(axis=1), p.shape[1]))


def _best(p: np.ndarray, y: np.ndarray) -> int:
    return int(np.argmax([_f1(each, y) for each in p]))


class Best(Way):
    """The cell that is best alone."""

    name = "best cell"

    def fit(self, p: np.ndarray, y: np.ndarray) -> Any:
        return _best(p, y)

    def apply(self, decided: Any, p: np.ndarray) -> np.ndarray:
        return p[decided]

    def tell(self, decided: Any, cells: Sequence[str], labels: Sequence[str]) -> str:
        return cells[decided]


class Mean(Way):
    """The mean of all cells."""

    name = "average of all"

    def fit(self, p: np.ndarray, y: np.ndarray) -> Any:
        return len(p)

    def apply(self, decided: Any, p: np.ndarray) -> np.ndarray:
        return p.mean(axis=0)

    def tell(self, decided: Any, cells: Sequence[str], labels: Sequence[str]) -> str:
        return f"{decided} cells, equal weights"


class Greedy(Way):
    """A weighted average: the cell that helps most is added, again and again (Caruana et al. 2004)."""

    name = "average of the chosen"

    def fit(self, p: np.ndarray, y: np.ndarray) -> Any:
        total, counts = np.zeros_like(p[0]), np.zeros(len(p), dtype=int)
        best, kept = -1.0, counts
        for _ in range(ROUNDS):
            found = [_f1(total + each, y) for each in p]
            k = int(np.argmax(found))
            total, counts = total + p[k], counts + np.eye(len(p), dtype=int)[k]
            if found[k] > best:
                best, kept = found[k], counts
        return kept.tolist()

    def apply(self, decided: Any, p: np.ndarray) -> np.ndarray:
        weights = np.array(decided) / np.sum(decided)
        return np.tensordot(weights, p, axes=1)

    def tell(self, decided: Any, cells: Sequence[str], labels: Sequence[str]) -> str:
        return ", ".join(f"{count} x {cell}" for cell, count in zip(cells, decided, strict=True) if count)


class Route(Way):
    """The best cell answers first; for each of its answers, the cell that is right most often there has the word."""

    name = "routing"

    def fit(self, p: np.ndarray, y: np.ndarray) -> Any:
        first = _best(p, y)
        said, route = p[first].argmax(axis=1), []
        for label in range(p.shape[2]):
            here = said == label
            right = [(each[here].argmax(axis=1) == y[here]).mean() if here.sum() >= FEW else 0.0 for each in p]
            best = int(np.argmax(right))
            route.append(best if right[best] > right[first] else first)
        return {"first": first, "route": route}

    def apply(self, decided: Any, p: np.ndarray) -> np.ndarray:
        who = np.array(decided["route"])[p[decided["first"]].argmax(axis=1)]  # (N,)
        return p[who, np.arange(p.shape[1])]

    def tell(self, decided: Any, cells: Sequence[str], labels: Sequence[str]) -> str:
        others: dict[int, list[str]] = {}
        for label, k in zip(labels, decided["route"], strict=True):
            if k != decided["first"]:
                others.setdefault(k, []).append(label)
        routes = "; ".join(f"where it says {' or '.join(said)}: {cells[k]}" for k, said in others.items())
        return f"first {cells[decided['first']]}; {routes or 'no other has the word after it'}"


WAYS: tuple[Way, ...] = (Best(), Mean(), Greedy(), Route())


@dataclass(frozen=True)
class Cached:
    """Answers of all cells about the clips that all of them have.

    Attributes:
        cells: Titles, K of them.
        names: Of the clips, N of them.
        split: Of each clip.
        chooses: Which clips are validation, `(N,)` bool.
        p: Probabilities `(K, N, C)`.
        truth: The label of every clip that has one.
        lost: Clips with a label that some cells answer and others do not.
    """

    cells: tuple[str, ...]
    names: tuple[str, ...]
    split: tuple[str, ...]
    chooses: np.ndarray
    p: np.ndarray
    truth: Mapping[str, Label]
    lost: tuple[str, ...] = ()


def run_ensemble(setup: Setup) -> Page:
    """Choose a way by validation, answer every other clip by it, and write the folder `ensemble` of the bench.

    Raises:
        UsageError: The bench has no two finished cells.
    """
    finished = [cell for cell in setup.cells if _is_ranked(setup, cell)]
    for cell in finished:
        _check(setup, cell)
    if len(finished) < 2:
        raise UsageError(
            f"Bench {setup.name} has {counted(len(finished), 'finished cell')}; two are needed.",
            f"Run the bench first, by what you named here: emo bench {setup.name}, or the file of its recipe.",
        )
    cached = _cached(setup, finished)
    choice, p = choose(setup, cached)
    folder = setup.folder / FOLDER
    folder.mkdir(exist_ok=True)
    write_json(folder / "choice.json", choice)
    rows = _rows(setup, cached, p)
    write_jsonl(folder / "predictions.jsonl", rows)
    return _page(setup, cached, choice, rows, _write_run(setup, finished))


def _is_ranked(setup: Setup, cell: Cell) -> bool:
    folder = cell_folder(setup, cell)
    if not (folder / "run.json").exists():
        return False
    check_listed(folder, "metrics.json")
    return bool(read_json(folder / "metrics.json").get("status") == RANKED)


def _check(setup: Setup, cell: Cell) -> None:
    """Refuse the answers of a cell that are not what was written, or that stand on other conditions.

    Raises:
        TrainError: A file was changed.
        UsageError: The conditions were.
    """
    folder = cell_folder(setup, cell)
    for name in ("predictions.jsonl", "clips.json", "run.json"):
        check_listed(folder, name)
    now = identity(setup, cell, "cpu")
    del now["device"], now["versions"]  # of the training, not of what is put together
    Ledger(folder).check(now, f"Cell {cell.title} of bench {setup.name}")


def _cached(setup: Setup, cells: Sequence[Cell]) -> Cached:
    tables = [{row["name"]: row for row in read_rows(setup, cell)} for cell in cells]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    p = np.array([[[row["probabilities"][each] for each in setup.labels] for row in map(t.get, names)] for t in tables])
    first = [tables[0][name] for name in names]
    labels = {clip.id: clip.label for clip in setup.clips if clip.label and clip.label.emotion}
    truth = {name: labels[name] for name in names if name in labels}
    chooses = np.array([bool(row["folds"]) and row["name"] in truth for row in first])
    lost = tuple(sorted({name for table in tables for name in table if name in labels} - set(names)))
    titles, splits = (cell.title for cell in cells), (row["split"] for row in first)
    return Cached(tuple(titles), tuple(names), tuple(splits), chooses, p, truth, lost)


def choose(setup: Setup, cached: Cached) -> tuple[dict[str, Any], np.ndarray]:
    """Fit and judge every way by the validation clips; no label of another clip is looked at.

    Returns:
        What choice.json holds, and the probabilities of all clips `(N, C)` by the chosen way; of a validation clip
        those of the way that was fitted without it.
    """
    at = np.flatnonzero(cached.chooses)
    index = {label: i for i, label in enumerate(setup.labels)}
    y = np.array([index[str(cached.truth[cached.names[i]].emotion)] for i in at])
    by_id = {clip.id: clip for clip in setup.clips}
    groups = group_clips([by_id[cached.names[i]] for i in at], setup.bench.protocol.fold_by)
    parts = min(PARTS, len(at) if groups.of is None else len(groups))
    folds = make_folds(y, parts, setup.bench.protocol.seed, True, groups.of)
    judged: dict[str, Any] = {}
    apart: dict[str, np.ndarray] = {}
    own = cached.p[:, at]
    for way in WAYS:
        out = np.zeros(own.shape[1:])
        for part in folds:
            rest = np.delete(np.arange(len(at)), part)
            out[part] = way.apply(way.fit(own[:, rest], y[rest]), own[:, part])
        apart[way.name], decided = out, way.fit(own, y)
        words = way.tell(decided, cached.cells, setup.labels)
        judged[way.name] = {"validation_f1": _f1(out, y), "decided": decided, "words": words}
    best = max(WAYS, key=lambda way: judged[way.name]["validation_f1"])  # the first of equals, the simplest
    p = best.apply(judged[best.name]["decided"], cached.p)
    p[at] = apart[best.name]
    return {"chosen": best.name, "cells": list(cached.cells), "clips": len(at), "parts": parts, "ways": judged}, p


def _rows(setup: Setup, cached: Cached, p: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for i, name in enumerate(cached.names):
        row: dict[str, Any] = {"name": name, "split": cached.split[i], "folds": [0] if cached.chooses[i] else None}
        row |= {"answer": setup.labels[int(p[i].argmax())]}
        row |= {"probabilities": dict(zip(setup.labels, p[i].tolist(), strict=True))}
        rows.append(row | ({"truth": cached.truth[name].emotion} if name in cached.truth else {}))
    return rows


def _write_run(setup: Setup, cells: Sequence[Cell]) -> list[str]:
    """Make the folder a run, so that `emo score` knows which clips its answers have seen: those of all its cells.

    Returns:
        What must stand beside any score of one of the cells.
    """
    seen: dict[str, Any] = {"train": [], VALIDATION: [], "media": {}, "answered": {}}
    for cell in cells:
        own = read_json(cell_folder(setup, cell) / "clips.json")
        for key in ("train", VALIDATION):
            seen[key] = list(dict.fromkeys([*seen[key], *own[key]]))
        for key in ("media", "answered"):
            seen[key] |= own[key]
    runs = [read_json(cell_folder(setup, cell) / "run.json") for cell in cells]
    kept, first = ("schema", "status", "labels", "dataset", "members"), runs[0]
    notes = list(dict.fromkeys(note for run in runs for note in run["notes"]))
    info = {"profile": " ".join(dict.fromkeys(run["profile"] for run in runs)), "notes": notes}
    info |= {"kind": "bench-ensemble", "name": f"{setup.name}-{FOLDER}", "of": [cell.folder for cell in cells]}
    write_json(setup.folder / FOLDER / "clips.json", seen)
    write_json(setup.folder / FOLDER / "run.json", info | {key: first[key] for key in kept if key in first})
    return notes


def _page(
    setup: Setup, cached: Cached, choice: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], notes: Sequence[str]
) -> Page:
    """Score the chosen way once, on every split that it was not chosen by."""
    said = {row["name"]: Prediction(row["answer"]) for row in rows}
    splits: dict[str, dict[str, Label]] = {}
    for name, split, chooses in zip(cached.names, cached.split, cached.chooses, strict=True):
        if not chooses and name in cached.truth:
            splits.setdefault(split, {})[name] = cached.truth[name]
    scores = {
        split: score(truth, {name: said[name] for name in truth}, "strict", setup.labels)
        for split, truth in splits.items()
    }
    ways = choice["ways"]
    lines = [
        (name, each["validation_f1"], "chosen" if name == choice["chosen"] else "", each["words"])
        for name, each in ways.items()
    ]
    parts: list[Part] = [Table("Ways", ("way", VALIDATION, "", "what was decided"), lines, (VALIDATION,))]
    tested = [(split, each.n, each.f1_weighted, each.accuracy, each.uar) for split, each in scores.items()]
    columns = ("split", "clips", "weighted F1", "accuracy", "UAR")
    if tested:
        parts.append(Table(f"By the chosen way, {choice['chosen']}", columns, tested, columns[1:]))
    sentences = [
        f"Validation: weighted F1 of {choice['clips']:,} clips, each answered by a way that was fitted on the other "
        f"{choice['parts'] - 1} of {choice['parts']} parts. They also chose the cells' epochs and settings.",
        "The other splits were answered by the chosen way alone, and scored once.",
    ]
    if cached.lost:
        which = counted(len(cached.lost), "clip that not all cells answer is", "clips that not all cells answer are")
        sentences.append(f"{which} in no number: {some_of(cached.lost)}.")
    sentences += notes
    verdict = (
        f"{choice['chosen'].capitalize()}: weighted F1 {ways[choice['chosen']]['validation_f1']:.4f} on validation"
    )
    verdict += "".join(f", {each.f1_weighted:.4f} on {split}" for split, each in scores.items()) + "."
    value = {**choice, "splits": {split: each.to_json() for split, each in scores.items()}, "notes": sentences}
    title = f"{setup.bench.title or setup.name}: cells put together"
    write_parts(setup.folder / FOLDER, value, title, verdict, sentences, parts)
    return Page(value, [*parts, *sentences, f"Files: {setup.folder / FOLDER}"], verdict)
