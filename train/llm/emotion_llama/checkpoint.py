"""Checkpoints in and out: the official .pth layout, peft adapter folders, merged Hugging Face models.

Loading is strict. Every tensor of a file is consumed or ignored for a reason, and every tensor that is expected must be
there: the official loader's `strict=False` drops all adapters of its own files under a newer peft, without a word.
"""

from __future__ import annotations

import copy
import json
import pickle
import re
import zipfile
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
from emo.featstore.sources.strict import fit_names
from emo.featstore.text import some_of
from emo.train.llm.emotion_llama.build import SIZES, build
from emo.train.llm.emotion_llama.model import EmotionLlama, LoraArgs, Widths

State = dict[str, Tensor]

ADAPTER, PROJECTIONS, MANIFEST = "adapter_model.safetensors", "projections.safetensors", "manifest.json"
SCHEMA = 1
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
IGNORED = (
    (r"attention\..*", "a classifier that the official code saves and never calls"),
    (r".*\.rotary_emb\.inv_freq", "a table that the language model computes"),
    (r"visual_encoder\..*", "the image encoder: its tokens come from the store"),
    (r"ln_vision\..*", "the image encoder's last norm: its output comes from the store"),
    (r"llama_model\..*(?<!lora_[AB])\.weight", "the frozen language model, which has a folder of its own"),
)
OTHER_SHAPE = "of shape {} instead of {}"
OWN_NORM = (
    "holds an ln_vision of its own, but image tokens in a store have gain 1 and bias 0 unless they were extracted with "
    "weights that hold ln_vision: extract them again with these weights, or answers will differ."
)
# What MiniGPT-v2's own checkpoint cannot have, because Emotion-LLaMA added it (minigpt_v2.py:68-85).
NEW_PROJECTIONS = r"(feats_llama_proj\d+|cls_tk_llama_proj)\.(weight|bias)"


@dataclass(frozen=True)
class ImportReport:
    """What an import did with every tensor of the file.

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


# ---- the official layout ---------------------------------------------------------------------------------------------


def import_official(path: str | Path, model: EmotionLlama, allow_new_projections: bool = False) -> ImportReport:
    """Load adapters and projections from an official checkpoint: stage 1, stage 2, or MiniGPT-v2's.

    Both spellings of adapter names are known (`lora_A.weight` of peft 0.2, `lora_A.default.weight` since 0.3), and the
    prefix `module.`. Nothing is loaded unless everything fits.

    Args:
        path: A .pth file with the state dict under `model`, or at its top; or a .safetensors file.
        model: With the widths and adapters of the checkpoint.
        allow_new_projections: For `minigptv2_checkpoint.pth` only, which has no projections of streams and CLS: those
            may be missing, all together.

    Raises:
        WeightsMissing: No such file.
        ModelError: Not a checkpoint; or a tensor is missing, unknown, of another shape or not finite.
    """
    path = Path(path)
    found, settings = _read_official(path)
    expected = dict(model.trainable())
    spelled: dict[str, str] = {}  # plain name -> name in the file
    for name in found:
        plain = re.sub(r"\.(lora_[AB])\.default\.", r".\1.", name.removeprefix("module."))
        if plain in spelled:
            raise ModelError(f"{path} holds {plain} twice, under two spellings.", "Is it really one checkpoint?")
        spelled[plain] = name
    plainly = {plain: found[name] for plain, name in spelled.items()}
    fit = fit_names(_shapes(expected), _shapes(plainly), IGNORED)
    taken = {plain: tensor for plain, tensor in plainly.items() if plain in expected}
    unknown, missing = [spelled[plain] for plain in fit.unexpected], list(fit.missing)
    ignored = {spelled[plain]: why for plain, why in fit.ignored.items()}
    new = [name for name in expected if re.fullmatch(NEW_PROJECTIONS, name)]
    allowed = allow_new_projections and missing == new
    problems = [f"{len(unknown)} unknown tensors ({some_of(unknown, 3)})"] if unknown else []
    if missing and not allowed:
        problems.append(f"{len(missing)} of {len(expected)} expected tensors missing ({some_of(missing, 3)})")
    problems += [f"{name} {OTHER_SHAPE.format(*both)}" for name, both in fit.shapes.items()] + _not_finite(taken)
    alpha = settings.get("lora_alpha", model.lora.alpha)
    if alpha != model.lora.alpha:
        problems.append(f"lora_alpha {alpha} instead of {model.lora.alpha}")
    if problems:
        hint = "Make the model with the checkpoint's features and LoRA settings."
        if missing and missing == new:
            hint = "MiniGPT-v2's own checkpoint has no such projections: allow them to be new if this is it."
        raise ModelError(f"{path} does not fit the model: {'; '.join(problems)}.", hint)
    _fill(taken, expected)
    warnings = (f"{path.name} {OWN_NORM}",) if _has_own_norm(found) else ()
    return ImportReport(tuple(taken), ignored, tuple(missing), settings, warnings)


def export_official(model: EmotionLlama, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
    """Write adapters and projections as the official code does: `{"model", "config", "epoch"}`, names of peft 0.2.

    The dead `attention.*` is left out; the official loader does not ask for it.

    Args:
        model: To write.
        path: The .pth file; replaced if there is one.
        settings: Into `config["model"]`, beside the LoRA settings: `max_txt_len`, `end_sym`, `prompt_template`, ...
    """
    path = Path(path)
    state = {name: each.detach().cpu().clone() for name, each in model.trainable()}
    config = {"model": {**(settings or {}), "lora_r": model.lora.r, "lora_alpha": model.lora.alpha}}
    with replacing(path) as temporary:
        torch.save({"model": state, "config": config, "epoch": 0}, temporary)


# ---- emo's own: a peft adapter folder and projections ---------------------------------------------------------------


def save_adapter(model: EmotionLlama, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
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


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder that `save_adapter` or `merge` wrote.

    Raises:
        WeightsMissing: The folder has none: it is no model, or its writing was stopped.
        ModelError: It is damaged, or of a newer schema.
    """
    path = Path(folder) / MANIFEST
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsMissing(f"{folder} is no tuned model: it has no {MANIFEST}.") from error
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}.") from error
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise ModelError(f"{path} is not of schema {SCHEMA}.", "Was it written by a newer emo?")
    return table


