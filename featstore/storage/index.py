"""Contents of the journal in memory: columns of numbers, no Python object per row.

Body lines of a commit (each column is a list, or one value where all are equal; this file writes and reads them):

    {"features": {fingerprint: spec, ...}}
    {"clips": {"clip": [...], "media": [...], "path": ..., "size": ..., "mtime_ns": ...}}
    {"segment": name, "feature": fingerprint, "dtype": ..., "dim": D, "rows": rows in all, "size": bytes of the file,
     "n": records, "records": {"media": ..., "rows": ..., "start": ..., "t0": ..., "hop": ..., "crc": ...}}
    {"failed": {"n": ..., "feature": ..., "clip": ..., "media": ..., "kind": ..., "message": ..., "retry": ...}}
    {"environments": [...]}                          those of the commits that a base replaces
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count, islice, repeat
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from emo.featstore.address import Address, Url
from emo.featstore.errors import StoreCorrupt
from emo.featstore.reading import parse_own
from emo.featstore.spec import RECORD_LEVEL, EncoderSpec
from emo.featstore.storage.journal import HINT, Commit

Array: TypeAlias = npt.NDArray[Any]
Line: TypeAlias = dict[str, Any]

RECORD = np.dtype(
    [("media", "i8"), ("segment", "i4"), ("start", "i8"), ("rows", "i4"), ("crc", "u4"), ("t0", "f8"), ("hop", "f8")]
)
# A clip without a file at hand has no content to hash: its failures, and features imported for it, are kept under this
# and its id. No content hash looks like it.
NO_MEDIA = "clip:"
NONE = np.iinfo("i8").max  # in place of a number
SEGMENT_NAME = re.compile(r"[0-9a-f]{32}-\d{1,9}")
DTYPES = ("float16", "float32", "uint8")  # the last: of records
NONSENSE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError, RecursionError)
MOST_ALIKE = 1 << 20  # rows of columns that are all of one value
_VERSIONS = count(1)


@dataclass(frozen=True)
class Segment:
    """One immutable array of one writer.

    Attributes:
        name: `<writer>-<n>`.
        feature: Fingerprint of its spec.
        dtype: `float16` or `float32`.
        dim: Columns.
        rows: Rows of all records together.
        size_bytes: Size of the data file.
    """

    name: str
    feature: str
    dtype: str
    dim: int
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class Failed:
    """Why a clip has no feature."""

    clip: str | None
    kind: str
    message: str
    retry: bool


@dataclass(frozen=True)
class FeatureInfo:
    """Counts of one feature in the store; `ok` and `failed` count media, `rows` and `size_bytes` what lies on disk."""

    key: str
    spec: EncoderSpec
    ok: int
    failed: int
    rows: int
    size_bytes: int
    segments: int


class Table:
    """All records and failures of one feature.

    Attributes:
        version: Another number whenever records were added or forgotten; in this process no two states share one.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec
        self.count = 0
        self.version = next(_VERSIONS)
        self.failed: dict[int, Failed] = {}  # by media; a record of the same media overrides it
        self._records = np.empty(0, RECORD)
        self._latest = np.empty(0, "i8")  # media -> record, -1: none

    @property
    def records(self) -> Array:
        """All records in the order of their commits, overridden ones included."""
        return self._records[: self.count]

    def add(self, block: Array) -> None:
        """Appends records; a later one of the same media wins."""
        end = self.count + len(block)
        self._records = _grown(self._records, end, 0)
        self._records[self.count : end] = block
        self._latest = _grown(self._latest, int(block["media"].max(initial=-1)) + 1, -1)
        self._latest[block["media"]] = np.arange(self.count, end)
        self.count, self.version = end, next(_VERSIONS)

    def drop(self, records: Array) -> None:
        """Forgets the given record numbers, so that their media count as missing."""
        media = self._records["media"][records]
        hit = self._latest[media] == records
        self._latest[media[hit]] = -1
        self.version = next(_VERSIONS)

    @property
    def of_media(self) -> Array:
        """Record number of every media number that a record ever had, -1 where it was forgotten or never there."""
        return self._latest

    def restore(self, records: Array, of_media: Array) -> None:
        """Take over the records and `of_media` of another table of the same feature."""
        self._records, self._latest, self.count = records, of_media, len(records)
        self.version = next(_VERSIONS)

    def latest(self, media: Array) -> Array:
        """Record number of each media number, -1 where there is none."""
        found = np.full(len(media), -1, "i8")
        known = (media >= 0) & (media < len(self._latest))
        found[known] = self._latest[media[known]]
        return found

    def newest(self, media: int) -> Any:
        """The newest record of one media number, or `None`."""
        there = 0 <= media < len(self._latest) and self._latest[media] >= 0
        return self._records[self._latest[media]] if there else None

    def live(self) -> Array:
        """Record numbers in use, ascending."""
        return np.sort(self._latest[self._latest >= 0])


