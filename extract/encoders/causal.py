"""Causal language models as encoders of text: LLaMA, Baichuan (7B), Qwen2.5, BLOOM, Falcon, OPT, GPT-2.

The recipes are those of `text.py`; which layers are summed is the option `layers`. Baichuan's 7B models are LLaMA with
one matrix for queries, keys and values: they are read as such, because emo runs no code out of a hub repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from emo.extract.encoders.pretrained import HEADS
from emo.extract.encoders.text import Text
from emo.extract.weights import LoadReport, State, fit, rename
from emo.featstore.errors import ModelError

FUSED = "self_attn.W_pack.weight"
_V = {"vocab_size": 260}


class Causal(Text):
    """A causal language model of the catalog."""

    family = "causal"
    budget: ClassVar[Mapping[str, float]] = {"cpu": 1024, "cuda": 16_384}  # tokens
    small: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "llama": _V,
        "baichuan": _V,
        "qwen2": _V | {"num_key_value_heads": 2},
        "bloom": _V | {"n_layer": 4, "n_head": 4},
        "falcon": _V | {"multi_query": True, "parallel_attn": True},
        "opt": _V | {"ffn_dim": 64, "word_embed_proj_dim": 32},
        "gpt2": _V | {"n_embd": 32, "n_layer": 4, "n_head": 4},
    }
    ignore = (
        (r"(.*\.)?rotary_emb\.inv_freq", "a table that follows from the sizes"),
        (r"(.*\.)?attn\.(masked_)?bias", "the causal mask, and a constant of it"),
        (r"(.*\.)?(lm_head|embed_out|score)\..*", "the matrix that makes words"),
    )

    def expand(self, sizes: Mapping[str, Any]) -> Any:
        if sizes["model_type"] != "baichuan":
            return super().expand(sizes)
        full = super().expand({**sizes, "model_type": "llama"})
        if full.hidden_size >= 5120:
            raise ModelError(f"{self.name}: this Baichuan is no LLaMA, but has ALiBi positions.", "Take the 7B model.")
        full.fused = True
        return full

    def kind_and_width(self) -> tuple[str, int]:
        return ("llama" if self.entry.type == "baichuan" else self.entry.type), self.entry.width

    def read(self) -> tuple[nn.Module, LoadReport]:
        if not getattr(self.full, "fused", False):
            return super().read()
        model = self.build()
        expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
        found, _, _ = self.adapt(self.weights.tensors(), expected)
        state, report = fit(expected, found, (*self.ignore, HEADS), self.weights.source)
        model.load_state_dict(state, strict=True, assign=True)
        return model, report

    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        state = rename(state, [(r"^model\.", "")], self.weights.source)
        for name in [name for name in state if name.endswith(FUSED)]:
            stem = name.removesuffix("W_pack.weight")
            for part, tensor in zip("qkv", state.pop(name).chunk(3), strict=True):
                state[f"{stem}{part}_proj.weight"] = tensor
        return state, {}, []
