"""Addresses: a path on this machine, or the URL of a place in a bucket."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TypeAlias

_URL = re.compile(r"(s3|gs|az)://(?=[^/])")


class Url(PurePosixPath):
    """A place in a bucket, such as `s3://bucket/folder`, put together as paths are; no disk is asked.

    Attributes:
        seen: Size in bytes, time of the last change in ns and tag of what lies there, as last listed.
    """

    seen: tuple[int, int, str] | None = None

    def __str__(self) -> str:
        scheme, colon, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest}" if colon else scheme  # the latter of a part that is relative to another


def absolute(place: str | os.PathLike[str]) -> str:
    """Return the whole path of a file, or its URL."""
    return str(place) if isinstance(place, Url) else os.path.abspath(place)


def seen(place: str | os.PathLike[str], text: str | None = None) -> tuple[int, int]:
    """Return size in bytes and time of the last change in ns; of what lies in a bucket, as it was last listed.

    Args:
        place: The file.
        text: The same as a text, where that is at hand.

    Raises:
        OSError: There is no such file, or it was never listed.
    """
    if isinstance(place, Url):
        if place.seen is None:
            raise FileNotFoundError(2, "It was not listed", str(place))
        return place.seen[:2]
    stat = os.stat(text or place)
    return stat.st_size, stat.st_mtime_ns


Address: TypeAlias = Path | Url


def is_url(text: str) -> bool:
    """Say whether a text is the URL of a place in a bucket."""
    return _URL.match(text) is not None


def address(place: str | os.PathLike[str]) -> Address:
    """Return what a text means: `s3://`, `gs://` and `az://` begin a URL, anything else is a path."""
    if isinstance(place, Path | Url):
        return place
    text = os.fspath(place)
    return Url(text) if is_url(text) else Path(text)
