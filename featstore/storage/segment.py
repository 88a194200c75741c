"""One immutable Zarr v3 segment: a matrix of rows, one writer, never edited.

`c/0/0` is one shard: the row matrix, then the shard's index (offset and length of every inner chunk) and its CRC-32C.
All inner chunks are present, uncompressed and in order, so the file can be mapped; the last one is padded with zeros.
Plain zarr reads the same numbers. Anything that is not laid out so (compressed, rechunked by other tools) is read
through zarr, checked by the same record checksums.
"""

from __future__ import annotations

import json
import resource
import threading
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np

from emo.featstore.errors import EmoError, StoreCorrupt, StoreError, UsageError
from emo.featstore.reading import parse_own
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage import checksums, durable
from emo.featstore.storage.index import Array, Segment
from emo.featstore.storage.medium import Bytes, Local, Medium

ROOT = "features.zarr"
DATA = "c/0/0"  # of a segment: its one shard
CHUNK_ROWS = 1024  # of an inner chunk, where records are single rows or of varying length
CHUNK_BYTES = 1 << 16  # the same, of records
AT_ONCE_BYTES = 1 << 26  # that `check` holds in memory
HINT = "Run `emo store verify`: it lists what is lost; with --repair those clips can be extracted again."


class SegmentGone(StoreCorrupt):
    """The journal names a segment that is not there; it may have been merged by `compact` meanwhile."""


def group_document(attributes: dict[str, Any]) -> bytes:
    """A Zarr v3 group's `zarr.json`."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(document, indent=2).encode()


def group_attributes(spec: EncoderSpec) -> dict[str, Any]:
    """Attributes of a feature's group: the whole recipe."""
    return {"fingerprint": spec.fingerprint, "spec": asdict(spec)}


def array_document(rows: int, dim: int, dtype: str, chunk_rows: int) -> dict[str, Any]:
    """A segment's `zarr.json`: one uncompressed shard over all rows."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": [chunk_rows, dim],
        "codecs": [little],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    shard_rows = -(-rows // chunk_rows) * chunk_rows
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, dim],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_rows, dim]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0 if dtype == "uint8" else 0.0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "storage_transformers": [],
    }


@lru_cache(maxsize=64)
def shard_index(rows: int, dim: int, dtype: str, chunk_rows: int) -> bytes:
    """Offsets and lengths of the inner chunks, and their checksum."""
    length = chunk_rows * dim * np.dtype(dtype).itemsize
    entries = np.empty((-(-rows // chunk_rows), 2), "<u8")
    entries[:, 0] = np.arange(len(entries)) * length
    entries[:, 1] = length
    data = entries.tobytes()
    return data + durable.crc32c(data).to_bytes(4, "little")


class SegmentWriter:
    """Streams records into a new segment folder.

    Args:
        scratch: Where.
        name: Of the folder, which does not exist yet.
        dim: Columns.
        dtype: `float16`, `float32`, or `uint8` of records.
        record_rows: Rows of every record where fixed; such a record becomes one inner chunk.
    """

    def __init__(self, scratch: Local, name: str, dim: int, dtype: str, record_rows: int | None) -> None:
        self.scratch, self.name = scratch, name
        self.dim, self.dtype, self.record_rows = dim, dtype, record_rows
        self.rows = 0
        self.row_bytes = dim * np.dtype(dtype).itemsize
        self._data = scratch.output(f"{name}/{DATA}")
        durable.reached("segment-opened")

    def append(self, rows: Array) -> int:
        """Writes one record `(T, D)` of the segment's dtype and returns the CRC-32C of its stored bytes."""
        stored = np.ascontiguousarray(rows, np.dtype(self.dtype).newbyteorder("<"))
        self._data.write(stored.data)
        self.rows += len(stored)
        durable.reached("record-written")
        return durable.crc32c(stored)

    def finish(self) -> int:
        """Brings the segment to the disk and returns the size of its data file in bytes."""
        fixed = self.record_rows or 1
        most = CHUNK_BYTES if self.dtype == "uint8" else CHUNK_ROWS
        chunk_rows = fixed if fixed > 1 else min(self.rows, most)
        padding = -self.rows % chunk_rows
        self._data.write(bytes(padding * self.row_bytes))
        self._data.write(shard_index(self.rows, self.dim, self.dtype, chunk_rows))
        durable.reached("segment-index-written")
        size_bytes = self._data.finish()
        durable.reached("segment-data-synced")
        document = self.scratch.output(f"{self.name}/zarr.json")
        document.write(json.dumps(array_document(self.rows, self.dim, self.dtype, chunk_rows), indent=2).encode())
        document.finish()
        durable.reached("segment-document-synced")
        for folder in ("/c/0", "/c", ""):
            self.scratch.sync(self.name + folder)
        durable.reached("segment-folders-synced")
        return size_bytes

    def close(self) -> None:
        """Close the data file, finished or not."""
        self._data.close()

    def discard(self) -> None:
        """Close the data file and remove the folder."""
        self.close()
        self.scratch.discard(self.name)


