"""Files that are whole or absent, and what identifies their content."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from emo.featstore.errors import EmoError, WriteError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file or folder made there is fsynced and renamed to `path`.

    Whenever the process dies, `path` is what it was or what it shall be. An error leaves no temporary file behind.

    Raises:
        WriteError: The disk is full or refuses; the message names `path`.
    """
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        for each in sorted(temporary.rglob("*"), reverse=True) if temporary.is_dir() else ():
            fsync(each)
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    except EmoError:
        raise
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file that is whole or absent, whenever the process dies.

    Raises:
        WriteError: The disk is full or refuses.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(encoded(data) if isinstance(data, str) else data)


def encoded(text: str) -> bytes:
    """Return UTF-8; half a character, as in a path that is not UTF-8, becomes its escape, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value atomically; keys stay in the order given."""
    write_atomic(path, json_text(value))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line atomically."""
    write_atomic(path, jsonl_text(rows))


def json_text(value: Any) -> str:
    """Return what `write_json` writes."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def jsonl_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return what `write_jsonl` writes."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as the text of a CSV file, whose lines end in a line feed."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def fsync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def digest(data: bytes) -> str:
    """Return 32 hex digits of BLAKE2b over bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def file_digest(file: BufferedReader) -> str:
    """Return 32 hex digits of BLAKE2b over the rest of an open file."""
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def mirror_folder(url: str) -> Path:
    """Folder on this machine that stands for a dataset in a bucket, there or not."""
    return emo_home() / "mirrors" / digest(url.encode())


def emo_home() -> Path:
    """Folder of what emo remembers between runs: `EMO_HOME`, or `~/.cache/emo`."""
    return Path(os.environ.get("EMO_HOME") or "~/.cache/emo").expanduser()
