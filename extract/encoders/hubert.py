"""HuBERT: `HL-UTT` (MER2023's recipe, which Emotion-LLaMA uses) and `HL-MERBench-UTT` (MERBench's).

Both normalise the whole clip to zero mean and unit variance. MER2023 runs the whole clip at once and takes the last
layer; MERBench folds clips longer than 10 s into zero-padded chunks, sums the last four hidden states, and counts the
padding. The published features of both carry the same directory name (`chinese-hubert-large-UTT`); here they are two
specs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from emo.extract.encoders.base import Variant
from emo.extract.encoders.settings import MODEL, stated_in, unlike
from emo.extract.encoders.waves import CHUNK, RATE, Waves, framed
from emo.extract.weights import State, rename
from emo.featstore.errors import ModelError
from emo.featstore.sources.hub import Source

# config.json of TencentGameMate/chinese-hubert-large; whatever else such a file holds does not change the features.
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "conv_pos_batch_norm": False,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
TINY = {
    **LARGE,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
UNUSED = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "apply_spec_augment": False, "layerdrop": 0.0}


class _Hubert(Waves):
    family = "hubert"
    source = Source(
        "HuBERT large on Chinese speech (24 layers, width 1024)", hub="TencentGameMate/chinese-hubert-large"
    )
    ignore = (
        (r"masked_spec_embed", "used in pre-training only"),
        (r"(lm_head|classifier|projector|final_proj|label_embs_concat).*", "a head of another task"),
    )

    def configure(self, config: Any) -> dict[str, Any]:
        from transformers import HubertConfig

        folder = self.weights is not None and self.weights.path.is_dir()
        if config is None and folder:
            config = stated_in(self.weights, MODEL, HubertConfig().to_dict())
        if config is None:
            if self.weights is not None:
                self.read_normalise()
            return TINY if self.profile == "tiny" else LARGE
        full = HubertConfig(**config).to_dict()  # with the library's defaults for what the file leaves out
        sizes = {key: list(v) if isinstance(v := full.get(key, LARGE[key]), tuple) else v for key in LARGE}
        if self.profile == "paper" and (wrong := [k for k in LARGE if sizes[k] != LARGE[k]]):
            got = ", ".join(f"{k} is {sizes[k]} instead of {LARGE[k]}" for k in wrong[:3])
            message = f"{self.name} is HuBERT large, but in {self.weights.source} {got}."
            raise ModelError(message, "Is it another model?")
        if self.weights is not None:
            self.notes += unlike(f"{self.weights.source}/{MODEL}", sizes, LARGE) if folder else []
            self.read_normalise()
        return sizes

    @property
    def dim(self) -> int:
        return self.config["hidden_size"]

    @property
    def convolutions(self) -> Mapping[str, Any]:
        return self.config

    def recipe(self, level: str) -> dict[str, Any]:
        normalise = {"scope": "clip", "eps": 1e-7} if self.do_normalize else None
        chunk = {"samples": self.chunk, "padding": "zeros after normalisation, counted"} if self.chunk else None
        sizes = {"hop_samples": self.hop_samples, "arch": self.config}
        return {"rate_hz": RATE, "normalise": normalise, "chunk": chunk, **sizes}

    def build(self) -> nn.Module:
        from transformers import HubertConfig, HubertModel

        model = HubertModel(HubertConfig(**self.config, **UNUSED))
        for layer in model.feature_extractor.conv_layers:
            layer.conv = framed(layer.conv)
        return model

    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        state = rename(state, [(r"^module\.", ""), (r"^hubert\.", "")], self.weights.source)
        stem = "encoder.pos_conv_embed.conv."
        pairs = [("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1")]
        rules = [
            (rf"^{stem}{a}$", stem + b) if stem + b in expected else (rf"^{stem}{b}$", stem + a) for a, b in pairs
        ]  # torch changed the names of a weight norm's parts; both kinds of file and of model exist
        return rename(state, rules, self.weights.source), {}, []

    def layers(self, model: nn.Module, samples: Tensor, mask: Tensor | None) -> Tensor:
        """The layers that the recipe takes, (B, T, D): the last one, after the encoder's final LayerNorm.

        `last_hidden_state`, not `hidden_states[-1]`: transformers 5.x takes the latter before that LayerNorm.
        """
        return model(samples, attention_mask=mask).last_hidden_state

    def variants(self) -> Iterator[Variant]:
        other = HubertMerbench if isinstance(self, HubertLast) else HubertLast
        last = other is HubertMerbench
        layers = "the sum of the last four layers" if last else "the last layer alone"
        chunks = "10 s chunks, the last one padded with zeros" if last else "the whole clip at once"
        yield Variant("layers", layers, self.twin(other, chunk=self.chunk))
        yield Variant("chunks", chunks, self.twin(chunk=other.chunk))
        yield Variant("recipe", f"{layers}, and {chunks} (the recipe of {other.name})", self.twin(other))

        def unnormed(model: nn.Module, samples: Tensor, mask: Tensor | None) -> Tensor:
            seen: list[Tensor] = []
            hook = model.encoder.layer_norm.register_forward_hook(lambda _, args, out: seen.extend((args[0], out)))
            try:
                rows = self.layers(model, samples, mask)
            finally:
                hook.remove()
            return rows - seen[1] + seen[0]

        words = "the last layer without the encoder's final norm (`hidden_states[-1]` of transformers 5)"
        yield Variant("final-norm", words, self.twin(layers=unnormed))
        switch = "without" if self.do_normalize else "with"
        words = f"sound {switch} normalisation to zero mean and unit variance"
        yield Variant("normalisation", words, self.twin(do_normalize=not self.do_normalize))
        yield from super().variants()


class HubertLast(_Hubert):
    """`HL-UTT`: last layer, whole clip, mean over time. MER2023's `extract_transformers_embedding.py`, layer -1."""

    name = "HL-UTT"
    names: ClassVar[Mapping[str, str]] = {"utt": "HL-UTT", "frame": "HL-FRA"}

    def recipe(self, level: str) -> dict[str, Any]:
        return {**super().recipe(level), "layers": "last_hidden_state", "pool": _pool(level)}


class HubertMerbench(_Hubert):
    """`HL-MERBench-UTT`: sum of the last four hidden states, 10 s chunks, padding counted.

    MERBench's `extract_audio_huggingface.py`. A chunk gives 499 frames, so times of the `frame` level drift by one hop
    per chunk.
    """

    name = "HL-MERBench-UTT"
    chunk = CHUNK
    names: ClassVar[Mapping[str, str]] = {"utt": "HL-MERBench-UTT", "frame": "HL-MERBench-FRA"}

    def recipe(self, level: str) -> dict[str, Any]:
        layers = "hidden_states[-4] + [-3] + [-2] + last_hidden_state"
        return {**super().recipe(level), "layers": layers, "pool": _pool(level)}

    def layers(self, model: nn.Module, samples: Tensor, mask: Tensor | None) -> Tensor:
        # hidden_states[-4], [-3], [-2] are the inputs of the last three layers; nothing else is kept.
        total: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            state = args[0] if args else kwargs["hidden_states"]
            total[:] = [state.float() if not total else total[0] + state]

        hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in model.encoder.layers[-3:]]
        try:
            last = super().layers(model, samples, mask)
        finally:
            for hook in hooks:
                hook.remove()
        return total[0] + last


def _pool(level: str) -> str | None:
    return "mean over time" if level == "utt" else None
