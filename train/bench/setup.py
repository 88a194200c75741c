"""Start of a bench: its folder, store and clips, and which of its cells can be trained."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.datasets import open_dataset
from emo.featstore.datasets.cells import split_name
from emo.featstore.errors import FeatureMissing, UsageError
from emo.featstore.files import digest
from emo.featstore.install import versions
from emo.featstore.storage.store import open_store
from emo.featstore.text import is_plain_name
from emo.featstore.workspace import Workspace
from emo.train.bench.recipe import VALIDATION, Bench, Cell, cells_of
from emo.train.features import FeatureSource, StreamShape, find_present, media_of
from emo.train.heads.base import Head, HeadRecipe
from emo.train.heads.folds import group_clips
from emo.train.heads.material import fold_count, trained_mask, with_classes
from emo.train.recipe import head_class
from emo.train.session import refuse_other_texts, settle, usable_clips

FOLDER = "benches"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Setup:
    """A bench that is ready to run.

    Attributes:
        name: Of the bench.
        bench: Its keys.
        folder: Where everything of it lies.
        store: Where the features lie.
        clips: Of the dataset, as far as they can be used.
        labels: The label set, in the order of the logits.
        cells: To be trained, with definite features.
        models: How many models each cell trains.
        left_out: Cells that cannot be, with the reason.
    """

    name: str
    bench: Bench
    folder: Path
    store: FeatureSource
    clips: tuple[Clip, ...]
    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    models: tuple[int, ...]
    left_out: tuple[tuple[Cell, str], ...]


def bench_folder(workspace: Workspace, name: str) -> Path:
    """Folder of a bench of this name.

    Raises:
        UsageError: The name is no plain folder name.
    """
    if not is_plain_name(name):
        raise UsageError(f"Bench name {name!r} is not a plain folder name.", "Give one: --name NAME.")
    return workspace.root / FOLDER / name


def open_bench(workspace: Workspace, bench: Bench, name: str, say: Say) -> Setup:
    """Find out which cells can be trained, before the first step.

    Raises:
        UsageError: Keys are wrong, no cell can be trained, or `rank_by` names no clips to rank by.
        FeatureMissing: Features or clips are missing, and the bench does not say to leave them out.
    """
    folder, cells = bench_folder(workspace, name), cells_of(bench, name)
    table = workspace.table(bench.dataset)
    source, store = open_dataset(table.name, table), open_store(workspace.store_path)
    clips, labels = with_classes(usable_clips(source, store, say), source.labels)
    told: set[str] = set()

    def once(sentence: str) -> None:
        if sentence not in told:
            told.add(sentence)
            say(sentence)

    kept: list[Cell] = []
    models: list[int] = []
    left_out: list[tuple[Cell, str]] = []
    for cell in cells:
        try:
            recipe = settle(store, cell.recipe, workspace.extract, once)
            refuse_other_texts(source.name, store, recipe.feature_names(), clips)
            why = _why_not(store, recipe)
        except FeatureMissing as error:
            if bench.absent == "error":
                raise
            why = error.message.split(";")[0].rstrip(".")
        if why:
            left_out.append((cell, why))
            continue
        kept.append(replace(cell, recipe=recipe))
        models.append(count_models(bench, store, clips, recipe))
    if not kept:
        reasons = "; ".join(f"{cell.title}: {why}" for cell, why in left_out[:3])
        raise UsageError(f"No cell of bench {name} can be trained. {reasons}.", "Extract features, or change the file.")
    _check_rank(bench, clips, kept[0].recipe)
    return Setup(name, bench, folder, store, clips, labels, tuple(kept), tuple(models), tuple(left_out))


def _why_not(store: FeatureSource, recipe: HeadRecipe) -> str:
    """Say why a head cannot read these features, as its own sentence; nothing where it can."""
    specs = [store.resolve(name) for name in recipe.feature_names()]
    shapes = [
        StreamShape(spec.dim, spec.level != "utt" and choice.pool == "none", spec.modality)
        for spec, choice in zip(specs, recipe.features, strict=True)
    ]
    try:
        head_class(recipe.head).check_shapes(shapes)
    except UsageError as error:
        return error.message.rstrip(".")
    return ""


def count_models(bench: Bench, store: FeatureSource, clips: Sequence[Clip], recipe: HeadRecipe) -> int:
    """Return how many models a cell trains: every fold of every setting and run.

    Raises:
        FeatureMissing: Clips lack features, and the bench does not say what to do about it.
    """
    runs = (bench.protocol.search or 0) * searched(bench, recipe) + bench.protocol.repeats
    if bench.protocol.val_splits:
        return runs
    specs = [store.resolve(name) for name in recipe.feature_names()]
    names = [clip.id for clip in clips]
    present, _ = find_present(store, specs, names, recipe.missing)
    whole = np.logical_and.reduce(present, axis=0) if recipe.missing == "skip" else np.ones(len(clips), dtype=bool)
    left = [clip for clip, yes in zip(clips, whole, strict=True) if yes]
    train = [clip for clip, yes in zip(left, trained_mask(left, recipe), strict=True) if yes]
    return runs * fold_count(recipe, len(train), group_clips(train, recipe.fold_by))


def searched(bench: Bench, recipe: Any) -> bool:
    """Say whether settings of a cell are drawn: the bench wants it, and the head has some."""
    return bench.protocol.search is not None and bool(getattr(recipe, "search", None))


def _check_rank(bench: Bench, clips: Sequence[Clip], recipe: HeadRecipe) -> None:
    if bench.rank_by == VALIDATION:
        return
    trained = trained_mask(clips, recipe)
    choosing = {split_name(split) for split in bench.protocol.val_splits or ()}
    splits = {
        clip.split
        for clip, yes in zip(clips, trained, strict=True)
        if not yes and clip.label and clip.label.emotion and split_name(clip.split) not in choosing
    }
    if bench.rank_by not in splits:
        known = ", ".join([VALIDATION, *sorted(splits)])
        raise UsageError(f"rank_by: {bench.rank_by} has no labelled clips apart from training.", f"There is: {known}.")


def identity(setup: Setup, cell: Cell, device: str) -> dict[str, Any]:
    """Everything that decides what the models of a cell learn, as plain JSON values."""
    specs = [setup.store.resolve(name) for name in cell.recipe.feature_names()]
    names = [clip.id for clip in setup.clips]
    values = [setup.store.checksums(spec.key, names).tobytes().hex() for spec in specs]
    trained = trained_mask(setup.clips, cell.recipe)
    choosing = {split_name(split) for split in setup.bench.protocol.val_splits or ()}
    told = [  # what is known of the other clips, no model learns
        (c.id, c.split, c.speaker, c.dialogue, c.session)
        + ((c.label.emotion, c.label.valence) if c.label and (yes or split_name(c.split) in choosing) else ())
        for c, yes in zip(setup.clips, trained, strict=True)
    ]
    return {
        "schema": 1,
        "recipe": cell.recipe.model_dump(mode="json"),
        "protocol": setup.bench.protocol.model_dump(mode="json"),
        "features": [spec.key for spec in specs],
        "labels": list(setup.labels),
        "feature values": digest(repr((values, media_of(setup.store, names))).encode()),
        "clips": digest(repr(told).encode("utf-8", "backslashreplace")),
        "code of the head": _code_of(head_class(cell.recipe.head)),
        "device": device.partition(":")[0],
        "versions": versions("numpy", "torch", "scikit-learn"),
    }


def _code_of(head: type[Head]) -> str:
    """Return a digest of the modules in which a head and its bases are written, a package's own among them."""
    modules = {kind.__module__ for kind in head.__mro__}
    files = {
        sys.modules[name].__file__ for name in modules if name.partition(".")[0] not in ("builtins", "abc", "torch")
    }
    return digest(b"".join(Path(file).read_bytes() for file in sorted(filter(None, files))))
