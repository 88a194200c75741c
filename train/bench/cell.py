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
from emo.train.heads.outcome import describe, passes_note, prediction_rows, scores
from emo.train.heads.search import average, best_of_note, candidates, choose_again, numbers_of, rank
from emo.train.metrics.labels import too_few
from emo.train.runs import dataset_of, seal, split_counts

RANKED, DIVERGED = "ranked", "not finite"
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

    Settings that win the search and are not finite when they are trained again are named, and the next are taken.

    Returns:
        What its metrics.json holds.

    Raises:
        EmoError: The cell cannot be trained at all, for a reason other than numbers that are not finite.
    """
    about: dict[str, Any] = {"features": cell.features, "head": cell.head}
    protocol = setup.bench.protocol
    recipe: Any = cell.recipe
    tried, ran = Counted(), Counted()
    if not searched(setup.bench, recipe):
        phase = plan_runs(material, recipe, protocol, [])
        records = shop.train(phase)
        ran = Counted.of(records)
        if ran.diverged:
            return _written(shop, about | _failed(tried, ran))
        return _finished(setup, material, shop, phase, records, about | _counts({}, tried, ran), [])
    draws, phase = plan_search(material, recipe, protocol)
    records = shop.train(phase)
    tried, metric = Counted.of(records), phase.plan.recipe.select_by
    try:
        board = rank(draws, _folds(len(draws), records, metric), metric)
    except TrainError:
        return _written(shop, about | _failed(tried, ran))
    search = {"schema": 1, "drawn": len(draws), "select_by": metric, "ranges": recipe.search}
    search |= {"chosen": board[0]["settings"], "configurations": board}
    for row in candidates(search):
        drawn = next(i for i, each in enumerate(draws) if each.settings == row["settings"])
        chosen = type(recipe).model_validate(recipe.model_dump() | row["settings"])
        phase = plan_runs(material, chosen, protocol, draws, drawn)
        records = shop.train(phase)
        now = Counted.of(records)
        ran = Counted(ran.models + now.models, ran.diverged + now.diverged)
        if now.diverged:
            row["again"] = f"{now} trainings were not finite"
            continue
        notes = [best_of_note(len(draws)), *choose_again(search)]
        write_json(shop.ledger.folder / "search.json", search)
        return _finished(setup, material, shop, phase, records, about | _counts(row["settings"], tried, ran), notes)
    return _written(shop, about | _failed(tried, ran))


def _counts(settings: dict[str, Any], tried: Counted, ran: Counted) -> dict[str, Any]:
    return {"status": RANKED, "settings": settings, "search": vars(tried), "ran": vars(ran)}


def _finished(
    setup: Setup,
    material: Material,
    shop: Shop,
    phase: Phase,
    records: Sequence[Record],
    result: dict[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    found = _results(setup, material, phase, records, shop)
    told = [*found.pop("notes"), *phase.plan.notes, phase.plan.fold_note, *notes, passes_note(phase.plan.recipe)]
    result = _written(shop, result | found | {"notes": [note for note in told if note]})
    seal(shop.ledger.folder)
    return result


def _failed(tried: Counted, ran: Counted) -> dict[str, Any]:
    """Say of a cell that its numbers are not finite."""
    counts = [f"{each} {what}" for each, what in ((tried, "models of the search"), (ran, "models of the runs"))]
    shown = [text for text, each in zip(counts, (tried, ran), strict=True) if each.diverged]
    why = f"training was not finite: {', '.join(shown)}"
    return {"status": DIVERGED, "why": why, "search": vars(tried), "ran": vars(ran)}


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
