"""Bytes that must reach the disk, in order.

Every byte that a store writes goes through this file, and every step of the commit protocol calls `reached`, so that a
test can pull the plug at each of them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from emo.featstore.address import Address
from emo.featstore.errors import EmoError, StoreError, StoreFull

# In the order of one run: create, write, commit, gc. Killed at any of them, a commit is there or is not.
STEPS = (
    "store-built",
    "store-placed",
    "writer-locked",
    "segment-opened",
    "record-written",
    "segment-index-written",
    "segment-data-synced",
    "segment-document-synced",
    "segment-folders-synced",
    "feature-built",
    "feature-placed",
    "feature-synced",
    "segment-placed",
    "segment-synced",
    "journal-written",
    "journal-synced",
    "journal-linked",
    "journal-folder-synced",
    "journal-temp-removed",
    "writer-closed",
    "gc-segment-removed",
    "gc-journal-removed",
)


def reached(step: str) -> None:
    """Does nothing; tests replace it to stop the process after a step of the protocol."""


def crc32c(data: bytes | np.ndarray[Any, Any]) -> int:
    """Checksum of bytes, or of the bytes of a C-contiguous array."""
    return int(google_crc32c.value(data))


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Writes all of `data`; `os.write` may take a part of it, on a nearly full disk for instance."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def write_file(path: Path, data: bytes, step: str | None = None) -> None:
    """Write and fsync a whole file, with a named step between the two; its name is durable after `sync_folder`."""
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)
    try:
        write_all(fd, data)
        if step is not None:
            reached(step)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Brings the names in a folder to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def writing(path: Address) -> Iterator[None]:
    """Turns what the operating system says about a refused write into a sentence.

    Raises:
        StoreFull: No space, or the quota is used up.
        StoreError: Anything else the disk refuses.
    """
    try:
        yield
    except EmoError:
        raise
    except OSError as error:
        said = f"{error.strerror or error} (writing to the store {path})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            full = StoreFull(said + ".", "Everything committed is intact: free some space, then run again to go on.")
            full.errno = error.errno
            raise full from error
        hint = "Everything committed is intact: check the disk and its permissions, then run again to go on."
        raise StoreError(said + ".", hint) from error
