"""One .npy file per clip: the form that most tools of the field read and write."""

from __future__ import annotations

import ast
import os
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np

from emo.featstore.interop.base import FLOATS, Outgoing, Record, Rejected, bad, sort_places
from emo.featstore.storage.index import Array

MAX_HEADER = 10_000  # bytes, as in numpy
BLOCK = 1 << 16  # most files of the field have 4 KB


def holds_npy(folder: Path) -> bool:
    """Say whether a folder has a .npy file directly in it."""
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".npy") and not entry.name.startswith(".") for entry in entries)


def list_npy(folder: Path, where: str) -> tuple[list[tuple[str, str]], list[Rejected]]:
    """Clip ids and paths of the files in a folder, by name, and what else is there. Hidden files are passed over."""
    found, rejected = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".npy") and not entry.name.startswith(".") and entry.is_file():
                found.append((entry.name[:-4], entry.path))
            elif not entry.name.startswith("."):
                rejected.append(Rejected(where, entry.name, "not-npy", "It is not a .npy file."))
    places, unusable = sort_places(where, sorted(found))
    return places, sorted(rejected, key=lambda each: each.name) + unusable


def read_npy(path: str) -> Record:
    """Reads one file whole; pickled objects are refused unread.

    Raises:
        MediaError: It cannot be read, is damaged, or holds no floats.
    """
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            data = os.read(file, BLOCK)
            if len(data) == BLOCK:
                blocks = [data]
                while block := os.read(file, 1 << 24):
                    blocks.append(block)
                data = b"".join(blocks)
        finally:
            os.close(file)
    except OSError as error:
        raise bad("unreadable", f"It cannot be read: {error.strerror or error}.") from error
    return Record(_parsed(data))


def write_npy(folder: Path, feature: Outgoing) -> None:
    """Writes a folder of files: `(D,)` for utterances, else `(T, D)`."""
    folder.mkdir(parents=True)
    for clip, record in feature:
        array = record.array[0] if feature.spec.level == "utt" else record.array
        np.save(folder / f"{clip}.npy", array, allow_pickle=False)


def _parsed(data: bytes) -> Array:
    if not data:
        raise bad("empty", "The file is empty.")
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        raise bad("not-npy", "It is not an npy file.")
    start = 10 if data[6] == 1 else 12
    end = start + int.from_bytes(data[8:start], "little")
    if end - start > MAX_HEADER:
        raise bad("not-npy", "Its header is damaged.")
    if len(data) < end:
        raise bad("truncated", "The file ends inside its header.")
    dtype, fortran, shape = _header(data[start:end])
    size = end + prod(shape) * dtype.itemsize
    if len(data) < size:
        raise bad("truncated", f"The file ends after {len(data):,} of {size:,} bytes.")
    if len(data) > size:
        raise bad("not-npy", f"The file has {len(data):,} bytes where its header says {size:,}.")
    array = np.frombuffer(data, dtype, offset=end).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


@lru_cache(maxsize=4096)
def _header(text: bytes) -> tuple[np.dtype[np.generic], bool, tuple[int, ...]]:
    """Dtype, order and shape. The files of a folder mostly share one header, which is parsed once."""
    try:
        fields = ast.literal_eval(text.decode("latin1").strip())
        dtype, fortran, shape = np.dtype(fields["descr"]), bool(fields["fortran_order"]), tuple(fields["shape"])
        if not all(isinstance(each, int) and each >= 0 for each in shape):
            raise ValueError(shape)
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise bad("not-npy", "Its header is damaged.") from error
    if dtype.hasobject:
        raise bad("pickled", "It holds pickled Python objects, which are not loaded: that could run any code.")
    if dtype.newbyteorder("=") not in FLOATS:
        raise bad("wrong-dtype", f"It holds {dtype}, not float16, float32 or float64.")
    return dtype, fortran, shape
