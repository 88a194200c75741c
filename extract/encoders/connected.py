"""Frames of a clip as rows for a language model: SigLIP's patches through the frozen connector of VideoLLaMA2.1.

A third of the space of the patches, and nothing to train in front of the language model. The connector's network is the
one that `train` tunes (`featstore/shared.py`); its weights are part of the feature's identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from emo.extract.encoders.base import DTYPES, Prepared
from emo.extract.encoders.frames import FrameTokens
from emo.extract.weights import LoadReport, State, Weights, find_weights, fit, seeded_state
from emo.featstore.errors import ModelError, WeightsMissing
from emo.featstore.shared import shared

HIDDEN = {"paper": 3584, "random": 3584, "tiny": 64}  # width of the language model: Qwen2-7B's, and the tiny one's
KIND = "stc_v35"  # VideoLLaMA2.1's
PREFIX = re.compile(r"^(base_model\.model\.)?(model\.)*mm_projector\.")


class Connected(FrameTokens):
    """Rows of the connector; level `tokens` is (1352, 3584), `utt` its mean.

    Args:
        also: File or folder with the connector: the released checkpoint, or `projections.safetensors` of a run.
        **options: Of every encoder.
    """

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"videollama2": {"frames": 16, "take": (-2,), "square": "pad"}}
    also = "videollama2"
    hidden: int = 0  # width of the language model; 0 until the weights have said it

    def __init__(self, *, also: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        if also is None and self.profile == "paper":
            raise WeightsMissing(
                f"{self.name} has no connector.", f"Name it under [weights] in emo.toml: {self.also} = ..."
            )
        self.second: Weights | None = None if also is None else find_weights(also)
        self.hidden = HIDDEN[self.profile] if self.second is None else self._held()["readout.2.weight"].shape[0]
        self._connector: nn.Module | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_connector": None}

    @property
    def dim(self) -> int:
        return self.hidden or self.full.hidden_size

    def kind_and_width(self) -> tuple[str, int]:
        return self.entry.type, self.entry.sizes["hidden_size"]  # of the patches

    def rows(self, level: str) -> int | None:
        return shared("connector").rows(self.frames, super().rows(level) // self.frames, KIND)

    def recipe(self, level: str) -> dict[str, Any]:
        weights = self.second.hash if self.second else f"seed:{self.seed}"
        return {**super().recipe(level), "connector": {"kind": KIND, "to": self.hidden, "weights": weights}}

    def _held(self) -> State:
        """Tensors of the connector, by its own names."""
        if (told := shared("connector").version_beside(self.second.path)) not in (None, KIND):
            raise ModelError(
                f"The connector of {self.second.source} is {told}, and {self.name} is of {KIND}.",
                "Train on the feature before the connector, whose recipe names the version.",
            )
        held = {PREFIX.sub("", k): v for k, v in self.second.tensors().items() if PREFIX.match(k)}
        if "readout.2.weight" not in held:
            raise ModelError(f"{self.second.source} holds no connector of VideoLLaMA2.", "Is it another checkpoint?")
        return held

    def load(self) -> LoadReport:
        if self._connector is not None:
            return self.report
        report = super().load()
        with torch.device("meta"):
            connector = shared("connector").StcConnector(self.full.hidden_size, self.hidden, KIND)
        expected = {name: tensor.shape for name, tensor in connector.state_dict().items()}
        if self.second is None:
            state = seeded_state(expected, self.seed)
        else:
            state, _ = fit(expected, self._held(), (), self.second.source)
        connector.load_state_dict(state, strict=True, assign=True)
        if self.dtype != "float32":
            for module in connector.modules():
                if isinstance(module, nn.Linear):
                    module.to(DTYPES[self.dtype])
        self._connector = connector.eval().requires_grad_(False).to(self.device)
        return report

    def run(self, tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> list[Tensor]:
        patches = super().run(tensors, batch)
        with self.computing():
            return [self._connector(each.unflatten(0, (self.frames, -1))[None])[0].float() for each in patches]
