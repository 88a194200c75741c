"""Answers between two commits: appended to a file beside the store as they come, so that a killed run loses none."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from emo.featstore.address import Address, Url, address
from emo.featstore.clip import FileId, MediaId
from emo.featstore.errors import MediaError, WriteError
from emo.featstore.files import digest, emo_home
from emo.featstore.reading import parse_json
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store
from emo.featstore.storage.writer import Writer

MOST = 256  # runs beside one store at once
_text = json.JSONEncoder(ensure_ascii=False).encode


class Spool:
    """The file of one run: a line per answer or failure, emptied with each commit. Locked while the run lives.

    What was appended is in the hands of the operating system when `flush` returns.

    Args:
        store_path: Where the store is; the file lies beside it, and in `EMO_HOME` where that is a bucket.
    """

    def __init__(self, store_path: Address) -> None:
        for number in range(MOST):
            path = _place(store_path, number)
            try:
                file = open(path, "a+", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - held while it runs
            except OSError as error:
                raise WriteError(path, error) from error
            if _lock(file.fileno(), path) and not os.fstat(file.fileno()).st_size:
                break
            file.close()
        else:
            raise WriteError(path, OSError(0, f"{MOST} runs write answers beside this store"))
        self.path, self._file, self._known = path, file, set[str]()

    def clip(self, clip: str, file: FileId, path: Path) -> None:
        """Append which content a clip's id means."""
        self._append([{"clip": clip, "file": list(file), "path": os.fspath(path)}])

    def record(self, spec: EncoderSpec, media: MediaId, value: Any) -> None:
        """Append an answer."""
        self._write(spec, {"media": media, "value": value})

    def failure(self, spec: EncoderSpec, media: MediaId, error: MediaError) -> None:
        """Append a failure."""
        self._write(spec, {"media": media, "failed": [error.kind, error.message, error.hint, error.retry]})

    def _write(self, spec: EncoderSpec, row: dict[str, Any]) -> None:
        lines = []
        if spec.fingerprint not in self._known:
            self._known.add(spec.fingerprint)
            lines.append({"spec": spec.canonical(), "of": spec.fingerprint})
        self._append([*lines, {"of": spec.fingerprint, **row}])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        try:
            self._file.write("".join(f"{_text(line)}\n" for line in lines))
        except OSError as error:
            raise WriteError(self.path, error) from error

    def flush(self) -> None:
        """Hand over what was appended.

        Raises:
            WriteError: The disk refuses.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise WriteError(self.path, error) from error

    def clear(self) -> None:
        """Forget everything: it is committed."""
        self._known.clear()
        self.flush()
        self._file.truncate(0)

    def close(self) -> None:
        """End the file; what is in it stays for the next run, an empty one is removed."""
        self.flush()
        if not os.fstat(self._file.fileno()).st_size:
            with suppress(OSError):
                self.path.unlink()
        self._file.close()


def recover(store: Store) -> int:
    """Commit the answers that runs left behind which were killed, and return how many there were.

    A line that was cut off while it was written is passed over: its answer is asked for again.
    """
    count = 0
    for number in range(MOST):
        path = _place(store.path, number)
        try:
            file = open(path, "r+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            continue
        with file:
            if not _lock(file.fileno(), path):
                continue  # its run is alive
            with store.writer() as writer:
                count += sum(_restore(writer, row, spec) for row, spec in _rows(file.read()))
            file.truncate(0)
            path.unlink()
    return count


def _rows(text: str) -> Iterator[tuple[dict[str, Any], EncoderSpec | None]]:
    specs: dict[str, EncoderSpec] = {}
    for line in text.split("\n"):
        with suppress(ValueError, KeyError, TypeError):
            row = parse_json(line, "an answer")
            if "spec" in row:
                specs[row["of"]] = EncoderSpec.from_json(row["spec"])
            elif "clip" in row:
                yield row, None
            elif row["of"] in specs:
                yield row, specs[row["of"]]


def _restore(writer: Writer, row: dict[str, Any], spec: EncoderSpec | None) -> int:
    """Hand one line to the writer; return whether it is an answer or a failure."""
    if spec is None:
        writer.clip(row["clip"], FileId(*row["file"]), address(row["path"]))
        return 0
    if "failed" in row:
        kind, message, hint, retry = row["failed"]
        writer.fail(spec, row["media"], MediaError(kind, message, hint, retry=retry))
    else:
        writer.add_record(spec, row["media"], row["value"])
    return 1


def _place(store_path: Address, number: int) -> Path:
    if isinstance(store_path, Url):
        home = emo_home() / "answers"
        home.mkdir(parents=True, exist_ok=True)
        return home / f"{digest(str(store_path).encode())}-{number}.jsonl"
    return store_path.with_name(f"{store_path.name}.answers-{number}.jsonl")


def _lock(descriptor: int, path: Path) -> bool:
    """Lock a file, unless somebody else has it or has removed it meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
