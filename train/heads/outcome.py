"""Results of training, apart from weights: a row per clip, the scores of these rows, the words of run.json."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emo.featstore.clip import Label
from emo.featstore.install import versions
from emo.train.answers import Prediction
from emo.train.features import profile_note
from emo.train.heads.base import HeadRecipe
from emo.train.heads.ensemble import LogitMean
from emo.train.heads.material import Material, Plan
from emo.train.metrics.labels import Score, score


def describe(material: Material, plan: Plan, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what run.json says of features, folds and heads: all that answering needs."""
    inputs, groups = material.inputs, material.groups
    features = [
        {
            "name": choice.name,
            "pool": choice.pool,
            "key": spec.key,
            "fingerprint": spec.fingerprint,
            "profile": spec.profile,
            "modality": spec.modality,
            "dim": stream.dim,
            "sequence": stream.sequence,
        }
        for choice, spec, stream in zip(plan.recipe.features, inputs.specs, inputs.streams, strict=True)
    ]
    return {
        "features": features,
        "profile": profile_note(inputs.specs) or "Features come from the published encoders (paper profile).",
        "notes": list(plan.notes),
        "folds": {"by": list(groups.by) or ["random"], "groups": len(groups) or len(material.train)},
        "valence": plan.valence,
        "members": [{key: member[key] for key in ("seed", "fold", "weights") if key in member} for member in members],
        "skipped": list(inputs.skipped),
        "zeroed": list(inputs.zeroed),
        "versions": {"python": platform.python_version()} | versions("numpy", "torch", "scikit-learn"),
    }


def prediction_rows(material: Material, plan: Plan, answers: LogitMean) -> list[dict[str, Any]]:
    """One row per clip that a model spoke about.

    `folds` names, per seed, the fold that held the clip out; `null` where all folds spoke.
    """
    folds: dict[int, list[int]] = {}
    for _, fold, _, held_out in plan.folds:
        for i in held_out:
            folds.setdefault(int(i), []).append(fold)
    rows = []
    for i, clip in enumerate(material.clips):
        if not answers.count[i]:
            continue
        row = {"name": clip.id, "split": clip.split, "folds": folds.get(i)} | answers.row(i, material.labels)
        label = clip.label or Label()
        truth = {"truth": label.emotion, "truth_valence": label.valence}
        rows.append(row | {key: value for key, value in truth.items() if value is not None})
    return rows


def scores(material: Material, rows: Sequence[Mapping[str, Any]]) -> tuple[Score, dict[str, Score]]:
    """Score of the clips that were held out for validation, and of every other split whose truth is known."""
    said = {row["name"]: Prediction(row["answer"], row.get("valence")) for row in rows}
    labels = {clip.id: clip.label for clip in material.clips if clip.label and clip.label.emotion}
    truths: dict[str | None, dict[str, Label]] = {}
    for row in rows:
        if (name := row["name"]) in labels:
            truths.setdefault(None if row["folds"] else row["split"], {})[name] = labels[name]
    found = {
        split: score(truth, {name: said[name] for name in truth}, "strict", material.labels)
        for split, truth in truths.items()
    }
    validation = found.pop(None)
    return validation, {str(split): each for split, each in found.items()}


def member_seed(seed: int, fold: int) -> int:
    """Return the seed of the head that a fold of a seed is held out from."""
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])


def passes_note(recipe: HeadRecipe) -> str:
    """Return the sentence that must stand beside a validation score whose clips chose the epoch; empty for none."""
    return (
        "The validation clips chose the epoch, so the validation score is somewhat too good." if recipe.passes else ""
    )
