"""Train a head over folds and seeds on cached features, and say what it says of every clip.

Folds, order of clips, initial weights and dropout are pure functions of the seed, so the same recipe on the same store
gives the same files again, bit by bit on a CPU.
"""

from __future__ import annotations

import json
import math
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
from emo.featstore.datasets.cells import split_name
from emo.featstore.errors import TrainError, UsageError
from emo.featstore.files import write_atomic, write_json, write_jsonl
from emo.featstore.text import some_of
from emo.train.answers import Prediction, read_predictions
from emo.train.device import resolve_device
from emo.train.features import FeatureSource, Inputs, load_inputs, profile_note
from emo.train.heads.base import Epoch, HeadRecipe, Measure, OnEpoch, Outputs, Part, Targets
from emo.train.heads.search import RUNS, average, check_search, draw, numbers_of, rank
from emo.train.metrics.labels import Score, combined_metric, score, too_few, weighted_f1
from emo.train.recipe import head_class, load_recipe
from emo.train.runs import Run, load_run, utc


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
    """What `fit_head` has left in the run folder.

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
        search: Draw so many settings from the recipe's `search` first, cross-validate them all, and train the best
            under six seeds more (MERBench's protocol).

    Raises:
        UsageError: Clips or recipe cannot be used, or the head allows no search.
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
        result = _fit(store, clips, tuple(labels), recipe, run_dir, resolve_device(device), on_progress, info, search)
    except BaseException as error:
        info |= {"status": "failed" if isinstance(error, Exception) else "interrupted", "error": str(error)}
        write_json(run_dir / "run.json", info)
        raise
    info |= {"status": "finished", "finished_at": utc(time.time()), "duration_s": round(time.time() - started, 3)}
    write_json(run_dir / "run.json", info)
    return result


@dataclass(frozen=True)
class _Material:
    """Clips and their features, before it is decided who trains on what."""

    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    inputs: Inputs
    targets: Targets
    train: np.ndarray  # rows that folds are made of
    others: np.ndarray  # rows that no fold trains on

    @property
    def dims(self) -> list[tuple[int, bool]]:
        """`(D, is a sequence)` of each stream."""
        return [(stream.dim, stream.sequence) for stream in self.inputs.streams]


@dataclass(frozen=True)
class _Plan:
    """Who trains on what, decided before the first step."""

    recipe: HeadRecipe  # with select_by resolved
    parts: tuple[tuple[int, int, np.ndarray, np.ndarray], ...]  # seed, fold, rows to train on, rows held out
    valence: bool
    notes: tuple[str, ...]

    @property
    def epochs(self) -> int:
        """Epochs of all heads together."""
        return len(self.parts) * getattr(self.recipe, "epochs", 1)


class _Teller:
    """Counts finished epochs, and tells whoever wants to know."""

    def __init__(self, on_progress: Callable[[Progress], None] | None, total: int) -> None:
        self.on_progress, self.done, self.total = on_progress, 0, total

    def tell(self, seed: int, fold: int, folds: int, epoch: Epoch, drawn: int | None = None) -> None:
        self.done += 1
        if self.on_progress is not None:
            row = (epoch.epoch, epoch.loss, epoch.metric, epoch.best, self.done, self.total, drawn)
            self.on_progress(Progress(seed, fold, folds, *row))


def _load(store: FeatureSource, clips: Sequence[Clip], labels: tuple[str, ...], recipe: HeadRecipe) -> _Material:
    _check_clips(clips, labels)
    inputs = load_inputs(store, _choices(recipe), [clip.id for clip in clips], recipe.missing)
    by_id = {clip.id: clip for clip in clips}
    clips = tuple(by_id[clip_id] for clip_id in inputs.clip_ids)
    trains = np.array([_trains(clip, recipe.train_splits) for clip in clips])
    train = np.flatnonzero(trains)
    if len(train) < 2:
        raise UsageError(
            f"{len(train)} labelled clips with features are in the training splits; at least 2 are needed.",
            f"Splits of the clips given: {', '.join(sorted({clip.split or '(none)' for clip in clips}))}.",
        )
    return _Material(labels, clips, inputs, _targets(clips, labels), train, np.flatnonzero(~trains))


def _plan(material: _Material, recipe: HeadRecipe) -> _Plan:
    inputs, targets, train = material.inputs, material.targets, material.train
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
    return _Plan(_resolve_metric(recipe, everywhere), parts, valence, tuple(notes))


def _train(
    material: _Material, plan: _Plan, run_dir: Path, device: str, teller: _Teller
) -> tuple[dict[int, Mean], list[dict[str, Any]]]:
    """Train one head per seed and fold; save each; return what each seed's say of all clips, and a row about each."""
    recipe, targets, metric = plan.recipe, material.targets, plan.recipe.select_by
    head_type, dims, classes = head_class(recipe.head), material.dims, len(material.labels)
    data, folds = head_type.prepare(material.inputs.streams, device), len(plan.parts) // len(recipe.seeds)
    heads, parts = [], []
    with open(run_dir / "log.jsonl", "w", encoding="utf-8") as log:

        def listen(seed: int, fold: int) -> OnEpoch:
            def on_epoch(epoch: Epoch) -> None:
                row = {"seed": seed, "fold": fold, "epoch": epoch.epoch, "loss": epoch.loss, metric: epoch.metric}
                log.write(json.dumps(row) + "\n")
                teller.tell(seed, fold, folds, epoch)

            return on_epoch

        for seed, fold, train, held_out in plan.parts:
            heads.append(head_type(recipe, dims, classes, plan.valence, device, _member_seed(seed, fold)))
            parts.append(Part(train, held_out, _measure(metric, targets, held_out, classes), listen(seed, fold)))
        best = head_type.fit_all(heads, data, targets, parts)

    answers = {seed: Mean(len(material.clips), classes) for seed in recipe.seeds}
    members: list[dict[str, Any]] = []
    for (seed, fold, *_), head, part, epoch in zip(plan.parts, heads, parts, best, strict=True):
        validation = head.predict(data, part.val)
        answers[seed].add(part.val, validation)
        answers[seed].add(material.others, head.predict(data, material.others))
        name = f"seed{seed}-fold{fold}.safetensors"
        write_atomic(run_dir / name, save(_contiguous(head.state()), {"head": recipe.head}))
        member = {"seed": seed, "fold": fold, "weights": name, "n_train": len(part.train), "n_val": len(part.val)}
        members.append(member | {"best_epoch": epoch, metric: part.measure(validation)})
    return answers, members


