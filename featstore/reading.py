"""Files that others wrote: one reader per kind of text, each of which ends in a value or in a `UsageError`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from emo.featstore.errors import UsageError

Pairs: TypeAlias = Callable[[list[tuple[str, Any]]], Any]


def parse_json(text: str, where: str, pairs: Pairs | None = None, line: int | None = None) -> Any:
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
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where} line {line or error.lineno} is not JSON: {error.msg}.") from error
    except RecursionError as error:
        raise UsageError(f"{where}{place} is nested too deeply to be read.") from error
    except ValueError as error:
        raise UsageError(f"{where}{place} {_too_long(error)}.") from error


def _too_long(error: ValueError) -> str:
    if "digits" in str(error):
        return f"holds a number of more than {sys.get_int_max_str_digits():,} digits"
    return f"holds a value that cannot be read: {error}"
