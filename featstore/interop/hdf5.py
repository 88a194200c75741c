"""HDF5, in two layouts: one dataset per clip, `/<feature>/<clip>`; or packed, all rows of a feature in one dataset.

Packed: `/<feature>/data (R, D)`, `/<feature>/clips (N,)` of text, `/<feature>/offsets (N + 1,)`: clip i owns the rows
`offsets[i]:offsets[i + 1]`; `t0_s` and `hop_s (N,)` hold the times, NaN for no hop. A file may also hold the datasets
of one feature at its root; the feature is then called like the file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.errors import UsageError
from emo.featstore.interop.base import (
    Export,
    Found,
    Layout,
    Outgoing,
    Record,
    Rejected,
    Source,
    bad,
    checked,
    from_note,
    kept_name,
    sort_places,
    times,
    to_note,
)
from emo.featstore.storage.index import Array

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".h5", ".hdf5")
PACKED_PARTS = ("data", "clips", "offsets")
BLOCK_BYTES = 8 << 20


def find(path: Path, files: ExitStack, *, packed: bool) -> Found | None:
    """Groups of an HDF5 file, all of the one or all of the other kind."""
    if not is_hdf5(path):
        return None
    import h5py

    root = files.enter_context(h5py.File(path, "r"))
    groups = {name: each for name in root if isinstance(each := _own(root, name), h5py.Group)}
    contents = {name: (group, list(group)) for name, group in groups.items()}
    if loose := [name for name in root if name not in groups]:
        contents[path.stem] = (root, loose)
    sources: list[Source] = []
    rejected: list[Rejected] = []
    for name, (group, names) in contents.items():
        if all(part in names for part in PACKED_PARTS) is packed:
            source, unusable = _packed(name, group) if packed else _apart(name, group, names)
            sources.append(source)
            rejected += unusable
    return Found(sources, rejected) if sources else None


def is_hdf5(path: Path) -> bool:
    """Say whether a file begins, or is called, as HDF5 files are."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE or path.suffix.lower() in SUFFIXES


def _apart(name: str, group: Any, names: Sequence[str]) -> tuple[Source, list[Rejected]]:
    import h5py

    places, rejected = sort_places(name, [(each, each) for each in names])

    def read(clip: str) -> Record:
        dataset = _own(group, clip)
        if not isinstance(dataset, h5py.Dataset):
            raise bad("wrong-shape", "It is a group inside a feature's group.")
        _check_dtype(dataset)
        return Record(dataset[()], *times(dataset.attrs.get("t0_s", 0.0), dataset.attrs.get("hop_s")))

    return Source(name, places, read, **{"feature": name} | from_note(group.attrs.get("emo"))), rejected


def _packed(name: str, group: Any) -> tuple[Source, list[Rejected]]:
    data, clips = _own(group, "data"), _own(group, "clips").asstr()[()]
    offsets = _own(group, "offsets")[()]
    if len(offsets) != len(clips) + 1 or (np.diff(offsets) < 0).any() or offsets[0] < 0 or offsets[-1] > len(data):
        raise UsageError(f"The offsets of {name} in {group.file.filename} do not fit its clips and rows.")
    t0_s, hop_s = (
        _own(group, part)[()] if part in group else np.full(len(clips), np.nan) for part in ("t0_s", "hop_s")
    )
    places, rejected = sort_places(name, list(zip(clips.tolist(), range(len(clips)), strict=True)))

    def read(i: int) -> Record:
        _check_dtype(data)
        return Record(data[offsets[i] : offsets[i + 1]], *times(np.nan_to_num(t0_s[i]), hop_s[i]))

    return Source(name, places, read, **{"feature": name} | from_note(group.attrs.get("emo"))), rejected


def _own(group: Any, name: str) -> Any:
    """A member of a group, if its content lies in this very file: a link or a dataset can name any file of the machine.

    Raises:
        ValueError: It lies elsewhere, or is only a link.
    """
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} is a link, which may lead to another file, and is not followed")
    member = group[name]
    if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
        raise ValueError(f"{name!r} has its content in another file, which is not read")
    return member


def _check_dtype(dataset: Any) -> None:
    checked(np.empty(0, dataset.dtype))


