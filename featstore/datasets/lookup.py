"""Clips as a user names them: a name, a media file, or a list of names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from emo.featstore.address import Address, absolute, seen
from emo.featstore.clip import Clip, MediaId, hash_media, many_objects
from emo.featstore.datasets import find_labels, open_dataset
from emo.featstore.datasets.tables import (
    AUDIO_SUFFIXES,
    MEDIA_SUFFIXES,
    normal_name,
    read_labels,
    read_names,
    without_suffix,
)
from emo.featstore.errors import EmoError, UsageError
from emo.featstore.fetch import at_hand
from emo.featstore.looking import GONE, looking
from emo.featstore.storage.store import Store
from emo.featstore.text import SHOWN, counted, did_you_mean, some_of
from emo.featstore.workspace import Workspace

LISTS = (".csv", ".jsonl", ".txt", ".npz")
SUFFIXES = (*MEDIA_SUFFIXES, *AUDIO_SUFFIXES)
READ_BYTES = 1 << 30  # of files that were written again in the same size: a question reads no more, extraction all


def clips_of(workspace: Workspace, first: Sequence[str] = ()) -> dict[str, Clip]:
    """Return all clips of the workspace's datasets by id.

    Args:
        workspace: Its datasets.
        first: Datasets that are meant where several have a clip of one id; among the others the first one counts.
    """
    found: dict[str, Clip] = {}
    with many_objects():
        for table in sorted(workspace.data.values(), key=lambda table: table.name not in first):
            for clip in open_dataset(table.name, table).clips():
                found.setdefault(clip.id, clip)
    return found


def named_clips(workspace: Workspace, names: Iterable[str], first: Sequence[str] = ()) -> list[Clip]:
    """Return clips by id, see `clips_of`; of one that no dataset lists, only its name is known."""
    known = clips_of(workspace, first)
    return [known.get(name, Clip(name)) for name in names]


def find_clips(
    workspace: Workspace,
    words: Sequence[str],
    transcript: str | None = None,
    store: Store | None = None,
    dataset: str | None = None,
) -> list[Clip]:
    """The clips that a user means, each once.

    Args:
        workspace: Its datasets know names.
        words: Each the name of a clip, a media file, a folder of such, or a list of names: text, csv with a column
            `name`, or labels such as `label-6way.npz#test1`. A media file that is no clip of a dataset is named
            after its stem and its content, such as `interview@3fa9c2d1`, so that it never passes for another clip.
        transcript: What is said in the one clip that is named, in place of what its dataset says.
        store: It knows names too.
        dataset: The one that is meant where several have such a clip or list.

    Raises:
        UsageError: A word is none of these; a list is nowhere; nothing is named; a transcript is given for several
            clips.
    """
    known = clips_of(workspace, () if dataset is None else (workspace.table(dataset).name,))
    stored = set(store.clips()) if store is not None else set[str]()
    by_path = cache(lambda: {absolute(clip.media): clip for clip in known.values() if clip.media is not None})
    found: dict[str, Clip] = {}
    for word in words:
        path = Path(word).expanduser()
        files = _media_in(path) if path.is_dir() and word not in known else [path]
        if all(each.suffix.lower() in SUFFIXES and each.is_file() for each in files):
            for each in files:
                clip = by_path().get(os.path.abspath(each)) or file_clip(each)
                found.setdefault(clip.id, clip)
            continue
        a_list = path.suffix.partition("#")[0].lower() in LISTS or "#" in word
        names = listed_names(word, dataset) if a_list else [word]
        for name in map(normal_name, names):
            id_ = next((each for each in (name, without_suffix(name)) if each in known or each in stored), None)
            if id_ is None and a_list:
                id_ = name  # nobody knows it, which will be said beside the answers about the others
            if id_ is None:
                raise _unknown(word, did_you_mean(name, [*known, *stored], 0.8))
            found.setdefault(id_, known.get(id_, Clip(id_)))
    if not found:
        raise UsageError("No clip is named.", "Give the name of a clip, a video or sound file, or a list of names.")
    if transcript is not None and len(found) > 1:
        raise UsageError(f"One transcript cannot be that of {len(found)} clips.", "Name one clip with --transcript.")
    if transcript is None:
        return list(found.values())
    return [replace(clip, transcripts={"text": transcript}) for clip in found.values()]


def _media_in(folder: Path) -> list[Path]:
    """Return the media files in a folder and the folders in it, by name.

    Raises:
        UsageError: There is none.
    """
    found = sorted(each for each in folder.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
    if not found:
        raise UsageError(f"The folder {folder} holds no video or sound file.", f"Files end in {', '.join(SUFFIXES)}.")
    return found


def _unknown(word: str, hint: str) -> UsageError:
    path = Path(word).expanduser()
    if not path.exists() and (path.suffix.lower() in SUFFIXES or path.parent != Path()):
        return UsageError(f"There is no file {word}, and no clip of that name.", f"{hint} Check the path.".strip())
    return UsageError(
        f"{normal_name(word)!r} is no clip of the workspace and no media file.",
        f"{hint} Give the name of a clip, a video or sound file, or a list of names.".strip(),
    )


def file_clip(path: Path) -> Clip:
    """Return the clip of a media file that is in no dataset: named after its stem and its content.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        media = hash_media(path).media
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    return Clip(f"{normal_name(path.stem)}@{media[:8]}", path)