class Index:
    """State of the store after a commit.

    Names and paths that are kept as JSON are read when they are first asked for: much is decided by numbers alone.

    Args:
        packed: `media`, `clips` and `paths`, each the bytes of a JSON list (uint8); without it, they are empty.
        clip_count: How many clips these are.
    """

    def __init__(self, packed: Mapping[str, Array] | None = None, clip_count: int = 0) -> None:
        self.number = 0
        self.base = 0  # number of the base it starts from
        self.time: str | None = None  # of the newest commit
        self.trailer = ""  # likewise, see `journal.trailer`
        self._names: dict[str, Array | list[Any]] = {"media": [], "clips": [], "paths": [], **(packed or {})}
        self._numbers: dict[str, dict[str, int]] = {}
        self._unpacking = threading.RLock()
        self.clip_count = clip_count
        self.clip_media = np.empty(0, "i8")
        self.media_clip = np.empty(0, "i8")  # media -> the first of the clips that ever named it, NONE: no clip
        self.sizes = np.empty(0, "i8")  # bytes, -1: no file
        self.mtimes_ns = np.empty(0, "i8")
        self.tables: dict[str, Table] = {}  # by fingerprint
        self.segments: list[Segment] = []
        self.environments: list[dict[str, Any]] = []
        self.clips_version = next(_VERSIONS)  # another one whenever clips came, or mean other media
        self.replayed = 0  # rows of clips and records read from the journal, and not from a snapshot
        self._by_path: tuple[int, dict[str, int]] = (-1, {})  # at a commit
        self._interned: tuple[Sequence[str], Array] = ((), np.empty(0, "i8"))

    @cached_property
    def media_names(self) -> list[str]:
        """Names of media in the order of first appearance."""
        return self._unpacked("media")

    @cached_property
    def media(self) -> dict[str, int]:
        """Number of each medium by its name."""
        return self._by_name("media")

    @cached_property
    def clip_names(self) -> list[str]:
        """Clip ids in the order of first appearance."""
        return self._unpacked("clips")

    @cached_property
    def clips(self) -> dict[str, int]:
        """Row of each clip by its id."""
        return self._by_name("clips")

    @cached_property
    def paths(self) -> list[str | None]:
        """Path of each clip as it was last said, by row."""
        return self._unpacked("paths")

    def _unpacked(self, column: str) -> list[Any]:
        with self._unpacking:  # of several threads that ask, all get the same list
            if not isinstance(held := self._names[column], list):
                held = self._names[column] = parse_own(held.tobytes(), column)
            return held

    def _by_name(self, column: str) -> dict[str, int]:
        with self._unpacking:
            if column not in self._numbers:
                names = self._unpacked(column)
                self._numbers[column] = dict(zip(names, range(len(names)), strict=True))
            return self._numbers[column]

    def apply(self, commit: Commit) -> None:
        """Adds what a commit says.

        Raises:
            StoreCorrupt: It says what no emo writes.
        """
        number = commit.header["number"]
        try:
            for line in commit.body:
                if "features" in line:
                    self._apply_features(line["features"])
                elif "clips" in line:
                    self._apply_clips(line["clips"])
                elif "segment" in line:
                    self._apply_segment(line)
                elif "failed" in line:
                    self._apply_failed(line["failed"])
                else:
                    for environment in line["environments"]:
                        self._see(environment)
            self._see(commit.header.get("environment"))
        except NONSENSE as error:
            raise StoreCorrupt(f"Journal commit {number} does not make sense: {error!r}.", HINT) from error
        self.number, self.time, self.trailer = number, commit.header.get("time"), commit.trailer
        self.base = number if commit.header.get("base") else self.base

    def media_of_clips(self, clip_ids: Iterable[str]) -> Array:
        """Media number of each clip id, -1 where the id is unknown."""
        rows = np.fromiter(map(self.clips.get, clip_ids, repeat(-1)), "i8")
        return np.where(rows >= 0, self.clip_media[rows], -1) if self.clip_count else rows

    def media_of(self, clip_or_media: str) -> int:
        """Media number of a clip id or a media id, -1 where unknown."""
        row = self.clips.get(clip_or_media)
        if row is not None:
            return int(self.clip_media[row])
        return self.media.get(clip_or_media, self.media.get(NO_MEDIA + clip_or_media, -1))

    def rows_of_files(self, clip_ids: Sequence[str], files: Sequence[str | Address], texts: Sequence[str]) -> Array:
        """Row of the clip that was last said to lie there, -1 where none was.

        Args:
            clip_ids: The clip that each file probably is.
            files: The files.
            texts: The same as texts.
        """
        paths, rows = self.paths, list(map(self.clips.get, clip_ids, repeat(-1)))
        for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
            if row < 0 or paths[row] != text:
                rows[i] = self._row_at(files[i], text)
        return np.array(rows, "i8")

    def _row_at(self, path: str | Address, text: str) -> int:
        if self._by_path[0] != self.number:
            known = {path: row for row, path in enumerate(self.paths) if path is not None}
            self._by_path = (self.number, known)
        rows = self._by_path[1]
        row = rows.get(text)
        if row is None and not isinstance(path, Url):  # only absolute paths are remembered
            row = rows.get(os.path.abspath(text))
        return -1 if row is None else row

    def clip_of(self, media: str) -> str | None:
        """The first clip id that names the media."""
        number = self.media.get(media, -1)
        row = self.media_clip[number] if 0 <= number < len(self.media_clip) else NONE
        if row != NONE and self.clip_media[row] != number:  # that clip means other content now
            rows = np.flatnonzero(self.clip_media[: self.clip_count] == number)
            row = rows[0] if len(rows) else NONE
        return None if row == NONE else self.clip_names[row]

    def failures(self, table: Table, only: int | None = None) -> list[tuple[int, Failed]]:
        """Failures that still hold: no record since, and the clip still means the same content.

        Args:
            table: Of the feature.
            only: Media number whose failure alone is looked for.
        """
        media = np.fromiter(table.failed if only is None else table.failed.keys() & {only}, "i8")
        open_ = media[table.latest(media) < 0]
        held = [(int(each), table.failed[int(each)]) for each in open_]
        return [(m, why) for m, why in held if why.clip is None or self.media_of(why.clip) == m]

    def info(self, table: Table) -> FeatureInfo:
        """Count what there is of a feature."""
        live = table.live()
        used = np.flatnonzero(np.bincount(table.records["segment"][live])).tolist()
        segments = [self.segments[i] for i in used]
        return FeatureInfo(
            key=table.spec.key,
            spec=table.spec,
            ok=len(live),
            failed=len(self.failures(table)),
            rows=int(table.records["rows"][live].sum()),
            size_bytes=sum(segment.size_bytes for segment in segments),
            segments=len(segments),
        )

    def _see(self, environment: dict[str, Any] | None) -> None:
        _of_type((environment,), dict, type(None))
        if environment and environment not in self.environments:
            self.environments.append(environment)

    def _intern(self, media: Sequence[str]) -> Array:
        if media != self._interned[0]:  # the features of a commit mostly speak of the same media
            self._interned = (media, _numbered(media, self.media, self.media_names))
        return self._interned[1]

    def _apply_features(self, features: Mapping[str, Line]) -> None:
        for fingerprint, fields in features.items():
            if fingerprint not in self.tables:
                spec = EncoderSpec(**fields)
                if spec.fingerprint != fingerprint:
                    raise ValueError(f"spec {spec.key} under fingerprint {fingerprint}")
                if type(spec.dim) is not int or type(spec.rows) not in (int, type(None)) or spec.dim < 1:
                    raise ValueError(f"{spec.key} is ({spec.rows}, {spec.dim})")
                self.tables[fingerprint] = Table(spec)

    def _apply_clips(self, columns: Line) -> None:
        rows = _numbered(columns["clip"], self.clips, self.clip_names)
        n, known = len(rows), len(self.clips)
        self.clip_count = known
        self.replayed += n
        self.clip_media = _grown(self.clip_media, known, -1)
        self.sizes = _grown(self.sizes, known, -1)
        self.mtimes_ns = _grown(self.mtimes_ns, known, -1)
        media = self._intern(_column(columns["media"], n))
        if (self.clip_media[rows] != media).any():
            self.clip_media[rows], self.clips_version = media, next(_VERSIONS)
        self.media_clip = _grown(self.media_clip, len(self.media), NONE)
        np.minimum.at(self.media_clip, media, rows)
        self.sizes[rows] = columns["size"]
        self.mtimes_ns[rows] = columns["mtime_ns"]
        self.paths.extend([None] * (known - len(self.paths)))
        paths = _column(columns["path"], n)
        _of_type(paths, str, type(None))
        for row, path in zip(rows.tolist(), paths, strict=True):
            self.paths[row] = path

    def _apply_segment(self, line: Line) -> None:
        table, columns = self.tables[line["feature"]], line["records"]
        n = _count(line["n"], columns)
        block = np.empty(n, RECORD)
        block["media"] = self._intern(_column(columns["media"], n))
        block["segment"] = len(self.segments)
        for name in ("rows", "crc", "t0"):
            block[name] = columns[name]
        hop = columns["hop"]
        block["hop"] = np.array(hop, "f8")  # None becomes NaN
        ends = np.cumsum(block["rows"])
        block["start"] = columns["start"] if "start" in columns else ends - block["rows"]
        segment = Segment(*(line[each] for each in ("segment", "feature", "dtype", "dim", "rows", "size")))
        _of_type((segment.rows, segment.size_bytes), int)
        if not SEGMENT_NAME.fullmatch(segment.name):
            raise ValueError(f"segment {segment.name!r} is not named as one")
        kinds = DTYPES[2:] if table.spec.level == RECORD_LEVEL else DTYPES[:2]
        if segment.dtype not in kinds or segment.dim != table.spec.dim:
            raise ValueError(f"segment {segment.name} of {table.spec.key} holds {segment.dtype} ({segment.dim})")
        if "start" in columns:
            inside = block["start"].min() >= 0 and (block["start"] <= segment.rows - block["rows"]).all()
        else:
            inside = ends[-1] <= segment.rows
        if not inside or block["rows"].min() < 1:
            raise ValueError(f"records of segment {segment.name} lie beyond its ends")
        self.segments.append(segment)
        self.replayed += n
        table.add(block)

    def _apply_failed(self, columns: Line) -> None:
        n = _count(columns["n"], columns)
        names = ("feature", "media", "clip", "kind", "message", "retry")
        feature, media, *why = (_column(columns[name], n) for name in names)
        for column, types in zip(why, ((str, type(None)), (str,), (str,), (bool,)), strict=True):
            _of_type(column, *types)
        for table, number, each in zip(feature, self._intern(media), zip(*why, strict=True), strict=True):
            self.tables[table].failed[int(number)] = Failed(*each)


