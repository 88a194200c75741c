"""The emotion-wheel score of MER2025 and MER2026, and MER-UniBench's hit rate: any word, reduced to five wheels.

The tables are MERTools' (Apache-2.0); the user's copy is read, none is shipped.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from emo.featstore.datasets.tables import read_csv, read_labels, read_npz_dict
from emo.featstore.errors import UsageError
from emo.featstore.page import Page, Table
from emo.featstore.text import counted
from emo.train.answers import Prediction
from emo.train.metrics.base import Option, Sample, Say
from emo.train.metrics.labels import shared_clips
from emo.train.metrics.words import (
    Groups,
    SetMetric,
    Words,
    mean_length,
    need_words,
    overlap,
    set_remarks,
    split_words,
    words_of,
)

LEVELS = {"level1": "level 1", "level2": "level 2", "level3": "level 3"}  # in the tables, and for people
RUNS = 8  # of a model that named synonyms, in synonym.xlsx
Reduce = Callable[[str], str | None]


@dataclass(frozen=True)
class Wheels:
    """The tables, from the outside in.

    Attributes:
        forms: Any form of a word -> the base words it may be of.
        bases: A base word -> the wheel words that it means.
        maps: Wheel -> level -> wheel word -> its place at that level.
    """

    forms: Mapping[str, Sequence[str]]
    bases: Mapping[str, Sequence[str]]
    maps: Mapping[str, Mapping[str, Mapping[str, str]]]

    def base(self, word: str) -> str | None:
        """The base form of a word, `None` if it is not in the tables."""
        return min(self.forms[word]) if word in self.forms else None

    def wheel_word(self, word: str) -> str | None:
        """The wheel word that a word is a form or synonym of."""
        base = self.base(word)
        return None if base is None else min(self.bases[base])

    def place(self, wheel: str, level: str) -> Reduce:
        """Place a word on one wheel: of all wheel words that it may mean, the alphabetically first that is there."""
        table = self.maps[wheel][level]

        def reduce(word: str) -> str | None:
            meant = sorted(each for base in self.forms.get(word, ()) for each in self.bases[base])
            return next((table[each] for each in meant if each in table), None)

        return reduce

    def groups(self) -> Groups:
        """The words grouped by their wheel word, for `score_sets`."""
        found: dict[str, Words] = {}
        for word in self.forms:
            found.setdefault(self.wheel_word(word) or word, []).append(word)
        return [[head, *words] for head, words in found.items()]


# ---- tables ----------------------------------------------------------------------------------------------------------


def load_wheels(path: Path) -> Wheels:
    """Read MER2026's `wheel_mapping.npz`, or MER2025's folder of wheel1..5.xlsx, synonym.xlsx and format.csv.

    The npz is read without running pickled code.

    Raises:
        UsageError: It is neither.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() != ".npz":
        raise UsageError(
            f"{path} holds no emotion wheels.",
            "Give MERTools' wheel_mapping.npz, or its folder emotion_wheel with wheel1.xlsx to wheel5.xlsx.",
        )
    forms, bases, maps = (read_npz_dict(path, key) for key in ("format_mapping", "raw_mapping", "wheel_map_whole"))
    try:
        return Wheels(
            {word: [str(base) for base in found] for word, found in forms.items()},
            {base: [str(word) for word in found] for base, found in bases.items()},
            {wheel: _with_third(dict(levels["level1"]), dict(levels["level2"])) for wheel, levels in maps.items()},
        )
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(f"{path} does not hold MER2026's tables of emotion wheels: {error!r}.") from error


