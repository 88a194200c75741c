"""BEATs iter3+ as VideoLLaMA2.1 hears a clip: 30 s of filter bank, all patches of the last layer.

`beats-iter3-UTT` takes the sound as VideoLLaMA2.1 takes that of a video (branch `audio_visual`, commit 8cedfbda:
mm_utils.py, process_audio_from_video): eight windows of 2 s spread over it, one behind the other, padded with zeros.
`beats-iter3-whole-UTT` takes the sound itself from its start, up to 30 s, as the reference takes an audio file; there
the 30 s of a longer one are a random part. A clip without sound fails; the reference makes 30 s of zeros of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Encoder, Prepared, check_audio
from emo.extract.encoders.beats_net import Beats, BeatsConfig, fbank
from emo.extract.encoders.waves import RATE, WINDOW_S, WINDOWS, window_bounds
from emo.extract.weights import State, rename
from emo.featstore.errors import ModelError
from emo.featstore.sources.hub import Source

TINY = BeatsConfig(
    embed_dim=16,
    encoder_embed_dim=32,
    encoder_layers=2,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
    conv_pos=16,
    conv_pos_groups=4,
    num_buckets=32,
    max_distance=64,
)
# What else the `cfg` of a checkpoint says of the network, which is written out for these values alone.
FIXED: Mapping[str, Any] = {
    "layer_norm_first": False,
    "deep_norm": True,
    "conv_bias": False,
    "activation_fn": "gelu",
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}
BANDS = 128
SHORTEST = 400  # samples: one frame of the filter bank


class BeatsWindows(Encoder):
    """`beats-iter3-UTT`: windows spread over the clip; level `tokens` is (1496, 768), `utt` its mean."""

    name = "beats-iter3-UTT"
    names: ClassVar[Mapping[str, str]] = {"utt": "beats-iter3-UTT", "tokens": "beats-iter3-FRA"}
    family = "beats"
    modality = "audio"
    needs = "audio"
    source = Source(
        "BEATs iter3+ fine-tuned on AudioSet 2M, cpt2 (12 layers, width 768)",
        file="BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt",
        ask="from the table in microsoft/unilm, folder beats; or audio_tower.bin of DAMO-NLP-SG/VideoLLaMA2.1-7B-AV",
    )
    budget: ClassVar[Mapping[str, float]] = {"cpu": 4, "cuda": 32}  # clips
    ignore = ((r"predictor\..*", "the classes of AudioSet"), (r"lm_head\..*|model\..*", "another part of VideoLLaMA2"))
    windows: int = WINDOWS  # parts of 2 s that are heard; 0: the sound from its start
    length_s: int = 30  # zeros behind it up to so much

    def configure(self, config: BeatsConfig | None) -> BeatsConfig:
        stated = self.weights.stated("cfg") if self.weights is not None else None
        if config is None and stated is not None:
            if wrong := [key for key, value in FIXED.items() if stated.get(key, value) != value]:
                got = ", ".join(f"{key} is {stated[key]} instead of {FIXED[key]}" for key in wrong)
                raise ModelError(f"{self.name}: in the cfg of {self.weights.source} {got}.", "Is it another model?")
            usual = asdict(BeatsConfig())
            config = BeatsConfig(**{key: int(stated.get(key, value)) for key, value in usual.items()})
        if self.profile == "paper" and config not in (None, BeatsConfig()):
            different = {key: value for key, value in asdict(config).items() if value != asdict(BeatsConfig())[key]}
            message = f"{self.name} has the sizes of BEATs iter3, and {self.weights.source} says {different}."
            raise ModelError(message, "Is it another model?")
        return config or (TINY if self.profile == "tiny" else BeatsConfig())

    @property
    def dim(self) -> int:
        return self.config.encoder_embed_dim

    def rows(self, level: str) -> int | None:
        patch = self.config.input_patch_size
        frames = 1 + (self.length_s * RATE - SHORTEST) // (RATE // 100)
        return (frames // patch) * (BANDS // patch)

    def recipe(self, level: str) -> dict[str, Any]:
        windows = {"count": self.windows, "seconds": WINDOW_S, "step": "(duration - 2) / 8"} if self.windows else None
        bank = {"bands": BANDS, "kind": "kaldi, 25 ms every 10 ms, povey", "scale": 32768, "rounded_to": "bfloat16"}
        return {
            "rate_hz": RATE,
            "windows": windows,
            "length_s": self.length_s,
            "longer": None if self.windows else "cut off",
            "filter_bank": bank,
            "layers": "last",
            "arch": asdict(self.config),
            "pool": "mean over patches" if level == "utt" else None,
        }

    def build(self) -> nn.Module:
        return Beats(self.config)

    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        state = rename(state, [(r"^(model\.)?audio_tower\.", "")], self.weights.source)
        first, rest = "encoder.layers.0.self_attn.relative_attention_bias.weight", {}
        for name in [name for name in state if name.endswith("relative_attention_bias.weight") and name != first]:
            if first in state and not torch.equal(state.pop(name), state[first]):
                message = f"{self.weights.source} has another table of distances in {name} than in layer 0."
                raise ModelError(message, "The layers of BEATs share one. Is the file damaged?")
            rest[name] = "the table of layer 0, which all layers share"
        return state, rest, []

    def prepare(self, inputs: ClipInputs) -> Prepared:
        audio = check_audio(inputs.audio, SHORTEST, self.name)
        if self.windows:
            audio = np.concatenate([audio[start:end] for start, end in window_bounds(len(audio))])
        audio = audio[: self.length_s * RATE]
        samples = np.zeros(self.length_s * RATE, np.float32)
        samples[: len(audio)] = audio * np.float32(32768)
        payload = fbank(torch.from_numpy(samples), BANDS).bfloat16().float()  # (T, 128), rounded as the reference does
        return Prepared(payload[None], 1.0, inputs.audio_t0_s)

    def collate(self, batch: Sequence[Prepared]) -> list[Tensor]:
        return [self.join([item.payload for item in batch])]  # (B, T, 128)

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        with self.computing() as model:
            return list(torch.cat([model(part).float() for part in tensors[0].split(int(self.max_cost) or 1)]))


class BeatsWhole(BeatsWindows):
    """`beats-iter3-whole-UTT`: the sound from its start, up to 30 s."""

    name = "beats-iter3-whole-UTT"
    names: ClassVar[Mapping[str, str]] = {"utt": "beats-iter3-whole-UTT", "tokens": "beats-iter3-whole-FRA"}
    windows = 0