def write(path: Path, export: Export) -> Sequence[str]:
    """One dataset per clip; utterances are `(D,)`."""

    with _creating(path) as (file, disk):
        for feature in export.features:
            group = file.create_group(feature.name)
            group.attrs["emo"] = to_note(feature.spec)
            for clip, record in feature:
                array = record.array[0] if feature.spec.level == "utt" else record.array
                dataset = group.create_dataset(clip, data=array)
                if record.t0_s or record.hop_s is not None:
                    dataset.attrs["t0_s"] = record.t0_s
                    dataset.attrs["hop_s"] = np.nan if record.hop_s is None else record.hop_s
                disk.check()
    return []


def write_packed(path: Path, export: Export) -> Sequence[str]:
    """All rows of a feature in one dataset, and an index."""
    import h5py

    with _creating(path) as (file, disk):
        for feature in export.features:
            rows, dtype = feature.rows()
            group = file.create_group(feature.name)
            group.attrs["emo"] = to_note(feature.spec)
            group["clips"] = np.array(feature.clips, h5py.string_dtype())
            group["offsets"] = np.concatenate([[0], np.cumsum(rows)])
            data = group.create_dataset("data", (int(rows.sum()), feature.spec.dim), dtype)
            moments: list[tuple[float, float | None]] = []
            done = 0
            for block in _blocks(feature, moments):
                data[done : done + len(block)] = block
                disk.check()
                done += len(block)
            group["t0_s"], group["hop_s"] = np.array(moments, "f8").reshape(-1, 2).T
    return []


class _Disk(io.RawIOBase):
    """The file under the HDF5 library, which cannot bear a full disk: it complains a thousand times and crashes.

    Once a write fails, this keeps what is written in memory, so that the library can close the file, and says so when
    asked. That is little, as nobody goes on writing features.
    """

    def __init__(self, path: Path) -> None:
        self.file = open(path, "x+b", buffering=0)  # noqa: SIM115 - closed by close()
        self.error: OSError | None = None
        self.kept: list[tuple[int, bytes]] = []
        self.place = 0

    def check(self) -> None:
        """Raise what went wrong.

        Raises:
            OSError: The disk is full or refuses.
        """
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                self.file.seek(self.place + done)
                done += self.file.write(view[done:])
        except OSError as error:
            self.error = error
        if self.error is not None:
            self.kept.append((self.place + done, bytes(view[done:])))
        self.place += len(view)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self.file.seek(self.place)
        read = self.file.readinto(view) or 0
        for start, data in self.kept:
            first, last = max(start, self.place), min(start + len(data), self.place + len(view))
            if first < last:
                view[first - self.place : last - self.place] = data[first - start : last - start]
                read = max(read, last - self.place)
        self.place += read
        return read

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        ends = (self.file.seek(0, os.SEEK_END), *(start + len(data) for start, data in self.kept))
        self.place = place + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: max(ends)}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def truncate(self, size: int | None = None) -> int:
        try:
            return self.file.truncate(size) if self.error is None else size or 0
        except OSError as error:
            self.error = error
            return size or 0

    def close(self) -> None:
        self.file.close()
        super().close()


@contextmanager
def _creating(path: Path) -> Iterator[tuple[Any, _Disk]]:
    """A new HDF5 file and its disk.

    Raises:
        OSError: The disk is full or refuses.
    """
    import h5py

    with closing(_Disk(path)) as disk:
        with h5py.File(disk, "w") as file:
            yield file, disk
        disk.check()


def _blocks(feature: Outgoing, moments: list[tuple[float, float | None]]) -> Iterator[Array]:
    """Rows of many clips at a time; notes the times of each clip."""
    arrays: list[Array] = []
    size_bytes = 0
    for _, record in feature:
        arrays.append(record.array)
        moments.append((record.t0_s, record.hop_s))
        size_bytes += record.array.nbytes
        if size_bytes >= BLOCK_BYTES:
            yield np.concatenate(arrays)
            arrays, size_bytes = [], 0
    if arrays:
        yield np.concatenate(arrays)


_LOOKS = "an HDF5 file of {}"
LAYOUT = Layout(
    "hdf5",
    _LOOKS.format("groups with one dataset per clip"),
    partial(find, packed=False),
    kept_name,
    write,
    suffixes=SUFFIXES,
    keeps_times=True,
    fragile=is_hdf5,
)
PACKED = Layout(
    "hdf5-packed",
    _LOOKS.format("groups of data, clips and offsets"),
    partial(find, packed=True),
    kept_name,
    write_packed,
    suffixes=SUFFIXES,
    keeps_times=True,
    keeps_dtypes=False,
    fragile=is_hdf5,
)
