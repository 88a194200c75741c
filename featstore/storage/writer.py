"""Writing features: segments in a private folder, then placed, then named by the journal in one commit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import numpy as np

from emo.featstore.address import Address, absolute
from emo.featstore.clip import FileId, MediaId
from emo.featstore.errors import MediaError, StoreError
from emo.featstore.spec import RECORD_LEVEL, EncoderSpec
from emo.featstore.storage import durable, journal, snapshot
from emo.featstore.storage.index import (
    NO_MEDIA,
    Array,
    Failed,
    Line,
    Segment,
    clips_line,
    failed_line,
    features_line,
    segment_line,
)
from emo.featstore.storage.medium import Lease, Medium
from emo.featstore.storage.reader import Reader
from emo.featstore.storage.records import encode
from emo.featstore.storage.segment import ROOT, SegmentWriter, group_attributes, group_document


class Commit:
    """Placing and publishing of one writer: finished segments, then the journal entry that names them."""

    def __init__(self, medium: Medium) -> None:
        self.medium, self.lease = medium, medium.lease()
        self._trying: str | None = None  # the journal file that names what is placed, once it may be there
        self._homes: set[str] = set()  # features whose folder is known to be durable

    @contextmanager
    def placing(self) -> Iterator[Callable[[EncoderSpec, str], None]]:
        """Give `place`; takes placed segments away again when an error comes before any journal can name them."""
        placed: list[str] = []
        self._trying = None
        try:
            yield lambda spec, segment: self._place(spec, segment, placed)
        except BaseException:
            with suppress(OSError, StoreError):
                if self._trying is None or not self.medium.exists(self._trying):
                    for name in placed:
                        self.medium.remove(name)
            raise

    def _place(self, spec: EncoderSpec, segment: str, placed: list[str]) -> None:
        """Move a finished segment to its feature, whose group is made first where it is new."""
        home = self.home(spec)
        placed.append(f"{home}/{segment}")
        self.lease.place(segment, placed[-1])
        durable.reached("segment-placed")
        self.medium.sync(home)
        durable.reached("segment-synced")

    def home(self, spec: EncoderSpec) -> str:
        """Return the folder of a feature, which is made where it is new."""
        home = f"{ROOT}/{spec.key}"
        if spec.key not in self._homes:
            if not self.medium.exists(home):
                self._make_home(spec, home)
            self.medium.sync(ROOT)  # also when another writer made it: has it come to syncing yet?
            durable.reached("feature-synced")
            self._homes.add(spec.key)
        return home

    def _make_home(self, spec: EncoderSpec, home: str) -> None:
        """Make a feature's group, whole or not at all."""
        scratch = self.lease.scratch
        scratch.discard(spec.key)
        document = scratch.output(f"{spec.key}/zarr.json")
        document.write(group_document(group_attributes(spec)))
        document.finish()
        scratch.sync(spec.key)
        durable.reached("feature-built")
        try:
            self.lease.place(spec.key, home)
        except OSError:  # ENOTEMPTY or EEXIST, as the system likes: another writer was faster, with the same content
            if not self.medium.exists(f"{home}/zarr.json"):
                raise
        durable.reached("feature-placed")

    def publish(self, store: Reader, body: Callable[[], list[Line]], **header: Any) -> int:
        """Publish under the next free number and return it.

        Args:
            store: Sees the commit afterwards.
            body: Called for each try. Where another writer's commit took the number, all that appeared is replayed
                before the next one.
            header: Further fields of the header line.
        """
        while True:
            number = store.index.number + 1
            head = {"number": number, "store": store.id, "writer": self.lease.name} | header
            lines, self._trying = body(), journal.name_of(number)
            if journal.publish(self.medium, head, lines, self.lease.name, store.index.trailer):
                store.refresh(published=number)
                return number
            store.refresh()

    def close(self) -> None:
        """Remove what is left in the scratch, and end the lease."""
        self.lease.close()


