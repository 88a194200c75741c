"""JSON from files and from the network: whatever is wrong with it is one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from emo.featstore.errors import UsageError

_HALF = re.compile("[\ud800-\udfff]")  # half of a character: cut output has it, and nothing can write it


def parse_json(text: str, where: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse one JSON value.

    Args:
        text: The text.
        where: File, and line where the file has one value per line; messages begin with it.
        pairs: Makes a value of an object's pairs, in place of a `dict`.

    Raises:
        UsageError: It is no JSON, or nested deeper than Python follows, or a number has thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        place = "" if error.lineno == 1 else f" line {error.lineno}"
        raise UsageError(f"{where}{place} is not JSON: {error.msg}.") from error
    except RecursionError:
        raise UsageError(f"{where} is nested too deeply to be read.") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise UsageError(f"{where} is not JSON that can be read: {error}.") from error


def whole_text(text: str) -> str:
    """Replace halves of characters, which JSON can spell and no file can hold, by the replacement character."""
    return _HALF.sub("\N{REPLACEMENT CHARACTER}", text)
