"""Clips, labels and the identity of media."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from emo.featstore.address import Address
from emo.featstore.files import file_digest

MediaId: TypeAlias = str  # content hash, 32 hex digits
Seconds: TypeAlias = float


@dataclass(frozen=True)
class Label:
    """Annotation of a clip. `None` means "not annotated"; absent is not zero.

    Attributes:
        emotion: One lower-case word of the dataset's label set.
        valence: On the dataset's own scale (MER2023: -5 to 5).
    """

    emotion: str | None = None
    valence: float | None = None


@dataclass(frozen=True)
class Clip:
    """One clip of a dataset. Datasets yield clips; nothing else does.

    Attributes:
        id: Name of the clip, unique in its dataset (the media file's stem in all MER sets).
        media: The audio/video file, on this machine or in a bucket, or `None` where it is listed but not present.
        dataset: Name of the dataset, such as `MER2023-SEMI`.
        split: The dataset's own split name, such as `train_corpus` or `test3`.
        label: Annotation, if any.
        transcripts: Text by language (`chinese`, `english`); an absent transcript has no key.
        speaker: Who speaks, where the dataset knows it: a name that is unique in the dataset.
        dialogue: Conversation or recording that the clip is cut from, likewise; clips of one share people and scene.
        session: Session of recordings that the dialogue belongs to, likewise (IEMOCAP).
        heard_by: Key of the records that the transcripts are from; empty where they are the dataset's own.
        faces: Folder of an OpenFace run for this clip, where the user has one.
        annotations: What annotators wrote, by kind: `openset` (words with commas between them), `reason`,
            `reason_english`, ...; absent ones have no key.
    """

    id: str
    media: Address | None = None
    dataset: str = ""
    split: str = ""
    label: Label | None = None
    transcripts: Mapping[str, str] = field(default_factory=dict)
    speaker: str | None = None
    faces: Path | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    dialogue: str | None = None
    session: str | None = None
    heard_by: str = ""


class FileId(NamedTuple):
    """Identity of a media file when its bytes were read; a tuple, as a plan over a million clips makes a million.

    Attributes:
        media: Content hash: 32 hex digits of BLAKE2b.
        size_bytes: Size of the file.
        mtime_ns: Time of its last change.
    """

    media: MediaId
    size_bytes: int
    mtime_ns: int


@contextmanager
def many_objects() -> Iterator[None]:
    """While a million small objects are made, spare the search for circles among them: there are none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def hash_media(path: Path) -> FileId:
    """Hash a file; size and time are those of the very file that was read, whatever takes its place later.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        return FileId(file_digest(file), stat.st_size, stat.st_mtime_ns)
