"""The official .pth layout of Emotion-LLaMA, in and out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emo.featstore.errors import ModelError
from emo.featstore.files import replacing
from emo.train.llm.checkpoint import ImportReport
from emo.train.llm.emotion_llama.model import EmotionLlama
from emo.train.llm.official import read_official, take

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

    Nothing is loaded unless everything fits; see `official.take`.

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
    found, settings = read_official(path)
    expected = dict(model.trainable())
    new = [name for name in expected if re.fullmatch(NEW_PROJECTIONS, name)]
    try:
        report = take(path, found, settings, expected, IGNORED, model.lora.alpha, new if allow_new_projections else ())
    except ModelError as error:
        if new and not any(name.removeprefix("module.") in new for name in found):
            error.hint = "MiniGPT-v2's own checkpoint has no such projections: allow them to be new if this is it."
        raise
    return replace(report, warnings=(f"{path.name} {OWN_NORM}",)) if _has_own_norm(found) else report


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


# ---- inside ----------------------------------------------------------------------------------------------------------


def _has_own_norm(found: Mapping[str, Tensor]) -> bool:
    """Say whether there is an `ln_vision` that does more than normalise."""
    plain = {name.removeprefix("module."): each for name, each in found.items()}
    identity = (("ln_vision.weight", 1.0), ("ln_vision.bias", 0.0))
    return any(name in plain and bool((plain[name] != value).any()) for name, value in identity)
