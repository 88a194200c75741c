"""Material of the training of a head: clips with features, and the plan of who trains on what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emo.featstore.clip import Clip, Label
from emo.featstore.datasets.cells import split_name
from emo.featstore.errors import UsageError
from emo.featstore.text import counted, some_of
from emo.train.features import (
    FeatureSource,
    Inputs,
    Stream,
    StreamShape,
    lacking_notes,
    load_inputs,
    media_of,
    profile_note,
    trained_splits,
)
from emo.train.heads.base import HeadRecipe, Measure, Outputs, Targets
from emo.train.heads.folds import Groups, group_clips, make_folds
from emo.train.metrics.labels import combined_metric, weighted_f1

SIGNS = ("negative", "neutral", "positive")  # of a valence
SPREAD_ROWS = 2000  # whose spread is measured
SPREAD_MOST = 1000.0  # between columns, before it is said


Part = tuple[int, int, np.ndarray, np.ndarray]  # seed, fold, rows to train on, rows held out


@dataclass(frozen=True)
class Material:
    """Clips and their features, before it is decided who trains on what."""

    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    inputs: Inputs
    targets: Targets
    train: np.ndarray  # rows that folds are made of
    others: np.ndarray  # rows that no fold trains on
    groups: Groups  # of the rows to train on

    @property
    def shapes(self) -> list[StreamShape]:
        """Shape of each stream."""
        return [stream.shape for stream in self.inputs.streams]


@dataclass(frozen=True)
class Plan:
    """Plan of who trains on what, decided before the first step.

    Attributes:
        recipe: With `select_by` resolved.
        folds: Seed, fold, rows to train on, rows held out.
        valence: Whether valence is learned.
        notes: Sentences that must stand beside any score of the run.
        fold_note: What must stand beside the validation score; may be empty.
    """

    recipe: HeadRecipe
    folds: tuple[Part, ...]
    valence: bool
    notes: tuple[str, ...]
    fold_note: str

    @property
    def epochs(self) -> int:
        """Epochs of all heads together."""
        return len(self.folds) * (self.recipe.passes or 1)


def with_classes(clips: Sequence[Clip], labels: Sequence[str]) -> tuple[tuple[Clip, ...], tuple[str, ...]]:
    """Give clips the sign of their valence as a class where no clip has an emotion word, as in MOSI, MOSEI and SIMS.

    Args:
        clips: Of one dataset.
        labels: Its label set.

    Returns:
        Clips and label set: as given where any clip has an emotion or none a valence; else with those of `SIGNS` that
        occur.
    """
    valences = [None if clip.label is None else clip.label.valence for clip in clips]
    if any(map(_has_emotion, clips)) or all(each is None for each in valences):
        return tuple(clips), tuple(labels)
    signs = [None if each is None else SIGNS[1 + (each > 0) - (each < 0)] for each in valences]
    signed = (
        clip if sign is None else replace(clip, label=Label(sign, value))
        for clip, sign, value in zip(clips, signs, valences, strict=True)
    )
    return tuple(signed), tuple(sign for sign in SIGNS if sign in signs)


def load_material(store: FeatureSource, clips: Sequence[Clip], labels: tuple[str, ...], recipe: HeadRecipe) -> Material:
    """Read the features of all clips, and decide which clips are trained on.

    Raises:
        UsageError: Clips or labels cannot be used, or too few are to be trained on.
        FeatureMissing: Clips lack features and `recipe.missing` is `error`.
    """
    _check_clips(clips, labels)
    choices = [(choice.name, choice.pool) for choice in recipe.features]
    inputs = load_inputs(store, choices, [clip.id for clip in clips], recipe.missing)
    by_id = {clip.id: clip for clip in clips}
    clips = tuple(by_id[clip_id] for clip_id in inputs.clip_ids)
    trains = trained_mask(clips, recipe)
    train = np.flatnonzero(trains)
    if len(train) < 2:
        raise UsageError(
            f"{len(train)} labelled clips with features are in the training splits; at least 2 are needed.",
            f"Splits of the clips given: {', '.join(sorted({clip.split or '(none)' for clip in clips}))}; "
            "name some by train_splits.",
        )
    groups = group_clips([clips[i] for i in train], recipe.fold_by)
    media = media_of(store, inputs.clip_ids)
    groups = replace(groups, note=" ".join(filter(None, (groups.note, *copies(clips, train, groups, media)))))
    return Material(labels, clips, inputs, _targets(clips, labels), train, np.flatnonzero(~trains), groups)


def copies(clips: Sequence[Clip], train: np.ndarray, groups: Groups, media: Mapping[str, str]) -> list[str]:
    """Say which clips have the very content of clips that are trained on, and so are known where they are scored.

    Args:
        clips: All of them.
        train: Rows that folds are made of.
        groups: Of these rows; copies within a group are never on both sides of a fold.
        media: Content hash by clip, as far as known.
    """
    rows = train.tolist()
    group_of = dict(zip(rows, range(len(rows)) if groups.of is None else groups.of.tolist(), strict=True))
    first = {media[clips[i].id]: i for i in reversed(rows) if clips[i].id in media}
    known = {i: first[media[clip.id]] for i, clip in enumerate(clips) if media.get(clip.id) in first}
    pairs = {i: f"{clips[i].id} is {clips[j].id}" for i, j in known.items()}
    inside = [pair for i, pair in pairs.items() if i in group_of and group_of[i] != group_of[known[i]]]
    outside = [pair for i, pair in pairs.items() if i not in group_of and _has_emotion(clips[i])]
    told = []
    if inside:
        what = counted(len(inside), "clip has the content of another", "clips have the content of others")
        told.append(f"{what}: {some_of(inside, 3)}. Folds may train on the one and validate on the other.")
    if outside:
        what = counted(len(outside), "clip that was left out has", "clips that were left out have")
        told.append(f"{what} the content of clips that are trained on: {some_of(outside, 3)}.")
    return told


def trained_mask(clips: Sequence[Clip], recipe: HeadRecipe) -> np.ndarray:
    """Return which clips are trained on, `(N,)` bool: the labelled ones of the splits to train on."""
    splits = trained_splits(clips, recipe.train_splits)
    return np.array([_has_emotion(clip) and split_name(clip.split) in splits for clip in clips], dtype=bool)


def fold_count(recipe: HeadRecipe, trained: int, groups: Groups) -> int:
    """Return how many folds there are: no more than there are clips, or groups of clips."""
    return min(recipe.folds, trained if groups.of is None else len(groups))


def make_plan(material: Material, recipe: HeadRecipe) -> Plan:
    """Decide the folds of every seed, the metric that chooses epochs, and what must be said of the run.

    Raises:
        UsageError: The recipe's metric needs valence that a fold does not have.
    """
    targets, train, groups = material.targets, material.train, material.groups
    count, what = (len(train), "labelled clips") if groups.of is None else (len(groups), f"groups by {groups.by[0]}")
    folds = fold_count(recipe, len(train), groups)
    parts = tuple(
        (seed, fold, np.delete(train, part), train[part])
        for seed in recipe.seeds
        for fold, part in enumerate(make_folds(targets.emotion[train], folds, seed, recipe.stratify, groups.of))
    )
    notes = plan_notes(material, recipe, parts)
    if folds < recipe.folds:
        notes.append(f"{count} {what} allow {folds} folds instead of {recipe.folds}.")
    valence = recipe.predicts_valence and bool(np.isfinite(targets.valence[train]).any())
    everywhere = valence and all(np.isfinite(targets.valence[part]).any() for *_, part in parts)
    if valence and not everywhere and recipe.select_by == "auto":
        notes.append("Some validation folds have no valence, so epochs were chosen by f1_weighted.")
    return Plan(resolve_metric(recipe, everywhere), parts, valence, tuple(notes), groups.note)


def plan_notes(material: Material, recipe: HeadRecipe, folds: Sequence[Part]) -> list[str]:
    """Return the sentences on features, classes and head that must stand beside any score of a run."""
    inputs, targets, train = material.inputs, material.targets, material.train
    notes = [profile_note(inputs.specs), spread_note(inputs.streams, recipe)]
    valence = targets.valence[train]
    signs = [SIGNS[1 + int(sign)] for sign in np.sign(valence)] if np.isfinite(valence).all() else []
    if signs and signs == [material.labels[i] for i in targets.emotion[train]]:
        words = ", ".join(material.labels)
        notes.append(f"Classes are the signs of the valence ({words}); `emo score --metric sentiment` scores them.")
    notes += lacking_notes(inputs.skipped, inputs.zeroed)
    return [note for note in (*notes, unseen_note(material, folds), recipe.remark) if note]


def unseen_note(material: Material, folds: Sequence[Part]) -> str:
    """Say which classes that clips have are in no clip that some model trains on; empty for none."""
    emotion = material.targets.emotion
    present = np.unique(emotion[emotion >= 0])
    lacking = Counter(int(i) for _, _, train, _ in folds for i in np.setdiff1d(present, emotion[train]))
    if not lacking:
        return ""
    models = counted(len(folds), "model")
    said = [f"{material.labels[i]} ({lacking[i]:,} of {models})" for i in sorted(lacking)]
    return f"Classes of which a model saw no clip in training, and which it hardly answers: {', '.join(said)}."


def spread_note(streams: Sequence[Stream], recipe: HeadRecipe) -> str:
    """Say which columns are far apart in scale where a head takes them as they are; empty where there are none.

    Of the deviations of all columns that vary, over a sample of the rows, the 1st and the 99th percentile are compared.
    """
    if getattr(recipe, "standardise", None) is not False:  # the head has no such key, or does it
        return ""
    for stream in streams:
        rows = stream.rows[:: max(1, len(stream.rows) // SPREAD_ROWS)]
        spread = rows.std(axis=0, dtype=np.float64)
        spread = spread[spread > 0]
        if len(spread) > 1:
            low, high = np.percentile(spread, (1, 99))
            if high > SPREAD_MOST * low:
                how = "a head learns mostly from the large ones: --set standardise=true brings all to one scale."
                return f"Columns of {stream.name} differ {high / low:,.0f}-fold in their spread, and {how}"
    return ""


def make_measure(metric: str, targets: Targets, rows: np.ndarray, classes: int) -> Measure:
    """Return the function that says how good outputs for `rows` are, by the metric's name."""
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