def _search(material: _Material, recipe: Any, count: int, device: str, teller: _Teller) -> dict[str, Any]:
    """Cross-validate `count` settings, all together; what search.json holds. Sees the rows of `material.train` only."""
    draws = draw(recipe, count)
    used = tuple(dict.fromkeys(each.seed for each in draws))
    plan = _plan(material, recipe.model_copy(update={"seeds": used}))
    metric, targets = plan.recipe.select_by, material.targets
    head_type, dims, classes = head_class(recipe.head), material.dims, len(material.labels)
    of_seed = {seed: [part for part in plan.parts if part[0] == seed] for seed in used}
    found: list[list[dict[str, Any]]] = [[] for _ in draws]
    heads, parts = [], []

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
            heads.append(head_type(each.recipe, dims, classes, plan.valence, device, _member_seed(seed, fold)))
            measure = _measure(metric, targets, held_out, classes)
            parts.append(Part(train, held_out, measure, listen(i, seed, fold)))
    head_type.fit_all(heads, head_type.prepare(material.inputs.streams, device), targets, parts, keep=False)
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


def _fit(
    store: FeatureSource,
    clips: Sequence[Clip],
    labels: tuple[str, ...],
    recipe: HeadRecipe,
    run_dir: Path,
    device: str,
    on_progress: Callable[[Progress], None] | None,
    info: dict[str, Any],
    drawn: int | None,
) -> FitResult:
    material, search = _load(store, clips, labels, recipe), None
    if drawn:
        check_search(recipe, material.dims)
        folds = len(_plan(material, recipe).parts)
        teller = _Teller(on_progress, (drawn + RUNS) * folds * getattr(recipe, "epochs", 1))
        search = _search(material, recipe, drawn, device, teller)
        write_json(run_dir / "search.json", search)
        chosen = search["chosen"] | {"seeds": search["chosen_seeds"]}
        recipe = type(recipe).model_validate(recipe.model_dump() | chosen)
        info |= {"search": {key: search[key] for key in ("drawn", "possible", "select_by", "seeds", "chosen")}}
        plan = _plan(material, recipe)
    else:
        plan = _plan(material, recipe)
        teller = _Teller(on_progress, plan.epochs)
    write_atomic(run_dir / "recipe.yaml", plan.recipe.to_yaml())
    answers, members = _train(material, plan, run_dir, device, teller)
    rows = _prediction_rows(material, plan, Mean.over(list(answers.values())))
    write_jsonl(run_dir / "predictions.jsonl", rows)

    validation, splits = _scores(material, rows)
    runs = []
    for seed, mean in answers.items() if len(answers) > 1 else ():
        own, others = _scores(material, _prediction_rows(material, plan, mean))
        numbers = {name: numbers_of(each) for name, each in others.items()}
        runs.append({"seed": seed, "validation": numbers_of(own), "splits": numbers})
    averaged = average(runs) if runs else None
    notes = list(plan.notes)
    if few := too_few(validation.n):
        notes.append(few)
    if search:
        notes.append(f"The settings are the best of {drawn} draws on the same validation clips.")
    if hasattr(plan.recipe, "epochs"):
        notes.append("The validation clips chose the epoch, so the validation score is somewhat too good.")
    metrics = {
        "select_by": plan.recipe.select_by,
        "validation": validation.to_json(),
        "splits": {name: each.to_json() for name, each in splits.items()},
        "members": members,
        "notes": notes,
    }
    metrics |= {"runs": runs, "average": averaged} if runs else {}
    write_json(run_dir / "metrics.json", metrics)
    inputs = material.inputs
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
        for choice, spec, stream in zip(plan.recipe.features, inputs.specs, inputs.streams, strict=True)
    ]
    info |= {
        "features": features,
        "profile": profile_note(inputs.specs) or "Features come from the published encoders (paper profile).",
        "notes": list(plan.notes),
        "valence": plan.valence,
        "members": [{key: member[key] for key in ("seed", "fold", "weights")} for member in members],
        "n_train": validation.n,
        "n_predicted": len(rows),
        "skipped": list(inputs.skipped),
        "zeroed": list(inputs.zeroed),
        "device": device,
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("emo", "numpy", "torch", "scikit-learn")},
    }
    return FitResult(Run(run_dir, info), validation, splits, tuple(notes), averaged, search)


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

    @classmethod
    def over(cls, means: Sequence[Mean]) -> Mean:
        """All models of several means together."""
        whole = cls(*means[0].logits.shape)
        whole.logits = np.sum([mean.logits for mean in means], axis=0)
        whole.valence = np.sum([mean.valence for mean in means], axis=0)
        whole.count = np.sum([mean.count for mean in means], axis=0)
        return whole

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


