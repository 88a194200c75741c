"""Why features of others differ: for each cause that emo knows, an encoder or its input with exactly one thing changed.

A suspect shares the model of the encoder under test and shadows one of its methods or attributes, or looks at the
decoded clip in another way; the encoder itself stays as it is. `rerun.py` runs suspects on a few clips and
sees whose numbers agree with the other side's.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emo.extract.encoders.base import ClipInputs, Encoder, Prepared, ViTEncoder
from emo.extract.encoders.eva import Eva
from emo.extract.encoders.hubert import RATE, HubertLast, HubertMerbench
from emo.extract.encoders.mae import Mae
from emo.extract.encoders.videomae import VideoMaeAuthor, VideoMaeMerbench
from emo.extract.media.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    segment_indices,
    uniform_indices,
    window_indices,
)

CAUSES = {
    "layers": "last layer against the sum of the last four",
    "chunks": "10 s zero-padded chunks against the whole clip",
    "recipe": "HL-UTT against HL-MERBench-UTT: layers and chunks together",
    "colour": "BGR against RGB",
    "normalisation": "[0, 1] against mean and std; raw sound against zero mean and unit variance",
    "pooling": "CLS token against mean pooling; one row against many",
    "final-norm": "output without the final norm against output with it",
    "frame-order": "frames that were not sorted",
    "short-clips": "frames 0 and 1 only for clips of up to 9 frames",
    "frame-choice": "another choice of frames",
    "resampler": "another way to decode or resample the sound",
    "half-precision": "values rounded to half precision, or computed in it",
    "scale": "one factor on everything, or vectors of length 1",
    "offset": "one vector added everywhere",
    "not-finite": "NaN or infinity",
    "zeros": "zeros in place of features",
}
"""What a verdict can name. The last four are seen in the numbers alone."""

SHORT = 9  # frames: up to here maeV_399_UTT takes frames 0 and 1 only
SHUFFLES = 3
PIXELS = {
    "pixels in [0, 1], without mean and std": (None, None),
    "pixels with ImageNet's mean and std": (IMAGENET_MEAN, IMAGENET_STD),
    "pixels with CLIP's mean and std": (CLIP_MEAN, CLIP_STD),
    "pixels with mean and std 0.5": ((0.5,) * 3, (0.5,) * 3),
}


@dataclass(frozen=True)
class Source:
    """One clip, decoded for an encoder and for all suspects.

    Attributes:
        inputs: As the recipe has them.
        frames: Other frames of the clip by name (`first`, `second`, `middle`, `last`), for whole-image encoders.
        sound: Mono samples at their own rate, encoder padding at the end included, and that rate.
        listing: Order in which the file system lists the face crops; `None` where they are no files.
    """

    inputs: ClipInputs
    frames: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    sound: tuple[NDArray[np.float64], int] | None = None
    listing: list[int] | None = None


@dataclass(frozen=True)
class Suspect:
    """One change that would explain a difference.

    Attributes:
        cause: A name in `CAUSES`.
        change: What the other side does, in words.
        encoder: The one under test, or a copy of it with the change.
        view: What the encoder is given of a clip.
        family: Whether the cause has more members than can be tried, so that the size of the change says something.
    """

    cause: str
    change: str
    encoder: Encoder
    view: Callable[[Source], ClipInputs] = lambda source: source.inputs
    family: bool = False

    def run(self, source: Source, level: str) -> NDArray[np.float32]:
        """The feature (T, D) that this change gives."""
        return self.encoder.encode([self.encoder.prepare(self.view(source))], [level])[0][level].array


def suspects(encoder: Encoder) -> list[Suspect]:
    """All changes that are known to go with an encoder of media; of two that agree equally well the first counts."""
    found: list[Suspect] = []
    if isinstance(encoder, (HubertLast, HubertMerbench)):
        found += _hubert(encoder)
    if encoder.needs == "audio":
        found += _sound(encoder)
    else:
        found += [Suspect("colour", "colour channels in the order BGR", encoder, _bgr)]
    if isinstance(encoder, ViTEncoder):
        for words, (mean, std) in PIXELS.items():
            if mean != encoder.mean:
                found.append(Suspect("normalisation", words, changed(encoder, mean=mean, std=std)))
    if isinstance(encoder, Mae):
        found += _mae(encoder)
    if isinstance(encoder, (VideoMaeAuthor, VideoMaeMerbench)):
        found += _videomae(encoder)
    if isinstance(encoder, Eva):
        found += _eva(encoder)
    for dtype in ("float16", "bfloat16") if encoder.learned else ():
        found.append(Suspect("half-precision", f"computed in {dtype}", changed(encoder, dtype=dtype), family=True))
    return found


def changed(encoder: Encoder, kind: type[Encoder] | None = None, **members: Any) -> Any:
    """A copy that shares the model; `members` shadow its methods and attributes, `kind` its class."""
    encoder.load()
    twin = copy.copy(encoder)
    twin.__class__ = kind or type(encoder)
    vars(twin).update(members)
    return twin


# ---- sound -----------------------------------------------------------------------------------------------------------


def _hubert(encoder: HubertLast | HubertMerbench) -> Iterator[Suspect]:
    last = isinstance(encoder, HubertLast)
    other = HubertMerbench if last else HubertLast
    layers = "the sum of the last four layers" if last else "the last layer alone"
    chunks = "10 s chunks, the last one padded with zeros" if last else "the whole clip at once"
    yield Suspect("layers", layers, changed(encoder, other, fold=encoder.fold))
    yield Suspect("chunks", chunks, changed(encoder, fold=changed(encoder, other).fold))
    yield Suspect("recipe", f"{layers}, and {chunks} (the recipe of {other.name})", changed(encoder, other))

    def unnormed(model: nn.Module, samples: Tensor, mask: Tensor | None) -> Tensor:
        seen: list[Tensor] = []
        hook = model.encoder.layer_norm.register_forward_hook(lambda _, args, out: seen.extend((args[0], out)))
        try:
            rows = encoder.layers(model, samples, mask)
        finally:
            hook.remove()
        return rows - seen[1] + seen[0]

    words = "the last layer without the encoder's final norm (`hidden_states[-1]` of transformers 5)"
    yield Suspect("final-norm", words, changed(encoder, layers=unnormed))
    switch = "without" if encoder.do_normalize else "with"
    words = f"sound {switch} normalisation to zero mean and unit variance"
    yield Suspect("normalisation", words, changed(encoder, do_normalize=not encoder.do_normalize))


def _sound(encoder: Encoder) -> Iterator[Suspect]:
    """Resamplers that people use; each with and without the padding that ffmpeg before 9 left at the end."""
    ways: dict[str, Callable[[NDArray[np.float64], int], NDArray[np.float64]]] = {
        "torchaudio's resampler (windowed sinc)": lambda x, rate: _sinc(x, rate, 6, 0.99, _hann),
        "scipy's resample_poly": lambda x, rate: _sinc(x, rate, 10, 1.0, _kaiser),
        "resampling by FFT (scipy's resample, librosa's fft)": _fft,
        "linear interpolation": lambda x, rate: np.interp(np.arange(_length(x, rate)) * rate / RATE, range(len(x)), x),
    }

    def view(way: Callable[..., NDArray[np.float64]], trim: bool) -> Callable[[Source], ClipInputs]:
        def look(source: Source) -> ClipInputs:
            samples, rate = source.sound
            if trim:
                samples = samples[: round(len(source.inputs.audio) * rate / RATE)]
            return replace(source.inputs, audio=way(samples, rate).astype(np.float32))

        return look

    for words, way in ways.items():
        yield Suspect("resampler", words, encoder, view(way, False), family=True)
        yield Suspect("resampler", f"{words}, cut where the container says", encoder, view(way, True), family=True)
    words = "the sound at its own rate, taken for 16 kHz"
    yield Suspect("resampler", words, encoder, view(lambda x, rate: x, False))


def _length(x: NDArray[np.float64], rate: int) -> int:
    return math.ceil(len(x) * RATE / rate)


def _hann(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cos(t * np.pi / 2) ** 2


def _kaiser(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.i0(5.0 * np.sqrt(1 - t**2)) / np.i0(5.0)  # scipy.signal.resample_poly: window=("kaiser", 5.0)


def _fft(x: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    n = _length(x, rate)
    bins = np.fft.rfft(x)[: n // 2 + 1]
    if n < len(x) and n % 2 == 0:
        bins[-1] *= 2  # scipy folds the bin at the new Nyquist frequency onto itself
    return np.fft.irfft(bins, n) * (n / len(x))


def _sinc(
    x: NDArray[np.float64],
    rate: int,
    zeros: int,
    rolloff: float,
    window: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Band-limited resampling with a windowed sinc of `zeros` zero crossings on either side."""
    divisor = math.gcd(rate, RATE)
    old, new = rate // divisor, RATE // divisor
    base = min(old, new) * rolloff
    width = math.ceil(zeros * old / base)
    t = (np.arange(-width, width + old) / old - np.arange(new)[:, None] / new) * base  # (new, taps)
    t = np.clip(t, -zeros, zeros)
    kernels = np.sinc(t) * window(t / zeros) * (base / old)
    padded = np.pad(x, (width, width + old))
    out = nn.functional.conv1d(torch.from_numpy(padded)[None, None], torch.from_numpy(kernels)[:, None], stride=old)
    return out[0].T.reshape(-1)[: _length(x, rate)].numpy()


