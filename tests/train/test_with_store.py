"""Training on a store on disk, whose media are gone: only cached features are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.errors import FeatureMissing, MediaError
from emo.featstore.storage.store import Store, open_store
from emo.train.heads.fit import fit_head
from emo.train.heads.predict import HeadAnswerer
from emo.train.metrics.labels import Prediction, read_predictions, score
from emo.train.recipe import make_recipe
from emo.train.runs import latest_run, new_run

Fill = Callable[..., Any]
LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
RECIPE = make_recipe(
    {
        "head": "attention",
        "epochs": 6,
        "folds": 3,
        "features": ["HL-UTT", "mae_340_UTT", "frames", {"name": "eva_g_448", "pool": "mean"}],
    }
)


def media_of(clip_id: str) -> str:
    return hashlib.blake2b(clip_id.encode(), digest_size=16).hexdigest()


def save(memory: Any, path: Path, without: str = "") -> Store:
    """Copy a store in memory to disk; `without` is a clip in whose video no face was found."""
    store = open_store(path, create=True)
    with store.writer() as writer:
        for name, spec in memory.specs.items():
            for clip, array in memory.rows[name].items():
                writer.clip(clip, media_of(clip))
                if clip == without and name == "mae_340_UTT":
                    writer.fail(spec, media_of(clip), MediaError("no-face", "no face"))
                else:
                    writer.add(spec, media_of(clip), array, hop_s=0.04 if spec.level == "frame" else None)
    return open_store(path)


def test_a_store_on_disk_gives_what_its_numbers_in_memory_give(fill: Fill, tmp_path: Path) -> None:
    memory, clips = fill()
    for name in ("frames", "eva_g_448"):  # the store keeps these as float16
        memory.rows[name] = {clip: rows.astype("float16").astype("float32") for clip, rows in memory.rows[name].items()}
    store = save(memory, tmp_path / "features.emo")
    gone = [replace(clip, media=tmp_path / "gone" / f"{clip.id}.mp4") for clip in clips]
    for name, source in (("disk", store), ("memory", memory)):
        fit_head(source, gone, LABELS, RECIPE, tmp_path / name, "cpu")
    for file in ("predictions.jsonl", "metrics.json", "log.jsonl"):
        assert (tmp_path / "disk" / file).read_bytes() == (tmp_path / "memory" / file).read_bytes(), file


def test_from_store_to_score(fill: Fill, tmp_path: Path) -> None:
    memory, clips = fill()
    store = save(memory, tmp_path / "features.emo")
    folder = new_run(tmp_path, prefix=RECIPE.head)
    result = fit_head(store, clips[:44], LABELS, RECIPE, folder, "cpu")
    run = latest_run(tmp_path)
    assert run.path == folder
    assert json.loads((folder / "run.json").read_text()) == run.info == result.run.info

    truth = {clip.id: clip.label for clip in clips if clip.label and clip.split == "train"}
    again = score(truth, read_predictions(folder / "predictions.jsonl"), "official", LABELS)
    assert again.confusion == result.validation.confusion
    assert score(truth, read_predictions(folder / "predictions.jsonl"), "likelihood").confusion == again.confusion

    answers = HeadAnswerer(run, "cpu").answer(store, clips)
    assert set(answers) == {clip.id for clip in clips}
    assert all(isinstance(answer, Prediction) and answer.probabilities for answer in answers.values())


def test_a_clip_without_a_face_is_named_with_its_reason(fill: Fill, tmp_path: Path) -> None:
    memory, clips = fill()
    store = save(memory, tmp_path / "features.emo", without="clip_007")
    with pytest.raises(FeatureMissing, match=r"1 of 48 clips lack features\. mae_340_UTT: clip_007 \(no-face\)"):
        fit_head(store, clips, LABELS, RECIPE, tmp_path / "error", "cpu")
    skip = RECIPE.model_copy(update={"missing": "skip"})
    result = fit_head(store, clips, LABELS, skip, tmp_path / "skip", "cpu")
    assert result.run.info["skipped"] == ["clip_007"]
    assert result.validation.n == 39
