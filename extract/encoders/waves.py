"""Base of all encoders of raw sound: normalisation, chunks, padding, frames; the models differ.

Convolutions turn samples into frames; a transformer reads those. Clips of like length share a forward pass.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Encoder, Prepared, check_audio
from emo.extract.encoders.settings import read_settings
from emo.extract.media.preprocess import normalise_audio
from emo.extract.run.batching import alike
from emo.featstore.errors import ModelError

RATE = 16_000
WINDOWS = 8  # clips_per_video of pytorchvideo's sampling in VideoLLaMA2 and AffectGPT
WINDOW_S = 2
CHUNK = 160_000  # extract_audio_huggingface.py of MERBench: 10 s; exactly 10 s is one chunk
PADDING = 1.25  # clips share a forward when the longest is at most this much longer than the shortest
PASSES = 4  # a batch is worth so many forward passes, so that sorting its segments by length leaves little padding


def window_bounds(samples: int) -> list[tuple[int, int]]:
    """First sample of each window, and the one behind its last, as pytorchvideo 0.1.5 cuts a sound.

    The step is an exact fraction of the duration, which itself is a rounded number of seconds.
    """
    length = WINDOW_S * RATE
    rest = max(Fraction(samples / RATE) - WINDOW_S, Fraction(0))
    starts = [int(i * rest / WINDOWS * RATE) for i in range(WINDOWS)]
    return [(start, start + length) for start in starts]


class FramedConv1d(nn.Conv1d):
    """A convolution as one matrix product of its frames. cuDNN plans anew for every length, and every clip has its own:
    on a GPU that costs more than all the arithmetic of the clip."""

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(1, 2).unfold(1, self.kernel_size[0], self.stride[0])  # (B, T, C, kernel)
        return nn.functional.linear(frames.flatten(2), self.weight.flatten(1), self.bias).transpose(1, 2)


def framed(conv: nn.Conv1d) -> FramedConv1d:
    """Return a framed convolution with the parameters of an ordinary one."""
    sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
    made = FramedConv1d(*sizes, bias=conv.bias is not None, device="meta")  # nothing is drawn
    made.weight, made.bias = conv.weight, conv.bias
    return made


class Waves(Encoder):
    """An encoder of samples whose first layers are convolutions (wav2vec 2.0 and its relatives)."""

    modality = "audio"
    needs = "audio"
    budget: ClassVar[Mapping[str, float]] = {"cpu": 120 * RATE, "cuda": 2400 * RATE}  # samples
    do_normalize: bool = True
    chunk: ClassVar[int | None] = None  # samples of the parts that a clip is folded into

    def read_normalise(self) -> None:
        """Take from the folder of the weights whether sound is normalised."""
        stated, notes = read_settings(self.weights, {"do_normalize": True, "sampling_rate": RATE})
        if stated["sampling_rate"] != RATE:
            message = f"{self.weights.source} is for sound at {stated['sampling_rate']} Hz, and {self.name} at {RATE}."
            raise ModelError(message, "Is it another model?")
        self.do_normalize = stated["do_normalize"]
        self.notes += notes

    @property
    @abstractmethod
    def convolutions(self) -> Mapping[str, Any]:
        """`conv_kernel`, `conv_stride` and `feat_extract_norm` of the model's config.json."""

    @abstractmethod
    def layers(self, model: nn.Module, samples: Tensor, mask: Tensor | None) -> Tensor:
        """The layers that the recipe takes, (B, T, D)."""

    @property
    def slack(self) -> float:
        """How much longer than the shortest the longest segment of a forward pass may be."""
        return PADDING if self.convolutions["feat_extract_norm"] == "layer" else 1.0

    @property
    def hop_samples(self) -> int:
        """Samples between frames: 320 (0.02 s)."""
        return math.prod(self.convolutions["conv_stride"])

    def frames(self, samples: int) -> int:
        """Frames that the convolutions give for a number of samples; below one where it is too short."""
        for kernel, stride in zip(self.convolutions["conv_kernel"], self.convolutions["conv_stride"], strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    @property
    def shortest(self) -> int:
        """Fewest samples that give a frame: 400 (25 ms)."""
        need = 1
        for kernel, stride in zip(
            self.convolutions["conv_kernel"][::-1], self.convolutions["conv_stride"][::-1], strict=True
        ):
            need = (need - 1) * stride + kernel
        return need

    def prepare(self, inputs: ClipInputs) -> Prepared:
        audio = check_audio(inputs.audio, self.shortest, self.name)
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
        return alike(lengths, self.slack, self.max_cost / PASSES)

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