class Readers:
    """Readers that are kept for the next question, the latest ones: each that maps holds a file open, and a process may
    hold few (1,024 on most systems).

    Args:
        medium: The store's.
    """

    def __init__(self, medium: Medium) -> None:
        self._medium, self._kept, self._lock = medium, dict[str, SegmentReader](), threading.Lock()
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = 4096 if most == resource.RLIM_INFINITY else min(max(16, most // 4), 4096)

    def get(self, key: str, segment: Segment) -> SegmentReader:
        """The reader of a segment of the feature with this key."""
        reader = self._kept.get(segment.name) or self._open(key, segment)
        with self._lock:
            self._kept.pop(segment.name, None)
            self._kept[segment.name] = reader  # now the latest
            if len(self._kept) > self._most:
                del self._kept[next(iter(self._kept))]
        return reader

    def once(self, key: str, segment: Segment) -> SegmentReader:
        """The same for a caller who reads the whole segment and does not come back."""
        return self._kept.get(segment.name) or self._open(key, segment)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

    def _open(self, key: str, segment: Segment) -> SegmentReader:
        return SegmentReader(self._medium, f"{ROOT}/{key}/{segment.name}", segment)


class _FarRows:
    """Rows of bytes that are not in memory: each slice is read when it is asked for."""

    def __init__(self, data: Bytes, dtype: np.dtype[Any], dim: int) -> None:
        self._data, self._dtype, self._dim = data, dtype, dim

    def __getitem__(self, part: slice) -> Array:
        width = self._dim * self._dtype.itemsize
        return self._data[part.start * width : part.stop * width].view(self._dtype).reshape(-1, self._dim)


class SegmentReader:
    """Rows of a committed segment, checked.

    The checksum of a mapped record is computed when this reader first hands it out: from then on the system's page
    cache is trusted as memory is. Rows that come from a bucket or through zarr are checked every time. What is mapped
    must not be truncated by others while it is read: the system ends a process that touches what is gone.

    Args:
        medium: Where it lies.
        name: The segment's folder.
        segment: What the journal says of it.
        fresh: Read the segment itself, and no copy of it that is nearer.

    Attributes:
        plain: Whether the rows are read as they lie there, and not through zarr.
        mapped: Whether the file that they lie in is mapped.

    Raises:
        SegmentGone: There is no such segment.
        StoreCorrupt: It is not what the journal says.
    """

    def __init__(self, medium: Medium, name: str, segment: Segment, fresh: bool = False) -> None:
        self.medium, self.name, self.segment, self._fresh = medium, name, segment, fresh
        try:
            document = medium.get(f"{name}/zarr.json")
            chunk_rows = _plain_chunk_rows(document, segment.rows, segment.dim, segment.dtype)
            self.plain = chunk_rows is not None
            self._rows = self._zarr() if chunk_rows is None else self._map(chunk_rows)
            self.mapped = isinstance(self._rows, np.ndarray)
            self._checked = np.zeros(segment.rows if self.mapped else 0, bool)  # by a record's first row
        except FileNotFoundError as error:
            raise self._gone() from error
        except (ValueError, UsageError) as error:
            raise self._corrupt(f"its zarr.json is not readable ({error})") from error

    def record(self, start: int, rows: int, crc: int) -> Array:
        """One record `(T, D)`, read-only and in the stored dtype.

        Raises:
            StoreCorrupt: Its bytes are not the committed ones.
        """
        found = self._read(start, rows)
        if self.mapped and start < len(self._checked) and self._checked[start]:
            return found
        if found.shape != (rows, self.segment.dim) or durable.crc32c(found) != crc:
            if self._far():
                return self._again().record(start, rows, crc)
            raise self._corrupt(f"the checksum of rows {start} to {start + rows} does not fit")
        if self.mapped:
            self._checked[start] = True
        return found

    def rows(self, records: Array) -> Array:
        """All given one-row records at once `(N, D)`, each checked.

        Raises:
            StoreCorrupt: The bytes of one of them are not the committed ones.
        """
        whole, start = self._read(0, self.segment.rows), records["start"]
        if (bad := checksums.differing(whole, records)).any():
            if self._far():
                return self._again().rows(records)
            raise self._corrupt(f"the checksum of row {start[bad][0]} does not fit")
        together = (np.diff(start) == 1).all()
        found: Array = whole[start[0] : start[0] + len(start)] if together else whole[start]
        return found

    def check(self, records: Array) -> Array:
        """Say which of the records (an array of `RECORD`, in order of `start`) lack the committed bytes: bool each."""
        bad = np.zeros(len(records), bool)
        if self.plain:
            end = records["start"] + records["rows"]
            most = max(1, AT_ONCE_BYTES // (self.segment.dim * np.dtype(self.segment.dtype).itemsize))
            first = 0
            while first < len(records):
                last = max(first + 1, int(np.searchsorted(end, records["start"][first] + most, "right")))
                some = records[first:last].copy()
                begin = int(some["start"][0])
                rows = self._read(begin, int(end[first:last].max()) - begin)
                some["start"] -= begin
                bad[first:last] = checksums.differing(rows, some)
                first = last
            return bad
        for i, each in enumerate(zip(*(records[name].tolist() for name in ("start", "rows", "crc")), strict=True)):
            try:
                self.record(*each)
            except StoreCorrupt:
                bad[i] = True
        return bad

    def _far(self) -> bool:
        """Say whether the rows may have come from a copy that is nearer than the segment."""
        return self.plain and not self.mapped and not self._fresh

    def _again(self) -> SegmentReader:
        return SegmentReader(self.medium, self.name, self.segment, fresh=True)

    def _read(self, start: int, rows: int) -> Array:
        try:
            return np.ascontiguousarray(self._rows[start : start + rows])
        except EmoError:
            raise
        except Exception as error:  # zarr raises all kinds of things when a chunk is damaged
            raise self._corrupt(f"rows {start} to {start + rows} cannot be decoded ({error})") from error

    def _map(self, chunk_rows: int) -> Any:
        segment = self.segment
        index = shard_index(segment.rows, segment.dim, segment.dtype, chunk_rows)
        data = self.medium.map(f"{self.name}/{DATA}", self._fresh)
        if len(data) != segment.size_bytes:
            raise self._corrupt(f"its data file has {len(data)} bytes, not {segment.size_bytes}")
        if data[-len(index) :].tobytes() != index:
            raise self._corrupt("its shard index is damaged")
        dtype = np.dtype(segment.dtype).newbyteorder("<")
        if not isinstance(data, np.ndarray):
            return _FarRows(data, dtype, segment.dim)
        length = segment.rows * segment.dim * dtype.itemsize
        return data[:length].view(dtype).reshape(segment.rows, segment.dim)

    def _zarr(self) -> Any:
        try:
            array = self.medium.open_zarr(self.name)
        except StoreError:
            raise
        except Exception as error:  # zarr raises all kinds of things on damaged metadata
            raise self._corrupt(f"zarr cannot open it ({error})") from error
        segment = self.segment
        if array.shape != (segment.rows, segment.dim) or array.dtype != np.dtype(segment.dtype):
            raise self._corrupt(
                f"it holds {array.dtype} {array.shape}, not {segment.dtype} {segment.rows, segment.dim}"
            )
        return array

    def _corrupt(self, what: str) -> StoreCorrupt:
        if not self.medium.exists(self.name):
            return self._gone()
        return StoreCorrupt(f"Segment {self.medium.where(self.name)} is damaged: {what}.", HINT)

    def _gone(self) -> SegmentGone:
        return SegmentGone(f"Segment {self.medium.where(self.name)} is missing.", HINT)


@lru_cache(maxsize=64)  # segments of one feature and size have the same document
def _plain_chunk_rows(data: bytes, rows: int, dim: int, dtype: str) -> int | None:
    """Rows of an inner chunk when the array is laid out as `SegmentWriter` does; `None` for any other layout."""
    document = parse_own(data, "zarr.json")
    try:
        chunk_rows = int(document["codecs"][0]["configuration"]["chunk_shape"][0])
        found = {key: value for key, value in document.items() if key != "attributes"}
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None
    plain = chunk_rows > 0 and found == array_document(rows, dim, dtype, chunk_rows)
    return chunk_rows if plain else None
