"""Make an `EmotionLlama`: a language model from wherever it is, fresh adapters and projections."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from emo.train.llm import build as llm
from emo.train.llm.emotion_llama.model import EmotionLlama, Widths
from emo.train.llm.model import LoraArgs
from emo.train.llm.tokenizer import Tokenizer


def build(
    source: str | Path | None,
    widths: Widths,
    lora: LoraArgs | None = None,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    profile: str = "paper",
    seed: int = 0,
    quantise: str | None = None,
) -> EmotionLlama:
    """Make the model. Adapters and projections are drawn from the seed; the adapters begin as zero.

    Args:
        source: See `emo.train.llm.build.build`, as for all that is not named here.
        widths: From `Widths.from_specs`.
        lora: The adapters; by default the official ones.
        dtype: Of the frozen language model.
        device: Where the model goes.
        profile: `paper`, `tiny` or `random`.
        seed: Of everything that is drawn.
        quantise: `nf4`, or `None`.
    """

    def make(model: PreTrainedModel, tokenizer: Tokenizer, name: str) -> EmotionLlama:
        return EmotionLlama(model, tokenizer, widths, lora or LoraArgs(), name, seed)

    return llm.build(make, source, dtype, device, profile, seed, quantise)
