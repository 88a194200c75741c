"""One cell from its first model to its predictions: the search, the runs of what it chose, and what they say together.

All files of a cell are made of its records, so they come out the same however often the bench was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo.featstore.errors import TrainError
from emo.featstore.files import write_atomic, write_json, write_jsonl
from emo.train.bench.ledger import Record
from emo.train.bench.plan import Phase, plan_runs, plan_search
from emo.train.bench.recipe import VALIDATION, Cell
from emo.train.bench.setup import Setup, searched
from emo.train.bench.work import Shop
from emo.train.features import media_of
from emo.train.heads.ensemble import LogitMean
from emo.train.heads.material import Material
from emo.train.heads.outcome import describe, prediction_rows, scores
from emo.train.heads.search import average, numbers_of, rank
from emo.train.metrics.labels import too_few
from emo.train.runs import dataset_of, seal, split_counts

DIVERGED = "not finite"
CELLS = "cells"


@dataclass(frozen=True)
class Counted:
    """Models of a phase: how many there are, and how many of their trainings were not finite."""

    models: int = 0
    diverged: int = 0

    @classmethod
    def of(cls, records: Sequence[Record]) -> Counted:
        """Count records."""
        return cls(len(records), sum(each.best_epoch is None for each in records))

    def __str__(self) -> str:
        return f"{self.diverged:,} of {self.models:,}"


def cell_folder(setup: Setup, cell: Cell) -> Path:
    """Folder of a cell."""
    return setup.folder / CELLS / cell.folder


def run_cell(setup: Setup, cell: Cell, material: Material, shop: Shop) -> dict[str, Any]:
    """Train what is missing of a cell, and write its files.

    Returns:
        What its metrics.json holds.

    Raises:
        EmoError: The cell cannot be trained at all, for a reason other than numbers that are not finite.
    """
    protocol, tried, chosen = setup.bench.protocol, Counted(), {}
    draws: list[Any] = []
    recipe: Any = cell.recipe
    about = {"features": cell.features, "head": cell.head}
    if searched(setup.bench, recipe):
        draws, phase = plan_search(material, recipe, protocol)
        records = shop.train(phase)
        tried, metric = Counted.of(records), phase.plan.recipe.select_by
        try:
            board = rank(draws, _folds(len(draws), records, metric), metric)
        except TrainError:
            return _written(shop, about | _failed(tried, Counted()))
        search = {"schema": 1, "drawn": len(draws), "select_by": metric, "ranges": recipe.search}
        write_json(shop.ledger.folder / "search.json", search | {"configurations": board})
        chosen = board[0]["settings"]
        recipe = type(recipe).model_validate(recipe.model_dump() | chosen)
    phase = plan_runs(material, recipe, protocol, draws)
    records = shop.train(phase)
    if (ran := Counted.of(records)).diverged:
        return _written(shop, about | _failed(tried, ran))
    found = _results(setup, material, phase, records, shop)
    notes = [*found.pop("notes"), *_notes(phase, tried, protocol.search)]
    status = {"status": "ranked", "settings": chosen, "search": vars(tried), "ran": vars(ran)}
    result = _written(shop, about | status | found | {"notes": notes})
    seal(shop.ledger.folder)
    return result


def _failed(tried: Counted, ran: Counted) -> dict[str, Any]:
    """What is said of a cell whose numbers are not finite."""
    why = f"{ran} models of the runs" if ran.models else f"under all settings; {tried} models of the search"
    return {"status": DIVERGED, "why": f"training was not finite: {why}", "search": vars(tried), "ran": vars(ran)}


def _written(shop: Shop, result: dict[str, Any]) -> dict[str, Any]:
    write_json(shop.ledger.folder / "metrics.json", result)
    return result


def _folds(draws: int, records: Sequence[Record], metric: str) -> list[list[dict[str, Any]]]:
    """Records of a search by settings, as `rank` wants them."""
    found: list[list[dict[str, Any]]] = [[] for _ in range(draws)]
    for each in records:
        drawn, _, fold = each.key
        found[int(drawn or 0)].append({"fold": fold, "best_epoch": each.best_epoch, metric: each.metric})
    return found


def _notes(phase: Phase, tried: Counted, drawn: int | None) -> list[str]:
    notes = [*phase.plan.notes, phase.plan.fold_note]
    if tried.models:
        notes.append(f"The settings are the best of {drawn} draws on the same validation clips.")
    if tried.diverged:
        notes.append(f"Of the search, {tried} trainings were not finite; settings with such a one were no candidates.")
    if phase.plan.recipe.passes:
        notes.append("The validation clips chose the epoch, so the validation score is somewhat too good.")
    return [note for note in notes if note]


def _results(setup: Setup, material: Material, phase: Phase, records: Sequence[Record], shop: Shop) -> dict[str, Any]:
    """Score every run, and all of them together; write predictions and what they stand on."""
    plan, folder, classes = phase.plan, shop.ledger.folder, len(material.labels)
    means = {seed: LogitMean(len(material.clips), classes) for seed in plan.recipe.seeds}
    for member, record in zip(phase.members, records, strict=True):
        means[member.seed].add(member.val, record.answers["val"])
        means[member.seed].add(shop.others(member), record.answers["others"])
    runs = []
    for seed, mean in means.items():
        own, others = scores(material, prediction_rows(material, plan, mean))
        numbers = {name: numbers_of(each) for name, each in others.items()}
        runs.append({"seed": seed, VALIDATION: numbers_of(own), "splits": numbers})
    rows = prediction_rows(material, plan, LogitMean.over(list(means.values())))
    together, splits = scores(material, rows)
    write_jsonl(folder / "predictions.jsonl", rows)
    write_atomic(folder / "recipe.yaml", plan.recipe.to_yaml())
    _write_run(setup, material, phase, shop, together.n)
    average_ = average(runs)
    return {
        "clips": {VALIDATION: together.n, **{name: each.n for name, each in splits.items()}},
        "average": {VALIDATION: average_[VALIDATION], **average_["splits"]},
        "together": {VALIDATION: numbers_of(together), **{name: numbers_of(each) for name, each in splits.items()}},
        "runs": runs,
        "notes": [note for note in [too_few(together.n)] if note],
    }


def _write_run(setup: Setup, material: Material, phase: Phase, shop: Shop, n: int) -> None:
    """Make the cell's folder a run, so that `emo score` knows which clips its predictions have seen."""
    folder, plan = shop.ledger.folder, phase.plan
    clip_ids = [clip.id for clip in material.clips]
    trained = [clip_ids[i] for i in material.train]
    chose = sorted({clip_ids[i] for member in phase.members for i in member.val})
    media, own = media_of(setup.store, clip_ids), {*trained, *chose}
    seen: dict[str, Any] = {"train": trained, VALIDATION: chose}
    seen["media"] = {k: m for k, m in media.items() if k in own}
    seen["answered"] = {k: m for k, m in media.items() if k not in own}
    write_json(folder / "clips.json", seen)
    members = [{"seed": member.seed, "fold": member.fold} for member in phase.members]
    info: dict[str, Any] = {"schema": 1, "kind": "bench-cell", "name": folder.name, "status": "finished"}
    info |= {"head": plan.recipe.head, "labels": list(material.labels), "dataset": dataset_of(material.clips)}
    info |= describe(material, plan, members) | {"splits": split_counts(material.clips, trained), "n_train": n}
    if setup.bench.protocol.val_splits:
        del info["members"]  # no model answers a clip that another one was trained on
    write_json(folder / "run.json", info)
