"""Answers of a finished run of a head, from cached features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from emo.featstore.clip import Clip
from emo.featstore.errors import TrainError, UsageError
from emo.train.answers import Prediction, read_predictions
from emo.train.device import resolve_device
from emo.train.features import FeatureSource, Inputs, StreamShape, load_inputs
from emo.train.heads.ensemble import LogitMean
from emo.train.recipe import head_class, load_recipe
from emo.train.runs import Run, load_run


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
    shapes = [StreamShape(f["dim"], f["sequence"], f.get("modality", "")) for f in info["features"]]
    mean = LogitMean(len(inputs.clip_ids), len(info["labels"]))
    rows = np.arange(len(inputs.clip_ids))
    for member in info["members"]:
        head = head_type(recipe, shapes, len(info["labels"]), info["valence"], device, 0)
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


def _check_fingerprints(run: Run, inputs: Inputs) -> None:
    for feature, spec in zip(run.info["features"], inputs.specs, strict=True):
        if feature["fingerprint"] != spec.fingerprint:
            raise TrainError(f"{feature['key']} in the store is not the feature that run {run.name} was trained on.")
