"""Train a head over folds and seeds on cached features, and say what it says of every clip.

Folds, order of clips, initial weights and dropout are pure functions of the seed, so the same recipe on the same store
gives the same files again, bit by bit on a CPU.
"""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from emo.featstore.clip import Clip, Label
from emo.featstore.errors import TrainError, UsageError
from emo.featstore.tables import split_name
from emo.train.answers import Prediction, read_predictions, some_of
from emo.train.device import resolve_device
from emo.train.features import FeatureSource, Inputs, load_inputs, profile_note
from emo.train.heads.base import Epoch, HeadRecipe, Measure, Outputs, Targets, head_class, load_recipe
from emo.train.runs import Run, load_run, utc, write_atomic, write_json, write_jsonl
from emo.train.score import Score, combined_metric, score, too_few, weighted_f1


@dataclass(frozen=True)
class Progress:
    """One finished epoch of one fold of one seed; `done` of `total` epochs of the whole run are behind it."""

    seed: int
    fold: int
    folds: int
    epoch: int
    loss: float | None
    metric: float
    best: bool
    done: int
    total: int


@dataclass(frozen=True)
class FitResult:
    """What `fit_head` has left in the run folder.

    Attributes:
        run: The finished run.
        validation: Score of the training clips, each predicted by the folds that did not train on it.
        splits: Score of every other split whose truth is known, predicted by the mean of all folds.
        notes: Sentences that must stand beside the validation score; run.json keeps those that hold for any score.
    """

    run: Run
    validation: Score
    splits: dict[str, Score]
    notes: tuple[str, ...]


