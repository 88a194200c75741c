"""The official .pth layout of Emotion-LLaMA, in and out.

Loading is strict. Every tensor of a file is consumed or ignored for a reason, and every tensor that is expected must be
there: the official loader's `strict=False` drops all adapters of its own files under a newer peft, without a word.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emo.featstore.errors import ModelError, WeightsMissing
from emo.featstore.files import replacing
from emo.featstore.sources.headers import damaged_entries
from emo.featstore.sources.strict import fit_names
from emo.featstore.text import some_of
from emo.train.llm.build import SIZES
from emo.train.llm.checkpoint import (
    OTHER_SHAPE,
    ImportReport,
    State,
    fill,
    load_adapter,
    not_finite,
    read_manifest,
    read_safetensors,
    shapes,
)
from emo.train.llm.emotion_llama.build import build
from emo.train.llm.emotion_llama.model import EmotionLlama, Widths
from emo.train.llm.model import LoraArgs

IGNORED = (
    (r"attention\..*", "a classifier that the official code saves and never calls"),
    (r".*\.rotary_emb\.inv_freq", "a table that the language model computes"),
    (r"visual_encoder\..*", "the image encoder: its tokens come from the store"),
    (r"ln_vision\..*", "the image encoder's last norm: its output comes from the store"),
    (r"llama_model\..*(?<!lora_[AB])\.weight", "the frozen language model, which has a folder of its own"),
)
OWN_NORM = (
    "holds an ln_vision of its own, but image tokens in a store have gain 1 and bias 0 unless they were extracted with "
    "weights that hold ln_vision: extract them again with these weights, or answers will differ."
)
# What MiniGPT-v2's own checkpoint cannot have, because Emotion-LLaMA added it (minigpt_v2.py:68-85).
NEW_PROJECTIONS = r"(feats_llama_proj\d+|cls_tk_llama_proj)\.(weight|bias)"


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
    fit = fit_names(shapes(expected), shapes(plainly), IGNORED)
    taken = {plain: tensor for plain, tensor in plainly.items() if plain in expected}
    unknown, missing = [spelled[plain] for plain in fit.unexpected], list(fit.missing)
    ignored = {spelled[plain]: why for plain, why in fit.ignored.items()}
    new = [name for name in expected if re.fullmatch(NEW_PROJECTIONS, name)]
    allowed = allow_new_projections and missing == new
    problems = [f"{len(unknown)} unknown tensors ({some_of(unknown, 3)})"] if unknown else []
    if missing and not allowed:
        problems.append(f"{len(missing)} of {len(expected)} expected tensors missing ({some_of(missing, 3)})")
    problems += [f"{name} {OTHER_SHAPE.format(*both)}" for name, both in fit.shapes.items()] + not_finite(taken)
    alpha = settings.get("lora_alpha", model.lora.alpha)
    if alpha != model.lora.alpha:
        problems.append(f"lora_alpha {alpha} instead of {model.lora.alpha}")
    if problems:
        hint = "Make the model with the checkpoint's features and LoRA settings."
        if missing and missing == new:
            hint = "MiniGPT-v2's own checkpoint has no such projections: allow them to be new if this is it."
        raise ModelError(f"{path} does not fit the model: {'; '.join(problems)}.", hint)
    fill(taken, expected)
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


# ---- inside ----------------------------------------------------------------------------------------------------------


def _read_official(path: Path) -> tuple[State, dict[str, Any]]:
    """Tensors by name, and the `model` part of the training configuration where the file has one."""
    if not path.is_file():
        raise WeightsMissing(f"There is no checkpoint at {path}.")
    if path.suffix == ".safetensors":
        return read_safetensors(path), {}
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped and (wrong := damaged_entries(path)):
        raise ModelError(f"{path} is no checkpoint: damaged are {some_of(wrong, 3)}.", "Fetch the file again.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        with open(path, "rb") as file:
            if file.read(1) not in (b"\x80", b"P"):  # neither a pickle nor a zip archive
                raise ModelError(f"{path} is no checkpoint.", "Fetch the file again.") from error
        named = re.search(r"GLOBAL (\S+)", str(error))
        first = f"it asks for {named[1]}." if named else "it asks for code to be run."
        hint = "emo runs no code from checkpoints. Save its state dict on its own where you trust the file."
        raise ModelError(f"{path} holds more than tensors and plain values: {first}", hint) from error
    except Exception as error:  # of a damaged pickle torch raises whatever comes up
        raise ModelError(f"{path} is no checkpoint: {error}.", "Fetch the file again.") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()) or not state:
        raise ModelError(f"{path} holds no state dict under `model`, nor at its top.")
    config = content.get("config")
    settings = config.get("model") if isinstance(config, Mapping) else None
    return dict(state), dict(settings) if isinstance(settings, Mapping) else {}


def _has_own_norm(found: Mapping[str, Tensor]) -> bool:
    """Say whether there is an `ln_vision` that does more than normalise."""
    plain = {name.removeprefix("module."): each for name, each in found.items()}
    identity = (("ln_vision.weight", 1.0), ("ln_vision.bias", 0.0))
    return any(name in plain and bool((plain[name] != value).any()) for name, value in identity)
