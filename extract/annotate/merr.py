"""The form of a MERR record, and what a file of them holds: for the validator, for statistics and for the exporter.

    {"sample_00000023": {"AU_list": ["AU04"], "visual_prior_list": ["Frowns furrowed"], "audio_prior_list": "...",
     "peak_index": "20", "peak_AU_list": ["AU01", "AU04"], "pseu_emotion": "angry", "text": "...",
     "smp_reason_caption": "..."}}

A fine record has `smp_reason_caption`, a coarse one has `caption` and need not have `text`. Counted over the 4,487 fine
records of MERR.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emo.extract.annotate.actions import CODE, rules, unit_of
from emo.extract.annotate.answers import refuses
from emo.featstore.datasets.tables import normal_name
from emo.featstore.errors import UsageError
from emo.featstore.labels import MERR_LABELS
from emo.featstore.reading import Pairs, read_json

CAPTIONS = {"fine": "smp_reason_caption", "coarse": "caption"}
COMMON = ("AU_list", "visual_prior_list", "audio_prior_list", "peak_index", "peak_AU_list", "pseu_emotion")
FIELDS = {form: (*COMMON, "text", caption) for form, caption in CAPTIONS.items()}


@dataclass(frozen=True)
class Entries:
    """The content of a MERR-like file.

    Attributes:
        form: `fine` or `coarse`, by the caption that more of its records have.
        records: In the file's order; of a name that comes twice, the first. A coarse one without `text` gets an empty
            one.
        twice: Names that come more than once.
        strange: Names whose value is no object.
    """

    form: str
    records: Mapping[str, Mapping[str, Any]]
    twice: Sequence[str] = ()
    strange: Sequence[str] = ()


def read_merr(path: Path) -> Entries:
    """Read a file of MERR records, whatever is wrong inside them.

    Raises:
        UsageError: It is no JSON object of clip names.
    """
    pairs = read_json(path, Pairs)
    if not isinstance(pairs, Pairs) or not pairs:
        raise UsageError(f"{path} is not a JSON object of clip names.", 'MERR\'s form is {"name": {"AU_list": ...}}.')
    records: dict[str, Mapping[str, Any]] = {}
    twice, strange = [], []
    for given, value in pairs:
        name = normal_name(given)
        if name in records:
            twice.append(name)
        elif isinstance(value, Pairs):
            records[name] = dict(value)
        else:
            strange.append(name)
    coarse = sum("caption" in each for each in records.values())
    fine = sum("smp_reason_caption" in each for each in records.values())
    if coarse <= fine:
        return Entries("fine", records, twice, strange)
    return Entries("coarse", {name: {"text": "", **each} for name, each in records.items()}, twice, strange)


# ---- faults: a record that is not of the form ------------------------------------------------------------------------


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _codes(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and CODE.fullmatch(each) for each in value)


def _phrases(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each.strip() for each in value)


def _index(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit()


def _said(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_FORMS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "AU_list": (_codes, "a list of codes such as AU04"),
    "visual_prior_list": (_phrases, "a list of phrases"),
    "audio_prior_list": (_text, "a text"),
    "peak_index": (_index, "a whole number as a text"),
    "peak_AU_list": (_codes, "a list of codes such as AU04"),
    "pseu_emotion": (_said, "a word"),
    "text": (_text, "a text"),
    "caption": (_said, "a text that says something"),
    "smp_reason_caption": (_said, "a text that says something"),
}


def faults(record: Mapping[str, Any], form: str) -> list[str]:
    """Return what of a record is not as all 4,487 have it, a few words each; a reader may fail on such a record."""
    found = [f"{name} is missing" for name in FIELDS[form] if name not in record]
    for name, (good, what) in _FORMS.items():
        if name in record and not good(record[name]):
            found.append(f"{name} is not {what}")
    units, phrases = record.get("AU_list"), record.get("visual_prior_list")
    if _codes(units) and _phrases(phrases) and len(units) != len(phrases):
        found.append("AU_list and visual_prior_list differ in length")
    return found


# ---- oddities: a record that is of the form, and worth a look --------------------------------------------------------


def oddities(record: Mapping[str, Any], form: str) -> list[str]:
    """Return what is worth a look in a record of the right form; the published file has all but the first."""
    found = []
    units, label = record["AU_list"], record["pseu_emotion"]
    if not units:
        found.append("AU_list is empty")
    if len(set(units)) < len(units):
        found.append("AU_list names an action unit twice")
    if not set(units) <= set(record["peak_AU_list"]):
        found.append("AU_list is not within peak_AU_list")
    named = [unit_of().get(phrase.lower()) for phrase in record["visual_prior_list"]]
    if None in named:
        found.append("a phrase is of no profile")
    if any(name not in (None, unit) for name, unit in zip(named, units, strict=True)):
        found.append("a phrase belongs to another action unit")
    if label not in MERR_LABELS:
        found.append("pseu_emotion is none of MERR's nine words")
    elif units and label in rules() and not set(units) <= set(rules()[label]):
        found.append("AU_list goes beyond the label's rule")
    if refuses(record[CAPTIONS[form]]):
        found.append("the caption is a refusal")
    if extra := sorted(set(record) - set(FIELDS[form])):
        found.append(f"further fields: {', '.join(extra)}")
    return found


# ---- counts ----------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Counts over many records of the right form.

    Attributes:
        labels: Records by `pseu_emotion`.
        units: By label, how often `AU_list` names an action unit (36 records of MERR name one twice).
        phrases: By action unit, how often each phrase stands for it.
        sounds: How often each `audio_prior_list` occurs.
        broken_lines: Captions that hold line breaks.
        peaks: Records by action unit of `peak_AU_list`.
        indices: Smallest and largest `peak_index`.
    """

    labels: Counter[str] = field(default_factory=Counter)
    units: dict[str, Counter[str]] = field(default_factory=dict)
    phrases: dict[str, Counter[str]] = field(default_factory=dict)
    sounds: Counter[str] = field(default_factory=Counter)
    peaks: Counter[str] = field(default_factory=Counter)
    broken_lines: int = 0
    indices: tuple[int, int] | None = None

    def add(self, record: Mapping[str, Any], form: str) -> None:
        """Count one record of the right form."""
        label, index = record["pseu_emotion"], int(record["peak_index"])
        self.labels[label] += 1
        self.units.setdefault(label, Counter()).update(record["AU_list"])
        for unit, phrase in zip(record["AU_list"], record["visual_prior_list"], strict=True):
            self.phrases.setdefault(unit, Counter())[phrase] += 1
        self.sounds[record["audio_prior_list"]] += 1
        self.peaks.update(set(record["peak_AU_list"]))
        self.broken_lines += "\n" in record[CAPTIONS[form]]
        low, high = self.indices or (index, index)
        self.indices = (min(low, index), max(high, index))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, the most frequent first."""
        return {
            "labels": dict(self.labels.most_common()),
            "units": {label: dict(self.units[label].most_common()) for label, _ in self.labels.most_common()},
            "phrases": {unit: dict(self.phrases[unit].most_common()) for unit in sorted(self.phrases)},
            "sounds": {"different": len(self.sounds), "commonest": dict(self.sounds.most_common(8))},
            "peak_units": dict(self.peaks.most_common()),
            "captions_with_line_breaks": self.broken_lines,
            "peak_index": None if self.indices is None else list(self.indices),
        }


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; each Chinese character counts as a word."""
    return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+(?:'\w+)?", text.lower())
