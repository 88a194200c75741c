"""Care of a store: verify, repair, gc, compact, and the dataset card."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from emo.featstore import names
from emo.featstore.errors import StoreCorrupt, StoreError, UsageError
from emo.featstore.reading import parse_own
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage import durable, journal, snapshot
from emo.featstore.storage.index import (
    DTYPES,
    NONSENSE,
    SEGMENT_NAME,
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
from emo.featstore.storage.medium import Medium
from emo.featstore.storage.reader import META, Reader
from emo.featstore.storage.segment import ROOT, SegmentGone, SegmentReader, group_attributes, group_document
from emo.featstore.storage.writer import Commit, OpenSegment

# Tables that a pass keeps beside the features, by their encoder: what the card says of them in place of a profile.
BESIDE = {
    "faces": ("detector", "where faces were found, and whose were taken"),
    "text-hash": ("text hash", "which transcript a feature was made of"),
    "frame-index": ("frame index", "which frame a feature was made of"),
}
SMALL_BYTES = 64 << 20  # `compact` merges segments below this size ...
LARGE_BYTES = 1 << 30  # ... into new ones of about this size
AGAIN = "With --repair those clips can be extracted again."
GRACE_S = 3600.0  # how long a segment may lie there before `verify` asks which commit named it
MOST = 9  # `gc` refuses to remove so many times what it would leave
LOST = "Restore the journal folder from a copy; if nothing is missed, `emo store gc --force` removes it."


@dataclass(frozen=True)
class Problem:
    """Something that `verify` found; `lost` says whether bytes are gone, or only out of reach."""

    where: str
    what: str
    hint: str
    lost: bool = True


@dataclass(frozen=True)
class GcReport:
    """Counts and bytes that `gc` removed."""

    segments: int
    journals: int
    leftovers: int
    size_bytes: int


@dataclass(frozen=True)
class CompactReport:
    """Result of `compact`: segments that were merged, and those that replaced them. Run `gc` to free the space."""

    merged: int
    written: int


# --- verify and repair -----------------------------------------------------------------------------------------------


def verify(store: Reader) -> list[Problem]:
    """Re-read every journal file, segment, record checksum and recipe; empty when all is as it was committed.

    Runs on a damaged store too. Segments that no commit ever named are a problem as well: the newest commit may have
    vanished.
    """
    leases, present = store.medium.leases(), _segments(store)
    problems, index, _ = _examine(store)
    if problems:  # a damaged commit names segments too
        return problems
    for name in _unexplained(store, index, present, leases):
        with suppress(OSError):  # `gc` went on meanwhile
            if index.number == 0 or time.time() - store.medium.modified(f"{name}/zarr.json") > GRACE_S:
                what = "No commit names it: the commit that did may be lost."
                problems.append(Problem(store.medium.where(name), what, LOST))
    return problems


def repair(store: Reader) -> list[Problem]:
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
    medium = store.medium
    base = journal.newest_base(medium, journal.numbers(medium))
    if base is not None and index.base != base:
        where = medium.where(journal.name_of(base))
        raise StoreCorrupt(f"The base commit {where} is damaged.", "Restore it from a copy.")
    with durable.writing(store.path):
        for home, attributes in _groups(index):
            if medium.exists(home):
                medium.put(f"{home}/zarr.json", group_document(attributes))
        lease = medium.lease()
        try:
            header = {"number": highest + 1, "store": store.id, "writer": lease.name, "base": True}
            if not journal.publish(medium, header, _base_lines(index), lease.name):
                raise StoreError(f"Another process is writing to {store.path}.", "Repair it when none is.")
        finally:
            lease.close()
    store.refresh()
    return problems


def _examine(store: Reader) -> tuple[list[Problem], Index, int]:
    """The problems, the state without what is damaged, and the highest commit number seen."""
    problems: list[Problem] = []
    medium = store.medium
    with _listed(problems, medium.where(META)):
        type(store).open(store.path)
    index, base, highest = Index(), 0, 0
    with _listed(problems, medium.where(journal.FOLDER)):
        numbers = journal.numbers(medium)
        base, highest = journal.newest_base(medium, numbers) or 0, max(numbers, default=0)
        for commit in medium.in_parallel(partial(_commit, store, problems), range(max(base, 1), highest + 1)):
            if commit is not None:
                with _listed(problems, medium.where(journal.name_of(commit.header["number"]))):
                    index.apply(commit)
    for home, attributes in _groups(index):
        with _listed(problems, medium.where(f"{home}/zarr.json")):
            _check_group(store, home, attributes)
    for table in index.tables.values():
        parts = by_segment(table.records, np.arange(table.count))
        for found, lost in medium.in_parallel(partial(_check_segment, medium, index, table), parts):
            problems += found
            table.drop(lost)
    if problems and index.base == base and (journal.newest_base(medium, journal.numbers(medium)) or 0) != base:
        return _examine(store)  # `compact` and `gc` went on meanwhile
    return problems, index, highest


def _commit(store: Reader, problems: list[Problem], number: int) -> journal.Commit | None:
    with _listed(problems, store.medium.where(journal.name_of(number))):
        return journal.read(store.medium, number, store.id)
    return None


def _check_segment(medium: Medium, index: Index, table: Table, part: tuple[int, Array]) -> tuple[list[Problem], Array]:
    """Problems of one segment, and the numbers of its records that are damaged."""
    segment, records = index.segments[part[0]], part[1]
    name = f"{ROOT}/{table.spec.key}/{segment.name}"
    problems, bad = list[Problem](), np.ones(len(records), bool)
    with _listed(problems, medium.where(name)):
        bad = SegmentReader(medium, name, segment, fresh=True).check(table.records[records])
        if bad.any():
            media = [index.media_names[each] for each in table.records["media"][records[bad]][:5]]
            what = f"{bad.sum()} of {len(bad)} records do not have the committed bytes: media"
            problems.append(Problem(medium.where(name), f"{what} {', '.join(media)} ...", AGAIN))
    return problems, records[bad]


@contextmanager
def _listed(problems: list[Problem], where: str) -> Iterator[None]:
    """Turn an error into a problem on the list."""
    try:
        yield
    except StoreError as error:
        problems.append(Problem(where, error.message, error.hint, lost=isinstance(error, StoreCorrupt)))
    except FileNotFoundError:
        problems.append(Problem(where, "It is missing.", journal.HINT))
    except OSError as error:
        problems.append(Problem(where, f"It cannot be read: {error}.", "Check the disk.", lost=False))


def _groups(index: Index) -> list[tuple[str, dict[str, Any]]]:
    """Return the root group and those of the features with records, each with its attributes."""
    specs = (table.spec for table in index.tables.values() if table.count)
    return [(ROOT, {}), *((f"{ROOT}/{spec.key}", group_attributes(spec)) for spec in specs)]


def _check_group(store: Reader, home: str, attributes: dict[str, Any]) -> None:
    name = f"{home}/zarr.json"
    try:
        good = parse_own(store.medium.get(name), name) == parse_own(group_document(attributes), name)
    except UsageError:
        good = False
    if not good:
        hint = "No number depends on it; `emo store verify --repair` writes it anew."
        raise StoreCorrupt(f"{store.medium.where(home)}/zarr.json is not the group document that was written.", hint)


# --- gc --------------------------------------------------------------------------------------------------------------


def gc(store: Reader, force: bool = False) -> GcReport:
    """Remove segments that no commit names, journal files below the newest base, and what dead writers left.

    What a running writer made stays: a writer holds a lease while it runs, see `Medium.lease`.

    Args:
        store: To clean.
        force: Also where nearly all would go and nothing says why, as after the loss of the newest commits.

    Raises:
        StoreCorrupt: The journal is damaged, so that nothing can be called garbage.
        StoreError: Nearly all would go.
    """
    medium = store.medium
    segments, journals = [], []
    with durable.writing(store.path):
        # In this order: whatever a writer committed before it was found dead, the journal read afterwards names.
        leases, present = medium.leases(), _segments(store)
        swept = medium.sweep()
        store.refresh()
        named = {segment.name for segment in store.index.segments}
        strange = _unexplained(store, store.index, present, leases)
        kept = [name for name in present if name.rpartition("/")[2] in named]
        if strange and len(strange) >= MOST * len(kept) and not force:
            raise StoreError(
                f"Nothing was removed from {store.path}: {len(strange)} of its {len(present)} segments are named by no "
                f"commit that was ever seen, and {len(kept)} would be left.",
                LOST,
            )
        for name in present:
            segment = name.rpartition("/")[2]
            if segment not in named and segment.partition("-")[0] not in swept.alive:
                segments.append(medium.remove(name))
                durable.reached("gc-segment-removed")
        # A snapshot that a writer is just placing misses its file then, and is made again later.
        halves = [name for name in medium.list(snapshot.FOLDER) if f"{snapshot.FOLDER}/{name}" != snapshot.NAME]
        leftovers = [*swept.sizes, *(medium.remove(f"{snapshot.FOLDER}/{name}") for name in halves)]
        for number in journal.numbers(medium):
            if number < store.index.base:
                journals.append(medium.remove(journal.name_of(number)))
                durable.reached("gc-journal-removed")
    size_bytes = sum(segments) + sum(journals) + sum(leftovers)
    return GcReport(len(segments), len(journals), len(leftovers), size_bytes)


def _segments(store: Reader) -> list[str]:
    """Return all segments that lie in the store itself, named or not; none behind a link that leads elsewhere."""
    medium = store.medium
    homes = (f"{ROOT}/{key}" for key in medium.list(ROOT))
    names = [f"{home}/{name}" for home in homes for name in medium.list(home) if SEGMENT_NAME.fullmatch(name)]
    return [name for name in names if medium.owns(name)]


def _unexplained(store: Reader, index: Index, present: list[str], leases: frozenset[str]) -> list[str]:
    """Return the segments that no commit names, none below the base ever named, and no running or killed writer made.

    Args:
        store: The store.
        index: Its newest state.
        present: Segments that are there.
        leases: Of the writers that ran or had been killed when the segments were listed.
    """
    known = {segment.name for segment in index.segments}
    try:
        for number in journal.numbers(store.medium):
            if number < index.base:
                known.update(
                    line["segment"] for line in journal.read(store.medium, number, store.id).body if "segment" in line
                )
    except (StoreError, OSError, *NONSENSE):
        return []  # that commit was damaged, and the store repaired: nobody knows what it named
    segments = ((name, name.rpartition("/")[2]) for name in present)
    return [name for name, each in segments if each not in known and each.partition("-")[0] not in leases]


# --- compact ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Moved:
    """Records of a table that lie in new segments: numbers, index of the new segment, first row there."""

    records: Array
    segment: Array
    start: Array


def compact(store: Reader) -> CompactReport:
    """Merges small or partly unused segments and publishes one base commit that states everything live.

    A commit like any other: writers may run, and the old segments become garbage for `gc`.

    Raises:
        StoreCorrupt: A record is damaged; run `verify`.
        StoreError: The disk refuses, or there is no space for the copies.
    """
    while True:
        before = store.index.number
        try:
            report = _compact(store)
        except SegmentGone:  # merged and removed by others meanwhile, or lost
            store.refresh()
            if store.index.number == before:
                raise
            continue
        if report is not None:
            return report


def _compact(store: Reader) -> CompactReport | None:
    """One try; `None` when another base was published meanwhile."""
    store.refresh()
    base = store.index.base
    with durable.writing(store.path):
        commit = Commit(store.medium)
        try:
            moved: dict[str, _Moved] = {}
            segments: list[Segment] = []
            merged = 0
            with commit.placing() as place:
                for fingerprint, table in store.index.tables.items():
                    sources = _worth_merging(store.index, table)
                    merged += len(sources)
                    if sources:
                        moved[fingerprint] = _merge(store, commit, table, sources, segments)
                if not merged:
                    return CompactReport(0, 0)
                for segment in segments:
                    place(store.index.tables[segment.feature].spec, segment.name)

                def body() -> list[Line]:
                    if store.index.base != base:
                        raise _OvertakenError
                    return _base_lines(store.index, moved, segments)

                commit.publish(store, body, base=True)
                snapshot.keep(store.medium, store.id, store.index)
        except _OvertakenError:
            return None
        finally:
            commit.close()
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


def _merge(store: Reader, commit: Commit, table: Table, sources: dict[int, Array], segments: list[Segment]) -> _Moved:
    """Copies the records in use into new segments, which are appended to `segments`."""
    moved = []
    for dtype in DTYPES:
        target: OpenSegment | None = None
        try:
            for source, records in sources.items():
                if store.index.segments[source].dtype != dtype:
                    continue
                # Its own: what a reader has checked before may have changed since, and gets a new checksum here.
                segment = store.index.segments[source]
                name = f"{ROOT}/{table.spec.key}/{segment.name}"
                reader = SegmentReader(store.medium, name, segment, fresh=True)
                for number, record in zip(records.tolist(), table.records[records], strict=True):
                    if target is None:
                        target = OpenSegment(commit.lease, len(segments) + 1, table.spec, dtype)
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


def _base_lines(
    index: Index,
    moved: dict[str, _Moved] | None = None,
    new: list[Segment] | None = None,
    without: Collection[str] = (),
) -> list[Line]:
    """Body of a base: everything live, with the moved records in their new places, and without some features."""
    lines: list[Line] = [{"environments": index.environments}]
    tables = {fingerprint: table for fingerprint, table in index.tables.items() if fingerprint not in without}
    if tables:
        lines.append(features_line(table.spec for table in tables.values()))
    if index.clips:
        media = (index.media_names[each] for each in index.clip_media[: len(index.clips)].tolist())
        rows = zip(media, index.paths, index.sizes.tolist(), index.mtimes_ns.tolist(), strict=False)
        clips = zip(index.clip_names, rows, strict=True)
        for some in iter(lambda: list(islice(clips, 100_000)), []):
            lines.append(clips_line(dict(some)))
    failed: list[tuple[str, str, Failed]] = []
    for fingerprint, table in tables.items():
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


# --- drop ------------------------------------------------------------------------------------------------------------


def drop(store: Reader, fingerprint: str) -> int:
    """Publish a base commit without one feature or kind of records, failures included; `gc` frees the space.

    What is kept beside a feature, as the hash of the text that it was made of, goes with it. A commit like any other:
    who adds to that feature later begins it anew.

    Returns:
        How many records it had.

    Raises:
        StoreError: The disk refuses, or the store has no such feature any more.
    """
    store.refresh()
    before = 0
    with durable.writing(store.path):
        commit = Commit(store.medium)

        def body() -> list[Line]:
            nonlocal before
            if fingerprint not in store.index.tables:
                raise StoreError(
                    f"{store.path} has no feature {fingerprint[:8]} any more.", "Another process dropped it."
                )
            before = len(store.index.tables[fingerprint].live())
            of_it = [each for each, table in store.index.tables.items() if _is_beside(table.spec, fingerprint)]
            return _base_lines(store.index, without=(fingerprint, *of_it))

        try:
            commit.publish(store, body, base=True)
            snapshot.keep(store.medium, store.id, store.index)
        finally:
            commit.close()
    return before


def _is_beside(spec: EncoderSpec, fingerprint: str) -> bool:
    """Say whether something is kept beside the feature of this fingerprint."""
    return spec.encoder in BESIDE and fingerprint in (spec.recipe.get("of"), spec.recipe.get("inputs", {}).get("of"))


# --- the dataset card ------------------------------------------------------------------------------------------------


def info(store: Reader) -> dict[str, Any]:
    """Return a dataset card: features and their recipes in words, counts, sizes, failures by kind, history."""
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
    index, beside = store.index, store.features(records=True)
    return {
        "path": str(store.path),
        "id": store.id,
        "schema": store.meta["schema"],
        "created": store.meta["created"],
        "updated": index.time,
        "commits": index.number,
        "clips": index.clip_count,
        "media": int(np.count_nonzero(np.bincount(index.clip_media[: index.clip_count]))),
        "size_bytes": sum(each.size_bytes for each in (*held, *beside)),
        "features": features,
        "records": [
            {
                "record": each.key,
                "kind": each.spec.encoder,
                "spec": asdict(each.spec),
                "ok": each.ok,
                "failed": each.failed,
                "size_bytes": each.size_bytes,
            }
            for each in beside
        ],
        "failures": dict(Counter(failure.kind for failure in failures)),
        "environments": index.environments,
    }
