"""A dataset in a bucket: its tables are copied to this machine, its media are listed and stay where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from emo.featstore.address import Url
from emo.featstore.errors import UsageError
from emo.featstore.fetch import mtime_ns
from emo.featstore.files import emo_home, mirror_folder, write_atomic, write_json
from emo.featstore.reading import read_json
from emo.featstore.storage.mediums import open_medium

LISTING = ".listing.json"
MOST_TABLE_BYTES = 1 << 28
SKIPPED = (".emo", ".zarr")  # stores and arrays below the root


@lru_cache(maxsize=16)
def mirrored(url: Url, suffixes: frozenset[str]) -> Path:
    """Bring the mirror of a dataset up to date, once per process: tables copied, media listed.

    Args:
        url: Root of the dataset.
        suffixes: Of media files.

    Raises:
        UsageError: There is nothing at this URL.
        StoreError: It cannot be reached.
    """
    folder, medium = mirror_folder(str(url)), open_medium(url)
    media: list[list[Any]] = []
    tables = set()
    for name, size, modified, tag in medium.walk():
        parts = name.split("/")
        if any(each.startswith(".") or each.endswith(SKIPPED) for each in parts) or ".." in parts or not parts[-1]:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in suffixes:
            media.append([name, size, mtime_ns(modified), tag])
        elif size <= MOST_TABLE_BYTES:
            tables.add(path)
            time_ns = mtime_ns(modified)
            if not path.is_file() or (path.stat().st_size, path.stat().st_mtime_ns) != (size, time_ns):
                write_atomic(path, medium.get(name))
                os.utime(path, ns=(time_ns, time_ns))
    if not media and not tables:
        raise UsageError(f"There is nothing at {url}.", "Correct `root` in emo.toml.")
    for path in folder.rglob("*"):
        if path.is_file() and path not in tables and path.name != LISTING:
            path.unlink()
    write_json(folder / LISTING, {"url": str(url), "media": media})
    return folder


def listed_media(folder: Path) -> Iterator[tuple[Url, str]] | None:
    """Return the media below a folder of a mirror: URL, path below the folder; `None` of any other folder."""
    home = os.path.realpath(emo_home() / "mirrors")
    real = os.path.realpath(folder)
    if os.path.dirname(home) == home or not real.startswith(home + os.sep):
        return None
    root = Path(home, os.path.relpath(real, home).split(os.sep)[0])
    below = os.path.relpath(real, root)
    begin = "" if below == "." else below + "/"
    return _listed(root, begin)


def _listed(root: Path, begin: str) -> Iterator[tuple[Url, str]]:
    listing = read_json(root / LISTING)
    for name, size, time_ns, tag in sorted(listing["media"]):
        if name.startswith(begin):
            url = Url(listing["url"]) / name
            url.seen = (size, time_ns, tag)
            yield url, name.removeprefix(begin)
