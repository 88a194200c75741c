"""VideoLLaMA2.1's own part: the connector of pictures and the projector of sound, in front of any language model.

Names of parameters are those of the released checkpoints, but for their `model.` in front. The rows of conditioning are
those of the pictures, then those of the sound, as both stand at one tag.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from emo.featstore.errors import ModelError
from emo.featstore.spec import EncoderSpec
from emo.train.llm.model import LoraArgs, TunedModel
from emo.train.llm.tokenizer import Tokenizer
from emo.train.llm.videollama2.connector import StcConnector, rows
from emo.train.llm.videollama2.prompt import check_tokenizer, stop_ids

CONNECTED = "none"  # of `connector`: the feature is rows for the language model already


@dataclass(frozen=True)
class Sizes:
    """Sizes of the features, and how pictures become rows.

    Attributes:
        video: `(rows, columns)` of the pictures' feature; `(0, 0)` where there is none.
        audio: Likewise, of the sound's.
        frames: Frames of a clip; the rows of pictures are frames times patches.
        connector: `stc_v35`, `stc_v1`, or `none` for a feature that is connected already.
    """

    video: tuple[int, int] = (0, 0)
    audio: tuple[int, int] = (0, 0)
    frames: int = 16
    connector: str = "stc_v35"

    @classmethod
    def from_specs(cls, video: EncoderSpec | None, audio: EncoderSpec | None, frames: int, connector: str) -> Sizes:
        """Sizes as the store has them.

        Raises:
            ModelError: Rows that vary, or that are not so many frames of a square of patches.
        """
        there = [spec for spec in (video, audio) if spec is not None]
        if wrong := [spec.name for spec in there if spec.level == "utt" or not spec.rows]:
            raise ModelError(f"{', '.join(wrong)}: no fixed number of rows.", "Use features of level tokens.")
        pair = [(0, 0) if spec is None else (spec.rows or 0, spec.dim) for spec in (video, audio)]
        made = cls(pair[0], pair[1], frames, connector)
        if video is not None and connector != CONNECTED:
            patches, rest = divmod(made.video[0], frames)
            if rest or math.isqrt(patches) ** 2 != patches or made.video_rows == 0:
                raise ModelError(
                    f"{video.name} has {made.video[0]} rows, which are no squares of patches of {frames} frames.",
                    "Set `frames` to its number of frames; or connector: none for a feature that is connected already.",
                )
        return made

    @property
    def video_rows(self) -> int:
        """Rows that the pictures of a clip take in a prompt."""
        if not self.video[0] or self.connector == CONNECTED:
            return self.video[0]
        return rows(self.frames, self.video[0] // self.frames, self.connector)


class VideoLlama2(TunedModel):
    """A language model with VideoLLaMA2's connector (`mm_projector`) and projector of sound (`mm_projector_a`).

    Args:
        llm: See `TunedModel`.
        tokenizer: Its tokenizer.
        sizes: Of the features.
        lora: The adapters.
        source: Where the language model came from.
        seed: What adapters, connector and projector were drawn from.
        learned: Which of `connector` and `projector` are trained beside the adapters.
        penalty: Logits of ids that an answer holds already are divided by it, or multiplied where they are below 0.

    Raises:
        ModelError: As `TunedModel`; or a connected feature is not as wide as the language model.
    """

    def __init__(
        self,
        llm: PreTrainedModel,
        tokenizer: Tokenizer,
        sizes: Sizes,
        lora: LoraArgs,
        source: str = "",
        seed: int = 0,
        learned: Sequence[str] = ("connector", "projector"),
        penalty: float = 1.0,
    ) -> None:
        super().__init__(llm, tokenizer, lora, source, seed)
        check_tokenizer(tokenizer, source)
        self.sizes, self.penalty = sizes, penalty
        hidden = self.embeddings.weight.shape[1]
        if sizes.video[0] and sizes.connector == CONNECTED and sizes.video[1] != hidden:
            raise ModelError(
                f"The connected pictures have {sizes.video[1]} columns, and the language model reads {hidden}.",
                "Connect them for this language model, or use the feature before the connector.",
            )
        if sizes.video[0] and sizes.connector != CONNECTED:
            self.mm_projector = StcConnector(sizes.video[1], hidden, sizes.connector)
            self.mm_projector.requires_grad_("connector" in learned)
        if sizes.audio[0]:
            self.mm_projector_a = nn.Sequential(nn.Linear(sizes.audio[1], hidden), nn.GELU(), nn.Linear(hidden, hidden))
            self.mm_projector_a.requires_grad_("projector" in learned)
        self.to(self.embeddings.weight.device)

    @property
    def rows(self) -> int:
        """Rows C of the conditioning: of pictures, then of sound."""
        return self.sizes.video_rows + self.sizes.audio[0]

    @property
    def stops(self) -> tuple[tuple[int, ...], ...]:
        """Sequences of ids that end an answer."""
        return stop_ids(self.tokenizer)

    def slot(self, name: str) -> range:
        """Return the rows of the conditioning that a prompt's slot takes."""
        return range(self.sizes.video_rows) if name == "video" else range(self.sizes.video_rows, self.rows)

    def kept(self) -> list[tuple[str, nn.Parameter]]:
        """Trainable parameters, and connector and projector where they are frozen."""
        frozen = [(name, each) for name, each in self.named_parameters() if name.startswith("mm_projector")]
        return [*self.trainable(), *(pair for pair in frozen if not pair[1].requires_grad)]

    def recompute(self, wanted: bool = True) -> None:
        """Compute activations again in the backward pass, those of the connector's blocks too."""
        super().recompute(wanted)
        if hasattr(self, "mm_projector"):
            self.mm_projector.recompute = wanted

    def condition(self, features: Sequence[Tensor]) -> Tensor:
        """Turn features into embeddings `(B, C, H)`.

        Args:
            features: Pictures `(B, R, D)` where the sizes have them, then sound, likewise.
        """
        given = list(features)
        parts = []
        if self.sizes.video[0]:
            video = given.pop(0).float()
            connected = self.sizes.connector == CONNECTED
            parts.append(video if connected else self.mm_projector(video.unflatten(1, (self.sizes.frames, -1))))
        if self.sizes.audio[0]:
            parts.append(self.mm_projector_a(given.pop(0).float()))
        return torch.cat([part.to(parts[0].dtype) for part in parts], dim=1)

    def choose(self, logits: Tensor, said: Sequence[Sequence[int]]) -> Tensor:
        """Logits `(B, ids)` with those of ids that were said already made smaller (CTRL, Keskar et al. 2019)."""
        if self.penalty == 1.0:
            return logits
        logits = logits.clone()
        for row, ids in zip(logits, said, strict=True):
            if ids:
                known = torch.tensor(sorted(set(ids)), device=row.device)
                row[known] = torch.where(row[known] < 0, row[known] * self.penalty, row[known] / self.penalty)
        return logits

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the features of one clip."""
        return [shape for shape in (self.sizes.video, self.sizes.audio) if shape[0]]

    def build(self) -> dict[str, Any]:
        """Return the sizes."""
        table = asdict(self.sizes)
        return {"sizes": table | {"video": list(self.sizes.video), "audio": list(self.sizes.audio)}}