def _read_folder(folder: Path) -> Wheels:
    maps = {f"wheel{i}": _wheel(folder / f"wheel{i}.xlsx") for i in range(1, 6)}
    bases: dict[str, set[str]] = {}
    for row in _read_xlsx(folder / "synonym.xlsx"):
        for run in range(1, RUNS + 1):
            word = row[f"word_run{run}"].strip().lower()
            for each in (word, *split_words(row[f"synonym_run{run}"])):
                bases.setdefault(each, set()).add(word)
    forms: dict[str, list[str]] = {}
    for record in read_csv(folder / "format.csv", ["name", "format"]):
        for form in (record.fields["name"], *split_words(record.fields["format"])):
            forms.setdefault(form, []).append(record.fields["name"])
    if strange := sorted({base for found in forms.values() for base in found} - set(bases)):
        raise UsageError(f"{folder}: format.csv has words that synonym.xlsx lacks: {', '.join(strange[:3])}.")
    return Wheels(forms, {base: sorted(words) for base, words in bases.items()}, maps)


def _wheel(path: Path) -> dict[str, dict[str, str]]:
    """One wheel; a level-1 word is, at level 2, the alphabetically first of its children (MERTools)."""
    inner: dict[str, dict[str, list[str]]] = {}
    at = {"level1": "", "level2": "", "level3": ""}
    for row in _read_xlsx(path):
        at |= {level: text.strip().lower() for level in at if (text := row.get(level, "")).strip()}
        inner.setdefault(at["level1"], {}).setdefault(at["level2"], []).append(at["level3"])
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    for level1, children in inner.items():
        first[level1], second[level1] = level1, min(children)
        for level2, words in children.items():
            for word in (level2, *words):
                first[word], second[word] = level1, level2
    return _with_third(first, second)


def _with_third(first: dict[str, str], second: dict[str, str]) -> dict[str, dict[str, str]]:
    """A wheel of three levels. The published code stops at the second; its rule goes on: a word of an inner level is,
    at the third, the alphabetically first word below it, and itself where there is none.
    """
    inner = {*first.values(), *second.values()}
    outer: dict[str, list[str]] = {}
    for word, parent in second.items():
        if word not in inner:
            outer.setdefault(parent, []).append(word)
    third = {word: min(outer.get(parent, [parent])) if word in inner else word for word, parent in second.items()}
    return {"level1": first, "level2": second, "level3": third}


def _read_xlsx(path: Path) -> list[dict[str, str]]:
    """Rows of the first sheet by the names in its first row: an xlsx is a zip of XML, and text is all there is here."""
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    try:
        with zipfile.ZipFile(path) as archive:
            strings = [
                "".join(text.text or "" for text in item.iter(f"{space}t"))
                for item in ET.fromstring(archive.read("xl/sharedStrings.xml")).iter(f"{space}si")
            ]
            sheet = ET.fromstring(archive.read("xl/worksheets/sheet1.xml"))
        rows: list[dict[str, str]] = []
        for row in sheet.iter(f"{space}row"):
            cells = {}
            for cell in row.iter(f"{space}c"):
                value = cell.find(f"{space}v")
                if value is not None and value.text:
                    column = cell.attrib["r"].rstrip("0123456789")
                    cells[column] = strings[int(value.text)] if cell.get("t") == "s" else value.text
            rows.append(cells)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.", "Give the whole folder emotion_wheel of MERTools.") from None
    except (OSError, zipfile.BadZipFile, KeyError, ET.ParseError, ValueError, IndexError) as error:
        raise UsageError(f"{path} is no readable xlsx table: {error}.", "Copy or download it again.") from error
    header = rows[0] if rows else {}
    return [{name: cells.get(column, "") for column, name in header.items()} for cells in rows[1:]]


# ---- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """Precision and recall, means over the `n` clips whose truth is not empty once reduced, and their F."""

    f: float
    precision: float
    recall: float
    n: int