class OpenSegment:
    """A segment that is being written, and what the journal will say of it."""

    def __init__(self, lease: Lease, number: int, spec: EncoderSpec, dtype: str) -> None:
        self.spec, self.name, self.dtype = spec, f"{lease.name}-{number}", dtype
        self.writer = SegmentWriter(lease.scratch, self.name, spec.dim, dtype, spec.rows)
        self.columns: dict[str, list[Any]] = {"media": [], "rows": [], "t0": [], "hop": [], "crc": []}

    def append(self, media: MediaId, rows: Array, t0_s: float, hop_s: float | None) -> None:
        """Writes one record."""
        record = (media, len(rows), t0_s, hop_s, self.writer.append(rows))
        for column, value in zip(self.columns.values(), record, strict=True):
            column.append(value)

    def finish(self) -> Segment:
        """Brings it to the disk."""
        size_bytes = self.writer.finish()
        return Segment(self.name, self.spec.fingerprint, self.dtype, self.spec.dim, self.writer.rows, size_bytes)


class Writer:
    """Adds features, clips and failures to a store; made by `Store.writer`, used by one thread.

    Leaving it as a context commits; leaving it through an exception gives up what is not committed yet. When the disk
    refuses a write, the features since the last commit are given up (clips and failures are kept), and the writer can
    go on when there is space again.

    Args:
        store: Where to.
        commit_every: Media after which `add` commits by itself.
        commit_every_s: Seconds after which `add` commits by itself.
        environment: Device, dtype, batch: recorded with each commit, no part of a feature's identity.
    """

    def __init__(
        self, store: Reader, commit_every: int, commit_every_s: float, environment: dict[str, Any] | None = None
    ) -> None:
        self.store, self.environment = store, environment or {}
        self.commit_every, self.commit_every_s = commit_every, commit_every_s
        self._clips: dict[str, tuple[str, str | None, int, int]] = {}
        self._failed: dict[tuple[str, str], Failed] = {}
        self._failed_specs: dict[str, EncoderSpec] = {}
        self._segments: dict[tuple[str, int], OpenSegment] = {}  # by fingerprint and width of a value
        self._media: set[MediaId] = set()  # with uncommitted features or failures
        self._before: set[MediaId] = set()  # those of the last commit; what else comes of them does not hasten the next
        self._new: set[MediaId] = set()
        self._made = 0
        self._committed_at = time.monotonic()
        store.refresh()
        with durable.writing(store.path):
            self._commit: Commit | None = Commit(store.medium)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def clip(self, clip_id: str, file: FileId | MediaId, path: Address | None = None) -> bool:
        """Says which content a clip id means; the file's size and time are remembered, so that it is not hashed again.

        Args:
            clip_id: Name of the clip.
            file: What was read; a bare media id for content without a file, or of a file that is looked at now.
            path: Where the file lies.

        Returns:
            Whether that is news.

        Raises:
            StoreError: The id already names other content at another path, or the file is gone.
        """
        self._open()
        if isinstance(file, str):
            file = FileId(file, -1, -1) if path is None else _look(clip_id, file, path)
        row = (file.media, None if path is None else absolute(path), file.size_bytes, file.mtime_ns)
        before = self._clips.get(clip_id) or self.store.clip_row(clip_id)
        if before is not None:
            _refuse_other_file(clip_id, before, row)
        if before != row:
            self._clips[clip_id] = row
        return before != row

    def name_clip(self, clip_id: str) -> MediaId:
        """The media of a clip of which only the id is known: what the id means already, else a stand-in for it.

        A stand-in gives way to the content when that comes; imported features kept under it are found by the id.
        """
        self._open()
        row = self._clips.get(clip_id) or self.store.clip_row(clip_id)
        if row is None:
            row = self._clips[clip_id] = (NO_MEDIA + clip_id, None, -1, -1)
        return row[0]

    def add(
        self, spec: EncoderSpec, media: MediaId, array: Array, t0_s: float = 0.0, hop_s: float | None = None
    ) -> None:
        """Adds the feature `(T, D)` of one medium; commits by itself every so many media or seconds.

        `utt` is kept as float32; `frame` and `tokens` as float16 where all values stay finite, else as float32. Their
        recipe can say otherwise by `stored_dtype`: always `float32`; or `source`, float16 only where it came as that.

        Raises:
            StoreError: Wrong shape, a value that is not finite, or the disk refuses.
            StoreFull: No space.
        """
        self._append(spec, media, storable(spec, array, media), t0_s, hop_s)

    def add_record(self, spec: EncoderSpec, media: MediaId, value: Any) -> None:
        """Add a JSON value of one medium, see `records.record_spec`; commits by itself as `add` does.

        Raises:
            StoreError: The spec is no record's, the value is no JSON, or the disk refuses.
            StoreFull: No space.
        """
        self._append(spec, media, encode(spec, media, value), 0.0, None)

    def _append(self, spec: EncoderSpec, media: MediaId, rows: Array, t0_s: float, hop_s: float | None) -> None:
        commit = self._open()
        with self._giving_up_on_error():
            key = (spec.fingerprint, rows.dtype.itemsize)
            segment = self._segments.get(key)
            if segment is None:
                self._made += 1
                segment = OpenSegment(commit.lease, self._made, spec, rows.dtype.name)
                self._segments[key] = segment
            segment.append(media, rows, float(t0_s), None if hop_s is None else float(hop_s))
        self._note(media)

    def fail(self, spec: EncoderSpec, media_or_clip: str, error: MediaError) -> None:
        """Records that a feature cannot be had, and whether trying again can help.

        Args:
            spec: The feature.
            media_or_clip: Media id, or a clip id: of a clip named by `clip`, or of one without a file to hash.
            error: Why.
        """
        self._open()
        row = self._clips.get(media_or_clip) or self.store.clip_row(media_or_clip)
        clip: str | None
        if row is not None:
            media, clip = row[0], media_or_clip
        elif _is_media(media_or_clip):
            media, clip = media_or_clip, self._clip_of(media_or_clip)
        else:
            media, clip = NO_MEDIA + media_or_clip, media_or_clip
        self._failed[spec.fingerprint, media] = Failed(clip, error.kind, str(error), error.retry)
        self._failed_specs[spec.fingerprint] = spec
        self._note(media)

    def commit(self) -> None:
        """Makes all that was added durable and visible, at once or not at all. Does nothing when nothing was added.

        Raises:
            StoreFull: No space.
            StoreError: The disk refuses, or another writer gave one of the clip ids another file.
        """
        commit = self._open()
        self._committed_at = time.monotonic()
        if not (self._segments or self._failed or self._clips):
            return
        with self._giving_up_on_error():
            finished = [(each, each.finish()) for each in self._segments.values()]
            specs = {each.spec.fingerprint: each.spec for each, _ in finished} | self._failed_specs
            lines = [features_line(specs.values())] if specs else []
            lines += [segment_line(segment, each.columns) for each, segment in finished]
            if self._failed:
                lines.append(failed_line((*key, why) for key, why in self._failed.items()))
            with commit.placing() as place:
                for each, segment in finished:
                    place(each.spec, segment.name)
                commit.publish(self.store, lambda: self._clip_lines() + lines, environment=self.environment)
        self._clips.clear()
        self._failed.clear()
        self._failed_specs.clear()
        self._segments.clear()
        self._media, self._before, self._new = set(), self._media, set()

    def commit_if_due(self) -> None:
        """Commits what `commit_every` media or `commit_every_s` seconds brought together; for callers that wait."""
        late = time.monotonic() - self._committed_at >= self.commit_every_s
        if late or len(self._new) >= self.commit_every:
            self.commit()

    def close(self) -> None:
        """Commits and ends the writer."""
        if self._commit is None:
            return
        try:
            self.commit()
            snapshot.keep(self.store.medium, self.store.id, self.store.index)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Ends the writer without committing what was added since the last commit."""
        if self._commit is not None:
            self._give_up()
            self._commit.close()
            self._commit = None

    def _open(self) -> Commit:
        if self._commit is None:
            raise StoreError(f"This writer of {self.store.path} is closed.", "Make a new one with Store.writer().")
        return self._commit

    def _note(self, media: MediaId) -> None:
        self._media.add(media)
        if media not in self._before:
            self._new.add(media)
        self.commit_if_due()

    def _clip_lines(self) -> list[Line]:
        clips = {}
        for clip_id, row in self._clips.items():
            before = self.store.clip_row(clip_id)
            if before is not None and row[0].startswith(NO_MEDIA):
                continue  # a stand-in replaces nothing that is known
            if before is not None:
                _refuse_other_file(clip_id, before, row)
            clips[clip_id] = row
        return [clips_line(clips)] if clips else []

    def _clip_of(self, media: MediaId) -> str | None:
        pending = next((clip for clip, row in self._clips.items() if row[0] == media), None)
        return pending or self.store.clip_of(media)

    @contextmanager
    def _giving_up_on_error(self) -> Iterator[None]:
        try:
            with durable.writing(self.store.path):
                yield
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        for segment in self._segments.values():
            segment.writer.discard()
        self._segments.clear()
        self._media.clear()
        self._new.clear()


def storable(spec: EncoderSpec, array: Array, media: str) -> Array:
    """The feature as it is stored: float16 or float32, checked.

    Raises:
        StoreError: Its shape is not the spec's, or a value is not finite.
    """
    array = np.asarray(array)
    rows = "T" if spec.rows is None else spec.rows
    fits = array.ndim == 2 and array.shape[1] == spec.dim and len(array) == (spec.rows or max(1, len(array)))
    if spec.level == RECORD_LEVEL:
        raise StoreError(f"{spec.key} is a kind of records, not a feature.", "Use add_record.")
    if not fits or array.dtype.kind != "f":
        raise StoreError(f"{spec.key} of {media} is {array.dtype} {array.shape}, not float ({rows}, {spec.dim}).")
    with np.errstate(over="ignore"):
        kept = spec.recipe.get("stored_dtype")
        if spec.level != "utt" and kept != "float32" and (kept != "source" or array.dtype == np.float16):
            half = array.astype(np.float16, copy=False)
            if _finite(half):
                return half
        single = array.astype(np.float32, copy=False)
    if not np.isfinite(single).all():
        raise StoreError(f"{spec.key} of {media} has values that are not finite.", "Record a failure instead.")
    return single


def _finite(half: Array) -> bool:
    """Say whether all float16 values are finite, by their bits: `np.isfinite` takes fifty times as long on halves."""
    bits = half.view("i2")  # exponent all ones, as in infinity and NaN: 0x7c00 and more behind the sign
    return bool(bits.max(initial=0) < 0x7C00 and bits.view("u2").max(initial=0) < 0xFC00)


def _look(clip_id: str, media: MediaId, path: Address) -> FileId:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise StoreError(f"The file of clip {clip_id} cannot be read: {error}.") from error
    return FileId(media, stat.st_size, stat.st_mtime_ns)


def _refuse_other_file(clip_id: str, before: tuple[Any, ...], now: tuple[Any, ...]) -> None:
    if before[0] != now[0] and before[1] != now[1] and not before[0].startswith(NO_MEDIA):
        places = f"{before[1] or 'content without a file'}, not {now[1] or 'content without a file'}"
        raise StoreError(f"Clip id {clip_id} already names another file: {places}.", "Use one store per dataset.")


def _is_media(text: str) -> bool:
    return len(text) == 32 and set(text) <= set("0123456789abcdef")
