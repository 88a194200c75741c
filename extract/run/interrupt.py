"""Ctrl-C, and a scheduler's SIGTERM: the first one ends a long work in order, the second one at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Stopping(Protocol):
    """Counters that say whether a work is about to end."""

    stopping: bool


class Stoppable(Protocol):
    """A long work that can be asked to end."""

    @property
    def progress(self) -> Stopping:
        """Its counters."""
        ...

    def stop(self) -> None:
        """Take nothing new; finish and commit what is under way."""
        ...


@contextmanager
def interruptible(job: Stoppable, say: Callable[[str], None], give_up: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C (or a scheduler's SIGTERM) finish the clips under way; the second one ends at once.

    Args:
        job: The pass that is running.
        say: Gets a sentence at the first one.
        give_up: Called at the second one, before the process ends.
    """

    def interrupt(number: int, frame: Any) -> None:
        if job.progress.stopping:
            give_up()
            os._exit(130)  # what is committed is safe, the rest is invisible; threads need not agree to it
        job.stop()
        say("finishing the clips under way; Ctrl-C again stops at once (committed clips stay)")

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
