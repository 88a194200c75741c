"""Medium that holds the files of a store: one small interface, and behind it a folder on a disk.

Names are relative to the store and have slashes: `journal/00000001.jsonl`. `bucket.py` is the other
medium. A commit is one exclusive create (`put_new`), nothing that is visible changes afterwards,
and a lease says that a writer is alive. A writer builds its segments in a
folder of its own on this machine (`Lease.scratch`); `Lease.place` brings them to where the journal will name them.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from emo.featstore.address import Address
from emo.featstore.errors import StoreCorrupt, StoreError
from emo.featstore.storage import durable

Item = TypeVar("Item")
Result = TypeVar("Result")
TOGETHER_BYTES = 1 << 16
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Swept:
    """Result of `Medium.sweep`: names of leases that are or may be alive, those that ended, and the sizes removed."""

    alive: frozenset[str]
    ended: frozenset[str]
    sizes: tuple[int, ...]


class Bytes(Protocol):
    """Bytes of a file, read when they are sliced; an array is that, too."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.uint8]: ...


class Lease(ABC):
    """The sign that a writer is alive, and a private folder on this machine to build segments in.

    Attributes:
        name: 32 hex digits, of this writer only.
        scratch: Where it builds what it will place.
    """

    name: str
    scratch: Local

    @abstractmethod
    def place(self, name: str, target: str) -> None:
        """Give a finished folder of the scratch its place in the store.

        Raises:
            OSError: The disk refuses, or something is there already; a bucket does not look.
        """

    @abstractmethod
    def close(self) -> None:
        """Remove what is left in the scratch, then end the lease."""


