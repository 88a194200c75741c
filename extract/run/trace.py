"""A timeline of a pass, for `chrome://tracing` and ui.perfetto.dev: what every thread, process and device did when.

The file is Chrome's trace event format, as an array that need not be closed: what is written is readable although the
pass was killed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from emo.featstore.errors import UsageError


class Trace:
    """Writes spans as they end. Without a file it does nothing; safe to use from several threads.

    Args:
        path: File to write, replaced if it is there; `None` for no trace.

    Raises:
        UsageError: The file cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock, self._rows, self._start_s = threading.Lock(), dict[str, int](), time.monotonic()
        self._file: TextIO | None = None
        self._path, self.broken = path, ""  # why the file ends early
        if path is not None:
            try:
                self._file = path.open("w", encoding="utf-8")
            except OSError as error:
                raise UsageError(f"The trace cannot be written to {path}: {error.strerror}.") from error
            self._file.write("[\n")

    def says(self) -> str:
        """Return what to tell whoever asked for it, once it is closed; nothing where nobody did."""
        return self.broken or (f"timeline in {self._path}: open it in ui.perfetto.dev" if self._path else "")

    @property
    def on(self) -> bool:
        """Say whether anything is recorded."""
        return self._file is not None

    @contextmanager
    def span(self, name: str, **words: Any) -> Iterator[None]:
        """Record what happens inside, in the row of this thread."""
        if not self.on:
            yield
            return
        start_s = time.monotonic()
        try:
            yield
        finally:
            self.add(name, threading.current_thread().name, start_s, time.monotonic(), **words)

    def add(self, name: str, row: str, start_s: float, end_s: float, **words: Any) -> None:
        """Record a span.

        Args:
            name: What was done.
            row: Who did it; every row of the picture has a name.
            start_s: On the clock of `time.monotonic`, which the processes of a machine share.
            end_s: Likewise.
            **words: What the viewer shows beside it.
        """
        with self._lock:
            if self._file is None:
                return
            events: list[dict[str, Any]] = []
            if row not in self._rows:
                self._rows[row] = len(self._rows)
                named = {"ph": "M", "name": "thread_name", "pid": 0, "tid": self._rows[row], "args": {"name": row}}
                events.append(named)
            event = {"ph": "X", "name": name, "pid": 0, "tid": self._rows[row], "args": words}
            events.append(event | {"ts": _us(start_s - self._start_s), "dur": _us(end_s - start_s)})
            try:
                self._file.writelines(json.dumps(each) + ",\n" for each in events)
            except OSError as error:  # the pass must not fail for the sake of a picture
                self._file, self.broken = None, f"the trace ends early, it cannot be written: {error.strerror}"

    def close(self) -> None:
        """Finish the file."""
        with self._lock:
            if self._file is not None:
                with suppress(OSError), self._file as file:
                    file.write('{"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "emo extract"}}\n]\n')
                self._file = None


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
