"""Speech models of Hugging Face: wav2vec 2.0, HuBERT, WavLM, data2vec-audio, in all sizes.

Recipe `merbench`: MERBench's `extract_audio_huggingface.py`: the normalised clip in zero-padded chunks of 10 s, the sum
of the last four hidden states, padding counted. Recipe `modern`: the whole clip at once, the last hidden state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from emo.extract.encoders.pretrained import Pretrained
from emo.extract.encoders.waves import CHUNK, RATE, Waves, framed

_TINY = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
ALONE = {"data2vec-audio"}  # its positions are a stack of convolutions, which padding would leak into


class Speech(Pretrained, Waves):
    """A speech model of the catalog."""

    family = "speech"
    suffixes: ClassVar[Mapping[str, str]] = {"utt": "UTT", "frame": "FRA"}
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "merbench": {"take": (-4, -3, -2, -1), "chunk": CHUNK},
        "modern": {"take": (-1,), "chunk": None},
    }
    small: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "wav2vec2": _TINY,
        "hubert": _TINY | {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
        "wavlm": _TINY | {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
        "data2vec-audio": _TINY | {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
    }
    spare: ClassVar[Mapping[str, str]] = {r"masked_spec_embed": "used in pre-training only"}
    ignore = (
        (r"(.*\.)?masked_spec_embed", "used in pre-training only"),
        (r"(label_embs_concat|.*\.label_embs_concat)", "a head of another task"),
    )

    def configure(self, config: Any) -> dict[str, Any]:
        sizes = super().configure(config)
        if self.weights is not None:
            self.read_normalise()
        return sizes

    @property
    def convolutions(self) -> Mapping[str, Any]:
        names = ("conv_kernel", "conv_stride", "feat_extract_norm")
        return {name: getattr(self.full, name, "layer") for name in names}

    @property
    def slack(self) -> float:
        return 1.0 if self.full.model_type in ALONE else super().slack

    def recipe(self, level: str) -> dict[str, Any]:
        chunk = {"samples": self.chunk, "padding": "zeros after normalisation, counted"} if self.chunk else None
        normalise = {"scope": "clip", "eps": 1e-7} if self.do_normalize else None
        pool = "mean over time" if level == "utt" else None
        return {**super().recipe(level), "rate_hz": RATE, "normalise": normalise, "chunk": chunk, "pool": pool}

    def fitted(self, model: nn.Module) -> nn.Module:
        for layer in model.feature_extractor.conv_layers:
            layer.conv = framed(layer.conv)
        return model

    def layers(self, model: nn.Module, samples: Tensor, mask: Tensor | None) -> Tensor:
        return self.summed(model(samples, attention_mask=mask, output_hidden_states=True))