@dataclass(frozen=True)
class WheelScore:
    """The emotion-wheel score.

    Attributes:
        n: Clips that were compared.
        f: The official figure: the mean over the wheels of F at level 1.
        precision: Likewise.
        recall: Likewise.
        levels: By level, the means over the wheels of F, precision and recall.
        wheels: By level and wheel.
        forms: Words reduced to their base forms only ("case1").
        synonyms: Words reduced to wheel words, without wheels ("case2").
        words_true: Mean number of words per clip of the truth.
        words_answered: Likewise of the answers.
        unknown_true: Words of the truth that the tables do not hold, which are dropped.
        unknown_answered: Likewise of the answers.
        empty_answers: Clips without a word in their answer, which count as 0.
        missing: Labelled clips without a prediction, left out.
        extra: Predictions for other clips, ignored.
    """

    n: int
    f: float
    precision: float
    recall: float
    levels: dict[str, dict[str, float]]
    wheels: dict[str, dict[str, Overlap]]
    forms: Overlap
    synonyms: Overlap
    words_true: float
    words_answered: float
    unknown_true: int
    unknown_answered: int
    empty_answers: int
    missing: int
    extra: int

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {"metric": "emotion-wheel", **asdict(self)}


def score_wheels(
    truth: Mapping[str, Words], predictions: Mapping[str, Words], wheels: Wheels, allow_missing: bool = False
) -> WheelScore:
    """Score sets of words on emotion wheels, as MER2025 and MER2026 do.

    Args:
        truth: Words by clip name, in lower case.
        predictions: Likewise.
        wheels: The tables.
        allow_missing: Score the clips that have a prediction although others have none.

    Raises:
        UsageError: As `shared_clips`, or no clip has a true word.
    """
    names, missing = shared_clips(
        need_words([name for name, words in truth.items() if words]), predictions, allow_missing
    )

    def compare(reduce: Reduce) -> Overlap:
        sides = ([_reduced(side[name], reduce) for name in names] for side in (truth, predictions))
        precision, recall, n = overlap(zip(*sides, strict=True))
        both = precision + recall
        return Overlap(2 * precision * recall / both if both else 0.0, precision, recall, n)

    found = {level: {wheel: compare(wheels.place(wheel, level)) for wheel in wheels.maps} for level in LEVELS}
    levels = {
        level: {
            key: float(np.mean([getattr(each, key) for each in of.values()])) for key in ("f", "precision", "recall")
        }
        for level, of in found.items()
    }
    unknown = [sum(word not in wheels.forms for name in names for word in side[name]) for side in (truth, predictions)]
    return WheelScore(
        n=len(names),
        **levels["level1"],
        levels=levels,
        wheels=found,
        forms=compare(wheels.base),
        synonyms=compare(wheels.wheel_word),
        words_true=mean_length(truth[name] for name in names),
        words_answered=mean_length(predictions[name] for name in names),
        unknown_true=unknown[0],
        unknown_answered=unknown[1],
        empty_answers=sum(not predictions[name] for name in names),
        missing=len(missing),
        extra=sum(name not in truth for name in predictions),
    )


def _reduced(words: Words, reduce: Reduce) -> set[str]:
    return {place for word in words if (place := reduce(word)) is not None}


def wheel_page(found: WheelScore, title: str, notes: Sequence[str] = ()) -> Page:
    """An emotion-wheel score with the sentences that must stand beside it."""
    columns = ("", "F", "precision", "recall", "clips")
    rows = [
        (f"{wheel}, {LEVELS[level]}", each.f, each.precision, each.recall, each.n)
        for level, of in found.wheels.items()
        for wheel, each in of.items()
    ]
    rows += [
        (name, each.f, each.precision, each.recall, each.n)
        for name, each in (("base forms only", found.forms), ("wheel words, no wheel", found.synonyms))
    ]
    means = [(f"mean of wheels, {LEVELS[level]}", *each.values()) for level, each in found.levels.items()]
    beside = [("words per clip, truth", found.words_true), ("words per clip, answers", found.words_answered)]
    lines = [
        f"Words that the wheel tables do not hold are dropped: {found.unknown_true} of the truth, "
        f"{found.unknown_answered} of the answers; no wheel has a place for neutral.",
        *set_remarks(found.n, 0, found.empty_answers, found.missing, found.extra),
    ]
    return Page(
        {**found.to_json(), "notes": list(notes)},
        [
            Table(title, columns[:4], means, columns[1:4]),
            Table("Beside it", ("", "value"), beside, ("value",)),
            Table("Per wheel", columns, rows, columns[1:]),
            *dict.fromkeys([*lines, *notes]),
        ],
        f"Emotion-wheel F {found.f:.4f} (level 1, mean of {len(found.wheels['level1'])} wheels; precision "
        f"{found.precision:.4f}, recall {found.recall:.4f}) "
        f"{_over([each.n for each in found.wheels['level1'].values()], found.n)}.",
    )