def _prediction_rows(material: _Material, plan: _Plan, answers: Mean) -> list[dict[str, Any]]:
    """One row per clip. `folds` names, per seed, the fold that held the clip out; `null` where all folds spoke."""
    folds: dict[int, list[int]] = {}
    for _, fold, _, held_out in plan.parts:
        for i in held_out:
            folds.setdefault(int(i), []).append(fold)
    rows = []
    for i, clip in enumerate(material.clips):
        row = {"name": clip.id, "split": clip.split, "folds": folds.get(i)} | answers.row(i, material.labels)
        label = clip.label or Label()
        truth = {"truth": label.emotion, "truth_valence": label.valence}
        rows.append(row | {key: value for key, value in truth.items() if value is not None})
    return rows


def _scores(material: _Material, rows: Sequence[Mapping[str, Any]]) -> tuple[Score, dict[str, Score]]:
    """Score of the held-out training clips, and of every other split whose truth is known."""
    said = {row["name"]: Prediction(row["answer"], row.get("valence")) for row in rows}
    truths: dict[str | None, dict[str, Label]] = {}
    for clip, row in zip(material.clips, rows, strict=True):
        if clip.label and clip.label.emotion:
            truths.setdefault(None if row["folds"] else clip.split, {})[clip.id] = clip.label
    scores = {}
    for split, truth in truths.items():
        scores[split] = score(truth, {name: said[name] for name in truth}, "strict", material.labels)
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
