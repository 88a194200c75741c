"""The journal: one immutable file per commit, numbered without gaps. What it does not name does not exist.

A file is a header line, body lines (see `index.py`), and a last line with the CRC-32C of everything before it, so that
no byte of it can change unseen. After a header with `"base": true` comes everything that is live; older files are then
ignored.

Publishing is an exclusive `os.link` of a finished temporary file. Where a filesystem refuses links, an exclusive lock
(`flock` on `journal/.lock`) and a rename take its place: unlike a bare `O_EXCL` file this shows no half-written commit
and leaves no claimed number behind when the writer dies. It needs locks that all writers see, which FAT, exFAT and FUSE
mounts give on one machine only.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.errors import StoreCorrupt, StoreError
from emo.featstore.storage import durable

SCHEMA = 1
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
HINT = "Restore the file from a copy, or run `emo store verify --repair` and extract again what was lost."
_TRAILER = b'{"crc32c":"%08x"}\n'
_TRAILER_LENGTH = len(_TRAILER % 0)
_NAME = re.compile(r"(\d{8})\.jsonl")


@dataclass(frozen=True)
class Commit:
    """One journal file: its header, and the lines of its body, each parsed when its turn comes."""

    header: dict[str, Any]
    body: Iterator[dict[str, Any]]


def path_of(folder: Path, number: int) -> Path:
    """Where commit `number` lies."""
    return folder / f"{number:08d}.jsonl"


def numbers(folder: Path, after: int = 0) -> list[int]:
    """Numbers of the commits present that are higher than `after`, ascending.

    Raises:
        StoreCorrupt: There is no journal folder.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError as error:
        raise StoreCorrupt(f"The journal {folder} is gone.", "Restore the folder from a copy.") from error
    first = f"{after + 1:08d}"  # names sort as their numbers do, and most of a long journal is known
    return sorted(int(found[1]) for name in names if name > first and (found := _NAME.fullmatch(name)))


def _is_base(folder: Path, number: int) -> bool:
    """Whether the header says so; a damaged header says no here, and is found out when the file is read whole."""
    with open(path_of(folder, number), "rb") as file:
        line = file.readline()
        try:
            return b'"base"' in line and json.loads(line).get("base") is True
        except (ValueError, AttributeError):
            return False


def newest_base(folder: Path, among: list[int]) -> int | None:
    """Highest of the given numbers that is a base."""
    return next((number for number in reversed(among) if _is_base(folder, number)), None)


def ahead(folder: Path, after: int) -> list[int]:
    """Numbers to replay on top of commit `after`, ascending; where a base is among them, it comes first.

    Raises:
        StoreCorrupt: A number is missing.
        FileNotFoundError: A file went away meanwhile (`gc` after `compact`): call again.
    """
    for attempt in range(4):
        # A folder may be listed while files appear in it, newer before older: a gap counts only when it stays.
        time.sleep(0.02 * attempt)
        found = numbers(folder, after)
        base = newest_base(folder, found)
        first = base or after + 1
        found = [number for number in found if number >= first]
        if found == list(range(first, first + len(found))):
            return found
    missing = path_of(folder, next(n for n in range(first, found[-1]) if n not in set(found)))
    raise StoreCorrupt(f"The journal file {missing} is missing.", HINT)


def read(folder: Path, number: int, store: str) -> Commit:
    """Reads and checks one commit.

    Raises:
        StoreCorrupt: A byte is not the one that was written, or the file belongs elsewhere.
        StoreError: A newer emo wrote it.
        FileNotFoundError: It is not there (any more).
    """
    path = path_of(folder, number)
    data = path.read_bytes()
    size = len(data) - _TRAILER_LENGTH
    if size <= 0 or data[size:] != _TRAILER % durable.crc32c(np.frombuffer(data, "u1", size)):
        raise StoreCorrupt(f"The journal file {path} is damaged: its checksum does not fit.", HINT)
    try:
        lines = (json.loads(line) for line in io.BytesIO(data[:size]))
        header = next(lines)
    except ValueError as error:
        raise StoreCorrupt(f"The journal file {path} is not readable: {error}.", HINT) from error
    if header.get("schema") != SCHEMA:
        raise StoreError(f"{path} has schema {header.get('schema')}; this emo reads {SCHEMA}.", "Install a newer emo.")
    if (header.get("number"), header.get("store")) != (number, store):
        raise StoreCorrupt(f"The journal file {path} belongs to another place or another store.", HINT)
    return Commit(header, lines)


def write(path: Path, header: dict[str, Any], body: Iterable[dict[str, Any]]) -> None:
    """Writes a whole commit to a temporary file and brings it to the disk."""
    header = {"schema": SCHEMA, **header, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    data = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in (header, *body))
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)
    try:
        durable.write_all(fd, data)
        durable.write_all(fd, _TRAILER % durable.crc32c(data))
        durable.reached("journal-written")
        os.fsync(fd)
    finally:
        os.close(fd)
    durable.reached("journal-synced")


def publish(folder: Path, temp: Path, number: int) -> bool:
    """Makes a finished temporary file commit `number`, unless that number is taken.

    Returns:
        Whether it is published; if not, replay what appeared and try the next number.
    """
    final = path_of(folder, number)
    try:
        os.link(temp, final)
    except FileExistsError:
        if not os.path.samefile(temp, final):  # the same: a network filesystem lost the answer and asked twice
            return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if not _publish_locked(folder, temp, final):
            return False
    # The number is also free where `gc` removed it under a newer base that this writer has not seen. Nobody would ever
    # replay it there.
    if newest_base(folder, numbers(folder, after=number)) is not None:
        final.unlink(missing_ok=True)
        return False
    durable.reached("journal-linked")
    durable.sync_folder(folder)
    durable.reached("journal-folder-synced")
    temp.unlink(missing_ok=True)
    durable.reached("journal-temp-removed")
    return True


def _publish_locked(folder: Path, temp: Path, final: Path) -> bool:
    with open(folder / ".lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.exists():
            return False
        os.rename(temp, final)
        return True
