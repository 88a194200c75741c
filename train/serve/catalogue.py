"""All clips of a workspace in columns, so that 100,000 of them are filtered and sorted in milliseconds."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.errors import UsageError
from emo.featstore.storage.store import Store
from emo.featstore.text import did_you_mean
from emo.train.answers import Prediction
from emo.train.metrics.labels import parse_answers

NONE = ""  # stands for "not annotated", "not answered", "no speaker" among the words of a column
WORDS = ("dataset", "split", "speaker", "label", "prediction", "failure")  # columns of words
NUMBERS = ("confidence", "length_s", "annotators")
SORTS = ("name", "order", *WORDS, *NUMBERS)
KEPT = 128  # results of filters, and orders, that are remembered
AND = ", "  # between the kinds of failures of one clip
END = "\0"  # between the texts of two clips


@dataclass(frozen=True)
class Column:
    """A column of words: `codes` (N,) into `words`, which are in alphabetical order."""

    words: tuple[str, ...]
    codes: np.ndarray

    @classmethod
    def of(cls, values: Sequence[str]) -> Column:
        """Make a column of the words of all clips."""
        words = tuple(sorted(set(values)))
        code = {word: i for i, word in enumerate(words)}
        return cls(words, np.fromiter(map(code.__getitem__, values), np.int64, len(values)))

    def without(self, rows: np.ndarray) -> Column:
        """Return the column with no word in some rows, (N,) bool."""
        return Column.of(np.where(rows, NONE, np.array(self.words, dtype=object)[self.codes]).tolist())

    def code(self, word: str) -> int:
        """Return the code of a word; -2 for one that no clip has."""
        return self.words.index(word) if word in self.words else -2

    def counts(self, rows: np.ndarray) -> dict[str, int]:
        """Count the words of some rows."""
        found = np.bincount(self.codes[rows], minlength=len(self.words))
        return {word: int(n) for word, n in zip(self.words, found, strict=True) if n}


@dataclass(frozen=True)
class Filter:
    """Which clips, in which order.

    Attributes:
        q: Text in the name or a transcript.
        words: Wanted word by column; an empty one means that there is none.
        disagree: Only clips whose answer is not their label.
        other: Run; only clips that it answers otherwise.
        least, most: Bounds of the confidence.
        annotated: Only clips that somebody has labelled here, or only those that nobody has.
        missing: Only clips without a media file, or only those with one.
        ids: Only these.
        sort: A column; `-` before it turns the order.
    """

    q: str = ""
    words: tuple[tuple[str, str], ...] = ()
    disagree: bool = False
    other: str = ""
    least: float | None = None
    most: float | None = None
    annotated: bool | None = None
    missing: bool | None = None
    ids: frozenset[str] | None = None
    sort: str = "order"

    def __post_init__(self) -> None:
        if self.sort.removeprefix("-") not in SORTS:
            raise UsageError(f"Clips cannot be sorted by {self.sort!r}.", f"Known: {', '.join(SORTS)}.")


@dataclass(frozen=True)
class Answers:
    """Answers of a run in columns: words, and confidence (N,), NaN where there is none.

    Attributes:
        kept: Words of all that the run has kept.
        sure: Their confidence (N,).
        labels: That the run chooses from.
        outdated: Which of them no longer hold, as the features were made anew since, (N,) bool: they count as none.
        made: Checksums of the features, and media, that this was found by, (F, N); `None` before it was.
    """

    kept: Column
    sure: np.ndarray
    labels: tuple[str, ...]
    outdated: np.ndarray
    made: np.ndarray | None = None

    def changed(self, made: np.ndarray) -> np.ndarray:
        """Return the rows of kept answers whose clips have other features, or media, than when last looked at."""
        kept = (self.kept.codes != self.kept.code(NONE)) | ~np.isnan(self.sure)
        if self.made is not None and self.made.shape == made.shape:
            kept &= (self.made != made).any(axis=0)
        return np.flatnonzero(kept)

    @cached_property
    def column(self) -> Column:
        """Words of the answers that hold."""
        return self.kept.without(self.outdated) if self.outdated.any() else self.kept

    @cached_property
    def confidence(self) -> np.ndarray:
        """Confidence of the answers that hold (N,)."""
        return np.where(self.outdated, np.nan, self.sure)


@dataclass(frozen=True)
class Known:
    """All clips, and what datasets say of them: those of the datasets in their order, then those of the store alone.

    Attributes:
        clips: By id, in order.
        ids: In order.
        columns: `dataset`, `split`, `speaker`, `label`.
    """

    clips: Mapping[str, Clip]
    ids: tuple[str, ...]
    columns: Mapping[str, Column]

    @classmethod
    def of(cls, clips: Mapping[str, Clip]) -> Known:
        """Bring clips into columns."""
        every = clips.values()
        values = {
            "dataset": [clip.dataset for clip in every],
            "split": [clip.split for clip in every],
            "speaker": [clip.speaker or NONE for clip in every],
            "label": [(clip.label.emotion if clip.label else None) or NONE for clip in every],
        }
        return cls(clips, tuple(clips), {name: Column.of(each) for name, each in values.items()})

    @cached_property
    def row(self) -> dict[str, int]:
        """Row of each clip."""
        return {name: i for i, name in enumerate(self.ids)}

    @cached_property
    def by_name(self) -> np.ndarray:
        """Rows in the order of names (N,)."""
        return np.array(sorted(range(len(self.ids)), key=self.ids.__getitem__), dtype=np.int64)

    @cached_property
    def media(self) -> np.ndarray:
        """Which clips have a media file, (N,) bool."""
        return np.array([clip.media is not None for clip in self.clips.values()], dtype=bool)

    @cached_property
    def _text(self) -> tuple[str, list[int]]:
        """Name and transcripts of all clips one after the other, and where those of each begin."""
        texts = [f"{name} {' '.join(clip.transcripts.values())}".casefold() for name, clip in self.clips.items()]
        ends = np.cumsum([len(each) + len(END) for each in texts], dtype=np.int64)
        return END.join(texts), [0, *ends.tolist()][: len(texts)]

    def holding(self, asked: str) -> np.ndarray:
        """Return which clips have the words in their name or a transcript, whatever the case; (N,) bool."""
        text, starts = self._text
        words, rows = asked.casefold(), list[int]()
        at = text.find(words) if END not in words else -1
        while at >= 0:
            rows.append(row := bisect_right(starts, at) - 1)
            at = text.find(words, starts[row + 1]) if row + 1 < len(starts) else -1
        found = np.zeros(len(starts), bool)
        found[rows] = True
        return found


@dataclass
class Catalogue:
    """All clips with what datasets, a store and runs say of them.

    Attributes:
        known: The clips, and what datasets say.
        failure: Why a clip lacks features; several kinds with `AND` between them.
        length_s: (N,), NaN where the store does not tell.
        annotators: How many have labelled each clip here (N,).
        version: Of the store that this is of.
        answers: By run.
        stamps: What was seen of the files that these are of, and of the features that they were given on, by run.
    """

    known: Known
    failure: Column
    length_s: np.ndarray
    annotators: np.ndarray
    version: int
    answers: dict[str, Answers] = field(default_factory=dict)
    stamps: dict[str, Any] = field(default_factory=dict)
    _held: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def clips(self) -> Mapping[str, Clip]:
        """Clips by id, in order."""
        return self.known.clips

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids in order."""
        return self.known.ids

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Columns `dataset`, `split`, `speaker`, `label`, `failure`."""
        return {**self.known.columns, "failure": self.failure}

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the row of each clip that is known."""
        row = self.known.row
        return np.array([row[each] for each in ids if each in row], dtype=np.int64)

    def hold(self, run: str, said: Mapping[str, Prediction], labels: Sequence[str]) -> Answers:
        """Bring the kept answers of a run into columns; free text counts by policy `strict`."""
        words = {each.answer: each for each in said.values()}  # the same words count alike
        parsed = parse_answers(words, "strict", labels) if labels else {}
        values = [parsed.get(said[name].answer) or NONE if name in said else NONE for name in self.ids]
        sure = [_confidence(said.get(name)) for name in self.ids]
        found = Answers(Column.of(values), np.array(sure), tuple(labels), np.zeros(len(self.ids), bool))
        self.answers[run] = found
        self.forget()
        return found

    def outdate(self, run: str, made: np.ndarray, rows: np.ndarray, ids: Collection[str]) -> None:
        """Say which kept answers of a run no longer hold.

        Args:
            run: The run.
            made: See `Answers`.
            rows: Clips that were looked at again; what was found of others stays.
            ids: Those of them whose answer does not hold.
        """
        held = self.answers[run]
        outdated = held.outdated.copy()
        outdated[rows] = False
        outdated[self.rows_of(sorted(ids))] = True
        self.answers[run] = replace(held, outdated=outdated, made=made)
        if (outdated != held.outdated).any():
            self.forget()

    def outdated(self, run: str) -> np.ndarray:
        """Return the clips whose kept answer of a run no longer holds, (N,) bool."""
        return self.answers[run].outdated if run in self.answers else np.zeros(len(self.ids), bool)

    def forget(self) -> None:
        """Forget the results of filters, and orders: a column has changed."""
        with self._lock:
            self._held = OrderedDict()  # what is being made of the old columns goes into the old one

    def column(self, name: str, run: str) -> Column:
        """Return a column of words; the prediction is the run's."""
        if name == "prediction":
            return self.answers[run].column if run in self.answers else Column((NONE,), np.zeros(len(self.ids), int))
        return self.columns[name]

    def find(self, wanted: Filter, run: str) -> np.ndarray:
        """Return the rows that are wanted, in the order that is wanted."""
        keep = self._once((run, replace(wanted, sort="order")), lambda: self._mask(wanted, run))
        if wanted.sort == "order":
            return np.flatnonzero(keep)
        order = self._once((run, wanted.sort), lambda: self._order(wanted.sort, run))
        found: np.ndarray = order[keep[order]]
        return found

    def counts(self, wanted: Filter, run: str, rows: np.ndarray) -> dict[str, dict[str, int]]:
        """Return how often each word of each column but `speaker` is among the rows that are wanted."""
        names = [name for name in WORDS if name != "speaker"]
        key = (run, replace(wanted, sort="order"), "counts")
        found: dict[str, dict[str, int]] = self._once(
            key, lambda: {name: self.column(name, run).counts(rows) for name in names} | {"failure": self._kinds(rows)}
        )
        return found

    def _kinds(self, rows: np.ndarray) -> dict[str, int]:
        """Count the clips of each kind of failure; one with several counts for each."""
        found = Counter[str]()
        for kinds, n in self.failure.counts(rows).items():
            found.update(dict.fromkeys(kinds.split(AND), n))
        return dict(sorted(found.items()))

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what was made under this key, or make it."""
        with self._lock:
            held = self._held
            if key in held:
                held.move_to_end(key)
                return held[key]
        made = make()
        with self._lock:
            held[key] = made
            while len(held) > KEPT:
                held.popitem(last=False)
        return made

    def _mask(self, wanted: Filter, run: str) -> np.ndarray:
        keep = np.ones(len(self.ids), bool)
        for name, word in wanted.words:
            if name not in WORDS:
                raise UsageError(f"There is no column {name!r}.", did_you_mean(name, WORDS))
            column = self.column(name, run)
            if name == "failure":
                keep &= np.isin(column.codes, [i for i, kinds in enumerate(column.words) if word in kinds.split(AND)])
            else:
                keep &= column.codes == column.code(word)
        if wanted.ids is not None:
            chosen = np.zeros(len(self.ids), bool)
            chosen[self.rows_of(sorted(wanted.ids))] = True
            keep &= chosen
        sure = self.answers[run].confidence if run in self.answers else np.full(len(self.ids), np.nan)
        with np.errstate(invalid="ignore"):
            keep &= (sure >= wanted.least) if wanted.least is not None else True
            keep &= (sure <= wanted.most) if wanted.most is not None else True
        if wanted.annotated is not None:
            keep &= (self.annotators > 0) == wanted.annotated
        if wanted.missing is not None:
            keep &= self.known.media != wanted.missing
        if wanted.disagree:
            keep &= self.differs(self.columns["label"], self.column("prediction", run))
        if wanted.other:
            keep &= self.differs(self.column("prediction", wanted.other), self.column("prediction", run))
        if wanted.q:
            keep &= self.known.holding(wanted.q)
        return keep

    @staticmethod
    def differs(one: Column, other: Column) -> np.ndarray:
        """Return where two columns both have a word and not the same one, (N,) bool."""
        if not len(one.codes):
            return np.zeros(0, bool)
        same = np.array([other.code(word) for word in one.words])[one.codes] == other.codes
        return ~same & (one.codes != one.code(NONE)) & (other.codes != other.code(NONE))

    def _order(self, sort: str, run: str) -> np.ndarray:
        """Return all rows in the order that is wanted (N,); what has no value comes last in both directions."""
        name, down = sort.removeprefix("-"), sort.startswith("-")
        if name in ("order", "name"):
            rows = np.arange(len(self.ids)) if name == "order" else self.known.by_name
            return rows[::-1] if down else rows
        if name in WORDS:
            column = self.column(name, run)
            keys = np.where(column.codes == column.code(NONE), np.nan, column.codes)
        else:
            none = np.full(len(self.ids), np.nan)
            held = self.answers[run].confidence if run in self.answers else none
            keys = {"confidence": held, "length_s": self.length_s, "annotators": self.annotators}[name]
        keys = keys.astype(np.float64)
        return np.argsort(np.where(np.isnan(keys), np.inf, -keys if down else keys), kind="stable")

    def show(self, row: int, run: str) -> dict[str, Any]:
        """Return one line of a list."""
        name = self.ids[row]
        clip = self.clips[name]
        shown: dict[str, Any] = {"id": name, "media": clip.media is not None}
        for each in WORDS:
            column = self.column(each, run)
            shown[each] = column.words[column.codes[row]] or None
        shown["annotators"] = int(self.annotators[row])
        shown["outdated"] = run in self.answers and bool(self.answers[run].outdated[row])
        numbers = {"length_s": self.length_s}
        if run in self.answers:
            numbers["confidence"] = self.answers[run].confidence
        shown |= {each: None if np.isnan(held[row]) else round(float(held[row]), 4) for each, held in numbers.items()}
        label, said = shown["label"], shown["prediction"]
        text = next(iter(clip.transcripts.values()), "")
        return shown | {"disagrees": label is not None and said is not None and label != said, "text": text[:120]}


def _confidence(said: Prediction | None) -> float:
    return max(said.probabilities.values()) if said is not None and said.probabilities else np.nan


def make_catalogue(
    clips: Mapping[str, Clip], store: Store | None, labelled: Mapping[str, int], before: Catalogue | None = None
) -> Catalogue:
    """Bring clips, and what a store knows of them, into columns.

    Args:
        clips: Of all datasets, by id.
        store: The workspace's.
        labelled: How many annotators have labelled a clip here, by id.
        before: Made of the same clips and an earlier state of the store: what has not changed is taken from it.
    """
    version = store.index.number if store is not None else 0  # first: what is committed now is seen the next time
    known, answers, stamps = before.known if before is not None else Known.of(dict(clips)), {}, {}
    new = [name for name in store.clips() if name not in known.clips] if store is not None else []
    if new:
        known = Known.of({**known.clips, **{name: Clip(name) for name in new}})
    elif before is not None:
        answers, stamps = dict(before.answers), dict(before.stamps)
    failed: dict[int | str, set[str]] = {}
    for each in store.failures() if store is not None else ():
        media = store.index.media_of(each.media) if store is not None and each.media else -1
        failed.setdefault(media if media >= 0 else each.clip, set()).add(each.kind)
    contents = store.index.media_of_clips(known.ids).tolist() if store is not None else [-1] * len(known.ids)
    kinds = [
        failed.get(name, set()) | failed.get(media, set()) for name, media in zip(known.ids, contents, strict=True)
    ]  # copies fail as one
    return Catalogue(
        known,
        Column.of([AND.join(sorted(each)) for each in kinds]),
        _lengths(known.ids, store),
        np.array([labelled.get(name, 0) for name in known.ids], dtype=np.float64),
        version,
        answers,
        stamps,
    )


def _lengths(ids: Sequence[str], store: Store | None) -> np.ndarray:
    """Return seconds of each clip (N,) by the first feature in time that has it; NaN where none has."""
    found = np.full(len(ids), np.nan)
    if store is None:
        return found
    index = store.index
    media = index.media_of_clips(ids)
    for table in index.tables.values():
        if table.spec.level != "frame" or table.spec.name == "faces":
            continue
        at = table.latest(media)
        rows = np.flatnonzero((at >= 0) & np.isnan(found))
        records = table.records[at[rows]]
        found[rows] = records["t0"] + records["rows"] * records["hop"]
    return found