# ---- pixels ----------------------------------------------------------------------------------------------------------


def _bgr(source: Source) -> ClipInputs:
    def swap(pixels: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        return None if pixels is None else np.ascontiguousarray(pixels[..., ::-1])

    return replace(source.inputs, faces=swap(source.inputs.faces), frame=swap(source.inputs.frame))


def _order(choose: Callable[[Source, int], Sequence[int]]) -> Callable[[Source], ClipInputs]:
    """A view with the face crops in another order, or with some of them only."""
    return lambda source: replace(source.inputs, faces=source.inputs.faces[choose(source, len(source.inputs.faces))])


def _norms(encoder: ViTEncoder) -> list[tuple[str, nn.Module]]:
    """Final norms that another program might apply: one that was never trained, and those in the weights file."""
    norms: list[tuple[str, nn.Module]] = [("an untrained norm", nn.LayerNorm(encoder.dim, eps=encoder.config.eps))]
    state = {} if encoder.weights is None else encoder.weights.tensors()
    for name, weight in state.items():
        if re.search(r"(^|\.)(fc_norm|norm|layernorm)\.weight$", name) and not re.search(r"decoder|blocks|\d\.", name):
            norm = nn.LayerNorm(encoder.dim, eps=encoder.config.eps)
            if weight.shape == norm.weight.shape:
                norm.load_state_dict({"weight": weight, "bias": state[name.removesuffix("weight") + "bias"]})
                norms.append((f"the file's {name.removesuffix('.weight')}", norm))
    return [(words, norm.to(encoder.device).requires_grad_(False)) for words, norm in norms]


def _mae(encoder: Mae) -> Iterator[Suspect]:
    def pool(kept: Callable[[Tensor], Tensor], norm: Callable[[nn.Module], nn.Module]) -> Any:
        def run(model: nn.Module, pixels: Tensor) -> Tensor:
            return norm(model)(kept(model(pixels))).float()

        return changed(encoder, token=run)

    def cls(tokens: Tensor) -> Tensor:
        return tokens[:, 0]

    def mean(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].mean(1)

    own, other = (cls, mean) if encoder.pooling == "cls" else (mean, cls)
    words = "the CLS token" if other is cls else "the mean of the patch tokens"
    each = changed(encoder, token=lambda model, x: model.final_norm(model(x))[:, 1:].mean(1).float())
    norms: list[tuple[str, Callable[[nn.Module], nn.Module]]] = [
        ("the model's norm", lambda model: model.final_norm),
        *((name, lambda model, norm=norm: norm) for name, norm in _norms(encoder)),
        ("no norm", lambda model: nn.Identity()),
    ]
    for name, norm in norms:
        yield Suspect("pooling", f"{words}, then {name}", pool(other, norm))
    if other is mean:
        yield Suspect("pooling", "the mean of the patch tokens, each after the model's norm", each)
    for name, norm in norms[1:]:
        yield Suspect("final-norm", f"{name} in place of the model's norm", pool(own, norm))
    few = _order(lambda source, n: uniform_indices(n)[: min(n, 16)])
    yield Suspect("frame-choice", "16 evenly chosen faces, not all", encoder, few)


def _videomae(encoder: VideoMaeAuthor | VideoMaeMerbench) -> Iterator[Suspect]:
    count = encoder.config.frames
    ways: dict[str, Callable[[int], list[int]]] = {
        "8 segments of 2 frames (maeV_399_UTT)": lambda n: segment_indices(n, count // 2),
        "equal steps from the first frame (MERBench)": lambda n: uniform_indices(n, count),
        "equal steps from the first to the last frame": lambda n: np.linspace(0, n - 1, count).astype(int).tolist(),
        "the first frames": lambda n: [min(i, n - 1) for i in range(count)],
        "every 4th frame from the first": lambda n: window_indices(n, count=count)[0],
    }
    own = "8 segments of 2 frames (maeV_399_UTT)"
    if isinstance(encoder, VideoMaeMerbench):
        own = "equal steps from the first frame (MERBench)"
        few = changed(encoder, select=lambda n: encoder.select(n) if n > SHORT else segment_indices(n, count // 2))
        yield Suspect("short-clips", f"frames 0 and 1 only where a clip has up to {SHORT} frames", few)
    del ways[own]
    if isinstance(encoder, VideoMaeAuthor):
        spread = {
            "8 segments of 2 frames": lambda n: [
                min(int((n - 1) / 8 * (x + 0.5)) + i, n - 1) for x in range(count // 2) for i in (0, 1)
            ],
            **ways,
        }
        for words, way in spread.items():
            select = changed(encoder, select=lambda n, way=way: encoder.select(n) if n > SHORT else way(n))
            words = f"not frames 0 and 1 only where a clip has up to {SHORT} frames, but {words}"
            yield Suspect("short-clips", words, select)
    yield from _tokens(encoder)
    for words, way in ways.items():
        yield Suspect("frame-choice", words, changed(encoder, select=way), family=True)
    listed = _order(lambda source, n: source.listing or range(n))
    yield Suspect("frame-order", "frames in the order in which the folder lists them", encoder, listed)
    for first, words in enumerate(("0, 1, 10, 11, ...", "1, 10, 11, ...")):
        text = _order(lambda source, n, first=first: sorted(range(n), key=lambda i: str(i + first)))
        yield Suspect("frame-order", f"frames sorted as text ({words})", encoder, text)
    for seed in range(SHUFFLES):
        drawn = _order(lambda source, n, seed=seed: np.random.default_rng(seed).permutation(n))
        yield Suspect("frame-order", f"frames in a random order (draw {seed + 1})", encoder, drawn, family=True)


def _tokens(encoder: VideoMaeAuthor | VideoMaeMerbench) -> Iterator[Suspect]:
    def tokens(norm: nn.Module) -> Callable[[Sequence[Tensor], Sequence[Prepared]], Tensor]:
        def run(tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Tensor:
            with encoder.computing() as model:
                return norm(model(encoder.clips(tensors, batch))).float()

        return run

    if encoder.config.norm is not None:
        yield Suspect("final-norm", "tokens without the final norm", changed(encoder, tokens=tokens(nn.Identity())))
    for words, norm in _norms(encoder):
        yield Suspect("final-norm", f"{words} on each token", changed(encoder, tokens=tokens(norm)))

        def run(tensors: Sequence[Tensor], batch: Sequence[Prepared], norm: nn.Module = norm) -> Tensor:
            with torch.inference_mode():
                return norm(encoder.tokens(tensors, batch).mean(1, keepdim=True))

        yield Suspect("final-norm", f"{words} on the mean of the tokens", changed(encoder, run=run))


def _eva(encoder: Eva) -> Iterator[Suspect]:
    def run(tensors: Sequence[Tensor], batch: Sequence[Prepared]) -> Tensor:
        with encoder.computing() as model:
            return model(encoder.pixels(tensors, batch)).float()

    yield Suspect("final-norm", "tokens without ln_vision", changed(encoder, run=run))
    for name in ("first", "second", "middle", "last"):

        def view(source: Source, name: str = name) -> ClipInputs:
            return replace(source.inputs, frame=source.frames[name])

        yield Suspect("frame-choice", f"the {name} frame", encoder, view)
