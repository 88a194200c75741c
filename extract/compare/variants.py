"""Why features of others differ: the causes that have a name, and what people do otherwise to an encoder's input.

Changes within an encoder are declared by the encoder itself (`Encoder.variants`). What concerns an input, whatever
reads it, stands here: one line in `INPUTS` per kind of input (`needs`). A change of decoding is a view that decodes
`Decoded.path` in another way. `rerun.py` tries all of them on a few clips and sees whose numbers agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emo.extract.encoders.base import ClipInputs, Decoded, Encoder, Variant
from emo.extract.media.container import open_media
from emo.extract.media.reading import AUDIO_RATE as RATE
from emo.extract.media.reading import Reading

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
    "sound-tail": "the last packet of an mp4's sound whole against cut at the edit list",
    "resampler": "another way to decode or resample the sound",
    "half-precision": "values rounded to half precision, or computed in it",
    "scale": "one factor on everything, or vectors of length 1",
    "offset": "one vector added everywhere",
    "not-finite": "NaN or infinity",
    "zeros": "zeros in place of features",
}
"""Variants that a verdict can name. The last four are seen in the numbers alone."""


def variants_of(encoder: Encoder) -> list[Variant]:
    """All changes that are known to go with an encoder of media; of two that agree equally well the first counts."""
    return [*INPUTS[encoder.needs](encoder), *encoder.variants()]


def _colours(encoder: Encoder) -> Iterator[Variant]:
    yield Variant("colour", "colour channels in the order BGR", encoder, _bgr)


def _bgr(decoded: Decoded) -> ClipInputs:
    def swap(pixels: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        return None if pixels is None else np.ascontiguousarray(pixels[..., ::-1])

    seen = decoded.inputs
    return replace(seen, faces=swap(seen.faces), frame=swap(seen.frame), frames=swap(seen.frames))


def _sound(encoder: Encoder) -> Iterator[Variant]:
    """The other end of an mp4's sound; resamplers that people use, each with and without that end."""
    reading = Reading.of_recipe(encoder.media_recipe)
    other = "keep" if reading.sound_tail == "trim" else "trim"
    words = {"keep": "the last packet of the sound whole", "trim": "the sound cut at the edit list"}[other]
    yield Variant("sound-tail", words, encoder, _read(replace(reading, sound_tail=other)))
    ways: dict[str, Callable[[NDArray[np.float64], int], NDArray[np.float64]]] = {
        "torchaudio's resampler (windowed sinc)": lambda x, rate: _sinc(x, rate, 6, 0.99, _hann),
        "scipy's resample_poly": lambda x, rate: _sinc(x, rate, 10, 1.0, _kaiser),
        "resampling by FFT (scipy's resample, librosa's fft)": _fft,
        "linear interpolation": lambda x, rate: np.interp(np.arange(_length(x, rate)) * rate / RATE, range(len(x)), x),
    }

    def view(way: Callable[..., NDArray[np.float64]], trim: bool) -> Callable[[Decoded], ClipInputs]:
        def look(decoded: Decoded) -> ClipInputs:
            samples, rate = decoded.sound
            if trim:
                samples = samples[: round(len(decoded.inputs.audio) * rate / RATE)]
            return replace(decoded.inputs, audio=way(samples, rate).astype(np.float32))

        return look

    for words, way in ways.items():
        yield Variant("resampler", words, encoder, view(way, False), family=True)
        yield Variant("resampler", f"{words}, cut where the container says", encoder, view(way, True), family=True)
    words = "the sound at its own rate, taken for 16 kHz"
    yield Variant("resampler", words, encoder, view(lambda x, rate: x, False))


def _read(reading: Reading) -> Callable[[Decoded], ClipInputs]:
    def look(decoded: Decoded) -> ClipInputs:
        if decoded.path is None:  # samples without a file have no other end
            return decoded.inputs
        with open_media(decoded.path, reading) as media:
            return replace(decoded.inputs, audio=media.audio())

    return look


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


INPUTS: dict[str, Callable[[Encoder], Iterator[Variant]]] = {
    "audio": _sound,
    "faces": _colours,
    "points": lambda encoder: iter(()),
    "frame": _colours,
    "frames": _colours,
    "text": lambda encoder: iter(()),
}
