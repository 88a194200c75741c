"""Hugging Face parquet: `data/train-00000-of-00001.parquet`, one row per clip, one column per feature.

`load_dataset(<folder>)` of Hugging Face finds such files by their place and name. An utterance is a list of D numbers,
a sequence a list of such lists; a clip without a feature has null there. `<feature>.t0_s` and `<feature>.hop_s` hold
the times of features of level `frame`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.errors import UsageError
from emo.featstore.install import install_command
from emo.featstore.interop.base import (
    Export,
    Found,
    Layout,
    Outgoing,
    Record,
    Rejected,
    Source,
    bad,
    from_note,
    kept_name,
    sort_places,
    times,
    to_note,
)
from emo.featstore.reading import parse_own
from emo.featstore.storage.index import Array

SUFFIX = ".parquet"
FILE = "data/train-00000-of-00001.parquet"
CLIP_COLUMNS = ("clip", "name", "id", "video_id", "sample_id", "clip_id", "file_name", "video", "audio")
NOTES = b"emo"  # key of the schema's metadata
BLOCK_BYTES = 32 << 20  # of a row group
TIMES = ("t0_s", "hop_s")


def find(path: Path, files: ExitStack) -> Found | None:
    """The columns of numbers of a file, or of the files in a folder or its `data/`."""
    if path.is_dir():
        paths = sorted([*path.glob("*" + SUFFIX), *path.glob("data/*" + SUFFIX)])
    else:
        paths = [path] if path.suffix == SUFFIX else []
    if not paths:
        return None
    pa, parquet = _pyarrow()
    places: dict[str, list[tuple[str, Any]]] = {}
    notes: dict[str, Any] = {}
    rejected: list[Rejected] = []
    for each in paths:
        try:
            table = files.enter_context(parquet.ParquetFile(each))
            clips = _clips(each, table)
            told = _told((table.schema_arrow.metadata or {}).get(NOTES, b"{}"))
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            rejected.append(Rejected(each.name, each.name, "unreadable", f"It is no readable parquet file: {error}."))
            continue
        for field in table.schema_arrow:
            if _is_feature(field.type):
                notes[field.name] = told.get(field.name)
                places.setdefault(field.name, []).extend(_present(table, field.name, clips))
    sources = []
    for name, found in places.items():
        good, unusable = sort_places(name, found)
        read = _Reader(name).read
        sources.append(Source(name, good, read, **{"feature": name} | from_note(notes[name])))
        rejected += unusable
    if rejected and not sources:
        raise UsageError(f"{path} cannot be read: {rejected[0].sentence}", "Copy it again.")
    return Found(sources, rejected) if sources else None


def _told(note: bytes) -> dict[str, Any]:
    """Notes by column; nothing where the file has none that can be read."""
    try:
        told = parse_own(note, "the note")
    except UsageError:
        return {}
    return told if isinstance(told, dict) else {}


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet files need the package pyarrow.", f"Run `{install_command('parquet')}`.") from error
    return pyarrow, parquet


def _clips(path: Path, table: Any) -> list[list[str]]:
    """Clip ids of each row group."""
    names = table.schema_arrow.names
    column = next((each for each in CLIP_COLUMNS if each in names), None)
    if column is None:
        raise UsageError(
            f"{path} has no column that names clips.", f"Call it {CLIP_COLUMNS[0]}; its are {', '.join(names)}."
        )
    groups = (table.read_row_group(i, [column]) for i in range(table.num_row_groups))
    return [[str(each) for each in group.column(0).to_pylist()] for group in groups]


def _is_feature(kind: Any) -> bool:
    """Say whether a column holds lists of floats, or lists of such lists."""
    from pyarrow import types

    depth = 0
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth in (1, 2) and types.is_floating(kind)


def _present(table: Any, name: str, clips: Sequence[Sequence[str]]) -> list[tuple[str, Any]]:
    """Places of the clips that have the feature: (file, row group, row)."""
    found = []
    for group, names in enumerate(clips):
        valid = table.read_row_group(group, [name]).column(0).is_valid().to_pylist()
        found += [(clip, (table, group, row)) for row, (clip, yes) in enumerate(zip(names, valid, strict=True)) if yes]
    return found


class _Reader:
    """Reads one column, row group by row group."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: tuple[Any, int] | None = None
        self.columns: list[Any] = []

    def read(self, place: tuple[Any, int, int]) -> Record:
        table, group, row = place
        if self.held != (table, group):
            timed = [f"{self.name}.{each}" for each in TIMES]
            names = [self.name, *(each for each in timed if each in table.schema_arrow.names)]
            read = table.read_row_group(group, names)
            self.columns = [read.column(each).combine_chunks() for each in names]
            self.held = (table, group)
        moments = [each[row].as_py() for each in self.columns[1:]]
        return Record(_array(self.columns[0][row].values), *times(*moments) if moments else ())


