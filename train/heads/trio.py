"""Heads that fuse three inputs, audio, text and video: MERBench's, all but `attention`.

Such a head is a network of three inputs in its own file. What is common to all of them is here: which streams are which
input, frames and their alignment, and the keys of the recipe.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from emo.featstore.errors import UsageError
from emo.featstore.spec import EncoderSpec
from emo.train.features import Stream, StreamShape
from emo.train.heads.align import SCALES, Align, Frames, pad_front
from emo.train.heads.base import USUAL_FEATURES, FeatureChoice, FeatureChoices, HeadRecipe, Measure, OnEpoch, Targets
from emo.train.heads.gradient import GradientHead, GradientRecipe, Share
from emo.train.heads.layers import Linear, LstmEncoder, MlpEncoder
from emo.train.heads.objective import Fused, Inner

ROLES = ("audio", "text", "video")
ROLE_OF = {"audio": "audio", "text": "text", "face": "video", "frame": "video", "image": "video", "video": "video"}
# Where a modality is absent MERBench gives another one twice: A,V,V; A,T,T; T,T,V; one alone three times.
INSTEAD = {"audio": ("text", "video"), "text": ("video", "audio"), "video": ("text", "audio")}

FRAME_FEATURES: Any = Field(default=("HL-FRA", "mae_340_FRA"), min_length=1, validate_default=True)
FRAME_ROWS = 256  # clips answered at once, where each has frames

Roles = tuple[tuple[int, ...], ...]  # numbers of the streams that are audio, text and video


class TrioRecipe(GradientRecipe):
    """Keys of all heads with three inputs."""

    dropout: Share = 0.3
    """On the input of every encoder (after the LSTM for frames), and after fusion. Type: number from 0 to 1.
    Default: ... (MERBench).
    """
    features: FeatureChoices = USUAL_FEATURES
    """Feature streams, by their names in the store. Written NAME, or {name: NAME, pool: mean}. Audio, text and
    video are told by what a feature is made from (where that is unknown, by this order); several of one kind are
    put side by side, and an absent kind gets another one twice, as in MERBench. Features with one row per frame,
    or per token of a text, are aligned and read as sequences; in the heads that need frames, a feature with one row
    per clip counts as one. Type: list.
    """
    hidden: int = Field(default=128, ge=1)
    """Width of every layer. Type: whole number. Default: ... (MERBench; search says what it draws from)."""
    align: Align = "frm_unalign"
    """Treatment of frame features: every clip is compressed by feat_scale; frm_align brings its features to
    the length of its text; then zero frames are put in front until a clip is as long as the longest one of the
    training clips. Type: frm_unalign | frm_align. Default: ... (MERBench).
    """
    feat_scale: int | None = Field(default=None, ge=1)
    """Frames of which one is made, as their mean. Type: whole number, or null for 12, and 6 with frm_align.
    Default: ... (MERBench).
    """


class FrameRecipe(TrioRecipe):
    """Keys of the heads that need frames."""

    features: FeatureChoices = FRAME_FEATURES

    def on_what_is_there(self, held: Sequence[EncoderSpec]) -> Self | None:
        """Return the recipe with the features of a store that have one row per frame or word."""
        names = dict.fromkeys(spec.name for spec in held if spec.level != "utt" and spec.modality != "frame")
        choices = tuple(FeatureChoice(name=name) for name in names)
        return self.model_copy(update={"features": choices}) if choices else None


class AlignedRecipe(FrameRecipe):
    """Keys of the heads that step through frames of all inputs at once."""

    align: Literal["frm_align"] = "frm_align"
    """Frames are compressed by feat_scale, brought to the length of the clip's text, and zero frames are put in
    front until a clip is as long as the longest one of the training clips. Type: frm_align. Default: ...
    (MERBench).
    """


def roles_of(shapes: Sequence[StreamShape]) -> Roles:
    """Return which streams are audio, text and video; several of one kind are read side by side.

    Raises:
        UsageError: It is unknown what streams are made from, and there are more than three.
    """
    kinds = [ROLE_OF.get(shape.modality, "") for shape in shapes]
    if not all(kinds):
        if len(shapes) > len(ROLES):
            raise UsageError(
                f"Of {len(shapes)} features it is not known which are audio, text and video.", "Name three at most."
            )
        kinds = list(ROLES[: len(shapes)])  # in MERBench's own order
    of = {role: tuple(i for i, kind in enumerate(kinds) if kind == role) for role in ROLES}
    return tuple(next(of[each] for each in (role, *INSTEAD[role]) if of[each]) for role in ROLES)


class Trio(nn.Module):
    """Gives a network its three inputs out of any number of streams.

    Attributes:
        lengths: Frames to which each stream is brought, of a head that reads frames.
    """

    def __init__(self, net: nn.Module, of: Roles, streams: int, frames: bool) -> None:
        super().__init__()
        self.net, self.of = net, of
        if frames:
            self.register_buffer("lengths", torch.zeros(streams, dtype=torch.int64))

    def forward(self, streams: Sequence[Tensor]) -> Fused:
        inputs = [torch.cat([streams[i] for i in each], dim=-1) for each in self.of]
        out: Fused = self.net(*inputs)
        return out


class TrioNet(nn.Module):
    """Base of the networks: `forward(audio, text, video)` gives `Fused`, of rows `(B, D)` or frames `(B, L, D)`."""

    def outputs(self, width: int, classes: int, valence: bool) -> None:
        """Make the two output layers, over features of that width."""
        self.fc_out_1 = Linear(width, classes)
        self.fc_out_2 = Linear(width, 1) if valence else None

    def encoders(self, dims: Sequence[int], hidden: int, dropout: float, frames: bool) -> None:
        """Make an encoder per input, of widths `dims`: an MLP of rows, an LSTM of frames."""
        kind = LstmEncoder if frames else MlpEncoder
        self.audio_encoder, self.text_encoder, self.video_encoder = (kind(dim, hidden, dropout) for dim in dims)

    def answer(self, features: Tensor, inner: Inner | None = None) -> Fused:
        """Return emotion and valence of the fused features."""
        valence = None if self.fc_out_2 is None else self.fc_out_2(features)
        return Fused(features, self.fc_out_1(features), valence, inner)


class TrioHead(GradientHead):
    """A head with three inputs; a subclass makes its network."""

    Recipe: ClassVar[type[HeadRecipe]] = TrioRecipe
    sequences = True

    @abstractmethod
    def network(self, dims: Sequence[int], frames: bool, classes: int, valence: bool) -> TrioNet:
        """Make the network for audio, text and video of widths `dims`, of rows or of frames."""

    def build(self, shapes: Sequence[StreamShape], classes: int, valence: bool) -> Trio:
        of = roles_of(shapes)
        frames = any(shape.sequence for shape in shapes)
        dims = [sum(shapes[i].dim for i in each) for each in of]
        return Trio(self.network(dims, frames, classes, valence), of, len(shapes), frames)

    def eval_rows(self) -> int:
        return FRAME_ROWS if hasattr(self.net, "lengths") else super().eval_rows()

    def least_frames(self) -> int:
        """Return how many frames an input must have."""
        return 1

    @classmethod
    def prepare(cls, streams: Sequence[Stream], device: str) -> Any:
        if all(stream.offsets is None for stream in streams):
            return super().prepare(streams, device)
        one_each = np.arange(len(next(stream.offsets for stream in streams if stream.offsets is not None)))
        offsets = [one_each if stream.offsets is None else stream.offsets for stream in streams]
        return Frames(tuple(stream.rows for stream in streams), tuple(offsets), device)

    def inputs(self, data: Any) -> Any:
        if not isinstance(data, Frames):
            return data
        align: Align = self.recipe.align
        return data.aligned(align, self.recipe.feat_scale or SCALES[align], self.net.of[1][0])

    def batch(self, data: Any, rows: np.ndarray, at: Tensor) -> list[Any]:
        if not isinstance(data, Frames):
            return super().batch(data, rows, at)
        streams = []
        for i, (tensor, offsets) in enumerate(self.inputs(data)):
            if self.scaling is not None:
                mean, std = self.scaling[i]
                tensor = (tensor - mean) / std
            streams.append(pad_front(tensor, offsets, rows, int(self.net.lengths[i])))
        return streams

    def fit(
        self, data: Any, targets: Targets, train: np.ndarray, val: np.ndarray, measure: Measure, on_epoch: OnEpoch
    ) -> int:
        if isinstance(data, Frames):
            self._set_lengths(data, np.concatenate([train, val]))
        return super().fit(data, targets, train, val, measure, on_epoch)

    def _set_lengths(self, data: Frames, clips: np.ndarray) -> None:
        """Take the longest clip's frames, so that an answer does not depend on which clips are asked about."""
        longest = [int((o[clips + 1] - o[clips]).max()) for _, o in self.inputs(data)]
        for each in self.net.of:
            for i in each:
                self.net.lengths[i] = max(longest[k] for k in each)
        if (most := int(self.net.lengths.min())) < self.least_frames():
            raise UsageError(
                f"A feature has {most} frames at most, and head {self.name()} needs {self.least_frames()}.",
                "Set feat_scale lower, or choose features with more frames.",
            )