def fit_head(
    store: FeatureSource,
    clips: Sequence[Clip],
    labels: Sequence[str],
    recipe: HeadRecipe,
    run_dir: Path,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Train a head on the labelled clips and predict all clips.

    Trains on the labelled clips of `recipe.train_splits`, or of every split whose name does not begin with `test`. All
    other clips that have the features are predicted by the mean of all folds' raw logits (MERBench metric.py).

    Args:
        store: Where the features lie. No video is opened and no encoder loaded.
        clips: Labelled and unlabelled ones; names must differ.
        labels: Label set, in the order of the logits.
        recipe: From `load_recipe` or `make_recipe`.
        run_dir: Run folder, from `new_run`.
        device: Torch device for the heads that use one; `auto` is a GPU where there is one.
        on_progress: Called after every epoch.

    Raises:
        UsageError: Clips or recipe cannot be used.
        FeatureMissing: Clips lack features and `recipe.missing` is `error`.
        TrainError: The training diverges.
    """
    if (run_dir / "run.json").exists():
        raise UsageError(f"{run_dir} holds a run already.", "Choose another run name.")
    started = time.time()
    info: dict[str, Any] = {"schema": 1, "kind": "head", "name": run_dir.name, "status": "running"}
    info |= {"head": recipe.head, "started_at": utc(started), "store": str(store.path), "labels": list(labels)}
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / "run.json", info)
    try:
        result = _fit(store, clips, tuple(labels), recipe, run_dir, resolve_device(device), on_progress, info)
    except BaseException as error:
        info |= {"status": "failed" if isinstance(error, Exception) else "interrupted", "error": str(error)}
        write_json(run_dir / "run.json", info)
        raise
    info |= {"status": "finished", "finished_at": utc(time.time()), "duration_s": round(time.time() - started, 3)}
    write_json(run_dir / "run.json", info)
    return result


@dataclass(frozen=True)
class _Plan:
    """Who trains on what, decided before the first step."""

    recipe: HeadRecipe  # with select_by resolved
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    inputs: Inputs
    targets: Targets
    others: np.ndarray  # rows that no fold trains on
    parts: tuple[tuple[int, int, np.ndarray, np.ndarray], ...]  # seed, fold, rows to train on, rows held out
    valence: bool
    notes: tuple[str, ...]


def _plan(store: FeatureSource, clips: Sequence[Clip], labels: tuple[str, ...], recipe: HeadRecipe) -> _Plan:
    _check_clips(clips, labels)
    inputs = load_inputs(store, _choices(recipe), [clip.id for clip in clips], recipe.missing)
    by_id = {clip.id: clip for clip in clips}
    clips = tuple(by_id[clip_id] for clip_id in inputs.clip_ids)
    targets = _targets(clips, labels)
    trains = np.array([_trains(clip, recipe.train_splits) for clip in clips])
    train = np.flatnonzero(trains)
    if len(train) < 2:
        raise UsageError(
            f"{len(train)} labelled clips with features are in the training splits; at least 2 are needed.",
            f"Splits of the clips given: {', '.join(sorted({clip.split or '(none)' for clip in clips}))}.",
        )
    notes = [note for note in (profile_note(inputs.specs),) if note]
    folds = min(recipe.folds, len(train))
    if folds < recipe.folds:
        notes.append(f"{len(train)} labelled clips allow {folds} folds instead of {recipe.folds}.")
    for what, names in (("left out", inputs.skipped), ("filled with zeros", inputs.zeroed)):
        if names:
            notes.append(f"{len(names)} clips lack features and were {what}: {some_of(names)}.")
    parts = tuple(
        (seed, fold, np.delete(train, part), train[part])
        for seed in recipe.seeds
        for fold, part in enumerate(make_folds(targets.emotion[train], folds, seed, recipe.stratify))
    )
    valence = recipe.predicts_valence and bool(np.isfinite(targets.valence[train]).any())
    everywhere = valence and all(np.isfinite(targets.valence[part]).any() for *_, part in parts)
    if valence and not everywhere and recipe.select_by == "auto":
        notes.append("Some validation folds have no valence, so epochs were chosen by f1_weighted.")
    recipe = _resolve_metric(recipe, everywhere)
    return _Plan(recipe, labels, clips, inputs, targets, np.flatnonzero(~trains), parts, valence, tuple(notes))


def _train(
    plan: _Plan, run_dir: Path, device: str, on_progress: Callable[[Progress], None] | None
) -> tuple[Mean, list[dict[str, Any]]]:
    """Train one head per seed and fold; save each; return what they say of all clips, and a row about each."""
    recipe, targets, metric = plan.recipe, plan.targets, plan.recipe.select_by
    head_type = head_class(recipe.head)
    dims = [(stream.dim, stream.sequence) for stream in plan.inputs.streams]
    data = head_type.prepare(plan.inputs.streams, device)
    epochs = getattr(recipe, "epochs", 1)
    folds, total = len(plan.parts) // len(recipe.seeds), len(plan.parts) * epochs
    answers = Mean(len(plan.clips), len(plan.labels))
    members: list[dict[str, Any]] = []
    with open(run_dir / "log.jsonl", "w", encoding="utf-8") as log:
        for seed, fold, train, held_out in plan.parts:

            def on_epoch(epoch: Epoch, seed: int = seed, fold: int = fold) -> None:
                row = {"seed": seed, "fold": fold, "epoch": epoch.epoch, "loss": epoch.loss, metric: epoch.metric}
                log.write(json.dumps(row) + "\n")
                if on_progress is not None:
                    done = len(members) * epochs + epoch.epoch
                    row_of = (epoch.epoch, epoch.loss, epoch.metric, epoch.best)
                    on_progress(Progress(seed, fold, folds, *row_of, done, total))

            head = head_type(recipe, dims, len(plan.labels), plan.valence, device, _member_seed(seed, fold))
            measure = _measure(metric, targets, held_out, len(plan.labels))
            best = head.fit(data, targets, train, held_out, measure, on_epoch)
            validation = head.predict(data, held_out)
            answers.add(held_out, validation)
            answers.add(plan.others, head.predict(data, plan.others))
            name = f"seed{seed}-fold{fold}.safetensors"
            write_atomic(run_dir / name, save(_contiguous(head.state()), {"head": recipe.head}))
            member = {"seed": seed, "fold": fold, "weights": name, "n_train": len(train), "n_val": len(held_out)}
            members.append(member | {"best_epoch": best, metric: measure(validation)})
    return answers, members


def _fit(
    store: FeatureSource,
    clips: Sequence[Clip],
    labels: tuple[str, ...],
    recipe: HeadRecipe,
    run_dir: Path,
    device: str,
    on_progress: Callable[[Progress], None] | None,
    info: dict[str, Any],
) -> FitResult:
    plan = _plan(store, clips, labels, recipe)
    write_atomic(run_dir / "recipe.yaml", plan.recipe.to_yaml())
    answers, members = _train(plan, run_dir, device, on_progress)
    rows = _prediction_rows(plan, answers)
    write_jsonl(run_dir / "predictions.jsonl", rows)

    validation, splits = _scores(plan, rows)
    notes = list(plan.notes)
    if few := too_few(validation.n):
        notes.append(few)
    if hasattr(plan.recipe, "epochs"):
        notes.append("The validation clips chose the epoch, so the validation score is somewhat too good.")
    metrics = {
        "select_by": plan.recipe.select_by,
        "validation": validation.to_json(),
        "splits": {name: each.to_json() for name, each in splits.items()},
        "members": members,
        "notes": notes,
    }
    write_json(run_dir / "metrics.json", metrics)
    features = [
        {
            "name": choice.name,
            "pool": choice.pool,
            "key": spec.key,
            "fingerprint": spec.fingerprint,
            "profile": spec.profile,
            "dim": stream.dim,
            "sequence": stream.sequence,
        }
        for choice, spec, stream in zip(plan.recipe.features, plan.inputs.specs, plan.inputs.streams, strict=True)
    ]
    info |= {
        "features": features,
        "profile": profile_note(plan.inputs.specs) or "Features come from the published encoders (paper profile).",
        "notes": list(plan.notes),
        "valence": plan.valence,
        "members": [{key: member[key] for key in ("seed", "fold", "weights")} for member in members],
        "n_train": validation.n,
        "n_predicted": len(rows),
        "skipped": list(plan.inputs.skipped),
        "zeroed": list(plan.inputs.zeroed),
        "device": device,
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("emo", "numpy", "torch", "scikit-learn")},
    }
    return FitResult(Run(run_dir, info), validation, splits, tuple(notes))


def predict_run(
    store: FeatureSource, run: Run | Path, clips: Sequence[Clip], device: str = "auto"
) -> dict[str, Prediction]:
    """What a finished run says of clips, from cached features.

    Clips that the run has predicted keep that answer: training clips are never answered by a fold that saw them.
    New ones get the mean of all folds. Features are found by the fingerprints that the run was trained on. Under the
    recipe's `missing: skip`, clips without features are absent from the result.

    Raises:
        UsageError: The run is not finished.
        FeatureMissing: The store lacks the features, or clips lack them and the recipe's policy is `error`.
    """
    run = load_run(run) if isinstance(run, Path) else run
    if not run.finished:
        raise UsageError(f"Run {run.name} is {run.info.get('status')}, not finished.", "Train it again.")
    known = read_predictions(run.path / "predictions.jsonl")
    new = [clip for clip in clips if clip.id not in known]
    answers = {clip.id: known[clip.id] for clip in clips if clip.id in known}
    if not new:
        return answers
    info, device = run.info, resolve_device(device)
    recipe = load_recipe(run.path / "recipe.yaml")
    keys = [(feature["key"], feature["pool"]) for feature in info["features"]]
    inputs = load_inputs(store, keys, [clip.id for clip in new], recipe.missing)
    _check_fingerprints(run, inputs)
    head_type = head_class(recipe.head)
    data = head_type.prepare(inputs.streams, device)
    dims = [(feature["dim"], feature["sequence"]) for feature in info["features"]]
    mean = Mean(len(inputs.clip_ids), len(info["labels"]))
    rows = np.arange(len(inputs.clip_ids))
    for member in info["members"]:
        head = head_type(recipe, dims, len(info["labels"]), info["valence"], device, 0)
        head.load(load_file(run.path / member["weights"]))
        mean.add(rows, head.predict(data, rows))
    for i, clip_id in enumerate(inputs.clip_ids):
        answers[clip_id] = Prediction(**mean.row(i, info["labels"]))
    return answers


def predict_cached(
    store: FeatureSource, run: Run, clip_ids: Sequence[str], device: str = "auto"
) -> dict[str, Prediction]:
    """What a run says of those of the clips that it has predicted, or that have the features it needs in the store."""
    keys = [feature["key"] for feature in run.info["features"]]
    known = read_predictions(run.path / "predictions.jsonl")
    ready = np.logical_and.reduce([store.has(key, clip_ids) for key in keys])
    clips = [Clip(id_) for id_, yes in zip(clip_ids, ready, strict=True) if yes or id_ in known]
    return predict_run(store, run, clips, device)


class Mean:
    """Mean of raw logits and valence over the models that spoke about each clip."""

    def __init__(self, n: int, classes: int) -> None:
        self.logits = np.zeros((n, classes))
        self.valence = np.full(n, np.nan)
        self.count = np.zeros(n, dtype=np.int64)

    def add(self, rows: np.ndarray, out: Outputs) -> None:
        """Add one model's outputs for `rows`."""
        self.logits[rows] += out.logits
        if out.valence is not None:
            self.valence[rows] = np.where(self.count[rows] == 0, 0.0, self.valence[rows]) + out.valence
        self.count[rows] += 1

    def row(self, i: int, labels: Sequence[str]) -> dict[str, Any]:
        """Answer, probabilities and valence (where the models gave one) of clip `i`."""
        logits = self.logits[i] / self.count[i]
        probabilities = np.exp(logits - np.logaddexp.reduce(logits))
        row: dict[str, Any] = {"answer": labels[int(logits.argmax())]}
        if not np.isnan(self.valence[i]):
            row["valence"] = float(self.valence[i] / self.count[i])
        return row | {"probabilities": dict(zip(labels, probabilities.tolist(), strict=True))}


def make_folds(emotion: np.ndarray, folds: int, seed: int, stratify: bool = True) -> list[np.ndarray]:
    """Split positions `0..N-1` into folds, as a pure function of the seed.

    Sizes differ by one at most; with `stratify` the clips of each emotion do too.

    Shape:
        emotion: `(N,)` class indices, N >= folds.
    """
    order = np.random.default_rng([seed, folds]).permutation(len(emotion))
    if stratify:
        order = order[np.argsort(emotion[order], kind="stable")]
    return [np.sort(order[fold::folds]) for fold in range(folds)]  # dealt like cards


def _check_clips(clips: Sequence[Clip], labels: Sequence[str]) -> None:
    twice = [clip_id for clip_id, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise UsageError(f"{len(twice)} clip names come more than once: {some_of(twice)}.")
    emotions = {clip.label.emotion for clip in clips if clip.label and clip.label.emotion}
    if strange := sorted(emotions - set(labels)):
        raise UsageError(
            f"Clips carry labels outside the label set: {', '.join(strange)}.", f"It is: {', '.join(labels)}."
        )


def _choices(recipe: HeadRecipe) -> list[tuple[str, Any]]:
    return [(choice.name, choice.pool) for choice in recipe.features]


def _targets(clips: Sequence[Clip], labels: Sequence[str]) -> Targets:
    index = {label: i for i, label in enumerate(labels)}
    given = [clip.label or Label() for clip in clips]
    emotion = np.array([-1 if label.emotion is None else index[label.emotion] for label in given], dtype=np.int64)
    valence = np.array([np.nan if label.valence is None else label.valence for label in given], dtype=np.float64)
    return Targets(emotion, valence)


def _trains(clip: Clip, splits: Sequence[str] | None) -> bool:
    if clip.label is None or clip.label.emotion is None:
        return False
    split = split_name(clip.split)
    return split in map(split_name, splits) if splits is not None else not split.startswith("test")


def _resolve_metric(recipe: HeadRecipe, valence_everywhere: bool) -> HeadRecipe:
    """Name the validation metric: `auto` is MERBench's, combined where there is valence, else weighted F1."""
    if recipe.select_by == "combined" and not valence_everywhere:
        raise UsageError(
            "Epochs cannot be chosen by combined: a validation fold has no valence, or the head predicts none.",
            "Use select_by: f1_weighted.",
        )
    if recipe.select_by != "auto":
        return recipe
    return recipe.model_copy(update={"select_by": "combined" if valence_everywhere else "f1_weighted"})


def _measure(metric: str, targets: Targets, rows: np.ndarray, classes: int) -> Measure:
    emotion, valence = targets.emotion[rows], targets.valence[rows]
    known = np.isfinite(valence)

    def measure(out: Outputs) -> float:
        answer = out.logits.argmax(axis=1)
        if metric == "accuracy":
            return float((answer == emotion).mean())
        f1 = weighted_f1(emotion, answer, classes)
        if metric == "f1_weighted" or out.valence is None:
            return f1
        return combined_metric(f1, float(np.mean((out.valence[known] - valence[known]) ** 2)))

    return measure


def _prediction_rows(plan: _Plan, answers: Mean) -> list[dict[str, Any]]:
    """One row per clip. `folds` names, per seed, the fold that held the clip out; `null` where all folds spoke."""
    folds: dict[int, list[int]] = {}
    for _, fold, _, held_out in plan.parts:
        for i in held_out:
            folds.setdefault(int(i), []).append(fold)
    rows = []
    for i, clip in enumerate(plan.clips):
        row = {"name": clip.id, "split": clip.split, "folds": folds.get(i)} | answers.row(i, plan.labels)
        label = clip.label or Label()
        truth = {"truth": label.emotion, "truth_valence": label.valence}
        rows.append(row | {key: value for key, value in truth.items() if value is not None})
    return rows


def _scores(plan: _Plan, rows: Sequence[Mapping[str, Any]]) -> tuple[Score, dict[str, Score]]:
    """Score of the held-out training clips, and of every other split whose truth is known."""
    said = {row["name"]: Prediction(row["answer"], row.get("valence")) for row in rows}
    truths: dict[str | None, dict[str, Label]] = {}
    for clip, row in zip(plan.clips, rows, strict=True):
        if clip.label and clip.label.emotion:
            truths.setdefault(None if row["folds"] else clip.split, {})[clip.id] = clip.label
    scores = {}
    for split, truth in truths.items():
        scores[split] = score(truth, {name: said[name] for name in truth}, "strict", plan.labels)
    validation = scores.pop(None)
    return validation, {str(split): each for split, each in scores.items()}


def _check_fingerprints(run: Run, inputs: Inputs) -> None:
    for feature, spec in zip(run.info["features"], inputs.specs, strict=True):
        if feature["fingerprint"] != spec.fingerprint:
            raise TrainError(f"{feature['key']} in the store is not the feature that run {run.name} was trained on.")


def _member_seed(seed: int, fold: int) -> int:
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])


def _contiguous(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in state.items()}