@dataclass(frozen=True)
class HitScore:
    """MER-UniBench's score of one-label sets, which is neither accuracy nor F1.

    Attributes:
        n: Clips compared.
        hit_rate: How often the true label is among the answers, mean over wheels; naming everything gives 1.
        mscore: The same, divided by the number of answers that are in the label set.
        wheels: By wheel: hit_rate, mscore, n (clips whose truth has a place on it; neutral has none).
        labels: The label set: all labels of the truth.
        words_answered: Mean number of words per clip of the answers.
        missing: Labelled clips without a prediction, left out.
        extra: Predictions for other clips, ignored.
    """

    n: int
    hit_rate: float
    mscore: float
    wheels: dict[str, dict[str, float]]
    labels: list[str]
    words_answered: float
    missing: int
    extra: int

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {"metric": "hit-rate", **asdict(self)}


def hit_rate(
    truth: Mapping[str, Words], predictions: Mapping[str, Words], wheels: Wheels, allow_missing: bool = False
) -> HitScore:
    """How often one true label is among the answered words, on the wheels at level 1.

    Args:
        truth: One label by clip name.
        predictions: Words by clip name, in lower case.
        wheels: The tables.
        allow_missing: As in `score_wheels`.

    Raises:
        UsageError: As `shared_clips`; a clip with several labels; or no label has a place on the wheels.
    """
    labelled = need_words([name for name, words in truth.items() if words])
    if several := [name for name in labelled if len(set(truth[name])) > 1]:
        raise UsageError(
            f"{several[0]} has {len(set(truth[several[0]]))} true labels, and the hit rate is for sets of one.",
            "Score it with --metric emotion-wheel.",
        )
    names, missing = shared_clips(labelled, predictions, allow_missing)
    labels = sorted({word for name in labelled for word in truth[name]})
    found = {}
    for wheel in wheels.maps:
        reduce = wheels.place(wheel, "level1")
        candidates = _reduced(labels, reduce)
        hits, shares = [], []
        for name in names:
            if true := _reduced(truth[name], reduce):
                said = _reduced(predictions[name], reduce)
                hits.append(len(true & said))
                shares.append(len(true & said) / len(said & candidates) if said & candidates else 0.0)
        if not hits:
            raise UsageError(f"No true label has a place on {wheel}: {', '.join(labels)}.")
        found[wheel] = {"hit_rate": float(np.mean(hits)), "mscore": float(np.mean(shares)), "n": len(hits)}
    return HitScore(
        n=len(names),
        hit_rate=float(np.mean([each["hit_rate"] for each in found.values()])),
        mscore=float(np.mean([each["mscore"] for each in found.values()])),
        wheels=found,
        labels=labels,
        words_answered=mean_length(predictions[name] for name in names),
        missing=len(missing),
        extra=sum(name not in truth for name in predictions),
    )


