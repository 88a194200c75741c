"""Care of a store: verify, repair, gc, compact, and the dataset card."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emo.featstore import names
from emo.featstore.errors import StoreCorrupt, StoreError
from emo.featstore.storage import durable, journal
from emo.featstore.storage.index import (
    Array,
    Failed,
    Index,
    Line,
    Segment,
    Table,
    by_segment,
    clips_line,
    failed_line,
    features_line,
    record_columns,
    segment_line,
)
from emo.featstore.storage.segment import HINT, SegmentReader, group_attributes, group_document
from emo.featstore.storage.writer import OpenSegment, Scratch

if TYPE_CHECKING:
    from emo.featstore.storage.store import Store

_SEGMENT = re.compile(r"[0-9a-f]{32}-\d+")
# Tables that a pass keeps beside the features, by their encoder: what the card says of them in place of a profile.
BESIDE = {
    "faces": ("detector", "where faces were found, and whose were taken"),
    "text-hash": ("text hash", "which transcript a feature was made of"),
}
SMALL_BYTES = 64 << 20  # `compact` merges segments below this size ...
LARGE_BYTES = 1 << 30  # ... into new ones of about this size


@dataclass(frozen=True)
class Problem:
    """Something that `verify` found; `lost` says whether bytes are gone, or only out of reach."""

    where: str
    what: str
    hint: str
    lost: bool = True


@dataclass(frozen=True)
class GcReport:
    """What `gc` removed."""

    segments: int
    journals: int
    leftovers: int
    size_bytes: int


@dataclass(frozen=True)
class CompactReport:
    """What `compact` did: segments that were merged, and those that replaced them. Run `gc` to free the space."""

    merged: int
    written: int


# --- verify and repair -----------------------------------------------------------------------------------------------


def verify(store: Store) -> list[Problem]:
    """Re-reads every journal file, segment, record checksum and recipe; empty when all is as it was committed.

    Runs on a damaged store too. A newest commit that vanished without a trace cannot be noticed.
    """
    return _examine(store)[0]


def repair(store: Store) -> list[Problem]:
    """Publishes a base commit without what `verify` finds damaged, so that `Store.work` asks for it again.

    Do it when no other process writes. What was not extracted by emo (imported features) must be imported again.

    Returns:
        What was found; empty when there was nothing to do.

    Raises:
        StoreCorrupt: The base commit itself is damaged: nothing else says what its segments hold.
        StoreError: The store cannot be written, or something in it is not damaged but out of reach.
    """
    problems, index, highest = _examine(store)
    if not problems:
        return problems
    for each in problems:
        if not each.lost:
            raise StoreError(f"Nothing was repaired: {each.where}: {each.what}", each.hint)
    folder = store.path / "journal"
    base = journal.newest_base(folder, journal.numbers(folder))
    if base is not None and index.base != base:
        raise StoreCorrupt(f"The base commit {journal.path_of(folder, base)} is damaged.", "Restore it from a copy.")
    with durable.writing(store.path):
        for home, attributes in _groups(store, index):
            if home.exists():
                durable.write_file(home / "zarr.json", group_document(attributes))
        scratch = Scratch(store.path)
        try:
            header = {"number": highest + 1, "store": store.id, "writer": scratch.name, "base": True}
            journal.write(scratch.temp, header, _base_lines(index))
            if not journal.publish(folder, scratch.temp, highest + 1):
                raise StoreError(f"Another process is writing to {store.path}.", "Repair it when none is.")
        finally:
            scratch.close()
    store.refresh()
    return problems


def _examine(store: Store) -> tuple[list[Problem], Index, int]:
    """The problems, the state without what is damaged, and the highest commit number seen."""
    problems: list[Problem] = []
    with _listed(problems, store.path / "emo.json"):
        type(store).open(store.path)
    index, base, highest = Index(), 0, 0
    folder = store.path / "journal"
    with _listed(problems, folder):
        numbers = journal.numbers(folder)
        base, highest = journal.newest_base(folder, numbers) or 0, max(numbers, default=0)
        for number in range(max(base, 1), highest + 1):
            with _listed(problems, journal.path_of(folder, number)):
                index.apply(journal.read(folder, number, store.id))
    for home, attributes in _groups(store, index):
        with _listed(problems, home / "zarr.json"):
            _check_group(home, attributes)
    for table in index.tables.values():
        for number, records in by_segment(table.records, np.arange(table.count)):
            segment = index.segments[number]
            home = store.path / "features.zarr" / table.spec.key / segment.name
            bad = np.ones(len(records), bool)
            with _listed(problems, home):
                bad = SegmentReader(home, segment).check(table.records[records])
                if bad.any():
                    media = [index.media_names[each] for each in table.records["media"][records[bad]][:5]]
                    what = f"{bad.sum()} of {len(bad)} records do not have the committed bytes: media"
                    problems.append(Problem(str(home), f"{what} {', '.join(media)} ...", HINT))
            table.drop(records[bad])
    if problems and index.base == base and (journal.newest_base(folder, journal.numbers(folder)) or 0) != base:
        return _examine(store)  # `compact` and `gc` went on meanwhile
    return problems, index, highest


@contextmanager
def _listed(problems: list[Problem], where: Path) -> Iterator[None]:
    """Turns an error into a problem on the list."""
    try:
        yield
    except StoreError as error:
        problems.append(Problem(str(where), error.message, error.hint, lost=isinstance(error, StoreCorrupt)))
    except FileNotFoundError:
        problems.append(Problem(str(where), "It is missing.", journal.HINT))
    except OSError as error:
        problems.append(Problem(str(where), f"It cannot be read: {error}.", "Check the disk.", lost=False))


def _groups(store: Store, index: Index) -> list[tuple[Path, dict[str, Any]]]:
    """Folders of the root group and of the features with records, and the attributes of each."""
    root = store.path / "features.zarr"
    specs = (table.spec for table in index.tables.values() if table.count)
    return [(root, {}), *((root / spec.key, group_attributes(spec)) for spec in specs)]


def _check_group(folder: Path, attributes: dict[str, Any]) -> None:
    written = json.loads(group_document(attributes))
    try:
        good = json.loads((folder / "zarr.json").read_bytes()) == written
    except ValueError:
        good = False
    if not good:
        hint = "No number depends on it; `emo store verify --repair` writes it anew."
        raise StoreCorrupt(f"{folder / 'zarr.json'} is not the group document that was written.", hint)


# --- gc --------------------------------------------------------------------------------------------------------------


def gc(store: Store) -> GcReport:
    """Removes segments that no commit names, journal files below the newest base, and what dead writers left.

    What a running writer made stays: a writer holds a lock while it runs, see `writer.Scratch`.

    Raises:
        StoreCorrupt: The journal is damaged, so that nothing can be called garbage.
    """
    segments, journals, leftovers = [], [], []
    with durable.writing(store.path):
        # In this order: whatever a writer committed before it was found dead, the journal read afterwards names.
        present = [path for path in store.path.glob("features.zarr/*/*") if _SEGMENT.fullmatch(path.name)]
        temps = list(store.path.glob("journal/.*.tmp"))
        alive, scratch = _end_dead_writers(store.path)
        store.refresh()
        named = {segment.name for segment in store.index.segments}
        for path in present:
            if path.name not in named and path.name.partition("-")[0] not in alive:
                segments.append(_remove(path))
                durable.reached("gc-segment-removed")
        for number in journal.numbers(store.path / "journal"):
            if number < store.index.base:
                journals.append(_remove(journal.path_of(store.path / "journal", number)))
                durable.reached("gc-journal-removed")
        root = store.path.resolve()
        new = (path for path in root.parent.iterdir() if path.match("*.new") and path.name.startswith(f".{root.name}."))
        for path in [*new, *(temp for temp in temps if temp.name[1:-4] not in alive)]:
            leftovers.append(_remove(path))
    size_bytes = sum(segments) + sum(journals) + sum(leftovers) + sum(scratch)
    return GcReport(len(segments), len(journals), len(leftovers) + len(scratch), size_bytes)


def _end_dead_writers(root: Path) -> tuple[set[str], list[int]]:
    """Names of the writers that run (or cannot be told from such), and the sizes of the scratch folders removed."""
    alive, removed = set(), []
    for folder in root.glob("writers/*"):
        with suppress(FileNotFoundError):  # ended meanwhile
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                removed.append(_remove(folder))  # under its lock: a writer that just begins notices
            except OSError:
                alive.add(folder.name)
            finally:
                os.close(lock)
    return alive, removed


def _remove(path: Path) -> int:
    """Removes a file or a folder and returns its size in bytes."""
    size = 0
    with suppress(FileNotFoundError):  # another `gc` may be at work
        if path.is_dir():
            size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
            shutil.rmtree(path)
        else:
            size = path.stat().st_size
            path.unlink()
    return size


# --- compact ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Moved:
    """Records of a table that lie in new segments: numbers, index of the new segment, first row there."""

    records: Array
    segment: Array
    start: Array


def compact(store: Store) -> CompactReport:
    """Merges small or partly unused segments and publishes one base commit that states everything live.

    A commit like any other: writers may run, and the old segments become garbage for `gc`.

    Raises:
        StoreCorrupt: A record is damaged; run `verify`.
        StoreError: The disk refuses, or there is no space for the copies.
    """
    while True:
        report = _compact(store)
        if report is not None:
            return report


def _compact(store: Store) -> CompactReport | None:
    """One try; `None` when another base was published meanwhile."""
    store.refresh()
    base = store.index.base
    with durable.writing(store.path):
        scratch = Scratch(store.path)
        try:
            moved: dict[str, _Moved] = {}
            segments: list[Segment] = []
            merged = 0
            with scratch.placing() as place:
                for fingerprint, table in store.index.tables.items():
                    sources = _worth_merging(store.index, table)
                    merged += len(sources)
                    if sources:
                        moved[fingerprint] = _merge(store, scratch, table, sources, segments)
                if not merged:
                    return CompactReport(0, 0)
                for segment in segments:
                    place(store.index.tables[segment.feature].spec, segment.name)

                def body() -> list[Line]:
                    if store.index.base != base:
                        raise _OvertakenError
                    return _base_lines(store.index, moved, segments)

                scratch.publish(store, body, base=True)
        except _OvertakenError:
            return None
        finally:
            scratch.close()
    return CompactReport(merged, len(segments))


class _OvertakenError(Exception):
    """Another base was published while this one was being made."""


def _worth_merging(index: Index, table: Table) -> dict[int, Array]:
    """Segments that are small or hold unused rows, each with its records in use; empty when merging gains nothing."""
    in_use = np.zeros(table.count, bool)
    in_use[table.live()] = True
    found, unused = {}, False
    dtypes: Counter[str] = Counter()
    for number, records in by_segment(table.records, np.arange(table.count)):
        segment, records = index.segments[number], records[in_use[records]]
        wasteful = int(table.records["rows"][records].sum()) < segment.rows
        if wasteful or segment.size_bytes < SMALL_BYTES:
            found[number] = records
            dtypes[segment.dtype] += 1
            unused |= wasteful
    return found if unused or max(dtypes.values(), default=0) > 1 else {}


def _merge(store: Store, scratch: Scratch, table: Table, sources: dict[int, Array], segments: list[Segment]) -> _Moved:
    """Copies the records in use into new segments, which are appended to `segments`."""
    moved = []
    home = store.path / "features.zarr" / table.spec.key
    for dtype in ("float16", "float32"):
        target: OpenSegment | None = None
        try:
            for source, records in sources.items():
                if store.index.segments[source].dtype != dtype:
                    continue
                # Its own: what a reader has checked before may have changed since, and gets a new checksum here.
                reader = SegmentReader(home / store.index.segments[source].name, store.index.segments[source])
                for number, record in zip(records.tolist(), table.records[records], strict=True):
                    if target is None:
                        target = OpenSegment(scratch, f"{scratch.name}-{len(segments) + 1}", table.spec, dtype)
                    moved.append((number, len(segments), target.writer.rows))
                    rows = reader.record(int(record["start"]), int(record["rows"]), int(record["crc"]))
                    target.writer.append(rows)
                    if target.writer.rows * target.writer.row_bytes >= LARGE_BYTES:
                        segments.append(target.finish())
                        target = None
            if target is not None:
                segments.append(target.finish())
        finally:
            if target is not None:
                target.writer.close()
    return _Moved(*np.array(moved, "i8").reshape(-1, 3).T)


def _base_lines(index: Index, moved: dict[str, _Moved] | None = None, new: list[Segment] | None = None) -> list[Line]:
    """Body of a base: everything live, with the moved records in their new places."""
    lines: list[Line] = [{"environments": index.environments}]
    if index.tables:
        lines.append(features_line(table.spec for table in index.tables.values()))
    if index.clips:
        media = (index.media_names[each] for each in index.clip_media[: len(index.clips)].tolist())
        rows = zip(media, index.paths, index.sizes.tolist(), index.mtimes_ns.tolist(), strict=False)
        clips = zip(index.clip_names, rows, strict=True)
        for some in iter(lambda: list(islice(clips, 100_000)), []):
            lines.append(clips_line(dict(some)))
    failed: list[tuple[str, str, Failed]] = []
    for fingerprint, table in index.tables.items():
        failed += [(fingerprint, index.media_names[media], why) for media, why in index.failures(table)]
        records = table.records.copy()
        segments = dict(enumerate(index.segments))
        if moved and fingerprint in moved:
            segments |= {len(index.segments) + i: segment for i, segment in enumerate(new or [])}
            move = moved[fingerprint]
            records["segment"][move.records] = len(index.segments) + move.segment
            records["start"][move.records] = move.start
        for number, live in by_segment(records, table.live()):
            lines.append(segment_line(segments[number], record_columns(records[live], index.media_names)))
    return [*lines, failed_line(failed)] if failed else lines


# --- the dataset card ------------------------------------------------------------------------------------------------


def info(store: Store) -> dict[str, Any]:
    """What a dataset card says: features and their recipes in words, counts, sizes, failures by kind, history."""
    failures, held = store.failures(), store.features()
    features = []
    for each in held:
        kinds = Counter(failure.kind for failure in failures if failure.feature == each.key)
        own = (each.spec.profile, names.PROFILE_WORDS[each.spec.profile])
        profile, meaning = BESIDE.get(each.spec.encoder, own)
        features.append(
            {
                "feature": each.key,
                "profile": profile,
                "meaning": meaning,
                "spec": asdict(each.spec),
                "ok": each.ok,
                "failed": each.failed,
                "failures": dict(kinds),
                "rows": each.rows,
                "size_bytes": each.size_bytes,
                "segments": each.segments,
            }
        )
    index = store.index
    return {
        "path": str(store.path),
        "id": store.id,
        "schema": store.meta["schema"],
        "created": store.meta["created"],
        "updated": index.time,
        "commits": index.number,
        "clips": len(index.clips),
        "media": int(np.count_nonzero(np.bincount(index.clip_media[: len(index.clips)]))),
        "size_bytes": sum(each.size_bytes for each in held),
        "features": features,
        "failures": dict(Counter(failure.kind for failure in failures)),
        "environments": index.environments,
    }
