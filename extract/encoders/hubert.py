"""HuBERT: `HL-UTT` (MER2023's recipe, which Emotion-LLaMA uses) and `HL-MERBench-UTT` (MERBench's).

Both normalise the whole clip to zero mean and unit variance. MER2023 runs the whole clip at once and takes the last
layer; MERBench folds clips longer than 10 s into zero-padded chunks, sums the last four hidden states, and counts the
padding. The published features of both carry the same directory name (`chinese-hubert-large-UTT`); here they are two
specs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Encoder, Prepared, Variant, check_audio
from emo.extract.media.preprocess import normalise_audio
from emo.extract.run.batching import alike
from emo.extract.weights import State, rename
from emo.featstore.errors import ModelError
from emo.featstore.sources.hub import Source

RATE = 16_000
CHUNK = 160_000  # extract_audio_huggingface.py of MERBench: 10 s; exactly 10 s is one chunk
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
PADDING = 1.25  # clips share a forward when the longest is at most this much longer than the shortest
PASSES = 4  # a batch is worth so many forward passes, so that sorting its segments by length leaves little padding


class _FramedConv1d(nn.Conv1d):
    """A convolution as one matrix product of its frames. cuDNN plans anew for every length, and every clip has its own:
    on a GPU that costs more than all the arithmetic of the clip."""

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2).unfold(1, self.kernel_size[0], self.stride[0])  # (B, T, C, kernel)
        return nn.functional.linear(frames.flatten(2), self.weight.flatten(1), self.bias).transpose(1, 2)


def _framed(conv: nn.Conv1d) -> _FramedConv1d:
    """Return a framed convolution with the parameters of an ordinary one."""
    sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
    framed = _FramedConv1d(*sizes, bias=conv.bias is not None, device="meta")  # nothing is drawn
    framed.weight, framed.bias = conv.weight, conv.bias
    return framed


class _Hubert(Encoder):
    family = "hubert"
    modality = "audio"
    needs = "audio"
    source = Source(
        "HuBERT large on Chinese speech (24 layers, width 1024)", hub="TencentGameMate/chinese-hubert-large"
    )
    budget: ClassVar[Mapping[str, float]] = {"cpu": 120 * RATE, "cuda": 2400 * RATE}  # samples
    ignore = (
        (r"masked_spec_embed", "used in pre-training only"),
        (r"(lm_head|classifier|projector|final_proj|label_embs_concat).*", "a head of another task"),
    )
    do_normalize: bool = True
    chunk: ClassVar[int | None] = None  # samples of the parts that a clip is folded into

    def configure(self, config: Any) -> dict[str, Any]:
        if self.weights is not None:
            config = config or self.weights.config()
            processor = self.weights.config("preprocessor_config.json") or {}
            self.do_normalize = bool(processor.get("do_normalize", True))
        if config is None:
            return TINY if self.profile == "tiny" else LARGE
        from transformers import HubertConfig

        full = HubertConfig(**config).to_dict()  # with the library's defaults for what the file leaves out
        sizes = {key: list(v) if isinstance(v := full.get(key, LARGE[key]), tuple) else v for key in LARGE}
        if self.profile == "paper" and (wrong := [k for k in LARGE if sizes[k] != LARGE[k]]):
            got = ", ".join(f"{k} is {sizes[k]} instead of {LARGE[k]}" for k in wrong[:3])
            message = f"{self.name} is HuBERT large, but in {self.weights.source} {got}."
            raise ModelError(message, "Is it another model?")
        return sizes

    @property
    def dim(self) -> int:
        return self.config["hidden_size"]

    @property
    def hop_samples(self) -> int:
        """Samples between frames: 320 (0.02 s)."""
        return math.prod(self.config["conv_stride"])

    def frames(self, samples: int) -> int:
        """Frames that the convolutions give for a number of samples; below one where it is too short."""
        for kernel, stride in zip(self.config["conv_kernel"], self.config["conv_stride"], strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    @property
    def shortest(self) -> int:
        """Fewest samples that give a frame: 400 (25 ms)."""
        need = 1
        for kernel, stride in zip(self.config["conv_kernel"][::-1], self.config["conv_stride"][::-1], strict=True):
            need = (need - 1) * stride + kernel
        return need

    def recipe(self, level: str) -> dict[str, Any]:
        normalise = {"scope": "clip", "eps": 1e-7} if self.do_normalize else None
        chunk = {"samples": self.chunk, "padding": "zeros after normalisation, counted"} if self.chunk else None
        sizes = {"hop_samples": self.hop_samples, "arch": self.config}
        return {"rate_hz": RATE, "normalise": normalise, "chunk": chunk, **sizes}

    def build(self) -> nn.Module:
        from transformers import HubertConfig, HubertModel

        model = HubertModel(HubertConfig(**self.config, **UNUSED))
        for layer in model.feature_extractor.conv_layers:
            layer.conv = _framed(layer.conv)
        return model

    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        state = rename(state, [(r"^module\.", ""), (r"^hubert\.", "")], self.weights.source)
        stem = "encoder.pos_conv_embed.conv."
        pairs = [("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1")]
        rules = [
            (rf"^{stem}{a}$", stem + b) if stem + b in expected else (rf"^{stem}{b}$", stem + a) for a, b in pairs
        ]  # torch changed the names of a weight norm's parts; both kinds of file and of model exist
        return rename(state, rules, self.weights.source), {}, []

    def prepare(self, inputs: ClipInputs) -> Prepared:
        audio = check_audio(inputs.audio, self.shortest, "HuBERT")
        samples = normalise_audio(audio) if self.do_normalize else audio.astype(np.float32)
        payload = self.fold(torch.from_numpy(samples))
        return Prepared(payload, float(payload.numel()), inputs.audio_t0_s, self.hop_samples / RATE)

    def fold(self, samples: Tensor) -> Tensor:
        """(N,) samples to (n, length) segments that are run one by one."""
        if self.chunk is None or len(samples) <= self.chunk:
            return samples[None]
        return nn.functional.pad(samples, (0, -len(samples) % self.chunk)).view(-1, self.chunk)

    def collate(self, batch: Sequence[Prepared]) -> list[Tensor]:
        """Samples (B, N) of each group of segments, padded with zeros to the right, and their lengths (B,)."""
        return self.pad([segment for item in batch for segment in item.payload], self.groups(batch))

    def groups(self, batch: Sequence[Prepared]) -> list[list[int]]:
        """Which segments share a forward pass: numbers of the batch's segments, short ones first."""
        lengths = [len(segment) for item in batch for segment in item.payload]
        slack = PADDING if self.config["feat_extract_norm"] == "layer" else 1.0
        return alike(lengths, slack, self.max_cost / PASSES)

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        """Frames (T, D) of each clip, float32 on the device; segments of like length share a forward pass.

        Padding to the right changes nothing where the convolutions normalise each frame by itself (`layer`): padded
        frames are set to zero before the positional convolution, which is what its own padding does, and are masked in
        the attention. Where they normalise over time (`group`), only segments of one length go together.
        """
        sizes = [len(segment) for item in batch for segment in item.payload]
        results: list[Tensor] = [torch.empty(0)] * len(sizes)
        with self.computing() as model:
            for group, samples, lengths in zip(self.groups(batch), tensors[::2], tensors[1::2], strict=True):
                mask = None
                if len({sizes[i] for i in group}) > 1:
                    mask = (torch.arange(samples.shape[1], device=lengths.device) < lengths[:, None]).long()
                rows = self.layers(model, samples, mask).float()  # (B, T, D)
                for row, i in zip(rows, group, strict=True):
                    results[i] = row[: self.frames(sizes[i])]
        ordered = iter(results)
        return [torch.cat([next(ordered) for _ in item.payload]) for item in batch]

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