def load_adapter(model: EmotionLlama, folder: str | Path) -> dict[str, Any]:
    """Load what `save_adapter` wrote into a model of the same build, and return the manifest.

    Raises:
        WeightsMissing: The folder holds no whole model.
        ModelError: The model is of another build (all differences are named), or a file is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    form = manifest["kind"]
    if form != "adapter":
        raise ModelError(f"{folder} is a merged model, not an adapter.", "Load it as a language model.")
    here = _build_of(model)
    differences = [f"{key} {manifest[key]} instead of {here[key]}" for key in here if manifest[key] != here[key]]
    if differences:
        raise ModelError(f"{folder} was made for another model: {'; '.join(differences)}.")
    prefix = "base_model.model."
    found = {f"llama_model.{name}": each for name, each in _safetensors(folder / ADAPTER).items()}
    if wrong := [name for name in found if not name.startswith(f"llama_model.{prefix}")]:
        raise ModelError(f"{folder / ADAPTER} holds {some_of(wrong, 3)}, which is no adapter.")
    found |= _safetensors(folder / PROJECTIONS)
    expected = dict(model.trainable())
    problems = fit_names(_shapes(expected), _shapes(found)).problems("is missing", "is unknown", OTHER_SHAPE)
    if problems := problems + _not_finite(found):
        raise ModelError(f"{folder} does not fit the model: {some_of(problems, 5)}.")
    _fill(found, expected)
    return manifest


def open_adapter(
    folder: str | Path, source: str | None = None, dtype: str = "float32", device: str = "cpu"
) -> EmotionLlama:
    """The whole model of an adapter folder, its language model from where the manifest says, or from `source`.

    Raises:
        WeightsMissing: The folder or the language model is not there.
        ModelError: They do not fit.
    """
    manifest = read_manifest(folder)
    lora = LoraArgs(**{**manifest["lora"], "targets": tuple(manifest["lora"]["targets"])})
    named = source or manifest["source"]
    profile = named if named in SIZES else "paper"
    model = build(named, Widths.from_json(manifest["widths"]), lora, dtype, device, profile, manifest["seed"])
    load_adapter(model, folder)
    return model.eval()


def merge(model: EmotionLlama, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
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


# ---- inside ----------------------------------------------------------------------------------------------------------


def _read_official(path: Path) -> tuple[State, dict[str, Any]]:
    """Tensors by name, and the `model` part of the training configuration where the file has one."""
    if not path.is_file():
        raise WeightsMissing(f"There is no checkpoint at {path}.")
    if path.suffix == ".safetensors":
        return _safetensors(path), {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        with open(path, "rb") as file:
            if file.read(1) not in (b"\x80", b"P"):  # neither a pickle nor a zip archive
                raise ModelError(f"{path} is no checkpoint.", "Fetch the file again.") from error
        named = re.search(r"GLOBAL (\S+)", str(error))
        first = f"it asks for {named[1]}." if named else "it asks for code to be run."
        hint = "emo runs no code from checkpoints. Save its state dict on its own where you trust the file."
        raise ModelError(f"{path} holds more than tensors and plain values: {first}", hint) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise ModelError(f"{path} is no checkpoint: {error}.", "Fetch the file again.") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()) or not state:
        raise ModelError(f"{path} holds no state dict under `model`, nor at its top.")
    config = content.get("config")
    settings = config.get("model") if isinstance(config, Mapping) else None
    return dict(state), dict(settings) if isinstance(settings, Mapping) else {}


def _safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error


def _has_own_norm(found: Mapping[str, Tensor]) -> bool:
    """Whether there is an `ln_vision` that does more than normalise."""
    plain = {name.removeprefix("module."): each for name, each in found.items()}
    identity = (("ln_vision.weight", 1.0), ("ln_vision.bias", 0.0))
    return any(name in plain and bool((plain[name] != value).any()) for name, value in identity)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    return [f"{name} is not finite" for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


@torch.no_grad()
def _fill(found: Mapping[str, Tensor], expected: Mapping[str, nn.Parameter]) -> None:
    for name, tensor in found.items():
        expected[name].copy_(tensor)


def _detached(state: Mapping[str, Tensor]) -> State:
    return {name: each.detach().cpu().contiguous() for name, each in state.items()}


def _save_projections(model: EmotionLlama, folder: Path) -> None:
    state = {name: each for name, each in model.trainable() if not name.startswith("llama_model.")}
    save_file(_detached(state), folder / PROJECTIONS)


def _build_of(model: EmotionLlama) -> dict[str, Any]:
    """What two models must share for the weights of one to make sense in the other."""
    config = model.llm.config
    return {
        "widths": model.widths.to_json(),
        "lora": {"r": model.lora.r, "alpha": model.lora.alpha, "targets": list(model.lora.targets)},
        "llm": {
            "hidden": config.hidden_size,
            "layers": config.num_hidden_layers,
            "ids": model.embeddings.weight.shape[0],
            "tokenizer": model.tokenizer.fingerprint,
            "drawn": model.seed if model.source in SIZES else None,
        },
    }


def _save_manifest(model: EmotionLlama, folder: Path, kind: str, extra: Mapping[str, Any] | None) -> None:
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
