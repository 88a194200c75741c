"""The making of an annotation: the settings of a run, and the recipe of every record that comes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from emo.extract.annotate.answers import emotion_names
from emo.extract.annotate.describer import Describer
from emo.extract.annotate.expression import Matching
from emo.extract.annotate.peak import PeakOptions
from emo.extract.annotate.prompts import Prompt
from emo.extract.annotate.units import UnitSource
from emo.extract.media.reading import FRAMES, Reading
from emo.featstore.annotations import ANNOTATION
from emo.featstore.errors import UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.records import record_spec

QUESTIONS = ("scene", "voice", "caption")  # asked in this order
VERIFY = "verify"
LABELS_FROM = ("rules", "dataset")
TRANSCRIPTS = {"en": ("english", "text"), "zh": ("chinese", "text")}  # of a clip, best first


@dataclass(frozen=True)
class Plan:
    """Settings of a run: everything that changes annotations, and nothing else.

    Attributes:
        source: Of the action units.
        peak: How the frame is chosen.
        matching: Rules of labels, and phrases.
        labels: `rules`: from the action units; `dataset`: the clip's own, where it has one.
        prompts: By question.
        describers: By question; `verify` only where a second model looks at captions.
        reading: How clips are decoded.
    """

    source: UnitSource
    peak: PeakOptions
    matching: Matching
    labels: str
    prompts: Mapping[str, Prompt]
    describers: Mapping[str, Describer]
    reading: Reading

    def __post_init__(self) -> None:
        emotion_names()  # made once, and not by each of the threads that first need them
        if self.labels not in LABELS_FROM:
            raise UsageError(f"Labels cannot come from {self.labels!r}.", f"They come from {' or '.join(LABELS_FROM)}.")
        for kind, describer in self.describers.items():
            if not describer.answers(kind):
                raise UsageError(f"{describer.id} cannot answer {kind}.", "Name another describer for it.")
        for kind, prompt in self.prompts.items():
            if prompt.needs != {"scene": "image", "voice": "sound"}.get(kind, ""):
                raise UsageError(f"Prompt {prompt.name} is no question about the {kind}.", "Name another prompt.")

    @property
    def language(self) -> str:
        """Language of prompts and of what describers say."""
        return self.prompts["caption"].language

    @cached_property
    def table(self) -> EncoderSpec:
        """Records of what the tables of action units are: hash, columns, notes."""
        units = self.source.spec(())
        return record_spec(f"{units.name}.table", "units-table", "none", inputs={"of": units.fingerprint})

    def units(self, columns: Sequence[str]) -> EncoderSpec:
        """Return the identity of the feature with these columns, which many clips share."""
        key = tuple(columns)
        if key not in self._units:
            self._units[key] = self.source.spec(key)
        return self._units[key]

    @cached_property
    def _units(self) -> dict[tuple[str, ...], EncoderSpec]:
        return {}

    @cached_property
    def peaks(self) -> EncoderSpec:
        """Records of the frame."""
        return self.peak.spec(self.source.spec(()), self.labels)

    @cached_property
    def answers(self) -> Mapping[str, EncoderSpec]:
        """Records of answers, by question."""
        inputs: dict[str, dict[str, Any]] = {
            "scene": {"frame": self.peaks.fingerprint, "frames": FRAMES},
            "voice": {"sound": self.reading.audio_recipe},
        }
        found = {kind: self._answer(kind, inputs[kind]) for kind in ("scene", "voice")}
        clues = {kind: found[kind].fingerprint for kind in found}
        clues |= {"peak": self.peaks.fingerprint, "matching": self.matching.recipe(), "labels": self.labels}
        found["caption"] = self._answer("caption", clues)
        if VERIFY in self.describers:
            found[VERIFY] = self._answer(VERIFY, {**clues, "caption": found["caption"].fingerprint})
        return found

    def _answer(self, kind: str, inputs: Mapping[str, Any]) -> EncoderSpec:
        describer, prompt = self.describers[kind], self.prompts[kind]
        return record_spec(
            kind, "describer", describer.id, prompt=prompt.identity, decoding=describer.decoding(), inputs=inputs
        )

    @cached_property
    def annotation(self) -> EncoderSpec:
        """Records of whole annotations."""
        inputs = {kind: spec.fingerprint for kind, spec in self.answers.items()}
        return record_spec(ANNOTATION, "annotation", "none", inputs={**inputs, "peak": self.peaks.fingerprint})

    @property
    def goal(self) -> EncoderSpec:
        """A whole annotation is what a run is for."""
        return self.annotation

    def specs(self) -> list[EncoderSpec]:
        """Return all recipes of records."""
        return [self.table, self.peaks, *self.answers.values(), self.annotation]
