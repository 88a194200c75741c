"""Judge weights by their headers: format, completeness, number of tensors. No tensor is read, no pickle is opened."""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo.featstore.errors import ModelError, UsageError
from emo.featstore.reading import parse_own, read_json
from emo.featstore.sources.ct2 import is_ct2, open_ct2
from emo.featstore.text import size_text

MAX_HEADER_BYTES = 100 << 20  # the safetensors library refuses longer headers too
AGAIN = "Fetch it again."


@dataclass(frozen=True)
class Inspection:
    """Summary of the headers of a file of weights.

    Attributes:
        status: `ok`, `unchecked` (only loading would tell), `incomplete`, `damaged`, `missing` or `not configured`.
        what: One sentence.
        do: What to do; empty when nothing is wrong.
    """

    status: str
    what: str
    do: str = ""


def inspect(path: Path) -> Inspection:
    """Judge a weights file or a Hugging Face folder by its headers: format, completeness, number of tensors."""
    try:
        return _inspect_folder(path) if path.is_dir() else _inspect_file(path)
    except FileNotFoundError:
        return Inspection("missing", f"{path} does not exist.")
    except OSError as error:
        return Inspection("damaged", f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.")


def _inspect_file(path: Path) -> Inspection:
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        return Inspection("damaged", f"{path.name} is empty.", AGAIN)
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.I):
        return Inspection("damaged", f"{path.name} is a web page, not weights.", "Get the file with a browser.")
    if head.startswith(b"version https://git-lfs"):
        return Inspection("damaged", f"{path.name} is a Git LFS pointer, not weights.", "Run `git lfs pull`.")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _inspect_safetensors(path, size)
    if head.startswith(b"PK"):
        return _inspect_zip(path, size)
    if head.startswith(b"GGUF"):
        return Inspection("unchecked", f"{path.name} is a GGUF file of {size_text(size)}.")
    if is_ct2(path):
        try:
            return Inspection(
                "ok", f"{path.name}: {len(open_ct2(path).variables):,} tensors of CTranslate2, {size_text(size)}."
            )
        except ModelError as error:
            return Inspection("damaged", error.message, error.hint)
    if head.startswith(b"\x80"):
        what = (
            f"{path.name} ({size_text(size)}) is a torch file of the form before 1.6; only loading it would tell more."
        )
        return Inspection("unchecked", what)
    what = f"{path.name} begins with {head[:16]!r}: neither safetensors nor a torch file."
    return Inspection("damaged", what, AGAIN)


def _inspect_safetensors(path: Path, size: int) -> Inspection:
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))[0]
        if length > min(size - 8, MAX_HEADER_BYTES):
            what = f"{path.name} is truncated or no safetensors file: its header is not whole."
            return Inspection("damaged", what, AGAIN)
        try:
            header: dict[str, Any] = parse_own(file.read(length), path.name)
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((int(entry["data_offsets"][1]) for entry in tensors), default=0)
            count = sum(math.prod(entry["shape"]) for entry in tensors) / 1e6
        except (UsageError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError):
            return Inspection("damaged", f"{path.name} is no safetensors file: its header is not readable.", AGAIN)
    whole = 8 + length + end
    if size < whole:
        return Inspection("damaged", f"{path.name} is truncated: {size:,} of {whole:,} bytes.", AGAIN)
    if size > whole:
        return Inspection("damaged", f"{path.name} has {size - whole:,} bytes after its last tensor.", AGAIN)
    return Inspection("ok", f"{path.name}: {len(tensors):,} tensors, {count:,.1f} M numbers, {size_text(size)}.")


_BAD_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError)


def damaged_entries(path: Path) -> list[str]:
    """Return the entries of a torch file (a zip archive) that are not what was written; torch looks at no checksum.

    Compressed ones count too: torch writes none, and would map their bytes as they lie there. A file whose every entry
    has a wrong checksum was written without any (`torch.serialization.set_crc32_options`).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            wrong = [entry.filename for entry in entries if not _whole(archive, entry)]
            packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    except _BAD_ZIP:
        return ["its table of contents"]
    return packed or (wrong if len(wrong) < len(entries) else [])


def _whole(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(1 << 24):
                pass
    except _BAD_ZIP:
        return False
    return True


def _inspect_zip(path: Path, size: int) -> Inspection:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _BAD_ZIP:
        what = f"{path.name} is truncated: it begins as a torch file and has no end ({size:,} bytes)."
        return Inspection("damaged", what, AGAIN)
    if not any(entry.filename.rpartition("/")[2] == "data.pkl" for entry in entries):
        return Inspection("damaged", f"{path.name} is a zip archive, but not one of torch.", "Unpack it.")
    tensors = sum(bool(re.search(r"(^|/)data/\d+$", entry.filename)) for entry in entries)
    whole = f"{path.name}: {tensors:,} stored tensors, {size_text(size)}, readable"
    return Inspection("ok", f"{whole}; whether they fit the encoder shows when it loads them.")


def _inspect_folder(path: Path) -> Inspection:
    pull = "Pull it again; what is there is kept."
    if not (path / "config.json").is_file():
        return Inspection("incomplete", f"{path} has no config.json.", pull)
    for name in ("config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if not (path / name).is_file():
            continue
        try:
            shards = shards_of(path / name) if "index" in name else []
            if not isinstance(read_json(path / name), dict):
                raise UsageError(f"{path / name} is no JSON object.")
        except UsageError as error:
            return Inspection("damaged", error.message, pull)
        absent = [shard for shard in shards if not (path / shard).is_file()]
        if absent:
            what = f"{path} lacks {len(absent)} of {len(shards)} shards: {', '.join(absent[:3])}."
            return Inspection("incomplete", what, pull)
        if shards:
            return _inspect_all([path / shard for shard in shards])
    names = ("model.safetensors", "pytorch_model.bin", "model.bin")
    files = [path / name for name in names if (path / name).is_file()]
    if not files:
        return Inspection("incomplete", f"{path} has neither model.safetensors nor pytorch_model.bin.", pull)
    return _inspect_all(files[:1])


def shards_of(index: Path) -> list[str]:
    """Return the names of the files that an index of shards names; all lie beside it.

    Raises:
        UsageError: It is no such index.
    """
    table = read_json(index)
    names = table.get("weight_map") if isinstance(table, dict) else None
    names = sorted(set(map(str, names.values()))) if isinstance(names, dict) else []
    if not names or any(Path(name).name != name or "\0" in name for name in names):
        raise UsageError(f"{index} is not an index of shards: it names no files beside it.")
    return names


def _inspect_all(files: Sequence[Path]) -> Inspection:
    checks = [_inspect_file(file) for file in files]
    bad = next((check for check in checks if check.status not in ("ok", "unchecked")), None)
    if bad is not None or len(checks) == 1:
        return bad or checks[0]
    worst = "unchecked" if any(check.status == "unchecked" for check in checks) else "ok"
    return Inspection(worst, f"{len(files)} shards, {size_text(sum(file.stat().st_size for file in files))}.")
