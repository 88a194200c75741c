"""Questions to a feature store, and reading from it. Needs no permission to write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, Self, TypeVar

import numpy as np

from emo.featstore import names
from emo.featstore.address import Address, address
from emo.featstore.clip import FileId, MediaId
from emo.featstore.errors import EmoError, FeatureMissing, StoreCorrupt, StoreError, UsageError
from emo.featstore.looking import looking
from emo.featstore.reading import parse_own
from emo.featstore.spec import RECORD_LEVEL, EncoderSpec
from emo.featstore.storage import journal, snapshot
from emo.featstore.storage.index import NO_MEDIA, Array, FeatureInfo, Index, Table, by_segment
from emo.featstore.storage.mediums import open_medium
from emo.featstore.storage.records import decode
from emo.featstore.storage.segment import Readers, SegmentGone
from emo.featstore.text import some_of

META = "emo.json"
Result = TypeVar("Result")
MISSING_POLICIES = ("error", "skip", "zeros")
SHOWN = 5  # clips named in an error message


@dataclass(frozen=True)
class Feature:
    """One feature of one clip, with its times and its origin.

    Attributes:
        array: `(T, D)`, float16 or float32 as stored.
        t0_s: Time of the first row.
        hop_s: Time between rows, or `None` where rows are no points in time.
        media: Content hash; `clip:` and the id where a feature was imported for a clip without media.
    """

    array: Array
    t0_s: float
    hop_s: float | None
    spec: EncoderSpec
    clip: str
    media: MediaId

    @property
    def times_s(self) -> Array | None:
        """Time of each row `(T,)`, or `None` without a hop."""
        return None if self.hop_s is None else self.t0_s + self.hop_s * np.arange(len(self.array))


@dataclass(frozen=True)
class Failure:
    """Why a clip lacks a feature. `clip` is empty where no clip id names the media."""

    feature: str
    clip: str
    media: MediaId
    kind: str
    message: str
    retry: bool


@dataclass(frozen=True)
class _Matrix:
    """Utterance vectors of one feature, in memory.

    Attributes:
        table, count, number: What they are of: its records then, and the newest commit.
        rows: `(n, D)` float32, in the order on disk.
        of_record: Row of each record `(records,)`; n where it is out of use.
        of_clip: Row of each clip `(clips,)`; n where it has none, which numpy refuses to take.
    """

    table: Table
    count: int
    number: int
    rows: Array
    of_record: Array
    of_clip: Array


class Reader:
    """A store to read from, which needs no permission to write; the journal is replayed at the first question.

    A feature is named by its spec, its name, an alias, or `name@` and the beginning of a fingerprint.
    """

    def __init__(self, path: Address, meta: dict[str, Any]) -> None:
        self.path = path
        self.medium = open_medium(path)
        self.meta = meta
        self.id: str = meta["id"]
        self._index: Index | None = None
        self._lock = threading.RLock()
        self._readers = Readers(self.medium)
        self._matrices: dict[str, _Matrix] = {}  # by fingerprint
        self._named: dict[tuple[str, bool], EncoderSpec] = {}  # what names meant since the last commit
        self._infos: tuple[Index, int, dict[bool, list[FeatureInfo]]] | None = None

    def __reduce__(self) -> tuple[Callable[[Address], Reader], tuple[Address]]:
        return type(self).open, (self.path,)  # a data loader's worker opens its own

    # --- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Address) -> Self:
        """Opens a store; writes nothing.

        Raises:
            StoreError: There is none, or a newer emo made it.
            StoreCorrupt: Its `emo.json` is damaged.
        """
        path = address(path)
        medium = open_medium(path)
        try:
            meta = parse_own(medium.get(META), META)
            journal.check_schema(str(path), meta["schema"])
            return cls(path, {"schema": meta["schema"], "id": meta["id"], "created": meta["created"]})
        except (FileNotFoundError, NotADirectoryError) as error:
            hint = "Run `emo extract` to make one, or check the [store] path in emo.toml."
            raise StoreError(f"There is no feature store at {path}.", hint) from error
        except OSError as error:
            raise StoreError(f"The store {path} cannot be read: {error}.") from error
        except (UsageError, ValueError, KeyError, TypeError) as error:
            hint = "Restore it from a copy; the header of each journal file names the store's id."
            raise StoreCorrupt(f"{medium.where(META)} is damaged: {error!r}.", hint) from error

    @property
    def index(self) -> Index:
        """The replayed journal."""
        if self._index is None:
            self.refresh()
        assert self._index is not None
        return self._index

    def refresh(self, published: int | None = None) -> None:
        """Replays the commits that appeared since.

        Args:
            published: Number of a commit that the caller just published: if it is the next, no other is looked for.

        Raises:
            StoreCorrupt: A journal file is damaged or missing.
        """
        with self._lock:
            for attempt in range(5):
                index = self._index or snapshot.load(self.medium, self.id)
                try:
                    known = published == index.number + 1 and not attempt
                    new = [index.number + 1] if known else journal.ahead(self.medium, index.number)
                    for commit in self.medium.in_parallel(lambda each: journal.read(self.medium, each, self.id), new):
                        if commit.header.get("base"):
                            index = Index()
                            self._readers.clear()
                        index.apply(commit)
                        self._named.clear()
                        self._index = index
                    self._index = index
                    return
                except FileNotFoundError as error:  # `gc` took files below a newer base away: look again
                    if attempt == 4:
                        raise StoreCorrupt(f"The journal file {error.filename} is missing.", journal.HINT) from error
                except OSError as error:
                    raise StoreError(f"The journal of {self.path} cannot be read: {error}.") from error
                except StoreCorrupt:
                    self._index = None  # a half-applied commit must not be seen
                    raise

    # --- questions ---------------------------------------------------------------------------------------------------

    def features(self, records: bool = False) -> list[FeatureInfo]:
        """Return the features that there are, or the kinds of records, in the order of first appearance."""
        with self._lock:
            index = self.index
            if self._infos is None or self._infos[0] is not index or self._infos[1] != index.number:
                self._infos = (index, index.number, {})
            held = self._infos[2]
            if records not in held:
                tables = index.tables.values()
                held[records] = [index.info(each) for each in tables if (each.spec.level == RECORD_LEVEL) == records]
            return list(held[records])

    def version(self, feature: str | EncoderSpec) -> tuple[int, int]:
        """A value that is another one whenever records of the feature, or the media of clips, have changed.

        It means something to this process alone: what was made of a feature is out of date when this is another value.
        """
        with self._lock:
            record = isinstance(feature, EncoderSpec) and feature.level == RECORD_LEVEL
            return self._table(feature, record).version, self.index.clips_version

    def resolve(self, name: str, records: bool = False) -> EncoderSpec:
        """Return the feature that a name means, or the kind of records, see `names.choose`.

        Raises:
            FeatureMissing: There is none; the message names those that exist.
            StoreError: Several are meant; the message says how they differ.
        """
        with self._lock:
            found = self._named.get((name, records))
            if found is None:
                specs = (table.spec for table in self.index.tables.values())
                found = names.choose(name, (spec for spec in specs if (spec.level == RECORD_LEVEL) == records))
                self._named[name, records] = found
            return found

    def clips(self) -> list[str]:
        """Clip ids, in the order of first appearance."""
        with self._lock:
            return list(self.index.clip_names)

    def has(self, feature: str | EncoderSpec, clip_ids: Sequence[str] | None = None) -> Array:
        """Return which of the clips, or of all, have the feature, or the record of this spec: bool (N,)."""
        with self._lock:
            record = isinstance(feature, EncoderSpec) and feature.level == RECORD_LEVEL
            found: Array = self._records(self._table(feature, record), clip_ids) >= 0
            return found

    def checksums(self, feature: str | EncoderSpec, clip_ids: Sequence[str]) -> Array:
        """Return the checksum of what is stored of each clip: int64 (N,), -1 where there is nothing."""
        with self._lock:
            table = self._table(feature)
            found = self._records(table, clip_ids)
            there = found >= 0
            sums = np.full(len(found), -1, "i8")
            sums[there] = table.records["crc"][found[there]]
            return sums

    def rows_of(self, feature: str | EncoderSpec, clip_ids: Sequence[str]) -> tuple[Array, str]:
        """Rows of each clip `(N,)`, and the dtype that holds all of them: float16 only where each one is float16.

        Raises:
            FeatureMissing: These clips do not have it.
        """
        with self._lock:
            _, records = self._found(feature, clip_ids)
            used = np.flatnonzero(np.bincount(records["segment"])).tolist()
            dtypes = {self.index.segments[i].dtype for i in used}
            return records["rows"].astype("i8"), max(dtypes, default="float16")

    def status(self, spec: EncoderSpec, clip_or_media: str) -> Literal["ok", "failed", "missing"]:
        """Say whether a feature of a clip (or media) is there, failed, or was not tried."""
        with self._lock:
            table = self.index.tables.get(spec.fingerprint)
            media = self.index.media_of(clip_or_media)
            if table is None or media < 0:
                return "missing"
            if table.latest(np.array([media]))[0] >= 0 or self._records(table, [clip_or_media])[0] >= 0:
                return "ok"
            return "failed" if media in table.failed else "missing"

    def work(
        self, specs: Iterable[EncoderSpec], clips: Iterable[tuple[str, MediaId]], retry_failed: bool = False
    ) -> dict[str, set[MediaId]]:
        """Work list of an extraction: wanted, less what is there, less what failed for good.

        Args:
            specs: Wanted features.
            clips: Wanted clips, as (id, media); media under several ids count once.
            retry_failed: Also try again what failed for good.

        Returns:
            Media by feature key.
        """
        with self._lock:
            index = self.index
            wanted = list(dict.fromkeys(media for _, media in clips))
            numbers = np.fromiter((index.media.get(media, -1) for media in wanted), "i8")
            left: dict[str, set[MediaId]] = {}
            for spec in specs:
                table = index.tables.get(spec.fingerprint) or Table(spec)
                todo = np.flatnonzero(table.latest(numbers) < 0)
                whys = [table.failed.get(int(numbers[i])) for i in todo]
                again = [retry_failed or why is None or why.retry for why in whys]
                left[spec.key] = {wanted[i] for i, yes in zip(todo, again, strict=True) if yes}
            return left

    def failures(self, clip_id: str | None = None) -> list[Failure]:
        """Failures that still hold: nothing was stored since, and the clip still is the same content.

        Args:
            clip_id: Only those of this clip, for which no other is looked at.
        """
        with self._lock:
            index, found = self.index, []
            only = None if clip_id is None else index.media_of(clip_id)
            for table in index.tables.values():
                for number, why in index.failures(table, only):
                    if clip_id is not None and why.clip != clip_id:
                        continue
                    name = index.media_names[number]
                    media = "" if name.startswith(NO_MEDIA) else name
                    found.append(Failure(table.spec.key, why.clip or "", media, why.kind, why.message, why.retry))
            return found

    def file_of(self, path: str | Address) -> FileId | None:
        """Remembered content hash of a file whose size and time are unchanged, so that a resume reads no media."""
        return self.files_of([("", path)])[0]

    def files_of(self, files: Iterable[tuple[str, str | Address]]) -> list[FileId | None]:
        """`file_of` of many files, each given with the id of a clip that it probably is."""
        return _file_ids(*self._remembered(files))

    def lacking(
        self, specs: Iterable[EncoderSpec], files: Iterable[tuple[str, str | Address]]
    ) -> dict[int, FileId | None]:
        """`files_of` those files alone that lack one of the features, or are not remembered; by their places."""
        index, media, looks = self._remembered(files)
        with self._lock:
            tables = [index.tables.get(spec.fingerprint) or Table(spec) for spec in specs]
            places = np.flatnonzero(np.any([media < 0, *(table.latest(media) < 0 for table in tables)], axis=0))
        return dict(zip(places.tolist(), _file_ids(index, media[places], looks[places]), strict=True))

    def _remembered(self, files: Iterable[tuple[str, str | Address]]) -> tuple[Index, Array, Array]:
        """The index; number in it of each file's media `(N,)`, -1 of other content than now; how it is now `(N, 2)`."""
        wanted = list(files)
        clip_ids, paths = [clip_id for clip_id, _ in wanted], [path for _, path in wanted]
        with looking(paths) as (texts, looked):  # without the lock: others read meanwhile
            with self._lock:
                index = self.index
                rows = index.rows_of_files(clip_ids, paths, texts)
                if not index.clip_count:
                    return index, rows, np.empty((len(rows), 2), "i8")
                media, then = index.clip_media[rows], np.stack((index.sizes[rows], index.mtimes_ns[rows]), axis=1)
            now = looked()
        return index, np.where((rows >= 0) & (now == then).all(axis=1), media, -1), now

    def clip_row(self, clip_id: str) -> tuple[MediaId, str | None, int, int] | None:
        """Return what is known of a clip: (media, path, size in bytes, mtime in ns), or `None`."""
        with self._lock:
            index = self.index
            row = index.clips.get(clip_id)
            if row is None:
                return None
            media, path = index.media_names[index.clip_media[row]], index.paths[row]
            return media, path, int(index.sizes[row]), int(index.mtimes_ns[row])

    def clip_of(self, media: MediaId) -> str | None:
        """The first clip id that names the media."""
        with self._lock:
            return self.index.clip_of(media)

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, feature: str | EncoderSpec, clip_id: str) -> Feature:
        """One feature of one clip, checked against its checksum when this process first reads it.

        Raises:
            FeatureMissing: The store does not have it.
            StoreCorrupt: Its bytes are not the committed ones.
        """

        def read() -> Feature:
            table, records = self._found(feature, [clip_id])
            record = records[0]
            array = self._record(*_places(records)[0]).copy()
            hop_s = None if np.isnan(record["hop"]) else float(record["hop"])
            media = self.index.media_names[record["media"]]
            return Feature(array, float(record["t0"]), hop_s, table.spec, clip_id, media)

        return self._reading(read)

    def utterances(
        self, feature: str | EncoderSpec, clip_ids: Sequence[str], missing: Literal["error", "skip", "zeros"] = "error"
    ) -> Array:
        """Utterance vectors `(N, D)` float32 in the order of `clip_ids`. The whole matrix is loaded once and kept.

        Args:
            feature: One of level `utt`.
            clip_ids: Clips, in any order, also repeatedly.
            missing: What to do about clips without it: `error` lists them; `skip` leaves their rows out (`has` tells
                which); `zeros` puts a row of zeros.

        Raises:
            FeatureMissing: With `error`: these clips do not have it.
            StoreCorrupt: The bytes are not the committed ones.
            UsageError: Not an utterance feature, or no such policy.
        """
        if missing not in MISSING_POLICIES:
            raise UsageError(f"missing={missing!r} is not one of {', '.join(MISSING_POLICIES)}.")

        def read() -> Array:
            table = self._table(feature)
            if table.spec.rows != 1:
                raise UsageError(f"{table.spec.key} is of level {table.spec.level}.", "Read it with get or read_into.")
            held = self._matrix(table)
            try:
                clips = np.fromiter(map(self.index.clips.__getitem__, clip_ids), "i8", len(clip_ids))
                return held.rows.take(held.of_clip.take(clips), axis=0)
            except (KeyError, IndexError):  # some have none, or it lies under the id of an unknown clip
                found = self._records(table, clip_ids)
            if missing == "error" and (found < 0).any():
                raise self._missing(table, clip_ids, found)
            if missing == "skip":
                found = found[found >= 0]
            out = np.zeros((len(found), table.spec.dim), np.float32)
            out[found >= 0] = held.rows[held.of_record[found[found >= 0]]]
            return out

        return self._reading(read)

    def read_into(self, feature: str | EncoderSpec, clip_ids: Sequence[str], out: Array) -> None:
        """Fills the caller's buffer `(N, T, D)` with records of T rows, in the order of `clip_ids`.

        Raises:
            FeatureMissing: These clips do not have it.
            StoreCorrupt: The bytes are not the committed ones; `out` is then filled in part.
            UsageError: The buffer does not fit.
        """

        def read() -> None:
            table, records = self._found(feature, clip_ids)
            dim = table.spec.dim
            rows = table.spec.rows or (int(records["rows"][0]) if len(records) else 0)
            if out.shape != (len(clip_ids), rows, dim) or (records["rows"] != rows).any():
                wanted = f"({len(clip_ids)}, {table.spec.rows or 'T'}, {dim})"
                hint = "" if table.spec.rows else "Its clips differ in length: read them one by one with get."
                raise UsageError(f"A buffer {out.shape} does not fit {table.spec.key}, which needs {wanted}.", hint)
            for i, found in enumerate(self.medium.in_parallel(lambda place: self._record(*place), _places(records))):
                out[i] = found

        self._reading(read)

    def record(self, record: str | EncoderSpec, clip_id: str) -> Any:
        """Return the JSON value of one clip.

        Raises:
            FeatureMissing: The store does not have it.
            StoreCorrupt: Its bytes are not the committed ones.
        """

        def read() -> Any:
            table, found = self._found(record, [clip_id], records=True)
            return self._value(table, found[0])

        return self._reading(read)

    def values_of(self, specs: Iterable[EncoderSpec], media: MediaId) -> dict[str, Any]:
        """Return the JSON values of one medium, by the fingerprints of those recipes of records that it has one of.

        Raises:
            StoreCorrupt: The bytes are not the committed ones.
        """

        def read() -> dict[str, Any]:
            number, tables = self.index.media.get(media, -1), self.index.tables
            known = [table for spec in specs if (table := tables.get(spec.fingerprint)) is not None]
            found = ((table, table.newest(number)) for table in known)
            return {table.spec.fingerprint: self._value(table, row) for table, row in found if row is not None}

        return self._reading(read)

    def array_of(self, spec: EncoderSpec, media: MediaId) -> Array:
        """Return a feature `(T, D)` of one medium, read-only and in the stored dtype; raises what `get` does."""

        def read() -> Array:
            table = self._table(spec)
            if (found := table.newest(self.index.media.get(media, -1))) is None:
                raise self._missing(table, [media], np.array([-1]))
            return self._record(*found.item()[1:5])

        return self._reading(read)

    def records(self, record: str | EncoderSpec, clip_ids: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the JSON values of all clips, or of the given ones, that have one; by clip id.

        Raises:
            FeatureMissing: The store has no such records.
            StoreCorrupt: The bytes are not the committed ones.
        """

        def read() -> dict[str, Any]:
            table = self._table(record, records=True)
            ids = self.clips() if clip_ids is None else clip_ids
            found = self._records(table, ids)
            there = np.flatnonzero(found >= 0).tolist()
            values = self.medium.in_parallel(lambda i: self._value(table, table.records[found[i]]), there)
            return {ids[i]: value for i, value in zip(there, values, strict=True)}

        return self._reading(read)

    def _value(self, table: Table, record: Any) -> Any:
        media, segment, start, rows, crc, *_ = record.item()
        return decode(table.spec, self.index.media_names[media], self._record(segment, start, rows, crc))

    def _reading(self, read: Callable[[], Result]) -> Result:
        """Read; again when a segment is gone that another process merged meanwhile."""
        with self._lock:
            while True:
                try:
                    return read()
                except SegmentGone:
                    before = self.index.number
                    self.refresh()
                    if self.index.number == before:
                        raise
                except EmoError:
                    raise
                except OSError as error:
                    raise StoreError(f"The store {self.path} cannot be read: {error}.") from error

    def _table(self, feature: str | EncoderSpec, records: bool = False) -> Table:
        tables = self.index.tables
        if isinstance(feature, str):
            return tables[self.resolve(feature, records).fingerprint]
        if (feature.level == RECORD_LEVEL) != records:
            raise UsageError(f"{feature.key} is of level {feature.level}.", "Records are read by record and records.")
        if feature.fingerprint not in tables:
            self.resolve(f"{feature.name}@{feature.fingerprint}", records)  # raises, naming what there is
        return tables[feature.fingerprint]

    def _records(self, table: Table, clip_ids: Sequence[str] | None) -> Array:
        index = self.index
        whole = index.clip_media[: index.clip_count]
        found = table.latest(whole if clip_ids is None else index.media_of_clips(clip_ids))
        if table.spec.profile == "imported":  # perhaps when no media was known: then kept under the clip's id
            clip_ids = index.clip_names if clip_ids is None else clip_ids
            lacking = np.flatnonzero(found < 0)
            named = [index.media.get(NO_MEDIA + clip_ids[i], -1) for i in lacking.tolist()]
            found[lacking] = table.latest(np.array(named, "i8"))
        return found

    def _found(self, feature: str | EncoderSpec, clip_ids: Sequence[str], records: bool = False) -> tuple[Table, Array]:
        table = self._table(feature, records)
        found = self._records(table, clip_ids)
        if (found < 0).any():
            raise self._missing(table, clip_ids, found)
        return table, table.records[found]

    def _missing(self, table: Table, clip_ids: Sequence[str], found: Array) -> FeatureMissing:
        lacking = list(dict.fromkeys(clip_ids[i] for i in np.flatnonzero(found < 0).tolist()))
        shown = []
        for clip in lacking:
            why = table.failed.get(self.index.media_of(clip))
            shown.append(f"{clip} ({why.kind if why else 'not extracted' if clip in self.index.clips else 'unknown'})")
        text = f"{len(lacking)} of {len(set(clip_ids))} clips have no {table.spec.key}: {some_of(shown, SHOWN)}."
        return FeatureMissing(text, "Run `emo extract`, or leave these clips out.")

    def _record(self, segment: int, start: int, rows: int, crc: int) -> Array:
        found = self.index.segments[segment]
        return self._readers.get(self.index.tables[found.feature].spec.key, found).record(start, rows, crc)

    def _matrix(self, table: Table) -> _Matrix:
        """All utterance vectors of a feature, read when records were added since."""
        key, index = table.spec.fingerprint, self.index
        held = self._matrices.get(key)
        if held is not None and held.table is table and held.number == index.number:
            return held
        if held is not None and held.table is table and held.count == table.count:
            rows, of_record = held.rows, held.of_record
        else:
            live = table.live()
            of_record = np.full(table.count, len(live))
            parts = list(by_segment(table.records, live))
            for end, (_, mine) in zip(_ends(parts), parts, strict=True):
                of_record[mine] = np.arange(end - len(mine), end)
            rows = self._vectors(table, parts)
        found = self._records(table, None)
        of_clip = np.where(found >= 0, of_record[found], len(rows)) if len(of_record) else np.zeros(len(found), "i8")
        held = self._matrices[key] = _Matrix(table, table.count, index.number, rows, of_record, of_clip)
        return held

    def _vectors(self, table: Table, parts: list[tuple[int, Array]]) -> Array:
        """Rows of one-row records, given by segment: float32 (N, D), as they are mapped where one segment holds all."""

        def read(part: tuple[int, Array]) -> Array:
            reader = self._readers.once(table.spec.key, self.index.segments[part[0]])
            return reader.rows(table.records[part[1]])

        if len(parts) == 1:
            return read(parts[0]).astype(np.float32, copy=False)
        ends = _ends(parts)
        rows = np.empty((ends[-1] if ends else 0, table.spec.dim), np.float32)
        for end, some in zip(ends, self.medium.in_parallel(read, parts), strict=True):
            rows[end - len(some) : end] = some
        return rows


def _file_ids(index: Index, media: Array, looks: Array) -> list[FileId | None]:
    """Identity of files, given as `Reader._remembered` gives them."""
    names = index.media_names if (media >= 0).any() else []
    known = zip(media.tolist(), *looks.T.tolist(), strict=True)
    return [FileId(names[number], size, mtime_ns) if number >= 0 else None for number, size, mtime_ns in known]


def _ends(parts: list[tuple[int, Array]]) -> list[int]:
    """Row after the last of each part."""
    return list(accumulate(len(mine) for _, mine in parts))


def _places(records: Array) -> list[tuple[int, int, int, int]]:
    """Segment, first row, rows and checksum of each of the given records (an array of `RECORD`)."""
    return list(zip(*(records[name].tolist() for name in ("segment", "start", "rows", "crc")), strict=True))
