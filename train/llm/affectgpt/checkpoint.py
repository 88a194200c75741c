"""The official .pth layout of AffectGPT, in and out (runner_base.py, `_save_checkpoint`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from emo.featstore.files import replacing
from emo.train.llm.affectgpt.model import AffectGpt, official_names
from emo.train.llm.checkpoint import ImportReport
from emo.train.llm.official import read_official, take

IGNORED = (
    (r"(visual|acoustic)_encoder\..*", "an encoder: its features come from the store"),
    (r"llama_model\..*(?<!lora_[AB])\.(weight|bias)", "the frozen language model, which has a folder of its own"),
    (r"image_llama_proj\..*", "the projection of images, which the setting does not read"),
    (r"(video_attention_mlp|affectgpt_proj)\..*", "of faces and frames, which the setting does not read"),
    (r"audio_(attention_mlp|llama_proj)\..*", "of sound, which the setting does not read by itself"),
    (r"(multi_.*|attention_mlp|fc_att)\..*", "of the merged token, which the setting does not read"),
)


def import_official(path: str | Path, model: AffectGpt) -> ImportReport:
    """Load adapters, fusion and projections from an official checkpoint; all or nothing.

    What the model's setting does not read is left out, and the report says so.

    Raises:
        WeightsMissing: No such file.
        ModelError: Not a checkpoint; or a tensor is missing, unknown, of another shape or not finite.
    """
    path = Path(path)
    found, settings = read_official(path)
    return take(path, found, settings, dict(model.kept()), IGNORED, model.lora.alpha)


def export_official(model: AffectGpt, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
    """Write what was learned as the reference's runner does: `{"model", "config", "epoch", ...}`, names of peft 0.13.

    Args:
        model: To write. Only a setting with sound, faces or frames, and the merged token gives all 20 tensors that the
            reference has; its own loader takes fewer without a word.
        path: The .pth file; replaced if there is one.
        settings: Into `config["model"]`, beside the LoRA settings.
    """
    path = Path(path)
    state = {name: each.detach().cpu().clone() for name, each in official_names(model.kept())}
    config = {"model": {**(settings or {}), "lora_r": model.lora.r, "lora_alpha": model.lora.alpha}}
    content = {"model": state, "optimizer": {}, "config": config, "scaler": None, "epoch": 0}
    with replacing(path) as temporary:
        torch.save(content, temporary)
