"""One clip from its file to its annotation: each step is kept by itself, made again only if what it is of changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.answers import check_answer, check_label, check_verdict
from emo.extract.annotate.describer import Clues, Question, Stopped
from emo.extract.annotate.expression import named_units, phrases, pseudo_label
from emo.extract.annotate.peak import Peak, find_peak
from emo.extract.annotate.plan import TRANSCRIPTS, VERIFY, Plan
from emo.extract.annotate.units import UnitTable, stored_table
from emo.extract.media.container import Media, open_media
from emo.extract.media.reading import as_failure
from emo.extract.texts import text_of
from emo.featstore.clip import Clip, FileId
from emo.featstore.errors import EmoError, MediaError
from emo.featstore.files import digest
from emo.featstore.sources.chat import Reply
from emo.featstore.spec import EncoderSpec

FACTS = ("no-audio", "silent")  # failures of the voice that are facts of the clip: the clue is then empty
FINE, COARSE = "smp_reason_caption", "caption"
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


class Keep(Protocol):
    """The place where the steps of one clip are kept."""

    def kept(self, spec: EncoderSpec, of: str) -> Any:
        """Return the value of a step if it is there and was made of the same; else `None`.

        Raises:
            MediaError: It failed for good.
        """
        ...

    def put(self, spec: EncoderSpec, value: Mapping[str, Any]) -> None:
        """Keep a value."""
        ...

    def put_units(self, spec: EncoderSpec, table: UnitTable) -> None:
        """Keep a table of action units."""
        ...

    def units(self, spec: EncoderSpec) -> NDArray[np.float32]:
        """Return the rows of a table that is kept."""
        ...

    def fail(self, spec: EncoderSpec, error: MediaError) -> None:
        """Keep a failure."""
        ...

    def paid(self, model: str, reply: Reply) -> None:
        """Hear of a reply that came from a model."""
        ...


class ClipAnnotator:
    """Annotates one clip.

    Args:
        plan: The settings.
        clip: The clip; it has a media file.
        file: Its content.
        keep: Where the steps are kept.
    """

    def __init__(self, plan: Plan, clip: Clip, file: FileId, keep: Keep) -> None:
        self.plan, self.clip, self.file, self.keep = plan, clip, file, keep
        self.text = text_of(clip.transcripts, TRANSCRIPTS[plan.language])
        self._pictures: dict[int, NDArray[np.uint8]] = {}
        self._sound: NDArray[np.float32] | None = None
        self._media: Media | None = None

    def run(self) -> None:
        """Make what is not there yet. A step that fails is kept as a failure, and the annotation names it.

        Raises:
            Stopped: No more may be asked; what is made so far is kept.
        """
        plan = self.plan
        try:
            units, of_units = self._units()
            peak, label = self._peak(units, of_units)
            clues = self._clues(peak, label)
            self._ask_all(clues, peak)
            value = self._annotation(clues, units, peak, label)
            of = _of(value)
            if self.keep.kept(plan.annotation, of) is None:
                self.keep.put(plan.annotation, {**value, "of": of})
        except MediaError as error:
            self.keep.fail(plan.annotation, error)
        except (Stopped, EmoError):
            raise
        except Exception as error:  # noqa: BLE001 - one broken clip must not end a run over 100,000
            self.keep.fail(plan.annotation, as_failure(error, self.clip.media or Path(self.clip.id)))
        finally:
            if self._media is not None:
                self._media.close()

    # ---- action units, frame, label --------------------------------------------------------------------------------

    def _units(self) -> tuple[UnitTable, str]:
        plan = self.plan
        with _Failing(self.keep, plan.table):
            of = plan.source.digest(self.clip)
            value = self.keep.kept(plan.table, of)
            if value is not None:
                spec = plan.source.spec(value["columns"])
                return stored_table(spec, self.keep.units(spec)), of
            table = plan.source.read(self.clip)
            self.keep.put_units(plan.source.spec(table.columns), table)
            self.keep.put(plan.table, {"of": of, "columns": list(table.columns), "notes": list(table.notes)})
            return table, of

    def _peak(self, units: UnitTable, of_units: str) -> tuple[Peak, str]:
        plan = self.plan
        own = self.clip.label.emotion if self.clip.label and plan.labels == "dataset" else None
        by_label = plan.peak.rule == "label-au"
        of = _of([of_units, own if by_label else None, plan.matching.recipe() if by_label and own is None else None])
        with _Failing(self.keep, plan.peaks):
            value = self.keep.kept(plan.peaks, of)
            if value is None:
                if by_label and own is None:
                    first = find_peak(units, plan.peak.as_all_au())
                    own = pseudo_label(first.active, first.units, plan.matching)
                peak = find_peak(units, plan.peak, own)
                self.keep.put(plan.peaks, {**asdict(peak), "active": list(peak.active), "label": own, "of": of})
            else:
                own = value["label"]
                names = ("index", "time_s", "score", "units")
                peak = Peak(**{name: value[name] for name in names}, active=tuple(value["active"]))
        return peak, own or pseudo_label(peak.active, peak.units, plan.matching)

    # ---- answers ---------------------------------------------------------------------------------------------------

    def _clues(self, peak: Peak, label: str) -> dict[str, str]:
        named = named_units(peak.active, label, self.plan.matching.table)
        words = phrases(named, self.file.media, self.plan.matching)
        comma = ", " if self.plan.language == "en" else "、"
        return {"expression": comma.join(words), "text": self.text, "label": label}

    def _ask_all(self, clues: dict[str, str], peak: Peak) -> None:
        """Ask scene, voice and caption, each with what was said before; add what was said to the clues."""
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
        filled = prompt.fill(clues)
        of = _of([filled, peak.index if prompt.needs == "image" else None])
        with _Failing(self.keep, spec):
            value = self.keep.kept(spec, of)
            if value is not None:
                return str(value["text"])
            material = Clues(clues, lambda: self._frame(peak.index), self._audio)
            reply = describer.describe(Question(kind, prompt.system, filled, prompt.needs, prompt.language, material))
            self.keep.paid(describer.id, reply)
            asked = f"{prompt.system}\n{prompt.text}"
            text = check_answer(reply.text, cut=reply.cut, asked=asked, filled=filled if describer.remote else "")
            if kind == "caption":
                check_label(text, clues["label"], [clues["text"], clues["scene"], clues["voice"]])
            if kind == VERIFY:
                check_verdict(text)
            self.keep.put(spec, {"text": text, "of": of})
            return text

    def _annotation(self, clues: Mapping[str, str], units: UnitTable, peak: Peak, label: str) -> dict[str, Any]:
        """Return an annotation in MERR's fields, both captions, and what MERR has no field for.

        `frames` is the number of frames that the table of action units counts.
        """
        named = named_units(peak.active, label, self.plan.matching.table)
        return {
            "AU_list": named,
            "visual_prior_list": phrases(named, self.file.media, self.plan.matching),
            "audio_prior_list": clues["voice"],
            "peak_index": str(peak.index),
            "peak_AU_list": list(peak.active),
            "pseu_emotion": label,
            "text": self.text,
            COARSE: coarse_text(clues, self.plan.language),
            FINE: clues["caption"],
            "scene": clues["scene"],
            "frames": int(units.rows[-1, 0]) + 1,
            "label_from": "dataset" if self._own_label(label) else "rules",
        }

    def _own_label(self, label: str) -> bool:
        return self.plan.labels == "dataset" and bool(self.clip.label and self.clip.label.emotion == label)

    # ---- decoding --------------------------------------------------------------------------------------------------

    def _frame(self, index: int) -> NDArray[np.uint8]:
        if index not in self._pictures:
            last = -1
            for frame in self._opened().frames():
                last = frame.index
                if last == index:
                    self._pictures = {index: frame.rgb}
                    return frame.rgb
            name = self.clip.media.name if self.clip.media else self.clip.id
            sentence = f"{name} has {last + 1} frames, so there is no frame {index} as its action units say."
            raise MediaError("no-frame-index", sentence, "Were the action units made of another file?")
        return self._pictures[index]

    def _audio(self) -> NDArray[np.float32]:
        if self._sound is None:
            self._sound = self._opened().audio()
        return self._sound

    def _opened(self) -> Media:
        if self._media is None:
            assert self.clip.media is not None
            self._media = open_media(self.clip.media, self.plan.reading)
        return self._media


def coarse_text(clues: Mapping[str, str], language: str) -> str:
    """Return the coarse caption: the clues that there are, one after the other, by MERR's template."""
    said = [words.format_map(clues) for name, words in COARSE_TEXT[language].items() if clues.get(name)]
    return (" " if language == "en" else "").join(said)


class _Failing:
    """Keep a failure of a step as that step's, and let the annotation hear of it.

    Args:
        keep: Where.
        spec: The step's.
    """

    def __init__(self, keep: Keep, spec: EncoderSpec) -> None:
        self.keep, self.spec = keep, spec

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: Any) -> None:
        if isinstance(error, MediaError):
            self.keep.fail(self.spec, error)


def _of(value: Any) -> str:
    """Return the hash of what a step is made of."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())
