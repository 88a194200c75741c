"""Read-through cache on this machine of what was read from a bucket: bounded, checked, and never the truth.

One file per block: its bytes, and the CRC-32C of its key and its bytes. A file that is damaged, cut off or of another
block counts as absent. When all files together pass the bound, those that were used longest ago are removed.
"""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from emo.featstore.errors import UsageError
from emo.featstore.files import emo_home
from emo.featstore.storage import durable

BOUND = "EMO_CACHE_GB"
DEFAULT_GB = 20.0
KEPT = 0.9  # of the bound, after the oldest files were removed
_CRC_BYTES = 4


class Cache:
    """Blocks by key.

    Args:
        folder: Where; made when the first block comes.
        most_bytes: Bound; 0 keeps nothing.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._size: int | None = None  # of all files, once they were counted
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Return a block, or `None`."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        block, crc = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
        if self._crc(key, block) == crc:
            return block
        with suppress(OSError):
            path.unlink()
        return None

    def put(self, key: str, block: bytes) -> None:
        """Keep a block; a disk that refuses changes nothing."""
        if len(block) > self.most_bytes:
            return
        path = self._path(key)
        temporary = path.with_name(f".{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(block + self._crc(key, block))
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            return
        with self._lock:
            if self._size is None:
                self._size = sum(size for _, size, _ in self._files())
            else:
                self._size += len(block) + _CRC_BYTES
            if self._size > self.most_bytes:
                self._remove_oldest()

    def _remove_oldest(self) -> None:
        files = self._files()  # counted anew: other processes use the same folder
        self._size = sum(size for _, size, _ in files)
        for _, size, path in sorted(files) if self._size > self.most_bytes else ():
            if self._size <= KEPT * self.most_bytes:
                break
            with suppress(OSError):
                path.unlink()
                self._size -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        """Last use, size and path of every file."""
        found = []
        for path in self.folder.glob("*/*"):
            with suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        return found

    def _path(self, key: str) -> Path:
        name = blake2b(key.encode(), digest_size=20).hexdigest()
        return self.folder / name[:2] / name[2:]

    @staticmethod
    def _crc(key: str, block: bytes) -> bytes:
        return durable.crc32c(key.encode() + block).to_bytes(_CRC_BYTES, "little")


def open_cache() -> Cache:
    """Return the cache of this machine, `blocks` in `EMO_HOME`; `EMO_CACHE_GB` bounds it.

    Raises:
        UsageError: The bound is no number.
    """
    text = os.environ.get(BOUND, "")
    try:
        bound = float(text) if text else DEFAULT_GB
        return Cache(emo_home() / "blocks", max(0, int(bound * 1e9)))
    except (ValueError, OverflowError):
        raise UsageError(f"{BOUND}={text!r} is not a number of gigabytes.", f"For instance {BOUND}=50.") from None
