"""`eGeMAPS_UTT`: the 88 functionals of the extended Geneva set, as openSMILE computes them (Eyben et al. 2016).

No network and no weights: pitch, loudness, formants and spectrum of a whole clip, in their own units, which lie orders
of magnitude apart (a head that is trained by gradient descent wants `standardise: true`). MERBench's feature of this
name was made by openSMILE 2.3.0 with an earlier version of the set.

openSMILE is licensed for research and other non-commercial use: its package comes with the extra `egemaps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Encoder, Prepared, check_audio
from emo.extract.media.reading import AUDIO_RATE
from emo.extract.weights import State
from emo.featstore.errors import MediaError
from emo.featstore.install import need

SET = "eGeMAPSv02"
SHORTEST = 960  # samples: 60 ms, the window in which openSMILE looks for a pitch


class Egemaps(Encoder):
    """`eGeMAPS_UTT`: functionals of version 2, of the 16-bit samples. They are computed on the CPU, by `prepare`."""

    name = "eGeMAPS_UTT"
    names: ClassVar[Mapping[str, str]] = {"utt": "eGeMAPS_UTT"}
    family = "opensmile"
    modality = "audio"
    needs = "audio"
    budget: ClassVar[Mapping[str, float]] = {"cpu": 64}  # clips
    learned = False
    extra = "egemaps"

    def configure(self, config: Any) -> None:
        need(self.name, self.extra, "opensmile")

    @property
    def dim(self) -> int:
        return 88

    def recipe(self, level: str) -> dict[str, Any]:
        return {"rate_hz": AUDIO_RATE, "set": SET, "level": "functionals", "opensmile": metadata.version("opensmile")}

    def build(self) -> nn.Module:
        return nn.Identity()

    def adapt(self, state: State, expected: Mapping[str, torch.Size]) -> tuple[State, dict[str, str], list[str]]:
        return state, {}, []

    def prepare(self, inputs: ClipInputs) -> Prepared:
        audio = check_audio(inputs.audio, SHORTEST, "eGeMAPS")
        if not (np.abs(audio) >= 1 / 32768).any():
            raise MediaError("silent", "The audio is silent throughout: it has no pitch and no loudness to measure.")
        row = _smile()(audio, AUDIO_RATE)[:, :, 0]  # (1, 88)
        return Prepared(torch.from_numpy(np.ascontiguousarray(row, np.float32)), 1.0, inputs.audio_t0_s)

    def collate(self, batch: Sequence[Prepared]) -> list[Tensor]:
        return [self.join([item.payload for item in batch])]  # (B, 88)

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        return list(tensors[0].split(1))


@cache
def _smile() -> Any:
    """openSMILE with its configuration, which it runs anew for every clip; one serves all threads."""
    import opensmile

    return opensmile.Smile(opensmile.FeatureSet[SET], opensmile.FeatureLevel.Functionals)