class Medium(ABC):
    """The files of one store."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Return a file's full address, for messages."""

    @abstractmethod
    def create(self, folders: Sequence[str], files: Mapping[str, bytes]) -> None:
        """Make the store with these folders and files, whole or not at all: the last file makes it one.

        Raises:
            StoreError: Something is there already.
            OSError: The disk refuses.
        """

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: There is none.
            StoreCorrupt: It is no regular file.
        """

    @abstractmethod
    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Return bytes of a file from `start`, fewer where it ends before; raises what `get` does."""

    @abstractmethod
    def map(self, name: str, fresh: bool = False) -> Bytes:
        """Return all bytes of a file, read-only and read when they are used; raises what `get` does.

        Args:
            name: The file.
            fresh: Read the file itself, and no copy of it that is nearer.
        """

    @abstractmethod
    def open_zarr(self, name: str) -> Any:
        """Open a Zarr array that is not laid out as emo does it; raises whatever zarr does."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Say whether there is such a file or folder."""

    @abstractmethod
    def list(self, folder: str, after: str = "") -> list[str]:
        """Return what lies directly in a folder, in no order; nothing where there is no such folder.

        Args:
            folder: The folder.
            after: Leave out this name and what sorts before it, by code points.
        """

    @abstractmethod
    def modified(self, name: str) -> float:
        """Return when a file was written, in seconds since 1970.

        Raises:
            FileNotFoundError: There is none.
        """

    @abstractmethod
    def owns(self, name: str) -> bool:
        """Say whether a file lies in this very store, and not behind a link that leads elsewhere."""

    @abstractmethod
    def put_new(self, name: str, data: bytes, owner: str, keep: Callable[[], bool] = lambda: True) -> bool:
        """Create a file, whole and durable, unless there is one of this name: the step that makes a commit.

        After an error `exists` says whether it was created.

        Args:
            name: The file.
            data: All of it; it names its writer, so that equal bytes are the same create, asked for twice.
            owner: Name of the writer's lease.
            keep: Asked as soon as the file is there; if it says no, the file is taken away again.

        Returns:
            Whether this call created it, and it is kept.
        """

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Create or replace a file, whole and durable."""

    @abstractmethod
    def sync(self, folder: str) -> None:
        """Make the names in a folder durable."""

    @abstractmethod
    def remove(self, name: str) -> int:
        """Remove a file or folder, if it is there, and return its size in bytes.

        Raises:
            StoreError: It does not belong to this store, see `owns`.
        """

    @abstractmethod
    def lease(self) -> Lease:
        """Begin a writer's lease."""

    @abstractmethod
    def leases(self) -> frozenset[str]:
        """Return the names of the leases of running writers, and of those that were killed since the last sweep."""

    @abstractmethod
    def sweep(self) -> Swept:
        """Remove what killed writers left of their leases, and stores that were never born."""

    def walk(self) -> Iterator[tuple[str, int, float, str]]:
        """Yield name, size in bytes, time of the last change in s and tag of every file, folders below included."""
        folders = [""]
        for folder in folders:
            for each in sorted(self.list(folder)):
                name = f"{folder}/{each}" if folder else each
                if self.list(name):
                    folders.append(name)
                else:
                    yield name, len(self.map(name)), self.modified(name), ""

    def in_parallel(self, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Call for each item and yield the results in order; several at once where the medium is far away."""
        return map(call, items)


def checked_name(name: str, root: Address) -> str:
    """Return the name of a file of the store at `root`.

    Raises:
        StoreCorrupt: It leads out of it.
    """
    if name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise StoreCorrupt(f"The name {name!r} leads out of the store {root}.", "Restore it from a copy.")
    return name


class Output:
    """A new file that is written piece by piece; small pieces go to the system together."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        self._waiting = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        if len(self._waiting) + memoryview(data).nbytes < TOGETHER_BYTES:
            self._waiting += data
        else:
            self._flush()
            durable.write_all(self._fd, data)

    def _flush(self) -> None:
        durable.write_all(self._fd, self._waiting)
        self._waiting = bytearray()

    def finish(self) -> int:
        """Fsync and close the file; returns its size in bytes."""
        self._flush()
        os.fsync(self._fd)
        size_bytes = os.fstat(self._fd).st_size
        self.close()
        return size_bytes

    def close(self) -> None:
        """Close the file, finished or not."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Local(Medium):
    """A folder on a disk.

    An exclusive create is an `os.link` of a finished temporary file. Where a filesystem refuses links, a lock (`flock`
    on `.lock` beside it) and a rename take its place: unlike a bare `O_EXCL` file this shows no half-written commit and
    leaves no claimed number behind when the writer dies. It needs locks that all writers see, which FAT, exFAT and FUSE
    mounts give on one machine only.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def where(self, name: str) -> str:
        return str(self._path(name))

    def create(self, folders: Sequence[str], files: Mapping[str, bytes]) -> None:
        path = self.root
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise StoreError(f"{path} exists already.", "Choose another path, or open it.")
        built = path.parent / f".{path.name}.{uuid.uuid4().hex}.new"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            for folder in folders:
                (built / folder).mkdir(parents=True)
            for name, data in files.items():
                durable.write_file(built / name, data)
            for each in (*sorted({(built / name).parent for name in files} - {built}), built):
                durable.sync_folder(each)
            durable.reached("store-built")
            os.rename(built, path)
        except BaseException:
            shutil.rmtree(built, ignore_errors=True)
            raise
        durable.reached("store-placed")
        durable.sync_folder(path.parent)

    def get(self, name: str) -> bytes:
        with open(self._regular(name), "rb", buffering=0) as file:
            return file.readall()

    def get_range(self, name: str, start: int, length: int) -> bytes:
        with open(self._regular(name), "rb") as file:
            file.seek(start)
            return file.read(length)

    def map(self, name: str, fresh: bool = False) -> npt.NDArray[np.uint8]:
        with open(self._regular(name), "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
                return np.empty(0, np.uint8)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

    def open_zarr(self, name: str) -> Any:
        import zarr  # only here: 0.3 s that most readers never need

        return zarr.open_array(self._path(name), mode="r")

    def exists(self, name: str) -> bool:
        return self._path(name).exists()

    def list(self, folder: str, after: str = "") -> list[str]:
        try:
            return [name for name in os.listdir(self._path(folder)) if name > after]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def modified(self, name: str) -> float:
        return self._path(name).stat().st_mtime

    def owns(self, name: str) -> bool:
        inside = PurePosixPath(name).parents
        return not any((self.root / each).is_symlink() for each in inside if each.name)

    def put_new(self, name: str, data: bytes, owner: str, keep: Callable[[], bool] = lambda: True) -> bool:
        final = self._path(name)
        temp = final.parent / f".{owner}.tmp"
        try:
            durable.write_file(temp, data, "journal-written")
            durable.reached("journal-synced")
            created = self._link(temp, final)
            if not created or not keep():
                for each in (temp, final) if created else (temp,):
                    each.unlink(missing_ok=True)
                return False
            durable.reached("journal-linked")
            durable.sync_folder(final.parent)
            durable.reached("journal-folder-synced")
        except BaseException:
            with suppress(OSError):
                temp.unlink(missing_ok=True)
            raise
        temp.unlink(missing_ok=True)
        durable.reached("journal-temp-removed")
        return True

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(exist_ok=True)
        temp = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
        try:
            durable.write_file(temp, data)
            os.replace(temp, path)
        except BaseException:
            with suppress(OSError):
                temp.unlink(missing_ok=True)
            raise
        durable.sync_folder(path.parent)

    def sync(self, folder: str) -> None:
        durable.sync_folder(self._path(folder))

    def remove(self, name: str) -> int:
        path = self._path(name)
        if not self.owns(name):
            raise StoreError(f"{path} is not removed: a link leads there, out of the store.")
        return _remove(path)

    def lease(self) -> Lease:
        return _LocalLease(self)

    def leases(self) -> frozenset[str]:
        return frozenset(self.list("writers"))

    def sweep(self) -> Swept:
        temps = [each for each in self.list("journal") if each.startswith(".") and each.endswith(".tmp")]
        alive, ended, sizes = set(), set(), list[int]()
        for name in self.list("writers"):
            folder = self._path(f"writers/{name}")
            with suppress(FileNotFoundError, NotADirectoryError):  # ended meanwhile, or no writer's
                lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    sizes.append(_remove(folder))  # under its lock: a writer that just begins notices
                    ended.add(name)
                except OSError:
                    alive.add(name)
                finally:
                    os.close(lock)
        sizes += [self.remove(f"journal/{temp}") for temp in temps if temp[1:-4] not in alive]
        root = self.root.resolve()
        new = [path for path in root.parent.iterdir() if path.match("*.new") and path.name.startswith(f".{root.name}.")]
        sizes += [_remove(path) for path in new]
        return Swept(frozenset(alive), frozenset(ended), tuple(sizes))

    # --- of a writer's scratch ---------------------------------------------------------------------------------------

    def output(self, name: str) -> Output:
        """Begin a new file."""
        return Output(self._path(name))

    def discard(self, name: str) -> None:
        """Remove a folder and say nothing about what hinders it."""
        shutil.rmtree(self._path(name), ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.root / checked_name(name, self.root)

    def _regular(self, name: str) -> str:
        path = f"{self.root}/{checked_name(name, self.root)}"
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise StoreCorrupt(f"{path} is not a file.", "Remove it, and restore the file from a copy.")
        return path

    def _link(self, temp: Path, final: Path) -> bool:
        try:
            os.link(temp, final)
        except FileExistsError:
            return os.path.samefile(temp, final)  # the same: a network filesystem lost the answer and asked twice
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            with open(final.parent / ".lock", "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if final.exists():
                    return False
                os.rename(temp, final)
        return True


class _LocalLease(Lease):
    """A folder `writers/<uuid>/`, and a lock in it that says the writer is alive.

    The lock is a `flock`: it ends with the process, however that ends. (A forked child that outlives its parent keeps
    it; a filesystem without locks makes every writer look alive. Both only make `gc` keep more than it must.)
    """

    def __init__(self, medium: Local) -> None:
        self._medium = medium
        while not self._take(uuid.uuid4().hex):
            pass
        durable.reached("writer-locked")

    def place(self, name: str, target: str) -> None:
        os.rename(self.scratch.root / name, self._medium.root / target)

    def close(self) -> None:
        shutil.rmtree(self.scratch.root, ignore_errors=True)
        os.close(self._lock)  # last
        durable.reached("writer-closed")

    def _take(self, name: str) -> bool:
        folder = self._medium.root / "writers" / name
        self.name, self.scratch = name, Local(folder)
        folder.mkdir(parents=True)
        try:
            self._lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:  # `gc` took the folder for a dead writer's, here and below
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = os.fstat(self._lock).st_nlink > 0
        except BlockingIOError:
            taken = False
        except OSError:  # no locks on this filesystem, see above
            taken = True
        if not taken:
            os.close(self._lock)
        return taken


def _remove(path: Path) -> int:
    size = 0
    with suppress(FileNotFoundError):  # another `gc` may be at work
        if path.is_dir() and not path.is_symlink():
            size = sum(each.lstat().st_size for each in path.rglob("*") if each.is_file())
            shutil.rmtree(path)
        else:
            size = path.lstat().st_size
            path.unlink()
    return size
