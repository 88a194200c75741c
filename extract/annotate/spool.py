"""Answers between two commits: appended to a file beside the store as they come, so that a killed run loses none."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from emo.featstore.address import Address, Url, address
from emo.featstore.clip import FileId, MediaId
from emo.featstore.errors import MediaError, StoreError, WriteError
from emo.featstore.files import digest, emo_home
from emo.featstore.reading import parse_json
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

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

    What was cut off while it was written is passed over: its answer is asked for again.

    Raises:
        StoreError: Another line is damaged, or has no recipe before it. Its file stays as it is, and nothing of it is
            taken.
    """
    count = 0
    for number in range(MOST):
        path = _place(store.path, number)
        try:
            file = open(path, "r+b")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            continue
        with file:
            if not _lock(file.fileno(), path):
                continue  # its run is alive
            items = _items(path, file.read())
            with store.writer() as writer:
                for what, arguments in items:
                    getattr(writer, what)(*arguments)
            count += sum(what != "clip" for what, _ in items)
            file.truncate(0)
            path.unlink()
    return count


def _items(path: Path, data: bytes) -> list[tuple[str, Sequence[Any]]]:
    """Return for each line which method of a writer takes it, and its arguments."""
    specs, found = dict[str, EncoderSpec](), list[tuple[str, Sequence[Any]]]()
    *lines, rest = data.split(b"\n")
    for number, line in enumerate((*lines, rest), start=1):
        try:
            row = parse_json(line.decode(), "an answer") if line.strip() else None
            if row is not None and "spec" in row:
                specs[row["of"]] = EncoderSpec.from_json(row["spec"])
            elif row is not None:
                found.append(_item(row, specs))
        except (ValueError, KeyError, TypeError) as error:
            if number > len(lines):
                break  # cut off while it was written
            sentence = f"{path} line {number}, of the answers of a run that was killed, is damaged or has no recipe."
            hint = "Remove that line, or move the file away: the same command then asks again for what is missing."
            raise StoreError(sentence, hint) from error
    return found


def _item(row: dict[str, Any], specs: Mapping[str, EncoderSpec]) -> tuple[str, Sequence[Any]]:
    if "clip" in row:
        return "clip", (row["clip"], FileId(*row["file"]), address(row["path"]))
    spec = specs[row["of"]]
    if "failed" in row:
        kind, message, hint, retry = row["failed"]
        return "fail", (spec, row["media"], MediaError(kind, message, hint, retry=retry))
    return "add_record", (spec, row["media"], row["value"])


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
