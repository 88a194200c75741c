"""`attention_topn`: MERBench's attention over the best features, any number of them, up to 18.

MERTools: MER2024/toolkit/models/attention_topn.py. The network is that of `attention`, over single rows only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from emo.featstore.errors import UsageError
from emo.train.features import StreamShape
from emo.train.heads.attention import Attention, AttentionRecipe
from emo.train.heads.base import HeadRecipe
from emo.train.heads.gradient import Share

MOST = 18  # six features of each of three modalities


class AttentionTopnRecipe(AttentionRecipe):
    """MERBench `attention_topn`; the features are in the order of their ranks."""

    head: Literal["attention_topn"] = "attention_topn"  # type: ignore[assignment]
    dropout: Share = 0.3
    """On the input of every encoder. Type: number from 0 to 1. Default: ... (MERBench)."""


class AttentionTopn(Attention):
    """MERBench's attention head over the top n features."""

    Recipe: ClassVar[type[HeadRecipe]] = AttentionTopnRecipe
    sequences = False

    @classmethod
    def check_shapes(cls, shapes: Sequence[StreamShape]) -> None:
        super().check_shapes(shapes)
        if len(shapes) > MOST:
            raise UsageError(f"Head attention_topn takes {MOST} features at most, not {len(shapes)}.")
