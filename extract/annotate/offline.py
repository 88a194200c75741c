"""The describer that needs no model: what can be measured in a frame and in a sound, said in words, and nothing else.

It is honest about itself: it names brightness, colours, loudness, pitch and speaking rate, and puts clues one after the
other. It sees no people, hears no emotion and infers nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.describer import RATE, Asking, Question, refuse_rest
from emo.featstore.errors import MediaError
from emo.featstore.sources.chat import Reply

VERSION = "emo-offline-1"  # raised when any sentence changes
SAMPLE = 48  # pixels per side from which brightness and colours are taken
WINDOW, HOP = 640, 320  # samples of a frame of sound: 40 and 20 ms
PITCH_HZ = (70.0, 400.0)
VOICED = 0.5  # least normalised autocorrelation of a voiced frame
NEAR_BEST = 0.9  # of the highest summit
SILENT_DB = -60.0  # below full scale; a sound this quiet says nothing of a voice
SHARE = 0.15  # of the pixels that a colour takes to be named


@dataclass(frozen=True)
class Offline:
    """See the module."""

    @property
    def id(self) -> str:
        """Name and version."""
        return VERSION

    @property
    def remote(self) -> bool:
        """Answers cost nothing."""
        return False

    def decoding(self) -> Mapping[str, Any]:
        """Return nothing: there are no settings."""
        return {}

    def answers(self, kind: str) -> bool:
        """It can say what is measured, and bring clues together; it verifies nothing and feels nothing."""
        return kind in ("scene", "voice", "caption")

    def describe(self, question: Question) -> Reply:
        """Say what is measured."""
        words = _words()[question.language]
        if question.kind == "scene":
            return Reply(scene(question.clues.frame(), words))
        if question.kind == "voice":
            return Reply(voice(question.clues.sound(), question.clues.texts.get("text", ""), words))
        return Reply(caption(question.clues.texts, words))


def open_offline(rest: str, asking: Asking, name: str) -> Offline:
    """Return the describer `offline`."""
    refuse_rest(name, rest)
    return Offline()


@cache
def _words() -> Mapping[str, Mapping[str, Any]]:
    import yaml

    return yaml.safe_load((Path(__file__).parent / "offline.yaml").read_text(encoding="utf-8"))


# ---- what is seen ----------------------------------------------------------------------------------------------------


def scene(frame: NDArray[np.uint8], words: Mapping[str, Any]) -> str:
    """Say how bright a frame (H, W, 3) is, how much it varies, and which colours take most of it."""
    small = frame[:: max(1, len(frame) // SAMPLE), :: max(1, frame.shape[1] // SAMPLE)].reshape(-1, 3).astype("f4")
    light = small @ np.array([0.299, 0.587, 0.114], "f4")  # luma of BT.601, 0 to 255
    brightness = words["brightness"][int(np.searchsorted([60, 110, 170], float(light.mean())))]
    contrast = words["contrast"][int(np.searchsorted([30, 60], float(light.std())))]
    names = [words["colours"][each] for each in colours(small)]
    return words["scene"].format(brightness=brightness, contrast=contrast, colours=_listed(names, words))


def colours(pixels: NDArray[np.float32]) -> list[str]:
    """Return names of the colours that take `SHARE` of the pixels (N, 3) or more, the largest first; three at most."""
    high, low = pixels.max(1), pixels.min(1)
    spread = np.maximum(high - low, 1e-6)
    red, green, blue = pixels.T
    sector = np.where(high == red, ((green - blue) / spread) % 6, 0)
    sector = np.where(high == green, (blue - red) / spread + 2, sector)
    sector = np.where((high == blue) & (high != red) & (high != green), (red - green) / spread + 4, sector)
    hue = 60 * sector  # degrees
    names = np.array(["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"])
    found = names[np.searchsorted([15, 45, 70, 165, 200, 260, 300, 340], hue) % 8]
    found = np.where((found == "orange") & (high < 150), "brown", found)
    grey = (high - low) < 0.15 * np.maximum(high, 1)
    found = np.where(grey, np.array(["black", "grey", "white"])[np.searchsorted([50, 200], high)], found)
    found = np.where(high < 35, "black", found)
    values, counts = np.unique(found, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    kept = [str(values[i]) for i in order if counts[i] >= SHARE * len(pixels)]
    return kept or [str(values[order[0]])]


# ---- what is heard ---------------------------------------------------------------------------------------------------


def voice(sound: NDArray[np.float32], text: str, words: Mapping[str, Any]) -> str:
    """Say how loud a sound (N,) is, how high its voice, and how fast what is said in it is spoken.

    Raises:
        MediaError: There is no sound, or only silence.
    """
    if len(sound) < WINDOW:
        raise MediaError("no-audio", "The clip has no 40 ms of sound.")
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]  # (T, 640)
    power = (frames.astype("f8") ** 2).mean(1)
    loud = power >= float(np.percentile(power, 95)) / 100  # within 20 dB of the loud parts
    level = 10 * np.log10(max(float(power[loud].mean()), 1e-12))
    if level < SILENT_DB:
        raise MediaError("silent", f"The sound is silent: its loud parts lie at {level:.0f} dB of full scale.")
    parts = [words["loudness"][int(np.searchsorted([-35, -20], level))]]
    pitch = pitch_hz(frames[loud])
    if pitch is not None:
        parts.append(words["pitch"][int(np.searchsorted([140, 220], pitch))])
    spoken_s = loud.sum() * HOP / RATE
    units = len(re.findall(r"[\u4e00-\u9fff]", text)) or 1.5 * len(re.findall(r"[^\W\u4e00-\u9fff]+", text))
    if units and spoken_s > 0.3:  # syllables: one of a Chinese character, about 1.5 of an English word
        parts.append(words["rate"][int(np.searchsorted([3, 6], units / spoken_s))])
    return words["voice"].format(voice=words["comma"].join(parts))


def pitch_hz(frames: NDArray[np.float32]) -> float | None:
    """Return the median fundamental frequency of the voiced of frames (T, 640) by autocorrelation; `None` without any.

    A lag's correlation is divided by that of lag 0, over the samples that both parts share; of the summits between 400
    and 70 Hz that come near the highest one the shortest lag is taken, as its multiples are summits too.
    """
    if len(frames) > 400:  # eight seconds of voice are enough
        frames = frames[:: -(-len(frames) // 400)]
    centred = frames - frames.mean(1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * WINDOW)
    raw = np.fft.irfft(np.abs(spectrum) ** 2)[:, :WINDOW]
    low, high = int(RATE / PITCH_HZ[1]), int(RATE / PITCH_HZ[0])
    shared = WINDOW / (WINDOW - np.arange(WINDOW))
    strength = raw * shared / np.maximum(raw[:, :1], 1e-12)
    inside = strength[:, low : high + 1]
    summit = (inside >= strength[:, low - 1 : high]) & (inside >= strength[:, low + 1 : high + 2])
    summit &= inside >= NEAR_BEST * inside.max(1, keepdims=True)
    best = summit.argmax(1) + low  # the first
    voiced = summit.any(1) & (strength[np.arange(len(best)), best] >= VOICED)
    return float(np.median(RATE / best[voiced])) if voiced.any() else None


# ---- what is put together --------------------------------------------------------------------------------------------


def caption(clues: Mapping[str, str], words: Mapping[str, Any]) -> str:
    """Put the clues one after the other and name the label that goes with them; nothing is inferred."""
    parts = [clues[name] for name in ("scene",) if clues.get(name)]
    for name in ("expression", "voice", "text"):
        if clues.get(name):
            parts.append(words["caption"][name].format(**{name: clues[name]}))
    label = words["labels"].get(clues.get("label", ""), clues.get("label", ""))
    return words["space"].join([*parts, words["caption"]["label"].format(label=label)])


def _listed(names: Sequence[str], words: Mapping[str, Any]) -> str:
    if len(names) < 2:
        return "".join(names)
    return words["comma"].join(names[:-1]) + words["and"] + names[-1]
