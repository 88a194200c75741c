"""Media files and face crops that lie under a folder, by clip id."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from emo.featstore.datasets.tables import AUDIO_SUFFIXES, MEDIA_SUFFIXES, normal_name
from emo.featstore.errors import UsageError
from emo.featstore.text import quoted

_RANK = {suffix: rank for rank, suffix in enumerate((*MEDIA_SUFFIXES, *AUDIO_SUFFIXES))}


@dataclass(frozen=True)
class MediaTree:
    """Media files found under a folder.

    Attributes:
        files: Path by clip id.
        aliases: Clip id by other spellings of it (path below the folder, without suffix).
        size_bytes: Size of all files together.
        problems: Names that mean more than one file.
    """

    files: Mapping[str, Path]
    aliases: Mapping[str, str]
    size_bytes: int
    problems: tuple[str, ...]


def escapes(name: str) -> bool:
    """Whether a name, taken as a path, could lie outside the folder that it is meant for."""
    path = PurePosixPath(name)
    return (
        not name
        or "\0" in name
        or "\\" in name
        or path.is_absolute()
        or bool(PureWindowsPath(name).drive)
        or ".." in path.parts
    )


def scan_media(folder: Path) -> MediaTree:
    """Find the media files under a folder, sub-folders included; hidden folders and stores are left out.

    A clip's id is the file's stem, or its path below the folder where two sub-folders hold the same stem. Of several
    files with one path and different suffixes (`a.mp4`, `a.wav`) the first in `MEDIA_SUFFIXES` is the clip.
    """
    best: dict[str, tuple[int, Path, int]] = {}  # path below folder without suffix -> rank, path, size
    root, outside, broken, closed = os.path.realpath(folder), [], [], []
    for parent, folders, _ in os.walk(folder, onerror=lambda error: closed.append(str(error.filename))):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not name.endswith((".emo", ".zarr"))
        )
        below = Path(parent).relative_to(folder).as_posix()
        prefix = "" if below == "." else normal_name(below) + "/"
        with os.scandir(parent) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                stem, suffix = os.path.splitext(entry.name)
                rank = _RANK.get(suffix.lower())
                if rank is None or entry.name.startswith("."):
                    continue
                if not entry.is_file():
                    broken.append(entry.name)
                    continue
                if entry.is_symlink() and os.path.commonpath([root, os.path.realpath(entry.path)]) != root:
                    outside.append(entry.name)
                key = prefix + normal_name(stem)
                if key not in best or rank < best[key][0]:
                    best[key] = (rank, Path(entry.path), entry.stat().st_size)
    by_stem: dict[str, list[str]] = {}
    for key in best:
        by_stem.setdefault(key.rpartition("/")[2], []).append(key)
    files, aliases, twins = {}, {}, []
    for stem, keys in by_stem.items():
        # a sound file of the same stem in another folder (video/a.mp4, audio/a.wav) belongs to the same clip
        videos = [key for key in keys if best[key][0] < len(MEDIA_SUFFIXES)]
        keys = videos if videos else keys
        for key in keys:
            id_ = stem if len(keys) == 1 else key
            files[id_] = best[key][1]
            aliases[key] = id_
        if len(keys) > 1:
            twins.append(stem)
    kept = {str(path) for path in files.values()}
    problems = [f"{quoted(twins)} in several sub-folders of {folder}: ids are the paths below it."] if twins else []
    problems += [f"{quoted(outside)} are links out of {folder}; they are followed."] if outside else []
    problems += [f"{quoted(broken)} in {folder} are no files that can be read; they are left out."] if broken else []
    problems += [f"{quoted(closed)} cannot be opened; what is inside is left out."] if closed else []
    size_bytes = sum(size for _, path, size in best.values() if str(path) in kept)
    return MediaTree(dict(sorted(files.items())), aliases, size_bytes, tuple(problems))


def face_folders(folder: Path | None) -> dict[str, Path]:
    """Face crops by clip id: `<clip>_aligned/` (OpenFace), `<clip>/` (MERTools) or `<clip>.npy` (MERBench).

    Raises:
        UsageError: The folder does not exist.
    """
    if folder is None:
        return {}
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir() for entry in entries}
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
