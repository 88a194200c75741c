"""Learned weights of any family, in and out, strictly: adapter folders of peft, and merged Hugging Face models."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from peft import get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emo.featstore.errors import ModelError, UsageError, WeightsMissing
from emo.featstore.files import replacing, write_json
from emo.featstore.reading import read_json
from emo.featstore.sources.strict import fit_names
from emo.featstore.text import some_of
from emo.train.llm.build import SIZES
from emo.train.llm.model import TunedModel
from emo.train.runs import check, seal

State = dict[str, Tensor]

ADAPTER, PROJECTIONS, MANIFEST = "adapter_model.safetensors", "projections.safetensors", "manifest.json"
SCHEMA = 1
OTHER_SHAPE = "of shape {} instead of {}"
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class ImportReport:
    """Report of an import: what became of every tensor of the file.

    Attributes:
        consumed: Official names of the tensors that were taken.
        ignored: Names as they stand in the file, with the reason.
        missing: Expected tensors that the file lacks, on the caller's word; they keep their values.
        settings: What the file says of its training, if anything: `max_txt_len`, `end_sym`, `lora_alpha`, ...
        warnings: Sentences to show.
    """

    consumed: tuple[str, ...]
    ignored: Mapping[str, str]
    missing: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


# ---- emo's own: a peft adapter folder and projections ---------------------------------------------------------------


def save_adapter(model: TunedModel, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write what was learned: a peft adapter folder, `projections.safetensors`, and `manifest.json`, written last.

    Args:
        model: To write.
        folder: Built under a temporary name and renamed; or an existing folder without manifest, which the caller
            publishes.
        extra: Plain JSON that goes into the manifest.

    Raises:
        UsageError: The folder holds a model already.
    """
    with _folder(Path(folder)) as out:
        adapters = get_peft_model_state_dict(model.llama_model, save_embedding_layers=False)
        save_file(_detached(adapters), out / ADAPTER)
        config = copy.copy(model.llama_model.peft_config["default"])
        config.inference_mode = True
        config.save_pretrained(str(out))
        _save_projections(model, out)
        _save_manifest(model, out, "adapter", extra)
        seal(out)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder that `save_adapter` or `merge` wrote.

    Raises:
        WeightsMissing: The folder has none: it is no model, or its writing was stopped.
        ModelError: It is damaged, or of a newer schema.
    """
    path = Path(folder) / MANIFEST
    try:
        table = read_json(path)
    except UsageError as error:
        if not path.exists():
            raise WeightsMissing(f"{folder} is no tuned model: it has no {MANIFEST}.") from error
        raise ModelError(f"{path} is damaged: {error.message}") from error
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise ModelError(f"{path} is not of schema {SCHEMA}.", "Was it written by a newer emo?")
    return table


def load_adapter(model: TunedModel, folder: str | Path) -> dict[str, Any]:
    """Load what `save_adapter` wrote into a model of the same build, and return the manifest.

    Raises:
        WeightsMissing: The folder holds no whole model.
        ModelError: The model is of another build (all differences are named), or a file is damaged.
        TrainError: A file is not what was written.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    form = manifest.get("kind")
    if form != "adapter":
        raise ModelError(f"{folder} is a merged model, not an adapter.", "Load it as a language model.")
    check(folder, ADAPTER, PROJECTIONS, MANIFEST)
    here = _build_of(model)
    differences = [f"{k} {manifest.get(k)} instead of {here[k]}" for k in here if manifest.get(k) != here[k]]
    if differences:
        raise ModelError(f"{folder} was made for another model: {'; '.join(differences)}.")
    prefix = "base_model.model."
    found = {f"llama_model.{name}": each for name, each in read_safetensors(folder / ADAPTER).items()}
    if wrong := [name for name in found if not name.startswith(f"llama_model.{prefix}")]:
        raise ModelError(f"{folder / ADAPTER} holds {some_of(wrong, 3)}, which is no adapter.")
    found |= read_safetensors(folder / PROJECTIONS)
    expected = dict(model.kept())
    problems = fit_names(shapes(expected), shapes(found)).problems("is missing", "is unknown", OTHER_SHAPE)
    if problems := problems + not_finite(found):
        raise ModelError(f"{folder} does not fit the model: {some_of(problems, 5)}.")
    fill(found, expected)
    return manifest


def merge(model: TunedModel, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write a Hugging Face model with the adapters added into its weights, its tokenizer, and the projections.

    The model itself stays as it is.

    Raises:
        UsageError: The folder holds a model already.
        ModelError: The language model is quantised.
    """
    if any(each.dtype not in FLOATS for each in model.llm.state_dict().values()):
        raise ModelError("A quantised language model cannot be merged.", "Load it without quantise.")
    tied = {"lm_head.weight"} if model.llm.config.tie_word_embeddings else set()
    state = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.llm.state_dict().items()
        if ".lora_" not in name and name not in tied
    }
    for name, module in model.llm.named_modules():
        if isinstance(module, LoraLayer):
            weight = module.get_base_layer().weight
            added = weight.detach().float() + module.get_delta_weight("default").detach().float()
            state[f"{name}.weight"] = added.to(weight.dtype)
    with _folder(Path(folder)) as out:
        save_torch_state_dict({name: each.cpu().contiguous() for name, each in state.items()}, out)
        config = copy.deepcopy(model.llm.config)
        if hasattr(config, "quantization_config"):  # a .gguf was read; what is written here is plain
            del config.quantization_config
        config.save_pretrained(out)
        if model.llm.generation_config is not None:
            model.llm.generation_config.save_pretrained(out)
        model.tokenizer.save(out)
        _save_projections(model, out)
        _save_manifest(model, out, "merged", extra)
        seal(out)


# ---- inside ----------------------------------------------------------------------------------------------------------


def read_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return a sentence for every tensor with values that are not finite."""
    return [f"{name} is not finite" for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


@torch.no_grad()
def fill(found: Mapping[str, Tensor], expected: Mapping[str, nn.Parameter]) -> None:
    for name, tensor in found.items():
        expected[name].copy_(tensor)


def _detached(state: Mapping[str, Tensor]) -> State:
    return {name: each.detach().cpu().contiguous() for name, each in state.items()}


def _save_projections(model: TunedModel, folder: Path) -> None:
    state = {name: each for name, each in model.kept() if not name.startswith("llama_model.")}
    save_file(_detached(state), folder / PROJECTIONS)


def _build_of(model: TunedModel) -> dict[str, Any]:
    """Return what two models must share for the weights of one to make sense in the other."""
    config = model.llm.config
    return {
        **model.build(),
        "lora": {"r": model.lora.r, "alpha": model.lora.alpha, "targets": list(model.lora.targets)},
        "llm": {
            "hidden": config.hidden_size,
            "layers": config.num_hidden_layers,
            "ids": model.embeddings.weight.shape[0],
            "tokenizer": model.tokenizer.fingerprint,
            "drawn": model.seed if model.source in SIZES else None,
        },
    }


def _save_manifest(model: TunedModel, folder: Path, kind: str, extra: Mapping[str, Any] | None) -> None:
    table = {"schema": SCHEMA, "kind": kind, "source": model.source, "seed": model.seed, **_build_of(model)}
    write_json(folder / MANIFEST, {**table, "extra": dict(extra or {})})


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """A folder that is whole or absent; or one that the caller has made and publishes."""
    if (folder / MANIFEST).exists():
        raise UsageError(f"{folder} holds a model already.", "Choose another folder.")
    if folder.exists():
        yield folder
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        temporary.mkdir()
        yield temporary