def _check_clips(clips: Sequence[Clip], labels: Sequence[str]) -> None:
    twice = [clip_id for clip_id, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise UsageError(f"{len(twice)} clip names come more than once: {some_of(twice)}.")
    emotions = {clip.label.emotion for clip in clips if clip.label and clip.label.emotion}
    if strange := sorted(emotions - set(labels)):
        raise UsageError(
            f"Clips carry labels outside the label set: {', '.join(strange)}.", f"It is: {', '.join(labels)}."
        )


def _has_emotion(clip: Clip) -> bool:
    return clip.label is not None and clip.label.emotion is not None


def _targets(clips: Sequence[Clip], labels: Sequence[str]) -> Targets:
    index = {label: i for i, label in enumerate(labels)}
    given = [clip.label or Label() for clip in clips]
    emotion = np.array([-1 if label.emotion is None else index[label.emotion] for label in given], dtype=np.int64)
    valence = np.array([np.nan if label.valence is None else label.valence for label in given], dtype=np.float64)
    return Targets(emotion, valence)


def resolve_metric(recipe: HeadRecipe, valence_everywhere: bool) -> HeadRecipe:
    """Name the validation metric: `auto` is MERBench's, combined where there is valence, else weighted F1."""
    if recipe.select_by == "combined" and not valence_everywhere:
        raise UsageError(
            "Epochs cannot be chosen by combined: a validation fold has no valence, or the head predicts none.",
            "Use select_by: f1_weighted.",
        )
    if recipe.select_by != "auto":
        return recipe
    return recipe.model_copy(update={"select_by": "combined" if valence_everywhere else "f1_weighted"})