def _array(values: Any) -> Array:
    from pyarrow import types

    if types.is_floating(values.type):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    rows = values.flatten()
    if len(values) == 0 or len(rows) % len(values) or len(set(values.value_lengths().to_pylist())) != 1:
        raise bad("wrong-shape", "Its rows differ in length.")
    return np.asarray(rows.to_numpy(zero_copy_only=False)).reshape(len(values), -1)


def write(path: Path, export: Export) -> Sequence[str]:
    """Writes a folder that `load_dataset` reads."""
    pa, parquet = _pyarrow()
    columns = [_Column(each) for each in export.features]
    fields = [pa.field("clip", pa.string()), *(field for column in columns for field in column.fields())]
    notes = {each.name: to_note(each.spec) for each in export.features}
    schema = pa.schema(fields, metadata={NOTES: json.dumps(notes)})
    have = set().union(*(each.clips for each in export.features))
    clips = [clip for clip in export.clips if clip in have]
    sizes = np.cumsum([sum(column.size_bytes(clip) for column in columns) for clip in clips])
    cuts = np.flatnonzero(np.diff(sizes // BLOCK_BYTES)) + 1
    file = path / FILE
    file.parent.mkdir(parents=True)
    with parquet.ParquetWriter(file, schema) as writer:
        for start, end in pairwise([0, *cuts.tolist(), len(clips)]):
            some = clips[start:end]
            arrays = [pa.array(some, pa.string()), *(array for column in columns for array in column.arrays(some))]
            writer.write_table(pa.table(arrays, schema=schema))
    return []


class _Column:
    """A feature as columns of a table."""

    def __init__(self, feature: Outgoing) -> None:
        rows, self.dtype = feature.rows()
        self.feature = feature
        self.rows: Mapping[str, int] = dict(zip(feature.clips, rows.tolist(), strict=True))
        self.timed = feature.spec.level == "frame"

    def size_bytes(self, clip: str) -> int:
        return self.rows.get(clip, 0) * self.feature.spec.dim * np.dtype(self.dtype).itemsize

    def fields(self) -> list[Any]:
        import pyarrow as pa

        row = pa.list_(pa.from_numpy_dtype(self.dtype), self.feature.spec.dim)
        fields = [pa.field(self.feature.name, row if self.feature.spec.level == "utt" else pa.list_(row))]
        return fields + [pa.field(f"{self.feature.name}.{each}", pa.float64()) for each in TIMES if self.timed]

    def arrays(self, clips: Sequence[str]) -> list[Any]:
        import pyarrow as pa

        records = [self.feature.record(clip) if clip in self.rows else None for clip in clips]
        absent = pa.array([each is None for each in records])
        dim = self.feature.spec.dim
        if self.feature.spec.level == "utt":
            blank = Record(np.zeros((1, dim), self.dtype))  # under a null
            rows = np.concatenate([(each or blank).array.astype(self.dtype, copy=False) for each in records])
            return [pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dim, mask=absent)]
        held = [each.array.astype(self.dtype, copy=False) for each in records if each is not None]
        rows = np.concatenate(held) if held else np.zeros((0, dim), self.dtype)
        offsets = np.cumsum([0, *(0 if each is None else len(each.array) for each in records)])
        matrix = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dim)
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), matrix, mask=absent)
        if not self.timed:
            return [lists]
        t0_s = [None if each is None else each.t0_s for each in records]
        hop_s = [None if each is None else each.hop_s for each in records]
        return [lists, pa.array(t0_s, pa.float64()), pa.array(hop_s, pa.float64())]


LAYOUT = Layout(
    "parquet",
    "parquet files with a column of clip ids and columns of lists of floats",
    find,
    kept_name,
    write,
    keeps_times=True,
    keeps_dtypes=False,
)
