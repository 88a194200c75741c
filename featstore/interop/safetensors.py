"""safetensors: one file per feature, `<feature>.safetensors`, one tensor per clip, called like the clip.

The header's metadata may hold `emo` (what the feature is) and `times` (JSON: clip -> [t0_s, hop_s]).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from emo.featstore.errors import MediaError, UsageError
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
    to_note,
)
from emo.featstore.reading import parse_own

SUFFIX = ".safetensors"
DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64"}


def find(path: Path, files: ExitStack) -> Found | None:
    """A file, or the files in a folder; a damaged one among several is named, and the others are read."""
    paths = sorted(path.glob("*" + SUFFIX)) if path.is_dir() else [path] if path.suffix == SUFFIX else []
    sources: list[Source] = []
    rejected: list[Rejected] = []
    for each in paths:
        try:
            source, unusable = _open(each, files)
        except MediaError as error:
            rejected.append(Rejected(each.name, each.name, error.kind, error.message))
            continue
        sources.append(source)
        rejected += unusable
    if rejected and not sources:
        raise UsageError(f"{path} cannot be read as safetensors: {rejected[0].sentence}", "Copy it again.")
    return Found(sources, rejected) if sources else None


def _open(path: Path, files: ExitStack) -> tuple[Source, list[Rejected]]:
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = files.enter_context(safe_open(path, "numpy"))
        notes = file.metadata() or {}
        moments = _moments(notes.get("times", "{}"))
        places, rejected = sort_places(path.stem, [(name, name) for name in file.keys()])  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise bad("unreadable", f"{error}.") from error

    def read(name: str) -> Record:
        dtype = file.get_slice(name).get_dtype()
        if dtype not in DTYPES.values():
            raise bad("wrong-dtype", f"It holds {dtype}, not F16, F32 or F64.")
        t0_s, hop_s = moments.get(name, (0.0, None))
        return Record(file.get_tensor(name), t0_s, hop_s)

    return Source(path.stem, places, read, **{"feature": path.stem} | from_note(notes.get("emo"))), rejected


def _moments(text: str) -> dict[str, tuple[float, float | None]]:
    """Time of the first row and between rows, by clip.

    Raises:
        MediaError: The note says something else.
    """
    try:
        told = parse_own(text, "the note `times`")
        found = {name: (float(t0_s), None if hop_s is None else float(hop_s)) for name, (t0_s, hop_s) in told.items()}
    except (UsageError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise bad("unreadable", f"Its note `times` does not say when rows begin: {error}.") from error
    return found


def write(path: Path, export: Export) -> Sequence[str]:
    """Writes a folder of files."""
    path.mkdir()
    for feature in export.features:
        _write(path / f"{feature.name}{SUFFIX}", feature)
    return []


def _write(path: Path, feature: Outgoing) -> None:
    """Streams the tensors into a file and puts the header before them: the library wants all of them in memory."""
    header: dict[str, Any] = {"__metadata__": {"emo": to_note(feature.spec)}}
    moments = {}
    end = 0
    data = path.with_suffix(".data")
    with open(data, "wb") as file:
        for clip, record in feature:
            array = record.array[0] if feature.spec.level == "utt" else record.array
            stored = array.astype(array.dtype.newbyteorder("<"), copy=False)
            start, end = end, end + stored.nbytes
            header[clip] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
            if record.t0_s or record.hop_s is not None:
                moments[clip] = (record.t0_s, record.hop_s)
            file.write(stored.tobytes())
    if moments:
        header["__metadata__"]["times"] = json.dumps(moments)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file, open(data, "rb") as tensors:
        file.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(tensors, file)
    data.unlink()


LAYOUT = Layout("safetensors", "files *.safetensors of one tensor per clip", find, kept_name, write, keeps_times=True)
