"""One clip from its file to its annotation: each step is kept by itself, made again only if what it is of changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from emo.extract.annotate.answers import check_answer, check_label, check_verdict
from emo.extract.annotate.describer import Clues, Question
from emo.extract.annotate.expression import named_units, phrases, pseudo_label
from emo.extract.annotate.peak import Peak, find_peak
from emo.extract.annotate.plan import TRANSCRIPTS, VERIFY, Plan
from emo.extract.annotate.shown import look
from emo.extract.annotate.units import UnitTable, stored_table
from emo.extract.annotate.work import Failing, Keep, OneClip, made_of
from emo.featstore.clip import Clip, FileId
from emo.featstore.errors import MediaError
from emo.featstore.transcripts import text_of

FACTS = ("no-audio", "silent")  # failures of the voice that are facts of the clip: the clue is then empty
FINE, COARSE = "smp_reason_caption", "caption"
COMMA = {"en": ", ", "zh": "、"}
# The template in the picture of a coarse record in Emotion-LLaMA's repository, with a colon behind "video", because
# describers answer in sentences. A clue that is empty is left out with the words around it.
COARSE_TEXT = {
    "en": {
        "scene": "This person in the video: {scene}",
        "expression": "The person's expression and actions include {expression}.",
        "voice": "The person's tone: {voice}",
        "text": "Saying: {text}",
    },
    "zh": {
        "scene": "视频中的人物：{scene}",
        "expression": "表情和动作包括{expression}。",
        "voice": "语气：{voice}",
        "text": "说：{text}",
    },
}


class ClipAnnotator(OneClip):
    """Annotates one clip.

    Args:
        plan: The settings.
        clip: The clip; it has a media file.
        file: Its content.
        keep: Where the steps are kept.
    """

    def __init__(self, plan: Plan, clip: Clip, file: FileId, keep: Keep) -> None:
        super().__init__(clip, file, keep, plan.reading, plan.annotation)
        self.plan = plan
        self.text = text_of(clip.transcripts, TRANSCRIPTS[plan.language])
        self._shown: dict[str, Any] = {}
        self._known: dict[tuple[str, str], Any] = {}  # answers that were looked up already

    def make(self) -> None:
        """Make what is not there yet. A step that fails is kept as a failure, and the annotation names it."""
        plan = self.plan
        of_units, frames, units = self._units()
        peak, label = self._peak(units, of_units)
        named = named_units(peak.active, label, plan.matching.table)
        words = phrases(named, self.file.media, plan.matching)
        clues = {"expression": COMMA[plan.language].join(words), "text": self.text, "label": label}
        self._ask_all(clues, peak)
        value = self._annotation(clues, (named, words), frames, peak)
        of = made_of(value)
        if self.keep.kept(plan.annotation, of) is None:
            self.keep.put(plan.annotation, {**value, "of": of})

    # ---- action units, frame, label --------------------------------------------------------------------------------

    def _units(self) -> tuple[str, int, Callable[[], UnitTable]]:
        """Return what the table of action units is made of, how many frames it counts, and what gives it."""
        plan = self.plan
        with Failing(self.keep, plan.table):
            of = plan.source.digest(self.clip)
            value = self.keep.kept(plan.table, of)
            if value is not None:
                spec = plan.units(value["columns"])

                def stored() -> UnitTable:
                    return stored_table(spec, self.keep.units(spec))

                return of, value.get("frames") or stored().frames, stored  # records of emo 0.1 do not count them
            table = plan.source.read(self.clip)
            self.keep.put_units(plan.units(table.columns), table)
            about = {"columns": list(table.columns), "notes": list(table.notes), "frames": table.frames}
            self.keep.put(plan.table, {"of": of, **about})
            return of, table.frames, lambda: table

    def _peak(self, units: Callable[[], UnitTable], of_units: str) -> tuple[Peak, str]:
        plan = self.plan
        own = self.clip.label.emotion if self.clip.label and plan.labels == "dataset" else None
        by_label = plan.peak.rule == "label-au"
        of = made_of(
            [of_units, own if by_label else None, plan.matching.recipe() if by_label and own is None else None]
        )
        with Failing(self.keep, plan.peaks):
            value = self.keep.kept(plan.peaks, of)
            if value is None:
                table = units()
                if by_label and own is None:
                    first = find_peak(table, plan.peak.as_all_au())
                    own = pseudo_label(first.active, first.units, plan.matching)
                peak = find_peak(table, plan.peak, own)
                kept = {**vars(peak), "active": list(peak.active), "label": own if by_label else None}
                self.keep.put(plan.peaks, {**kept, "of": of})
            else:
                if by_label:  # a frame by all units is of no label: runs with other labels share it
                    own = value["label"]
                names = ("index", "time_s", "score", "units")
                peak = Peak(**{name: value[name] for name in names}, active=tuple(value["active"]))
        return peak, own or pseudo_label(peak.active, peak.units, plan.matching)

    # ---- answers ---------------------------------------------------------------------------------------------------

    def _ask_all(self, clues: dict[str, str], peak: Peak) -> None:
        """Ask scene, voice and caption, each with what was said before; add what was said to the clues."""
        self._look_at([name for kind in ("scene", "voice") for name in self._lacking(kind, clues, peak)])
        for kind in ("scene", "voice"):
            try:
                clues[kind] = self._ask(kind, clues, peak)
            except MediaError as error:
                if kind != "voice" or error.kind not in FACTS:
                    raise
                clues[kind] = ""
        clues["caption"] = self._ask("caption", clues, peak)
        if VERIFY in self.plan.describers:
            self._ask(VERIFY, clues, peak)

    def _ask(self, kind: str, clues: Mapping[str, str], peak: Peak) -> str:
        plan, spec = self.plan, self.plan.answers[kind]
        prompt, describer = plan.prompts[kind], plan.describers[kind]
        filled, of = self._filled(kind, clues, peak)
        with Failing(self.keep, spec):
            value = self._known.get((kind, of)) or self.keep.kept(spec, of)
            if value is not None:
                return str(value["text"])
            self._look_at(self._needed(kind, peak))
            question = Question(kind, prompt.system, filled, prompt.needs, prompt.language, self._material(clues, peak))
            with self.keep.turn(describer):
                reply = describer.describe(question)
                if describer.remote:
                    self.keep.paid(describer.id, reply)
            asked = f"{prompt.system}\n{prompt.text}"
            text = check_answer(reply, asked=asked, filled=filled if describer.remote else "")
            if kind == "caption":
                check_label(text, clues["label"], [clues["text"], clues["scene"], clues["voice"]])
            if kind == VERIFY:
                check_verdict(text)
            self.keep.put(spec, {"text": text, "of": of})
            return text

    def _filled(self, kind: str, clues: Mapping[str, str], peak: Peak) -> tuple[str, str]:
        """Return a question with the clues in it, and the hash of what its answer is made of."""
        prompt = self.plan.prompts[kind]
        filled = prompt.fill(clues)
        return filled, _made_of_question(filled, peak.index if prompt.needs == "image" else None)

    def _annotation(
        self, clues: Mapping[str, str], named: tuple[list[str], list[str]], frames: int, peak: Peak
    ) -> dict[str, Any]:
        """Return an annotation in MERR's fields, both captions, and what MERR has no field for.

        Args:
            clues: All of them.
            named: The action units that speak for the label, and their phrases.
            frames: As many as the table of action units counts.
            peak: The frame of strongest expression.
        """
        units, words = named
        return {
            "AU_list": units,
            "visual_prior_list": words,
            "audio_prior_list": clues["voice"],
            "peak_index": str(peak.index),
            "peak_AU_list": list(peak.active),
            "pseu_emotion": clues["label"],
            "text": self.text,
            COARSE: coarse_text(clues, self.plan.language),
            FINE: clues["caption"],
            "scene": clues["scene"],
            "frames": frames,
            "label_from": "dataset" if self._own_label(clues["label"]) else "rules",
        }

    def _own_label(self, label: str) -> bool:
        return self.plan.labels == "dataset" and bool(self.clip.label and self.clip.label.emotion == label)

    # ---- what is shown ---------------------------------------------------------------------------------------------

    def _lacking(self, kind: str, clues: Mapping[str, str], peak: Peak) -> list[str]:
        """Return what must be decoded for a question, as far as is known before the others are answered."""
        with suppress(MediaError):
            of = self._filled(kind, clues, peak)[1]
            value = self._known[kind, of] = self.keep.kept(self.plan.answers[kind], of)
            if value is None:
                return self._needed(kind, peak)
        return []

    def _needed(self, kind: str, peak: Peak) -> list[str]:
        needs, sent = self.plan.prompts[kind].needs, self.plan.describers[kind].remote
        if needs == "image":
            return [look("jpeg" if sent else "frame", peak.index)]
        return [look("wav" if sent else "sound")] if needs == "sound" else []

    def _look_at(self, names: Sequence[str]) -> None:
        """Decode what is not there yet, in one opening of the file."""
        if lacking := [name for name in names if name not in self._shown]:
            self._shown |= self.keep.show(lacking)

    def _material(self, clues: Mapping[str, str], peak: Peak) -> Clues:
        def give(what: str, index: int | None = None) -> Callable[[], Any]:
            name = look(what, index)
            return lambda: self._seen(name)

        jpeg, wav = look("jpeg", peak.index), look("wav")
        return Clues(
            clues,
            give("frame", peak.index),
            give("sound"),
            image=give("jpeg", peak.index) if jpeg in self._shown else None,
            wave=give("wav") if wav in self._shown else None,
        )

    def _seen(self, name: str) -> Any:
        self._look_at([name])
        if isinstance(self._shown[name], MediaError):
            raise self._shown[name]
        return self._shown[name]


@lru_cache(maxsize=1024)
def _made_of_question(filled: str, frame: int | None) -> str:
    return made_of([filled, frame])  # many clips are asked the same about their frame and their sound


def coarse_text(clues: Mapping[str, str], language: str) -> str:
    """Return the coarse caption: the clues that there are, one after the other, by MERR's template."""
    said = [words.format_map(clues) for name, words in COARSE_TEXT[language].items() if clues.get(name)]
    return (" " if language == "en" else "").join(said)
