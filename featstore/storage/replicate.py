"""Copy of a store on another medium: commit by commit, each after its segments, so that it can be stopped at any time.

The copy is the same store: its id, its commits and its segments, byte for byte. What is there already is not copied
again, so that the same command brings a copy up to date.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emo.featstore.address import Address, address
from emo.featstore.errors import StoreCorrupt, StoreError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage import durable, journal
from emo.featstore.storage.index import Array, Segment, Table, by_segment
from emo.featstore.storage.mediums import open_medium
from emo.featstore.storage.reader import META, Reader
from emo.featstore.storage.segment import DATA, ROOT, SegmentGone, SegmentReader, group_document
from emo.featstore.storage.writer import Commit
from emo.featstore.text import counted

PIECE_BYTES = 1 << 24
TRIES = 3


@dataclass(frozen=True)
class CopyReport:
    """Result of `replicate`: commits and segments that were copied, and the bytes of these segments."""

    source: str
    target: str
    commits: int
    segments: int
    size_bytes: int


@dataclass(frozen=True)
class _Part:
    """A segment of the source, with its feature and its records (an array of `RECORD`)."""

    spec: EncoderSpec
    segment: Segment
    records: Array

    @property
    def name(self) -> str:
        return f"{ROOT}/{self.spec.key}/{self.segment.name}"


def replicate(source: Reader, place: str | Address, say: Callable[[str], None] = lambda text: None) -> CopyReport:
    """Copy all commits that are not there yet, each record checked as it lies in the copy.

    Args:
        source: The store. Others may write to it meanwhile.
        place: Path or URL of the copy. Nobody else may clean it up meanwhile.
        say: Told of progress.

    Raises:
        StoreError: The copy is another store, or has commits of its own; or a medium refuses.
        StoreCorrupt: A record of the source is damaged.
    """
    place = address(place)
    with durable.writing(place):
        medium = open_medium(place)
        if not medium.exists(META):
            files = {f"{ROOT}/zarr.json": group_document({}), META: source.medium.get(META)}
            medium.create((journal.FOLDER, ROOT, "writers"), files)
        copy = _Copy(source, Reader.open(place), say)
        try:
            for attempt in range(TRIES):
                try:
                    copy.run()
                    break
                except (SegmentGone, FileNotFoundError):  # of the source: merged by `compact` meanwhile
                    if attempt == TRIES - 1:
                        raise
        finally:
            copy.commit.close()
    return CopyReport(str(source.path), str(place), copy.commits, copy.segments, copy.size_bytes)


class _Copy:
    def __init__(self, source: Reader, target: Reader, say: Callable[[str], None]) -> None:
        if target.id != source.id:
            raise StoreError(f"{target.path} is another store than {source.path}.", "Copy to a new path.")
        self.source, self.target, self.say = source, target, say
        self.commit = Commit(target.medium)
        self.commits = self.segments = self.size_bytes = 0

    def run(self) -> None:
        """Copy what is lacking."""
        source, target = self.source, self.target
        source.refresh()
        target.refresh()
        index = source.index
        self._check_history()
        parts = {
            index.segments[number].name: _Part(table.spec, index.segments[number], table.records[records])
            for table in index.tables.values()
            for number, records in by_segment(table.records, np.arange(table.count))
        }
        for number in range(max(index.base, target.index.number + 1, 1), index.number + 1):
            body = journal.read(source.medium, number, source.id).body
            mine = [parts[line["segment"]] for line in body if "segment" in line]
            self._publish(number, mine)
            self.commits += 1
            self.say(f"commit {number:,} of {index.number:,}; {counted(self.segments, 'segment')} copied")

    def _check_history(self) -> None:
        """Refuse a copy that has commits which the source does not have, as far as that can be known."""
        source, target = self.source.index, self.target.index
        if target.number == 0:
            return
        try:
            same = target.number <= source.number
            same = same and journal.trailer(self.source.medium, target.number) == target.trailer
        except FileNotFoundError:
            if target.number >= source.base:  # removed below a newer base: look again
                raise
            # `gc` removed that commit of the source, so what the copy holds is all that tells
            if not (own := self._own()):
                return
            text = (
                f"{self.target.path} holds {counted(own, 'feature')} of clips that {self.source.path} does not hold: "
                "it was written to, or they were dropped or forgotten there since."
            )
            raise StoreError(text, "Copy to a new path.") from None
        if not same:
            text = f"{self.target.path} has commits of its own, which {self.source.path} does not have."
            raise StoreError(text, "Copy to a new path, or copy the other way round.")

    def _own(self) -> int:
        """Return how many features of clips the copy holds, of media and recipe that the source has nothing of."""
        source, target, own = self.source.index, self.target.index, 0
        for fingerprint, table in target.tables.items():
            media = [target.media_names[each] for each in table.records["media"][table.live()].tolist()]
            there = source.tables.get(fingerprint) or Table(table.spec)
            own += int((there.latest(np.array([source.media.get(each, -1) for each in media], "i8")) < 0).sum())
        return own

    def _publish(self, number: int, parts: list[_Part]) -> None:
        with self.commit.placing() as place:
            for spec in {part.spec.key: part.spec for part in parts}.values():
                self.commit.home(spec)
            medium = self.target.medium
            for size_bytes in medium.in_parallel(lambda part: self._bring(part, place), parts):
                self.segments += size_bytes > 0
                self.size_bytes += size_bytes
            name = journal.name_of(number)
            data = self.source.medium.get(name)
            if not medium.put_new(name, data, self.commit.lease.name) and medium.get(name) != data:
                raise StoreError(f"Somebody else writes to {self.target.path}.", "Copy to a path of its own.")

    def _bring(self, part: _Part, place: Callable[[EncoderSpec, str], None]) -> int:
        """Copy one segment unless it is there and whole; returns the bytes that were copied."""
        medium, there = self.target.medium, 0
        for _ in range(TRIES):
            if medium.exists(f"{part.name}/zarr.json"):
                try:
                    if not SegmentReader(medium, part.name, part.segment, fresh=True).check(part.records).any():
                        return there
                except StoreCorrupt:
                    pass
                medium.remove(part.name)
            self._build(part)
            place(part.spec, part.segment.name)
            there = part.segment.size_bytes
        text = f"{medium.where(part.name)} does not hold what was written, {TRIES} times over."
        raise StoreError(text, "Check the disk or the endpoint of the copy, then run the same command again.")

    def _build(self, part: _Part) -> None:
        """Copy a segment of the source into the scratch folder, and check its records."""
        medium, scratch, name = self.source.medium, self.commit.lease.scratch, part.segment.name
        reader = SegmentReader(medium, part.name, part.segment, fresh=True)
        if not reader.plain:
            text = f"{medium.where(part.name)} was rewritten by another tool."
            raise StoreError(text, "Run `emo store compact`, which makes an own segment of it, then copy again.")
        if reader.check(part.records).any():
            raise StoreCorrupt(f"{medium.where(part.name)} is damaged.", "Run `emo store verify`.")
        scratch.discard(name)
        data, out = medium.map(f"{part.name}/{DATA}", fresh=True), scratch.output(f"{name}/{DATA}")
        for start in range(0, len(data), PIECE_BYTES):
            out.write(data[start : start + PIECE_BYTES].data)
        out.finish()
        document = scratch.output(f"{name}/zarr.json")
        document.write(medium.get(f"{part.name}/zarr.json"))
        document.finish()
        for folder in ("/c/0", "/c", ""):
            scratch.sync(name + folder)