def hit_page(found: HitScore, title: str, notes: Sequence[str] = ()) -> Page:
    """A hit rate, and beside it what tells whether it was bought by naming many labels."""
    columns = ("", "hit rate", "mscore", "clips")
    rows = [(wheel, each["hit_rate"], each["mscore"], each["n"]) for wheel, each in found.wheels.items()]
    lines = [
        f"Answers name {found.words_answered:.2f} words per clip; naming every emotion gives a hit rate of 1, so read "
        "the mscore beside it.",
        "This is neither accuracy nor F1 and compares with neither. Clips whose label has no place on a wheel, such as "
        "neutral, are left out of it.",
        *set_remarks(found.n, 0, 0, found.missing, found.extra),
    ]
    return Page(
        {**found.to_json(), "notes": list(notes)},
        [
            Table(title, columns, [("mean of wheels", found.hit_rate, found.mscore, found.n), *rows], columns[1:]),
            *dict.fromkeys([*lines, *notes]),
        ],
        f"Hit rate {found.hit_rate:.4f}, mscore {found.mscore:.4f}, {found.words_answered:.2f} words per answer, "
        f"{_over([each['n'] for each in found.wheels.values()], found.n)}.",
    )


def _over(placed: Sequence[int], n: int) -> str:
    """Say how many of the clips are in a number: those whose truth has a place, which may differ by wheel."""
    low, high = min(placed), max(placed)
    if low == n:
        return f"over {counted(n, 'clip')}"
    some = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"over {some} of {counted(n, 'clip')}, the others without a place on a wheel"


# ---- metrics ---------------------------------------------------------------------------------------------------------


WheelTables = Annotated[Path, Option("Tables of the emotion wheels.", "wheel_mapping.npz", Path)]


class _OnWheels(SetMetric):
    """Base of metrics on wheels: their sample."""

    @classmethod
    def sample(cls, folder: Path) -> Sample:
        words = ("happy", "glad", "sad", "angry")
        place = {word: "happy" if word == "glad" else word for word in words}
        tables: dict[str, Any] = {
            "format_mapping": {word: [word] for word in words},
            "raw_mapping": {word: [word] for word in words},
            "wheel_map_whole": {"wheel1": dict.fromkeys(LEVELS, place)},
        }
        np.savez(folder / "wheels.npz", **{key: np.array(each, dtype=object) for key, each in tables.items()})
        return replace(super().sample(folder), options={"wheels": folder / "wheels.npz"})


@dataclass(frozen=True, kw_only=True)
class EmotionWheel(_OnWheels):
    """The emotion-wheel score of MER2025 and MER2026."""

    name = "emotion-wheel"
    about = "sets of words on five emotion wheels, as MER2025 and MER2026 score them"

    wheels: WheelTables

    def score(
        self,
        truth: Mapping[str, Words],
        said: Mapping[str, Prediction],
        allow_missing: bool = False,
        say: Say | None = None,
    ) -> WheelScore:
        return score_wheels(truth, words_of(said), load_wheels(self.wheels), allow_missing)

    def page(self, found: WheelScore, title: str, notes: Sequence[str] = ()) -> Page:
        return wheel_page(found, title, notes)


@dataclass(frozen=True, kw_only=True)
class HitRate(_OnWheels):
    """MER-UniBench's hit rate of open words against one label."""

    name = "hit-rate"
    about = "how often open words hit the one true label"

    wheels: WheelTables

    def truth(self, path: Path) -> Mapping[str, Words]:
        return {name: [label.emotion] if label.emotion else [] for name, label in read_labels(path).items()}

    def score(
        self,
        truth: Mapping[str, Words],
        said: Mapping[str, Prediction],
        allow_missing: bool = False,
        say: Say | None = None,
    ) -> HitScore:
        return hit_rate(truth, words_of(said), load_wheels(self.wheels), allow_missing)

    def page(self, found: HitScore, title: str, notes: Sequence[str] = ()) -> Page:
        return hit_page(found, title, notes)

    @classmethod
    def sample(cls, folder: Path) -> Sample:
        given = super().sample(folder)
        words = {"a": "happy", "b": "sad", "c": "angry"}
        given.truth.write_text("name,label\n" + "".join(f"{name},{each}\n" for name, each in words.items()))
        return replace(given, answers={name: Prediction(each) for name, each in words.items()})