def features_line(specs: Iterable[EncoderSpec]) -> Line:
    """Body line that names the recipes a commit speaks of."""
    return {"features": {spec.fingerprint: asdict(spec) for spec in specs}}


def clips_line(clips: Mapping[str, tuple[str, str | None, int, int]]) -> Line:
    """Body line of clips: id -> (media, path, size in bytes, mtime in ns)."""
    media, path, size, mtime_ns = (_packed(column) for column in zip(*clips.values(), strict=True))
    return {"clips": {"clip": list(clips), "media": media, "path": path, "size": size, "mtime_ns": mtime_ns}}


def segment_line(segment: Segment, records: Mapping[str, Sequence[Any]]) -> Line:
    """Body line of a segment and its records; without `start` they follow each other from row 0."""
    head = {"segment": segment.name, "feature": segment.feature, "dtype": segment.dtype, "dim": segment.dim}
    columns = {name: _packed(column) for name, column in records.items()}
    return head | {"rows": segment.rows, "size": segment.size_bytes, "n": len(records["media"]), "records": columns}


def failed_line(failed: Iterable[tuple[str, str, Failed]]) -> Line:
    """Body line of failures: (fingerprint, media, why)."""
    rows = [(feature, media, why.clip, why.kind, why.message, why.retry) for feature, media, why in failed]
    names = ("feature", "media", "clip", "kind", "message", "retry")
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return {"failed": {"n": len(rows)} | {name: _packed(column) for name, column in columns}}


