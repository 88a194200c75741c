"""Media files and face crops that lie under a folder, by clip id."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from emo.featstore.address import Address, Url, seen
from emo.featstore.datasets.mirror import listed_media
from emo.featstore.datasets.tables import AUDIO_SUFFIXES, MEDIA_SUFFIXES, PICTURE_SUFFIXES, normal_name
from emo.featstore.errors import UsageError
from emo.featstore.text import quoted

_RANK = {suffix: rank for rank, suffix in enumerate((*MEDIA_SUFFIXES, *AUDIO_SUFFIXES, *PICTURE_SUFFIXES))}
_PICTURES = len(_RANK) - len(PICTURE_SUFFIXES)  # rank of the first


@dataclass(frozen=True)
class MediaTree:
    """Media files found under a folder.

    Attributes:
        files: Path by clip id.
        aliases: Clip id by other spellings of it (path below the folder, without suffix).
        problems: Names that mean more than one file.
    """

    files: Mapping[str, Address]
    aliases: Mapping[str, str]
    problems: tuple[str, ...]

    def size_bytes(self) -> int:
        """Return the size of all files together; those on a disk are looked at for it."""
        return sum(seen(path)[0] for path in self.files.values())


def escapes(name: str) -> bool:
    """Say whether a name, taken as a path, could lie outside the folder that it is meant for."""
    path = PurePosixPath(name)
    return (
        not name
        or "\0" in name
        or "\\" in name
        or path.is_absolute()
        or bool(PureWindowsPath(name).drive)
        or ".." in path.parts
    )


def scan_media(folder: Path, pictures: bool = False) -> MediaTree:
    """Find the media files under a folder, sub-folders included; hidden folders and stores are left out.

    A clip's id is the file's stem, or its path below the folder where two sub-folders hold the same stem. Of several
    files with one path and different suffixes (`a.mp4`, `a.wav`) the first in `MEDIA_SUFFIXES` is the clip.

    Args:
        folder: The folder.
        pictures: Whether a picture stands for a clip, as its first frame, where there is nothing else of it.
    """
    found = _Found()
    listed = listed_media(folder)
    for path, key, rank in _media_below(folder, found, pictures) if listed is None else _ranked(listed):
        here = _File(rank, path)
        before = found.best.get(key)
        if before is None or rank < before.rank:
            found.best[key] = here
        if before is not None:
            found.beside.append((found.best[key].path, max(before, here).path))
    by_stem: dict[str, list[str]] = {}
    for key in found.best:
        by_stem.setdefault(key.rpartition("/")[2], []).append(key)
    files, aliases = {}, {}
    for stem, keys in by_stem.items():
        # a sound file of the same stem in another folder (video/a.mp4, audio/a.wav) belongs to the same clip
        videos = [key for key in keys if found.best[key].rank < len(MEDIA_SUFFIXES)] or keys
        for key in videos:
            id_ = stem if len(videos) == 1 else key
            files[id_] = found.best[key].path
            aliases[key] = id_
        if len(videos) > 1:
            found.twins.append(stem)
        elif len(keys) > 1:
            found.beside += [(files[stem], found.best[key].path) for key in keys if key not in videos]
    return MediaTree(dict(sorted(files.items())), aliases, tuple(found.problems(folder)))


class _File(NamedTuple):
    rank: int
    path: Address


def _ranked(listed: Iterator[tuple[Url, str]]) -> Iterator[tuple[Address, str, int]]:
    """The same of media in a bucket as `_media_below` gives of those on a disk."""
    for url, name in listed:
        stem, suffix = os.path.splitext(name)
        yield url, "/".join(map(normal_name, stem.split("/"))), _RANK[suffix.lower()]


@dataclass
class _Found:
    """Result of a search for media: the best file of each name, and what is remarkable."""

    best: dict[str, _File] = field(default_factory=dict)  # by path below the folder, without suffix
    beside: list[tuple[Address, Address]] = field(default_factory=list)  # the clip, and a file that is none
    twins: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    not_utf8: list[str] = field(default_factory=list)

    def problems(self, folder: Path) -> Iterator[str]:
        if self.twins:
            yield f"{quoted(self.twins)} in several sub-folders of {folder}: ids are the paths below it."
        if self.beside:
            read, left = (path.name if isinstance(path, Url) else _below(path, folder) for path in self.beside[0])
            names = f"{read!r} is read and {left!r} is not" + (", and so on" if len(self.beside) > 1 else "")
            yield f"{len(self.beside):,} media files have the name of another, with another suffix: {names}."
        if self.not_utf8:
            yield f"{quoted(self.not_utf8)} are names that are not UTF-8: each such byte is written like %E9 in the id."
        if self.broken:
            yield f"{quoted(self.broken)} in {folder} are no files that can be read; they are left out."
        if self.closed:
            yield f"{quoted(self.closed)} cannot be opened; what is inside is left out."


def _folders_below(folder: Path, found: _Found) -> Iterator[str]:
    """The folder and those below it, each once: those that links lead to come after all others."""
    links, walked = list[str](), list[str]()
    for parent in _tree(str(folder), found, links):
        walked.append(parent)
        yield parent
    seen = set(map(_identity, walked if links else ()))
    for link in links:  # more are met inside
        yield from _tree(link, found, links, seen)


def _tree(top: str, found: _Found, links: list[str], seen: set[Any] | None = None) -> Iterator[str]:
    """A folder and those below it, but no links, which are added to `links`; none that was seen already."""
    waiting = [top]
    while waiting:
        parent = waiting.pop()
        if seen is not None:
            if (here := _identity(parent)) in seen:
                continue
            seen.add(here)
        try:
            with os.scandir(parent) as entries:
                below = sorted(filter(_is_walked, entries), key=lambda each: each.name)
        except OSError:
            found.closed.append(parent)
            continue
        yield parent
        links += [each.path for each in below if each.is_symlink()]
        waiting += [each.path for each in reversed(below) if not each.is_symlink()]


def _is_walked(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name.endswith((".emo", ".zarr")):
        return False
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _identity(path: str) -> tuple[int, int] | str:
    try:
        about = os.stat(path)
    except OSError:  # whoever opens it is told
        return path
    return about.st_dev, about.st_ino


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _media_below(folder: Path, found: _Found, pictures: bool) -> Iterator[tuple[Address, str, int]]:
    """Media files, their path below the folder without suffix, and the rank of their suffix."""
    for parent in _folders_below(folder, found):
        below = Path(parent).relative_to(folder).as_posix()
        prefix = "" if below == "." else normal_name(below) + "/"
        with os.scandir(parent) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                stem, suffix = os.path.splitext(entry.name)
                rank = _RANK.get(suffix.lower())
                if rank is None or entry.name.startswith(".") or (rank >= _PICTURES and not pictures):
                    continue
                # what is no link needs no further look; os.path.isfile takes links in a circle
                if not (entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)):
                    found.broken.append(entry.name)
                    continue
                if not entry.name.isascii() and entry.name != entry.name.encode("utf-8", "replace").decode():
                    found.not_utf8.append(entry.name)
                yield Path(entry.path), prefix + normal_name(stem), rank


def face_folders(folder: Path | None) -> dict[str, Path]:
    """Face crops by clip id: `<clip>_aligned/` (OpenFace), `<clip>/` (MERTools) or `<clip>.npy` (MERBench).

    Raises:
        UsageError: The folder does not exist.
    """
    if folder is None:
        return {}
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: os.path.isdir(entry.path) for entry in entries}
    except OSError as error:
        raise UsageError(f"The faces folder {folder} cannot be read: {error.strerror or error}.") from error
    found: dict[str, Path] = {}
    for name, is_folder in sorted(names.items()):
        if not is_folder and name.endswith(".npy"):
            found.setdefault(normal_name(name.removesuffix(".npy")), folder / name)
    for name, is_folder in names.items():
        if is_folder:
            found[normal_name(name)] = folder / name
    for name, is_folder in names.items():
        if is_folder and name.endswith("_aligned"):
            found[normal_name(name.removesuffix("_aligned"))] = folder / name
    return found
