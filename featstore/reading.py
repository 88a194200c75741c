"""Files that others wrote: one reader per kind of text, each of which ends in a value or in a `UsageError`.

Whatever is wrong with a file (absent, a folder, a pipe, not UTF-8, no JSON, nested or with a number without end) is
said here once, in one sentence with the file and, where there is one, the line.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from emo.featstore.errors import UsageError


def read_bytes(path: Path) -> bytes:
    """Content of a regular file.

    Raises:
        UsageError: It is absent, is a folder, a pipe or a device, or cannot be read.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:  # threads that read many wait at every call
            about = os.fstat(file.fileno())
            regular = stat.S_ISREG(about.st_mode)
            data = b"".join(iter(lambda: file.read(about.st_size + 1), b"")) if regular else b""
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder, not a file.", "Name a file in it.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # a zero byte, half a character
        raise UsageError(f"{str(path)!r} cannot be the name of a file: {error}.") from error
    except MemoryError as error:
        raise UsageError(f"{path} is too large to be read into memory.") from error
    if not regular:
        raise UsageError(f"{path} is no regular file but a pipe or a device.", "Copy its content into a file.")
    return data


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, with or without byte-order mark.

    Raises:
        UsageError: As `read_bytes`, or it is not UTF-8, or empty.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    if not text.strip():
        raise UsageError(f"{path} is empty.", "Write into it what it should hold, or remove it.")
    return text


# JSON can spell half a character, which no file and no screen can hold: it becomes a replacement character. The whole
# characters and all other escapes are matched first, so that only a half is in the group.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.")
Hook: TypeAlias = Callable[[list[tuple[str, Any]]], Any]  # makes an object of its pairs


class Pairs(list[tuple[str, Any]]):
    """A JSON object whose names may come twice; a hook of `read_json`."""


def parse_json(text: str, where: str, pairs: Hook | None = None, line: int | None = None) -> Any:
    """The value of a JSON text.

    Args:
        text: The text.
        where: The file that it is from.
        pairs: Makes an object of its pairs, where a dictionary is not wanted.
        line: Its line in the file, where it is one of many.

    Raises:
        UsageError: It is not JSON, is nested too deeply, or holds a number of thousands of digits.
    """
    place = f" line {line}" if line else ""
    if _HALF.search(text):
        text = _ESCAPE.sub(lambda found: "\\ufffd" if found[1] else found[0], text)
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where} line {line or error.lineno} is not JSON: {error.msg}.") from error
    except RecursionError as error:
        raise UsageError(f"{where}{place} is nested too deeply to be read.") from error
    except ValueError as error:
        raise UsageError(f"{where}{place} {_too_long(error)}.") from error


def parse_own(data: bytes | str, where: str) -> Any:
    """The value of JSON that emo itself has written, taken as it is; it may be damaged by now.

    Raises:
        UsageError: It is not JSON, is not UTF-8, or is nested too deeply.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}.") from error


def read_json(path: Path, pairs: Hook | None = None) -> Any:
    """The one JSON value of a file.

    Raises:
        UsageError: As `read_text` and `parse_json`.
    """
    return parse_json(read_text(path), str(path), pairs)


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """JSON values of a file that has one a line, with their line numbers from 1; blank lines are passed over.

    Raises:
        UsageError: As `read_text` and `parse_json`.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # not splitlines: texts may hold U+2028
        if line.strip():
            yield number, parse_json(line, str(path), line=number)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UsageError: As `read_bytes`, or it is not UTF-8 or not TOML.
    """
    data = read_bytes(path)
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        what = str(error)
        place = re.search(r"\(at line (\d+), column (\d+)\)", what)
        where = f"line {place[1]}, column {place[2]}" if place else "at its end"
        hint = "Write Windows paths with / or between 'single quotes'." if "escape" in what.lower() else ""
        raise UsageError(f"{path} is not valid TOML, {where}: {what.split(' (at ')[0]}.", hint) from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply to be read.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML: it {_too_long(error)}.") from error


def _too_long(error: ValueError) -> str:
    if "digits" in str(error):
        return f"holds a number of more than {sys.get_int_max_str_digits():,} digits"
    return f"holds a value that cannot be read: {error}"