def record_columns(records: Array, media_names: Sequence[str]) -> dict[str, list[Any]]:
    """Columns for `segment_line` of the given records (an array of `RECORD`)."""
    hop = [None if np.isnan(each) else each for each in records["hop"].tolist()]
    columns = {name: records[name].tolist() for name in ("rows", "start", "t0", "crc")}
    return {"media": [media_names[each] for each in records["media"]], **columns, "hop": hop}


def by_segment(records: Array, numbers: Array) -> Iterator[tuple[int, Array]]:
    """Segments of the given record numbers, each with its own in the order they lie on disk."""
    if len(numbers):
        mine = records[numbers]
        order = np.lexsort((mine["start"], mine["segment"]))
        segments, first = np.unique(mine["segment"][order], return_index=True)
        yield from zip(segments.tolist(), np.split(numbers[order], first[1:]), strict=True)


def _numbered(keys: Sequence[str], known: dict[str, int], in_order: list[str]) -> Array:
    """Number of each key; new ones are appended."""
    before = len(known)
    _of_type(keys, str)
    if known.keys().isdisjoint(keys) and len(set(keys)) == len(keys):  # the common case, without a step per key
        known.update(zip(keys, range(before, before + len(keys)), strict=True))
        in_order += keys
        return np.arange(before, before + len(keys))
    try:
        return np.fromiter(map(known.__getitem__, keys), "i8", len(keys))
    except KeyError:
        for key in keys:
            known.setdefault(key, len(known))
        in_order += [*islice(reversed(known), len(known) - before)][::-1]
        return np.fromiter(map(known.__getitem__, keys), "i8", len(keys))


def _count(n: Any, columns: Line) -> int:
    """Return the number of rows, which no column contradicts and no small file makes large."""
    longest = max((len(each) for each in columns.values() if isinstance(each, list)), default=1)
    if type(n) is not int or not 1 <= n <= max(longest, MOST_ALIKE):
        raise ValueError(f"{n!r} rows in columns of {longest}")
    return n


def _of_type(column: Iterable[Any], *types: type) -> None:
    if strange := set(map(type, column)) - set(types):
        raise ValueError(f"a column holds {', '.join(sorted(each.__name__ for each in strange))}")


def _packed(column: Sequence[Any]) -> Any:
    first = column[0]
    return first if all(each == first for each in column) else list(column)


def _column(packed: Any, n: int) -> Sequence[Any]:
    return packed if isinstance(packed, list) else [packed] * n


def _grown(array: Array, length: int, fill: int) -> Array:
    """The array with room for `length`, at least doubled when it must grow."""
    if length <= len(array):
        return array
    grown = np.empty(max(length, 2 * len(array)), array.dtype)
    grown[: len(array)] = array
    if array.dtype.names is None:
        grown[len(array) :] = fill
    return grown
