"""The journal: one immutable file per commit, numbered without gaps. What it does not name does not exist.

A file is a header line, body lines (see `index.py`), and a last line with the CRC-32C of everything before it, so that
no byte of it can change unseen. After a header with `"base": true` comes everything that is live; older files are then
ignored. A commit is published by the exclusive create of the next number, see `Medium.put_new`.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from emo.featstore.errors import StoreCorrupt, StoreError, UsageError
from emo.featstore.reading import parse_own
from emo.featstore.storage import durable
from emo.featstore.storage.medium import Medium

SCHEMA = 2  # 2: records beside features
OLDEST = 1  # is read, and continued with commits of today's schema
FOLDER = "journal"
HINT = "Restore the file from a copy, or run `emo store verify --repair` and extract again what was lost."
_TRAILER = b'{"crc32c":"%08x"}\n'
_TRAILER_LENGTH = len(_TRAILER % 0)
_HEADER_BYTES = 1 << 12  # more than the header of any base has
_NAME = re.compile(r"(\d{8})\.jsonl")


@dataclass(frozen=True)
class Commit:
    """One journal file: its header, the lines of its body, each parsed when its turn comes, and its `trailer`."""

    header: dict[str, Any]
    body: Iterator[dict[str, Any]]
    trailer: str


def name_of(number: int) -> str:
    """Return the name of commit `number`."""
    return f"{FOLDER}/{number:08d}.jsonl"


def numbers(medium: Medium, after: int = 0) -> list[int]:
    """Return the numbers of the commits present that are higher than `after`, ascending.

    Raises:
        StoreCorrupt: There is no journal folder.
    """
    names = medium.list(FOLDER, name_of(after).rpartition("/")[2] if after else "")
    if not names and not medium.exists(FOLDER):
        raise StoreCorrupt(f"The journal {medium.where(FOLDER)} is gone.", "Restore the folder from a copy.")
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def _is_base(medium: Medium, number: int) -> bool:
    """Say whether the header says so; a damaged one says no here, and is found out when the file is read whole."""
    try:
        line = medium.get_range(name_of(number), 0, _HEADER_BYTES).partition(b"\n")[0]
        return b'"base"' in line and parse_own(line, name_of(number)).get("base") is True
    except (StoreCorrupt, UsageError, AttributeError):
        return False


def newest_base(medium: Medium, among: list[int]) -> int | None:
    """Return the highest of the given numbers that is a base."""
    bases = medium.in_parallel(lambda number: number if _is_base(medium, number) else None, reversed(among))
    return next((number for number in bases if number is not None), None)


def ahead(medium: Medium, after: int) -> list[int]:
    """Return the numbers to replay on top of commit `after`, ascending; where a base is among them, it comes first.

    Raises:
        StoreCorrupt: A number is missing.
        FileNotFoundError: A file went away meanwhile (`gc` after `compact`): call again.
    """
    for attempt in range(4):
        # A folder may be listed while files appear in it, newer before older: a gap counts only when it stays.
        time.sleep(0.02 * attempt)
        found = numbers(medium, after)
        base = newest_base(medium, found)
        first = base or after + 1
        found = [number for number in found if number >= first]
        if found == list(range(first, first + len(found))):
            return found
    missing = name_of(next(n for n in range(first, found[-1]) if n not in set(found)))
    raise StoreCorrupt(f"The journal file {medium.where(missing)} is missing.", HINT)


def read(medium: Medium, number: int, store: str) -> Commit:
    """Read and check one commit.

    Raises:
        StoreCorrupt: A byte is not the one that was written, or the file belongs elsewhere.
        StoreError: A newer emo wrote it.
        FileNotFoundError: It is not there (any more).
    """
    path = medium.where(name_of(number))
    data = medium.get(name_of(number))
    size = len(data) - _TRAILER_LENGTH
    if size <= 0 or data[size:] != _TRAILER % durable.crc32c(np.frombuffer(data, "u1", size)):
        raise StoreCorrupt(f"The journal file {path} is damaged: its checksum does not fit.", HINT)
    try:
        lines = _lines(data[:size], path)
        header = next(lines)
        check_schema(path, header.get("schema"))
        place = header.get("number"), header.get("store")
    except (ValueError, AttributeError) as error:
        raise StoreCorrupt(f"The journal file {path} is not readable: {error}.", HINT) from error
    if place != (number, store):
        raise StoreCorrupt(f"The journal file {path} belongs to another place or another store.", HINT)
    return Commit(header, lines, _trailer_text(len(data), data[size:]))


def trailer(medium: Medium, number: int) -> str:
    """Return the length and the checksum of a commit as its file states them, without reading the rest.

    Raises:
        FileNotFoundError: It is not there (any more).
    """
    data = medium.map(name_of(number), fresh=True)
    return _trailer_text(len(data), bytes(data[-_TRAILER_LENGTH:]))


def _trailer_text(size_bytes: int, last: bytes) -> str:
    return f"{size_bytes} {last.decode('latin-1').strip()}"


def _lines(data: bytes, path: str) -> Iterator[Any]:
    for line in io.BytesIO(data):
        try:
            yield parse_own(line, path)
        except UsageError as error:
            raise StoreCorrupt(f"The journal file {path} is not readable: {error.message}", HINT) from error


def check_schema(path: str, schema: Any) -> None:
    """Refuse what a newer emo wrote.

    Raises:
        StoreError: It did.
        ValueError: It is no schema.
    """
    if type(schema) is not int or schema < OLDEST:
        raise ValueError(f"schema {schema!r}")
    if schema > SCHEMA:
        text = f"{path} has schema {schema}; this emo reads {OLDEST} to {SCHEMA}."
        raise StoreError(text, "Install a newer emo.")


def encode(header: dict[str, Any], body: Iterable[dict[str, Any]]) -> bytes:
    """Return the bytes of a whole commit."""
    header = {"schema": SCHEMA, **header, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    data = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in (header, *body))
    return data + _TRAILER % durable.crc32c(data)


def publish(
    medium: Medium, header: dict[str, Any], body: Iterable[dict[str, Any]], owner: str, before: str = ""
) -> bool:
    """Make a commit under the number in its header, unless that is taken.

    Args:
        medium: Where.
        header: The first line, with the number.
        body: The other lines.
        owner: Name of the writer's lease.
        before: `trailer` of the commit before it, as the writer has replayed it; empty if it has not.

    Returns:
        Whether it is published; if not, replay what appeared and try the next number.
    """
    number = header["number"]

    def follows() -> bool:
        # The number is also free where `gc` removed it under a newer base that this writer has not seen. Nobody would
        # ever replay it there. `gc` removes in ascending order: where the commit before is there, this one was not
        # removed.
        if not before:
            return newest_base(medium, numbers(medium, after=number)) is None
        try:
            return trailer(medium, number - 1) == before
        except FileNotFoundError:
            return False

    return medium.put_new(name_of(number), encode(header, body), owner, keep=follows)
