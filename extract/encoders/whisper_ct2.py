"""Whisper in CTranslate2's files as the tensors of transformers' `WhisperModel`: sizes and names.

CTranslate2 joins the projections of query, key and value (of key and value, where the decoder looks at the encoder) in
one matrix, and keeps a bias of zeros for the key, which Whisper does not have.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from emo.extract.weights import State
from emo.featstore.errors import ModelError
from emo.featstore.sources.ct2 import Model

_NAMES = (
    (r"position_encodings/encodings$", "embed_positions.weight"),
    (r"^decoder/embeddings/", "decoder/embed_tokens."),
    (r"layer_norm/gamma$", "layer_norm.weight"),
    (r"layer_norm/beta$", "layer_norm.bias"),
    (r"/layer_(\d+)/", r".layers.\1."),
    (r"self_attention/layer_norm", "self_attn_layer_norm"),
    (r"ffn/layer_norm", "final_layer_norm"),
    (r"(?<!self_)attention/layer_norm", "encoder_attn_layer_norm"),
    (r"ffn/linear_0/", "fc1."),
    (r"ffn/linear_1/", "fc2."),
    (r"self_attention/linear_1/", "self_attn.out_proj."),
    (r"(?<!self_)attention/linear_0/", "encoder_attn.q_proj."),
    (r"(?<!self_)attention/linear_2/", "encoder_attn.out_proj."),
)
_JOINED = (
    (r"self_attention/linear_0/", "self_attn.", ("q_proj", "k_proj", "v_proj")),
    (r"(?<!self_)attention/linear_1/", "encoder_attn.", ("k_proj", "v_proj")),
)


def sizes_of(model: Model) -> dict[str, Any]:
    """Return what config.json of transformers says of these sizes.

    Raises:
        ModelError: The file holds another kind of model.
    """
    if model.kind != "WhisperSpec":
        raise ModelError(f"{model.path} holds a {model.kind}, not Whisper.", "Is it another model?")

    def shape(name: str) -> tuple[int, ...]:
        return model.array(name).shape

    def layers(side: str) -> int:
        return len({found[1] for name in model.variables if (found := re.match(rf"{side}/layer_(\d+)/", name))})

    width, mels, _ = shape("encoder/conv1/weight")
    return {
        "model_type": "whisper",
        "d_model": width,
        "num_mel_bins": mels,
        "encoder_layers": layers("encoder"),
        "decoder_layers": layers("decoder"),
        "encoder_attention_heads": int(model.array("encoder/num_heads")),
        "decoder_attention_heads": int(model.array("decoder/num_heads")),
        "encoder_ffn_dim": shape("encoder/layer_0/ffn/linear_0/weight")[0],
        "decoder_ffn_dim": shape("decoder/layer_0/ffn/linear_0/weight")[0],
        "vocab_size": shape("decoder/embeddings/weight")[0],
        "max_source_positions": shape("encoder/position_encodings/encodings")[0],
        "max_target_positions": shape("decoder/position_encodings/encodings")[0],
    }


def tensors_of(model: Model) -> State:
    """Return the tensors under the names of `WhisperModel`, float32.

    Raises:
        ModelError: A key has a bias, which Whisper has not.
    """
    state: State = {}
    for name, variable in model.variables.items():
        if not variable.shape or variable.dtype not in ("<f2", "<f4"):
            continue  # settings of the decoding
        if name == "decoder/projection/weight":
            continue  # the matrix that makes words
        value = torch.from_numpy(model.array(name).astype("float32"))
        joined = next(((to, parts) for pattern, to, parts in _JOINED if re.search(pattern, name)), None)
        if joined is None:
            state[_renamed(name)] = value
            continue
        to, parts = joined
        stem = re.sub(r"/layer_(\d+)/.*", rf".layers.\1.{to}", name)
        for part, piece in zip(parts, value.chunk(len(parts)), strict=True):
            if part == "k_proj" and name.endswith("bias"):
                _no_bias(piece, name, model)
            else:
                state[f"{stem}{part}.{name.rpartition('/')[2]}"] = piece.contiguous()
    return state


def _no_bias(piece: Tensor, name: str, model: Model) -> None:
    if piece.any():
        raise ModelError(f"{model.path}: the key in {name} has a bias, which Whisper has not.", "Is it another model?")


def _renamed(name: str) -> str:
    for pattern, to in _NAMES:
        name = re.sub(pattern, to, name)
    return name.replace("/", ".")
