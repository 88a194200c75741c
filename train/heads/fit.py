"""Train a head over folds and seeds on cached features, and say what it says of every clip.

Folds, order of clips, initial weights and dropout are pure functions of the seed, so the same recipe on the same store
gives the same files again, bit by bit on a CPU.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from emo.featstore.clip import Clip
from emo.featstore.errors import UsageError
from emo.featstore.files import json_text, write_atomic, write_json, write_jsonl
from emo.train.device import resolve_device
from emo.train.features import FeatureSource, checksums_of, media_of
from emo.train.heads.base import Epoch, Fold, HeadRecipe, OnEpoch
from emo.train.heads.ensemble import LogitMean
from emo.train.heads.material import Material, Plan, load_material, make_measure, make_plan, with_classes
from emo.train.heads.objective import Diverged
from emo.train.heads.outcome import describe, member_seed, passes_note, prediction_rows, scores
from emo.train.heads.search import (
    RUNS,
    all_diverged,
    average,
    best_of_note,
    candidates,
    check_search,
    choose_again,
    draw,
    numbers_of,
    rank,
)
from emo.train.metrics.labels import Score, too_few
from emo.train.recipe import head_class
from emo.train.runs import Run, dataset_of, seal, split_counts, utc, write_sealed

AGAIN = "interrupted; a head has no checkpoint to go on from: train it again (`emo run drop {}` frees the name)"


@dataclass(frozen=True)
class Progress:
    """One finished epoch of one fold of one seed; `done` of `total` epochs of the whole run are behind it.

    In a search `drawn` counts the settings that were drawn, from 0.
    """

    seed: int
    fold: int
    folds: int
    epoch: int
    loss: float | None
    metric: float
    best: bool
    done: int
    total: int
    drawn: int | None = None


@dataclass(frozen=True)
class FitResult:
    """Result of `fit_head` in the run folder.

    Attributes:
        run: The finished run.
        validation: Score of the training clips, each predicted by the folds that did not train on it.
        splits: Score of every other split whose truth is known, predicted by the mean of all folds.
        notes: Sentences that must stand beside the validation score; run.json keeps those that hold for any score.
        average: Mean and spread of the scores of the recipe's seeds, where it has several.
        search: What search.json holds, after a search.
    """

    run: Run
    validation: Score
    splits: dict[str, Score]
    notes: tuple[str, ...]
    average: dict[str, Any] | None = None
    search: dict[str, Any] | None = None


def fit_head(
    store: FeatureSource,
    clips: Sequence[Clip],
    labels: Sequence[str],
    recipe: HeadRecipe,
    run_dir: Path,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
    search: int | None = None,
) -> FitResult:
    """Train a head on the labelled clips and predict all clips.

    Trains on the labelled clips of `recipe.train_splits`, or of every split that is not `held_out` by its name. All
    other clips that have the features are predicted by the mean of all folds' raw logits (MERBench metric.py).

    Args:
        store: Where the features lie. No video is opened and no encoder loaded.
        clips: Labelled and unlabelled ones; names must differ.
        labels: Label set, in the order of the logits.
        recipe: From `load_recipe` or `make_recipe`.
        run_dir: Run folder, from `new_run`.
        device: Torch device for the heads that use one; `auto` is a GPU where there is one.
        on_progress: Called after every epoch.
        search: Draw so many settings from the recipe's `search` first, cross-validate them all, and train the best
            under six seeds more (MERBench's protocol).

    Raises:
        UsageError: Clips or recipe cannot be used, or the head allows no search.
        FeatureMissing: Clips lack features and `recipe.missing` is `error`.
        TrainError: The training diverges.
        KeyboardInterrupt: With a sentence on what to do.
    """
    if (run_dir / "run.json").exists():
        raise UsageError(f"{run_dir} holds a run already.", "Choose another run name.")
    started = time.time()
    clips, labels = with_classes(clips, labels)
    info: dict[str, Any] = {"schema": 1, "kind": "head", "name": run_dir.name, "status": "running"}
    info |= {"head": recipe.head, "started_at": utc(started), "store": str(store.path), "labels": list(labels)}
    info |= {"dataset": dataset_of(clips)}
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / "run.json", info)
    try:
        material = load_material(store, clips, tuple(labels), recipe)
        result = _fit(material, recipe, run_dir, resolve_device(device), on_progress, info, search)
        info |= {"splits": split_counts(clips, _write_clips(store, material, run_dir))}
    except BaseException as error:
        info |= {"status": "failed" if isinstance(error, Exception) else "interrupted", "error": str(error)}
        write_json(run_dir / "run.json", info)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(AGAIN.format(run_dir.name)) from None
        raise
    seal(run_dir)
    info |= {"status": "finished", "finished_at": utc(time.time()), "duration_s": round(time.time() - started, 3)}
    write_sealed(run_dir / "run.json", json_text(info))
    return result


def _write_clips(store: FeatureSource, material: Material, run_dir: Path) -> list[str]:
    """Write clips.json, and return the names of the clips that were trained on."""
    clip_ids = [clip.id for clip in material.clips]
    trained = [clip_ids[i] for i in material.train]
    media, own = media_of(store, clip_ids), set(trained)
    # Every one of them is trained on by all folds but the one that validates on it.
    seen = {"train": trained, "validation": trained, "media": {k: m for k, m in media.items() if k in own}}
    seen["answered"] = {k: m for k, m in media.items() if k not in own}
    seen["made"] = checksums_of(store, [spec.key for spec in material.inputs.specs], clip_ids)
    write_json(run_dir / "clips.json", seen)
    return trained


class _Teller:
    """Counts finished epochs, and tells whoever wants to know."""

    def __init__(self, on_progress: Callable[[Progress], None] | None, total: int) -> None:
        self.on_progress, self.done, self.total = on_progress, 0, total

    def tell(self, seed: int, fold: int, folds: int, epoch: Epoch, drawn: int | None = None) -> None:
        self.done += 1
        if self.on_progress is not None:
            row = (epoch.epoch, epoch.loss, epoch.metric, epoch.best, self.done, self.total, drawn)
            self.on_progress(Progress(seed, fold, folds, *row))


def _train(
    material: Material, plan: Plan, run_dir: Path, device: str, teller: _Teller
) -> tuple[dict[int, LogitMean], list[dict[str, Any]]]:
    """Train one head per seed and fold and save each.

    Returns:
        The mean of each seed's heads over all clips, and one row about each head.
    """
    recipe, targets, metric = plan.recipe, material.targets, plan.recipe.select_by
    kind, shapes, classes = head_class(recipe.head), material.shapes, len(material.labels)
    data, count = kind.prepare(material.inputs.streams, device), len(plan.folds) // len(recipe.seeds)
    heads, folds = [], []
    with open(run_dir / "log.jsonl", "w", encoding="utf-8") as log:

        def listen(seed: int, fold: int) -> OnEpoch:
            def on_epoch(epoch: Epoch) -> None:
                row = {"seed": seed, "fold": fold, "epoch": epoch.epoch, "loss": epoch.loss, metric: epoch.metric}
                log.write(json.dumps(row) + "\n")
                teller.tell(seed, fold, count, epoch)

            return on_epoch

        for seed, fold, train, held_out in plan.folds:
            heads.append(kind(recipe, shapes, classes, plan.valence, device, member_seed(seed, fold)))
            folds.append(Fold(train, held_out, make_measure(metric, targets, held_out, classes), listen(seed, fold)))
        best = kind.fit_all(heads, data, targets, folds)

    answers = {seed: LogitMean(len(material.clips), classes) for seed in recipe.seeds}
    members: list[dict[str, Any]] = []
    for (seed, number, *_), head, fold, epoch in zip(plan.folds, heads, folds, best, strict=True):
        validation = head.predict(data, fold.val)
        answers[seed].add(fold.val, validation)
        answers[seed].add(material.others, head.predict(data, material.others))
        name = f"seed{seed}-fold{number}.safetensors"
        write_atomic(run_dir / name, save(_contiguous(head.state()), {"head": recipe.head}))
        member = {"seed": seed, "fold": number, "weights": name, "n_train": len(fold.train), "n_val": len(fold.val)}
        members.append(member | {"best_epoch": epoch, metric: fold.measure(validation)})
    return answers, members


def _search(material: Material, recipe: Any, count: int, device: str, teller: _Teller) -> dict[str, Any]:
    """Cross-validate `count` settings, all together, on the rows of `material.train` only.

    Returns:
        What search.json holds.
    """
    draws = draw(recipe, count)
    used = tuple(dict.fromkeys(each.seed for each in draws))
    plan = make_plan(material, recipe.model_copy(update={"seeds": used}))
    metric, targets = plan.recipe.select_by, material.targets
    kind, shapes, classes = head_class(recipe.head), material.shapes, len(material.labels)
    of_seed = {seed: [each for each in plan.folds if each[0] == seed] for seed in used}
    found: list[list[dict[str, Any]]] = [[] for _ in draws]
    heads, folds = [], []

    def listen(drawn: int, seed: int, fold: int) -> OnEpoch:
        row: dict[str, Any] = {"fold": fold, "best_epoch": None, metric: None}
        found[drawn].append(row)

        def on_epoch(epoch: Epoch) -> None:
            if epoch.best:
                row.update({"best_epoch": epoch.epoch, metric: epoch.metric})
            elif not np.isfinite(epoch.metric):
                row.update({"best_epoch": None, metric: None})
            teller.tell(seed, fold, len(of_seed[seed]), epoch, drawn)

        return on_epoch

    for i, each in enumerate(draws):
        for seed, fold, train, held_out in of_seed[each.seed]:
            heads.append(kind(each.recipe, shapes, classes, plan.valence, device, member_seed(seed, fold)))
            measure = make_measure(metric, targets, held_out, classes)
            folds.append(Fold(train, held_out, measure, listen(i, seed, fold)))
    kind.fit_all(heads, kind.prepare(material.inputs.streams, device), targets, folds, keep=False)
    board = rank(draws, found, metric)
    return {
        "schema": 1,
        "drawn": count,
        "possible": math.prod(map(len, recipe.search.values())),
        "ranges": recipe.search,
        "select_by": metric,
        "seeds": list(used),
        "chosen": board[0]["settings"],
        "chosen_seeds": [used[-1] + 1 + i for i in range(RUNS)],
        "configurations": board,
    }


def _train_best(
    material: Material, recipe: Any, search: dict[str, Any], run_dir: Path, device: str, teller: _Teller
) -> tuple[Plan, tuple[dict[int, LogitMean], list[dict[str, Any]]], list[str]]:
    """Train the best settings of a search under new seeds; those that diverge there are named, and the next are taken.

    Returns:
        The plan, what `_train` gives, and sentences that must stand beside the result.

    Raises:
        TrainError: All settings diverge.
    """
    for row in candidates(search):
        chosen = row["settings"] | {"seeds": search["chosen_seeds"]}
        plan = make_plan(material, type(recipe).model_validate(recipe.model_dump() | chosen))
        try:
            trained = _train(material, plan, run_dir, device, teller)
        except Diverged as error:
            row["again"] = error.message
            teller.total += plan.epochs
            continue
        if told := choose_again(search):
            write_json(run_dir / "search.json", search)
        return plan, trained, told
    raise all_diverged()


def _fit(
    material: Material,
    recipe: HeadRecipe,
    run_dir: Path,
    device: str,
    on_progress: Callable[[Progress], None] | None,
    info: dict[str, Any],
    drawn: int | None,
) -> FitResult:
    """Search where that is asked for, train, and write everything into the run folder but run.json and clips.json."""
    search, plan, again = None, make_plan(material, recipe), list[str]()
    teller = _Teller(on_progress, plan.epochs)
    if drawn:
        check_search(recipe, material.shapes)
        teller = _Teller(on_progress, (drawn + RUNS) * plan.epochs)
        search = _search(material, recipe, drawn, device, teller)
        write_json(run_dir / "search.json", search)
        plan, (answers, members), again = _train_best(material, recipe, search, run_dir, device, teller)
        info |= {"search": {key: search[key] for key in ("drawn", "possible", "select_by", "seeds", "chosen")}}
    write_atomic(run_dir / "recipe.yaml", plan.recipe.to_yaml())
    if search is None:
        answers, members = _train(material, plan, run_dir, device, teller)
    rows = prediction_rows(material, plan, LogitMean.over(list(answers.values())))
    write_jsonl(run_dir / "predictions.jsonl", rows)

    validation, splits = scores(material, rows)
    runs = []
    for seed, mean in answers.items() if len(answers) > 1 else ():
        own, others = scores(material, prediction_rows(material, plan, mean))
        numbers = {name: numbers_of(each) for name, each in others.items()}
        runs.append({"seed": seed, "validation": numbers_of(own), "splits": numbers})
    averaged = average(runs) if runs else None
    notes = [*_notes(plan, validation, drawn), *again]
    metrics = {
        "select_by": plan.recipe.select_by,
        "validation": validation.to_json(),
        "splits": {name: each.to_json() for name, each in splits.items()},
        "members": members,
        "notes": notes,
    }
    metrics |= {"runs": runs, "average": averaged} if runs else {}
    write_json(run_dir / "metrics.json", metrics)
    info |= describe(material, plan, members) | {"n_train": validation.n, "n_predicted": len(rows), "device": device}
    return FitResult(Run(run_dir, info), validation, splits, tuple(notes), averaged, search)


def _notes(plan: Plan, validation: Score, drawn: int | None) -> list[str]:
    """Sentences that must stand beside the validation score."""
    notes = [*plan.notes, plan.fold_note, too_few(validation.n)]
    if drawn:
        notes.append(best_of_note(drawn))
    return [note for note in [*notes, passes_note(plan.recipe)] if note]


def _contiguous(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in state.items()}