def listed_names(word: str, dataset: str | None = None) -> list[str]:
    """Return the names of a list or of labels, which is looked up as typed and then in the datasets, or in this one.

    Raises:
        UsageError: It is nowhere, or no list.
    """
    path = find_labels(word, dataset=dataset)
    return read_names(path) if path.suffix.lower() in (".csv", ".jsonl", ".txt") else list(read_labels(path))


def is_another(store: Store, clip: Clip) -> bool:
    """Say whether the store knows another clip by this name: a file elsewhere, still there, of other content."""
    row = store.clip_row(clip.id)
    if row is None or row[1] is None or clip.media is None or absolute(clip.media) == row[1]:
        return False
    if (known := store.file_of(clip.media)) is None and Path(row[1]).exists():
        if seen(clip.media)[0] != row[2]:
            return True
        with at_hand(clip.media) as media:
            known = media.file_id()
    return known is not None and known.media != row[0]


@dataclass(frozen=True)
class Changed:
    """Clips whose files, where the store knows them to lie, are not as it came to know them.

    Attributes:
        others: The file holds something else: it has another size, or was written again and read.
        unread: The file was written again in the same size, and not read, as `READ_BYTES` of such files had been.
    """

    others: list[str]
    unread: list[str]


def changed_files(store: Store, clips: Iterable[Clip]) -> Changed:
    """Find clips whose file has changed since the store came to know it, at the same place.

    Size and time of the last change tell; of a file of the same size and another time the bytes are hashed. What has
    both as before counts as unchanged, as it does for `emo extract`.
    """
    rows = [(clip, store.clip_row(clip.id)) for clip in clips]
    there = [(clip, path, row) for clip, row in rows if row and (path := clip.media) and absolute(path) == row[1]]
    with looking([path for _, path, _ in there]) as (_, looked):
        now = looked().tolist()
    found, left_bytes = Changed([], []), READ_BYTES
    for (clip, path, (media, _, size_bytes, mtime_ns)), (size, time) in zip(there, now, strict=True):
        if size == GONE or (size, time) == (size_bytes, mtime_ns):
            continue
        if size != size_bytes:
            found.others.append(clip.id)
        elif size > left_bytes:
            found.unread.append(clip.id)
        else:
            left_bytes -= size
            if _media_of(path) not in (media, None):
                found.others.append(clip.id)
    return found


def _media_of(path: Address) -> MediaId | None:
    """Return the content hash of a file; `None` where it cannot be read now."""
    with suppress(OSError, EmoError), at_hand(path) as media:
        return media.file_id().media
    return None


def lent_files(store: Store, clips: Iterable[Clip]) -> dict[str, str]:
    """Return the files that features of clips without a file were made of, where they still lie elsewhere, by clip.

    Whoever lists the clip does not list that file as its own, so it may be the file of another dataset's clip of the
    same name. One that is gone may have been the clip's own.
    """
    rows = [(clip.id, store.clip_row(clip.id)) for clip in clips if clip.dataset and clip.media is None]
    paths = {name: row[1] for name, row in rows if row is not None and row[1] is not None}
    with looking(list(paths.values())) as (_, looked):
        sizes = looked()[:, 0].tolist()
    return {name: path for (name, path), size in zip(paths.items(), sizes, strict=True) if size != GONE}


def changed_note(store: Store, clips: Iterable[Clip], shown: int = SHOWN) -> str:
    """Return what is to be said of clips whose features were made of other files; empty where all fit."""
    clips = list(clips)
    found = changed_files(store, clips)
    told = []
    if names := found.others:
        have = counted(len(names), "clip has another file", "clips have other files")
        told.append(
            f"{have} now than the one that the features were made of: {some_of(names, shown)}. Run emo extract."
        )
    if names := found.unread:
        were = counted(len(names), "file was", "files were")
        told.append(
            f"{were} written again in the same size since the features were made, and not read now: "
            f"{some_of(names, shown)}. Run emo extract, which reads them."
        )
    if lent := lent_files(store, clips):
        have = counted(len(lent), "clip without a media file has", "clips without a media file have")
        told.append(
            f"{have} the features of a file elsewhere, by name alone: {next(iter(lent))} those of "
            f"{next(iter(lent.values()))}. Where that is another dataset's clip, use one store per dataset."
        )
    return " ".join(told)


def holds_another(store: Store, clip: Clip) -> bool:
    """Say whether a clip's file, where the store knows it to lie, has other content now; one written again is read.

    Raises:
        MediaError: It cannot be fetched.
    """
    row = store.clip_row(clip.id)
    if row is None or clip.media is None or absolute(clip.media) != row[1]:
        return False
    with suppress(OSError):
        size_bytes, mtime_ns = seen(clip.media)
        if size_bytes != row[2]:
            return True
        if mtime_ns != row[3]:
            with at_hand(clip.media) as media:
                return media.file_id().media != row[0]
    return False
