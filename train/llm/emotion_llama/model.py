"""Emotion-LLaMA's own part: projections for image tokens and utterance vectors, in front of any language model.

Names of parameters are those of the official state dict (minigpt_v2.py:68-116), but for peft's `.default`. The rows of
conditioning are image groups, streams, CLS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from emo.featstore.errors import ModelError
from emo.featstore.spec import EncoderSpec
from emo.train.llm.model import LoraArgs, TunedModel
from emo.train.llm.tokenizer import Tokenizer

GROUP = 4  # patches that become one token, minigpt_v2.py:102-104
MAX_CONTEXT_LEN = 3800  # minigpt_v2.py; rows of a prompt that training keeps, BOS and answer not counted


@dataclass(frozen=True)
class Widths:
    """Sizes of what the store feeds in.

    Attributes:
        tokens_dim: Width of an image token; 0 where there are none.
        tokens_rows: Image tokens of a clip, CLS included; 0 where there are none.
        streams: `(feature name, width)` of each utterance vector, in the order of `feats_llama_proj1` and on:
            face MAE, VideoMAE, audio.
        group: Patches that become one token of the language model.
    """

    tokens_dim: int = 0
    tokens_rows: int = 0
    streams: tuple[tuple[str, int], ...] = ()
    group: int = GROUP

    def __post_init__(self) -> None:
        if (self.tokens_dim == 0) != (self.tokens_rows == 0) or self.group < 1 or self.tokens_rows == 1:
            raise ModelError(
                f"Image tokens of shape ({self.tokens_rows}, {self.tokens_dim}) in groups of {self.group}?"
            )
        if self.tokens_rows and (self.tokens_rows - 1) % self.group:
            raise ModelError(
                f"{self.tokens_rows - 1} patches do not divide into groups of {self.group}.",
                "Use an image encoder of another resolution, or another group size.",
            )

    @classmethod
    def from_specs(cls, tokens: EncoderSpec | None, streams: Sequence[EncoderSpec], group: int = GROUP) -> Widths:
        """Sizes as the store has them.

        Raises:
            ModelError: Token rows that vary, a stream with several rows, or patches that do not divide into groups.
        """
        if tokens is not None and (tokens.level != "tokens" or not tokens.rows):
            raise ModelError(f"{tokens.name} has no fixed number of token rows.", "Use a feature of level tokens.")
        if several := [spec.name for spec in streams if spec.level != "utt"]:
            raise ModelError(f"{', '.join(several)}: more than one row per clip.", "Use features of level utt.")
        pairs = tuple((spec.name, spec.dim) for spec in streams)
        return cls(tokens.dim, tokens.rows or 0, pairs, group) if tokens else cls(streams=pairs, group=group)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Widths:
        """Inverse of `to_json`."""
        return cls(**{**table, "streams": tuple((str(name), int(dim)) for name, dim in table["streams"])})

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self) | {"streams": [list(pair) for pair in self.streams]}

    @property
    def groups(self) -> int:
        """Image rows R of the conditioning."""
        return max(self.tokens_rows - 1, 0) // self.group

    @property
    def rows(self) -> int:
        """Rows C of the conditioning: image groups, streams, CLS."""
        return self.groups + len(self.streams) + (self.tokens_rows > 0)

    def slot(self, name: str) -> range:
        """Rows of the conditioning that a prompt's slot takes."""
        return {"patches": range(self.groups), "features": range(self.groups, self.rows), "all": range(self.rows)}[name]


class EmotionLlama(TunedModel):
    """A language model with `llama_proj`, `feats_llama_proj1..` and `cls_tk_llama_proj`.

    Args:
        llm: See `TunedModel`.
        tokenizer: Its tokenizer.
        widths: Sizes of the features.
        lora: The adapters.
        source: Where the language model came from.
        seed: What adapters and projections were drawn from.

    Raises:
        ModelError: As `TunedModel`.
    """

    max_context_len = MAX_CONTEXT_LEN

    def __init__(
        self,
        llm: PreTrainedModel,
        tokenizer: Tokenizer,
        widths: Widths,
        lora: LoraArgs,
        source: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__(llm, tokenizer, lora, source, seed)
        self.widths = widths
        hidden = self.embeddings.weight.shape[1]
        if widths.tokens_rows:
            self.llama_proj = nn.Linear(widths.group * widths.tokens_dim, hidden)
        for i, (_, dim) in enumerate(widths.streams, 1):
            setattr(self, f"feats_llama_proj{i}", nn.Linear(dim, hidden))
        if widths.tokens_rows:
            self.cls_tk_llama_proj = nn.Linear(widths.tokens_dim, hidden)
        self.to(self.embeddings.weight.device)

    @property
    def rows(self) -> int:
        """Rows C of the conditioning: image groups, streams, CLS."""
        return self.widths.rows

    def slot(self, name: str) -> range:
        """Return the rows of the conditioning that a prompt's slot takes."""
        return self.widths.slot(name)

    def condition(self, features: Sequence[Tensor]) -> Tensor:
        """Turn features into embeddings `(B, C, H)`.

        Args:
            features: Image tokens `(B, R, D)`, CLS first, `ln_vision` applied, where the widths have them; then
                streams `(B, D)`.
        """
        streams = features[1:] if self.widths.tokens_rows else features
        parts = [self._stream(i, each)[:, None] for i, each in enumerate(streams, 1)]  # (B, 1, H)
        if self.widths.tokens_rows:
            tokens = features[0].float()
            grouped = tokens[:, 1:].reshape(len(tokens), self.widths.groups, -1)  # neighbours in raster order
            parts = [self.llama_proj(grouped), *parts, self.cls_tk_llama_proj(tokens[:, :1])]
        return torch.cat(parts, dim=1)

    def standardise(self, statistics: Sequence[tuple[np.ndarray, np.ndarray] | None]) -> None:
        """See every stream with mean 0 and deviation 1, see `TunedModel.standardise`."""
        known = [each for each in statistics if each is not None]
        for i, pair in enumerate(known, 1):
            for name, values in zip(("mean", "deviation"), pair, strict=True):
                fixed = torch.from_numpy(values).to(self.embeddings.weight.device, torch.float32)  # (D,)
                self.register_parameter(f"feats_{name}{i}", nn.Parameter(fixed, requires_grad=False))

    def kept(self) -> list[tuple[str, nn.Parameter]]:
        """Return the trainable parameters, then mean and deviation of the streams where they are standardised."""
        fixed = [(name, each) for name, each in self.named_parameters() if name.startswith(("feats_mean", "feats_dev"))]
        return [*super().kept(), *fixed]

    def _stream(self, number: int, rows: Tensor) -> Tensor:
        """Embeddings (B, H) of a stream's vectors (B, D)."""
        rows = rows.float()
        if f"feats_mean{number}" in self._parameters:
            rows = (rows - getattr(self, f"feats_mean{number}")) / getattr(self, f"feats_deviation{number}")
        return getattr(self, f"feats_llama_proj{number}")(rows)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the features of one clip."""
        w = self.widths
        return [*([(w.tokens_rows, w.tokens_dim)] if w.tokens_rows else []), *((dim,) for _, dim in w.streams)]

    def build(self) -> dict[str, Any]:
        """Return the widths."""
        return {"widths": self.widths.to_json()}
