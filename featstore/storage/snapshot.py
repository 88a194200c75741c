"""The replayed journal as one file, so that a large store is opened without replaying all of it.

It is a cache and never the truth. A snapshot is used where its own checksum holds and the commit it was taken at is
still the one in the journal, byte for byte by its trailer; otherwise the journal is replayed as if there were none.
`verify` and `repair` never look at it. Layout of `snapshot/index.bin`: a line of JSON (what is in `_plain`, and name,
dtype and length of each array), the arrays one after another (names are JSON again, as bytes), and the CRC-32C of all
before it in four bytes.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, astuple
from typing import Any

import numpy as np

from emo.featstore.clip import many_objects
from emo.featstore.errors import StoreError
from emo.featstore.reading import parse_own
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage import durable, journal
from emo.featstore.storage.index import NONSENSE, RECORD, Array, Failed, Index, Segment, Table
from emo.featstore.storage.medium import Medium

FOLDER = "snapshot"
NAME = f"{FOLDER}/index.bin"
FORMAT = 2
LEAST_ROWS = 10_000  # replayed faster than a snapshot is worth
SHARE = 8  # a new snapshot is made when what must be replayed is a share of 1 / SHARE of everything
_CRC_BYTES = 4
_NAMES = ("media", "clips", "paths")


def keep(medium: Medium, store: str, index: Index) -> None:
    """Write a snapshot where replaying what came since the last one takes long; a disk that refuses changes nothing."""
    rows = index.clip_count + sum(table.count for table in index.tables.values())
    if index.replayed < LEAST_ROWS or index.replayed * SHARE < rows:
        return
    with suppress(OSError, StoreError):
        medium.put(NAME, encode(index, store, journal.trailer(medium, index.number)))
        index.replayed = 0


@many_objects()
def load(medium: Medium, store: str) -> Index:
    """Return the state that the snapshot holds; an empty one where there is none to rely on."""
    with suppress(OSError, StoreError, *NONSENSE):
        data = medium.get(NAME)
        head, index = decode(data)
        if head["store"] == store and head["trailer"] == journal.trailer(medium, index.number):
            return index
    return Index()


def encode(index: Index, store: str, trailer: str) -> bytes:
    """Return the bytes of a snapshot.

    Args:
        index: The state.
        store: Id of the store.
        trailer: Of the commit it was taken at, see `journal.trailer`.
    """
    arrays = _arrays(index)
    shapes = [(name, array.dtype.descr if array.dtype.names else array.dtype.str, len(array)) for name, array in arrays]
    head = {"format": FORMAT, "store": store, "trailer": trailer, "arrays": shapes, **_plain(index)}
    parts = [json.dumps(head, separators=(",", ":")).encode() + b"\n", *(array.tobytes() for _, array in arrays)]
    data = b"".join(parts)
    return data + durable.crc32c(data).to_bytes(_CRC_BYTES, "little")


def decode(data: bytes) -> tuple[dict[str, Any], Index]:
    """Return the head of a snapshot and the state in it.

    Raises:
        ValueError: The bytes are not those that were written, or of another format; or another of `NONSENSE`.
    """
    size = len(data) - _CRC_BYTES
    if size <= 0 or durable.crc32c(np.frombuffer(data, "u1", size)).to_bytes(_CRC_BYTES, "little") != data[size:]:
        raise ValueError("the checksum of the snapshot does not fit")
    end = data.index(b"\n") + 1
    head = parse_own(data[:end], NAME)  # a UsageError is a ValueError
    if head["format"] != FORMAT:
        raise ValueError(f"format {head['format']}")
    arrays = {}
    for name, dtype, length in head["arrays"]:
        kind = np.dtype([(field, code) for field, code in dtype] if isinstance(dtype, list) else dtype)
        arrays[name] = np.frombuffer(data, kind, length, end)
        end += length * kind.itemsize
    return head, _state(head, arrays)


def _plain(index: Index) -> dict[str, Any]:
    """Everything that is no column of numbers, as JSON."""
    tables = [
        {"spec": asdict(table.spec), "failed": [(media, *astuple(why)) for media, why in table.failed.items()]}
        for table in index.tables.values()
    ]
    return {
        "number": index.number,
        "base": index.base,
        "time": index.time,
        "tables": tables,
        "segments": [astuple(segment) for segment in index.segments],
        "environments": index.environments,
    }


def _arrays(index: Index) -> list[tuple[str, Array]]:
    names = zip(_NAMES, (index.media_names, index.clip_names, index.paths), strict=True)
    arrays = [(name, np.frombuffer(json.dumps(each, separators=(",", ":")).encode(), "u1")) for name, each in names]
    columns = [("clip_media", index.clip_media), ("sizes", index.sizes), ("mtimes_ns", index.mtimes_ns)]
    arrays += [(name, column[: index.clip_count]) for name, column in columns]
    arrays.append(("media_clip", index.media_clip))
    for number, table in enumerate(index.tables.values()):
        arrays += [(f"records.{number}", table.records), (f"latest.{number}", table.of_media)]
    return arrays


def _state(head: dict[str, Any], arrays: dict[str, Array]) -> Index:
    index = Index({name: arrays[name] for name in _NAMES}, len(arrays["clip_media"]))
    index.number, index.base, index.time = head["number"], head["base"], head["time"]
    index.trailer = head["trailer"]
    columns = ("clip_media", "sizes", "mtimes_ns", "media_clip")  # commits that follow are written into them
    index.clip_media, index.sizes, index.mtimes_ns, index.media_clip = (arrays[name].copy() for name in columns)
    for number, each in enumerate(head["tables"]):
        table = Table(EncoderSpec(**each["spec"]))
        table.restore(arrays[f"records.{number}"].astype(RECORD, copy=False), arrays[f"latest.{number}"].copy())
        table.failed = {media: Failed(*why) for media, *why in each["failed"]}
        index.tables[table.spec.fingerprint] = table
    index.segments = [Segment(*each) for each in head["segments"]]
    index.environments = head["environments"]
    return index
