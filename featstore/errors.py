"""The one tree of errors: what happened, where, what to do about it, and the exit code.

Every error carries a `message` (one sentence: what and where) and a `hint` (what to do). Errors that mean the same as a
builtin also inherit it, so that `except KeyError` works where a Python programmer expects it to.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any


class EmoError(Exception):
    """Base of all errors that emo raises on purpose.

    Args:
        message: One sentence that says what is wrong and where.
        hint: What the user can do about it; empty when the message says it all.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, self.__dict__)  # constructors differ: pickle must not call them


def _again(kind: type[EmoError], args: tuple[Any, ...], state: dict[str, Any]) -> EmoError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(EmoError, ValueError):
    """The command, a configuration file or an argument is wrong."""

    exit_code = 2


class MediaError(EmoError):
    """A clip cannot be used. Recorded per clip in the store, never fatal to a pass.

    Args:
        kind: Short stable name, for instance `no-face` or `truncated`; failures are counted by it.
        retry: Whether trying again can help (a full disk: yes; a text file named .mp4: no).
    """

    exit_code = 3

    def __init__(self, kind: str, message: str, hint: str = "", *, retry: bool = False) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.retry = retry


class StoreError(EmoError):
    """The store cannot be read or written."""

    exit_code = 4


class StoreCorrupt(StoreError):
    """Bytes on disk are not the bytes that were committed."""


class StoreFull(StoreError, OSError):
    """The disk refused a write. Everything committed before is intact."""


class WriteError(EmoError, OSError):
    """A file outside the store cannot be written: the disk is full, or refuses."""

    def __init__(self, path: Path, error: OSError) -> None:
        hint = "Check the disk and its permissions."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space and run again."
        elif error.errno == errno.ENOENT:
            hint = f"Make its folder first: mkdir -p {path.parent}"
        super().__init__(f"{path} cannot be written: {error.strerror or error}.", hint)
        self.errno = error.errno


class FeatureMissing(StoreError, KeyError):
    """A feature, or a clip's row of it, is not in the store."""


class ModelError(EmoError):
    """Weights or a model cannot be loaded."""

    exit_code = 5


class WeightsMissing(ModelError, FileNotFoundError):
    """A weights file or folder is not where the workspace says."""


class TrainError(EmoError):
    """Training or scoring cannot go on."""

    exit_code = 6
