"""Whisper: MERBench's state of the decoder, and the encoder's frames.

Recipe `merbench`: the log-mel spectrum of the first 30 s (padded with zeros, the rest is dropped), two start tokens,
the decoder's last hidden state (2, D). Recipe `modern`: the encoder's last hidden state over all windows of 30 s,
without the frames of the padding. Recipe `stats`: the sound as long as it is, without any padding (an eighth of the
arithmetic for a clip of 3 s), the state behind half of the encoder's layers, where more of the voice is left than at
the end, and mean and standard deviation of its frames side by side (2 D).

Weights are a folder of transformers, or one of CTranslate2 (`faster-whisper-base`, or the packages of the extra
`offline`): they fill the same network. What differs is what is written: CTranslate2's files are mostly float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Prepared, check_audio
from emo.extract.encoders.pretrained import Pretrained
from emo.extract.encoders.settings import PROCESSOR, read_settings
from emo.extract.encoders.waves import RATE
from emo.extract.encoders.whisper_ct2 import sizes_of, tensors_of
from emo.extract.weights import LoadReport, fit, trusted
from emo.featstore.errors import ModelError
from emo.featstore.sources.ct2 import is_ct2, open_ct2

WINDOW = 480_000  # samples: 30 s
HOP = 320  # samples between frames of the encoder
SHORTEST = 400
MIDDLE = "middle"  # hidden state behind half of the encoder's layers
MEL = {"sampling_rate": RATE, "hop_length": 160, "chunk_length": 30, "n_fft": 400}


class Whisper(Pretrained):
    """A Whisper model of the catalog."""

    family = "whisper"
    modality = "audio"
    needs = "audio"
    beside: ClassVar[tuple[str, ...]] = (PROCESSOR,)
    budget: ClassVar[Mapping[str, float]] = {"cpu": 2, "cuda": 32}  # windows of 30 s
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "merbench": {"side": "decoder", "tokens": 2, "suffixes": {"utt": "UTT", "tokens": "FRA"}},
        "modern": {"side": "encoder", "tokens": 0, "suffixes": {"utt": "UTT", "frame": "FRA"}},
        "stats": {
            "side": "encoder",
            "tokens": 0,
            "take": (MIDDLE,),
            "padded": False,
            "statistics": ("mean", "std"),
            "suffixes": {"utt": "UTT"},
        },
    }
    small: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "whisper": {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "vocab_size": 60,
            "pad_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 4,
            "decoder_start_token_id": 50,
            "max_target_positions": 8,
        }
    }
    ignore = ((r"proj_out\..*", "the matrix that makes words"),)
    side: str = "encoder"
    tokens: int = 0  # start tokens that the decoder reads
    padded: bool = True  # whether the encoder reads 30 s whatever there is, as it was trained
    statistics: tuple[str, ...] = ("mean",)  # of the rows, side by side, at level utt; std divides by their number

    @property
    def dim(self) -> int:
        return self.full.d_model * len(self.statistics)

    def kind_and_width(self) -> tuple[str, int]:
        return self.entry.type, self.entry.width * len(self.statistics)

    @property
    def depths(self) -> list[Any]:
        return [self.full.encoder_layers // 2 if each == MIDDLE else each for each in self.take]

    def configure(self, config: Any) -> dict[str, Any]:
        from transformers import WhisperFeatureExtractor

        self._ct2 = self.weights is not None and is_ct2(self.weights.files[0])
        sizes = super().configure(sizes_of(open_ct2(self.weights.files[0])) if self._ct2 else config)
        bins = self.full.num_mel_bins
        usual = {"feature_size": bins, **MEL}
        # CTranslate2's folders need not state the spectrum; where one does, it is read.
        states = self.weights is not None and not (self._ct2 and self.weights.config(PROCESSOR) is None)
        found, notes = read_settings(self.weights, usual) if states else (usual, [])
        self.notes += notes
        if found != usual:
            message = f"{self.weights.source}/preprocessor_config.json is not Whisper's: {found}."
            raise ModelError(message, f"It has {bins} bins, hops of 160 samples and windows of 30 s, as published.")
        self._mel = WhisperFeatureExtractor(feature_size=bins, **MEL)
        return sizes

    def rows(self, level: str) -> int | None:
        return self.tokens or None

    def recipe(self, level: str) -> dict[str, Any]:
        takes = "the first 30 s" if self.side == "decoder" else "all windows of 30 s, frames of the padding left out"
        takes = takes if self.padded else "all windows of 30 s, the last one as long as the sound"
        usual = level != "utt" and self.statistics == ("mean",)
        pool = None if usual else f"{' and '.join(self.statistics)} over rows"
        mine = {"side": self.side, "tokens": self.tokens, "takes": takes, "pool": pool, "mel": MEL}
        return {**super().recipe(level), **mine}

    def read(self) -> tuple[nn.Module, LoadReport]:
        if not self._ct2:
            return super().read()
        with trusted(self.weights.source):
            model = self.build()
            expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
            state, report = fit(expected, tensors_of(open_ct2(self.weights.files[0])), self.ignore, self.weights.source)
            model.load_state_dict(state, strict=True, assign=True)
        return model, report

    def pool(self, rows: Sequence[Tensor], levels: Sequence[str]) -> dict[str, Tensor | Sequence[Tensor]]:
        pooled = super().pool(rows, levels)
        if "utt" in levels and "std" in self.statistics:
            spread = [each.double().std(0, correction=0, keepdim=True) for each in rows]  # (1, D)
            pooled["utt"] = torch.cat([pooled["utt"], torch.stack(spread).float()], 2)  # (B, 1, 2 D)
        return pooled

    def prepare(self, inputs: ClipInputs) -> Prepared:
        audio = check_audio(inputs.audio, SHORTEST, self.name).astype(np.float32)
        parts = [audio[:WINDOW]] if self.side == "decoder" else np.split(audio, range(WINDOW, len(audio), WINDOW))
        mels = [self._mel(part, sampling_rate=RATE, return_tensors="np").input_features[0] for part in parts]
        payload = torch.from_numpy(np.stack(mels))  # (n, bins, 3000)
        # how many samples there were, behind the windows: what is not the model's input travels with it
        count = torch.full((len(mels), payload.shape[1], 1), float(len(audio)), dtype=payload.dtype)
        hop = HOP / RATE if self.side == "encoder" else None
        return Prepared(torch.cat([payload, count], 2), float(len(mels)), inputs.audio_t0_s, hop)

    def collate(self, batch: Sequence[Prepared]) -> list[Tensor]:
        """Log-mel windows (sum of n, bins, 3000)."""
        return [self.join([item.payload[:, :, :-1] for item in batch])]

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        windows = [len(item.payload) for item in batch]
        with self.computing() as model:
            if self.side == "decoder":
                return [part[0] for part in self.decoded(model, tensors[0]).float().split(windows)]
            return self.encoded(model.encoder, tensors[0], batch)

    def frames(self, item: Prepared) -> int:
        """Frames of a clip that are sound and not padding."""
        return -(-int(item.payload[0, 0, -1]) // HOP)

    def decoded(self, model: nn.Module, mel: Tensor) -> Tensor:
        """The decoder's states (B, 2, D) behind the start tokens."""
        start = torch.full((len(mel), self.tokens), self.full.decoder_start_token_id, device=mel.device)
        return model(mel, decoder_input_ids=start).last_hidden_state

    def encoded(self, encoder: nn.Module, mel: Tensor, batch: Sequence[Prepared]) -> list[Tensor]:
        """The encoder's states (T, D) of each clip, float32, where there is sound; windows of one length at once."""
        whole = WINDOW // HOP
        lengths = [min(whole, left) for item in batch for left in range(self.frames(item), 0, -whole)]
        groups: dict[int, list[int]] = {}
        for i, length in enumerate(lengths):
            groups.setdefault(whole if self.padded else length, []).append(i)
        rows: list[Tensor] = [mel] * len(lengths)
        for length, group in groups.items():
            states = self.states(encoder, mel[group, :, : 2 * length]).float()  # two hops of the spectrum are a frame
            for i, each in zip(group, states, strict=True):
                rows[i] = each[: lengths[i]]
        parts = iter(rows)
        return [torch.cat([next(parts) for _ in item.payload]) for item in batch]

    def states(self, encoder: nn.Module, mel: Tensor) -> Tensor:
        """Hidden states that the recipe takes, summed: (B, T, D), of a spectrum (B, bins, 2 T) of any length.

        The steps of transformers' `WhisperEncoder`, which takes 30 s only; the last state is the normalised one.
        """
        x = nn.functional.gelu(encoder.conv2(nn.functional.gelu(encoder.conv1(mel)))).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        states = [x]
        for layer in encoder.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
            states.append(x)
        states[-1] = encoder.layer_norm(x)
        return sum(states[each] for each in self.depths)
