"""Tuned models across the border: an official checkpoint becomes a run, and a run becomes files for other tools."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from emo.featstore.errors import ModelError, UsageError, WeightsMissing
from emo.featstore.files import json_text, write_atomic, write_json
from emo.featstore.install import versions
from emo.featstore.page import Page
from emo.featstore.storage.store import Store
from emo.train.device import resolve_device
from emo.train.llm import checkpoint
from emo.train.llm.answer import load_tuned
from emo.train.llm.checkpoint import ImportReport
from emo.train.llm.data import Examples
from emo.train.llm.family import Family
from emo.train.llm.features import Features
from emo.train.llm.predict import resolve_dtype, start_model
from emo.train.llm.recipe import TuneRecipe
from emo.train.llm.resume import FOLDER
from emo.train.llm.setup import describe, file_finder, find_source
from emo.train.recipe import family_named
from emo.train.runs import Run, seal, utc, write_sealed

Form = Literal["official", "adapter", "merged"]
FORMS: Mapping[Form, str] = {
    "official": "as the published model's own code loads it: a .pth file, or a folder where that takes one",
    "adapter": "a folder: peft adapter, projections as safetensors, manifest",
    "merged": "a folder: Hugging Face model with the adapters added in, projections, manifest",
}


def import_run(
    store: Store | None,
    path: Path,
    recipe: TuneRecipe,
    run_dir: Path,
    device: str = "auto",
    *,
    weights: Mapping[str, str] | None = None,
    roots: Sequence[Path] = (),
) -> Run:
    """Make a finished run of an official checkpoint, to be scored and asked like one that was trained here.

    Args:
        store: Its features give the widths; `None` for a text-only recipe.
        path: The .pth file, or the folder where the family has such checkpoints.
        recipe: Language model, features, LoRA settings, prompts and layout of the checkpoint.
        run_dir: Run folder, from `new_run`.
        device: Torch device.
        weights: The workspace's table of weights.
        roots: Folders in which transcript files are looked for.

    Raises:
        ModelError: The file is no such checkpoint, or does not fit; the message says how.
        FeatureMissing: The store lacks a feature of the recipe.
        WeightsMissing: There is no such file, or no language model.
    """
    started, family = time.time(), family_named(recipe.family)
    if not path.exists():  # said before a language model is loaded
        raise WeightsMissing(f"There is no checkpoint at {path}.")
    device = resolve_device(device)
    recipe = recipe.model_copy(update={"dtype": resolve_dtype(recipe.dtype, device), "init_from": None})
    features = Features(store, family.wanted(recipe), (), recipe.missing)
    source = find_source(recipe.llm, weights or {})
    model = start_model(source, features, recipe, device)
    report = family.import_official(path, model)
    files: dict[str, str] = {}
    notes = _notes(path, report, recipe, family) + _absent(recipe, file_finder(roots, files, recipe))
    kept = f"{FOLDER}/step-{0:08d}"
    checkpoint.save_adapter(model, run_dir / kept)
    write_atomic(run_dir / "recipe.yaml", recipe.to_yaml())
    write_json(run_dir / "clips.json", {"train": [], "validation": []})
    imported = {"path": str(path), "consumed": len(report.consumed), "ignored": dict(report.ignored)}
    info: dict[str, Any] = {"schema": 1, "kind": recipe.makes, "name": run_dir.name, "recipe": recipe.name}
    info |= {"store": str(store.path) if store else None}
    info |= describe(recipe, features, Examples((), (), notes=tuple(notes)), source)
    info |= {"imported": imported | {"settings": dict(report.settings)}, "files": files, "checkpoint": kept}
    info |= {"best": None, "device": device, "versions": versions("torch", "transformers")}
    write_json(run_dir / "run.json", info | {"status": "running"})
    seal(run_dir)
    info |= {"status": "finished", "finished_at": utc(time.time()), "duration_s": round(time.time() - started, 3)}
    write_sealed(run_dir / "run.json", json_text(info))
    return Run(run_dir, info)


def _notes(path: Path, report: ImportReport, recipe: TuneRecipe, family: Family) -> list[str]:
    """Return what must stand beside scores of an imported checkpoint."""
    count = len(report.consumed)
    notes = [f"Imported from {path.name}: {count} tensors, trained elsewhere on clips that emo cannot know."]
    return [*notes, *report.warnings, *family.trained_otherwise(recipe, report.settings)]


def _absent(recipe: TuneRecipe, find: Callable[[str], Path]) -> list[str]:
    """Look transcripts up, and return a sentence for each file that is not there."""
    notes = []
    for name in recipe.data.transcripts:
        try:
            find(name)
        except UsageError:
            notes.append(f"{name} was not found: sentences come from the datasets alone.")
    return notes


def import_page(run: Run) -> Page:
    """Page of an imported checkpoint: what became of every tensor."""
    imported = run.info["imported"]
    by_reason: dict[str, list[str]] = {}
    for name, reason in imported["ignored"].items():
        by_reason.setdefault(reason, []).append(name)
    lines = [f"consumed: {imported['consumed']} tensors, all that were expected"]
    lines += [f"ignored: {len(names)} ({names[0]}, ...): {reason}" for reason, names in by_reason.items()]
    return Page({"run": str(run.path), **run.info}, [*lines, *run.info["notes"], f"run: {run.path}"])


def export_run(store: Store | None, run: Run, dest: Path, form: str) -> Page:
    """Write what a run has learned for other tools.

    Args:
        store: Where the run's features are; their specs give the widths.
        run: A finished run.
        dest: File or folder, which must not exist.
        form: One of `FORMS`.

    Raises:
        UsageError: Unknown form, or `dest` exists.
        ModelError: The model cannot be loaded, or is quantised and cannot be merged.
    """
    if form not in FORMS:
        known = "; ".join(f"{name} ({what})" for name, what in FORMS.items())
        raise UsageError(f"There is no form {form!r} of a model.", f"Forms: {known}.")
    if dest.exists():
        raise UsageError(f"{dest} exists already.", "Choose another path.")
    model, _, recipe = load_tuned(store, run, (), "cpu")
    extra = {"run": run.name, "layout": run.info["layout"], "notes": list(run.info["notes"])}
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        if form == "official":
            family_named(recipe.family).export_official(model, recipe, dest)
        elif form == "adapter":
            checkpoint.save_adapter(model, dest, extra)
        else:
            checkpoint.merge(model, dest, extra)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        raise ModelError(f"{dest} cannot be written: {str(error).splitlines()[0]}.", "Is there space on it?") from error
    size = dest.stat().st_size if dest.is_file() else sum(each.stat().st_size for each in dest.rglob("*"))
    value = {"run": run.name, "form": form, "path": str(dest), "size_bytes": size, "notes": extra["notes"]}
    return Page(value, [f"{dest}: {FORMS[form]}", *extra["notes"]])  # type: ignore[index]
