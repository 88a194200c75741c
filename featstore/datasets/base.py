"""The contract of a dataset, and what all readers share: join labels, media, transcripts and faces by clip name."""

from __future__ import annotations

import difflib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from emo.featstore.clip import Clip, Label
from emo.featstore.errors import UsageError
from emo.featstore.tables import (
    AUDIO_SUFFIXES,
    MEDIA_SUFFIXES,
    csv_label,
    normal_name,
    read_csv,
    rows_by_name,
    split_name,
)
from emo.featstore.workspace import DataTable

_RANK = {suffix: rank for rank, suffix in enumerate((*MEDIA_SUFFIXES, *AUDIO_SUFFIXES))}
SHOWN = 3  # examples named in a problem


@dataclass(frozen=True)
class Card:
    """What a dataset is, for people who do not have it yet.

    Attributes:
        name: Its name here.
        about: One sentence.
        how_to_get: Where it comes from.
        tree: The files expected under the root, one per line.
        licence: Its terms in one line.
        labels: Label words in the official index order; empty where the data decides.
        counts: Published number of labelled clips per split.
    """

    name: str
    about: str
    how_to_get: str
    tree: str
    licence: str
    labels: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """The card as lines for people; the first is the name."""
        rows = {"get it": self.how_to_get, "terms": self.licence}
        if self.counts:
            rows["labelled"] = ", ".join(f"{split} {count:,}" for split, count in self.counts.items())
        rows["tree"] = self.tree.replace("\n", "\n" + " " * 12)
        return "\n".join([self.name, f"  {self.about}", *(f"  {what + ':':10}{text}" for what, text in rows.items())])


@dataclass(frozen=True)
class SplitCheck:
    """Counts of one split: clips listed, clips present on disk, and the published number where known."""

    name: str
    listed: int
    present: int
    published: int | None = None


@dataclass(frozen=True)
class DatasetCheck:
    """What of a dataset is on disk.

    Attributes:
        name: Name of the dataset.
        listed: Clips named by the label files.
        present: Clips whose media file is there, labelled or not.
        labelled: Present clips with a label.
        unlabelled: Present clips that no label file names.
        absent: Listed clips without a media file.
        transcripts: Present clips with a non-empty transcript.
        faces: Present clips with a folder of face crops.
        size_bytes: Size of the media files.
        splits: The same by split.
        problems: What is wrong, one sentence each; running on what is present is still possible.
    """

    name: str
    listed: int
    present: int
    labelled: int
    unlabelled: int
    absent: int
    transcripts: int
    faces: int
    size_bytes: int
    splits: tuple[SplitCheck, ...]
    problems: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """The counts by their names for people."""
        return {
            "listed": self.listed,
            "present": self.present,
            "labelled and present": self.labelled,
            "present, not labelled": self.unlabelled,
            "listed, not present": self.absent,
            "present with transcript": self.transcripts,
        }


class Dataset(Protocol):
    """What the rest of emo knows of a dataset."""

    @property
    def name(self) -> str: ...

    @property
    def card(self) -> Card: ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Label words in the official index order."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, as `Clip.split` has them."""
        ...

    def clips(self) -> Iterator[Clip]:
        """All clips: the listed ones split by split in file order, then those present but not listed."""
        ...

    def check(self) -> DatasetCheck:
        """Count what is listed, present, labelled; name what is wrong."""
        ...

    def find_split(self, text: str) -> str:
        """The split that a user means: `test3`, `test3_corpus` and `Test3` are one."""
        ...

    def find_file(self, name: str) -> Path | None:
        """A file of the dataset, such as a label list, by its name under the root."""
        ...


@dataclass(frozen=True)
class Listed:
    """One row of a label file."""

    split: str
    label: Label
    speaker: str | None = None


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


class LabelledFolder(ABC):
    """A dataset made of a folder of media files and tables that name them. Readers say only where their tables are.

    A clip's media is looked up by name among the files that the folder holds; a name is never turned into a path, so
    a label file cannot point outside the data root.
    """

    def __init__(self, table: DataTable, card: Card) -> None:
        self.name = table.name
        self.table = table
        self.card = card

    @abstractmethod
    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        """Rows of the label files by clip name in file order, and problems."""

    @abstractmethod
    def read_transcripts(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        """Transcripts by clip name and language without empty ones, and problems."""

    @abstractmethod
    def media_folder(self) -> Path:
        """Folder that is searched for media files."""

    @property
    def labels(self) -> tuple[str, ...]:
        words = {row.label.emotion for row in self._listed.values()}
        return self.card.labels or tuple(sorted(word for word in words if word is not None))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.split for row in self._listed.values() if row.split))

    @cached_property
    def _tables(self) -> tuple[dict[str, Listed], dict[str, dict[str, str]], list[str]]:
        listed, problems = self.read_listed()
        transcripts, more = self.read_transcripts()
        return listed, transcripts, problems + more

    @property
    def _listed(self) -> dict[str, Listed]:
        return self._tables[0]

    @cached_property
    def _media(self) -> MediaTree:
        folder = self.media_folder()
        if not folder.is_dir():
            raise UsageError(f"The clips folder of {self.name}, {folder}, does not exist.", "Correct it in emo.toml.")
        return scan_media(folder)

    def _id(self, name: str) -> str:
        """Clip id of a name in a table."""
        return name if name in self._media.files else self._media.aliases.get(name, name)

    @cached_property
    def _joined(self) -> tuple[dict[str, Listed], list[str]]:
        """Listed rows by clip id, and the names that mean a clip which another name has already given."""
        rows: dict[str, Listed] = {}
        doubles = []
        for name, row in self._listed.items():
            if rows.setdefault(self._id(name), row) is not row:
                doubles.append(name)
        return rows, doubles

    def clips(self) -> Iterator[Clip]:
        listed = self._joined[0]
        texts = {self._id(name): text for name, text in self._tables[1].items()}
        faces = face_folders(self.table.faces)
        for id_, row in listed.items():
            yield Clip(
                id=id_,
                media=self._media.files.get(id_),
                dataset=self.name,
                split=row.split,
                label=row.label,
                transcripts=texts.get(id_, {}),
                speaker=row.speaker,
                faces=faces.get(id_),
            )
        for id_, path in self._media.files.items():
            if id_ not in listed:
                yield Clip(id_, path, self.name, transcripts=texts.get(id_, {}), faces=faces.get(id_))

    def check(self) -> DatasetCheck:
        clips = list(self.clips())
        present = [clip for clip in clips if clip.media is not None]
        listed = [clip for clip in clips if clip.label is not None]
        splits = tuple(
            SplitCheck(
                split,
                sum(clip.split == split for clip in listed),
                sum(clip.split == split for clip in present if clip.label is not None),
                self.card.counts.get(split),
            )
            for split in dict.fromkeys(clip.split for clip in listed)
        )
        return DatasetCheck(
            name=self.name,
            listed=len(listed),
            present=len(present),
            labelled=sum(clip.label is not None for clip in present),
            unlabelled=sum(clip.label is None for clip in present),
            absent=sum(clip.media is None for clip in listed),
            transcripts=sum(bool(clip.transcripts) for clip in present),
            faces=sum(clip.faces is not None for clip in present),
            size_bytes=self._media.size_bytes,
            splits=splits,
            problems=tuple(self._problems(listed, present, splits)),
        )

    def _problems(self, listed: list[Clip], present: list[Clip], splits: tuple[SplitCheck, ...]) -> Iterator[str]:
        yield from self._tables[2]
        yield from self._media.problems
        if not present:
            yield f"{self.media_folder()} holds no media file."
        elif listed and not any(clip.label for clip in present):
            examples = f"{listed[0].id!r} is listed, {present[0].id!r} is there"
            yield f"None of the {len(listed):,} listed clips has a file: {examples}. Do the names agree?"
        if self._joined[1]:
            yield f"{some(self._joined[1])} in the label files is a clip that another row names; the first is used."
        outside = [name for name in self._listed if escapes(name)]
        if outside:
            yield f"{some(outside)} would lie outside the data root, so no media is looked for."
        words = [clip.label.emotion for clip in listed if clip.label is not None and clip.label.emotion is not None]
        strange = sorted(set(words) - set(self.labels))
        if strange:
            yield f"{some(strange)} in the label files is not one of {', '.join(self.labels)}."
        for split in splits:
            if split.published is not None and split.listed != split.published:
                yield f"{split.name} lists {split.listed:,} clips; the published set has {split.published:,}."
        if self.table.faces is not None and present and not any(clip.faces for clip in present):
            yield f"{self.table.faces} holds no <clip>_aligned/, <clip>/ or <clip>.npy for any clip."

    def find_split(self, text: str) -> str:
        for split in self.splits:
            if split_name(split) == split_name(text):
                return split
        known = {split_name(split): split for split in self.splits}
        close = difflib.get_close_matches(split_name(text), known, n=1, cutoff=0.5)
        nearest = f" Did you mean {known[close[0]]}?" if close else ""
        have = f"It has {', '.join(self.splits)}." if self.splits else "Its label files name no splits."
        raise UsageError(f"{self.name} has no split {text!r}.{nearest}", have)

    def find_file(self, name: str) -> Path | None:
        if escapes(name):
            return None
        path = self.table.root / name
        if path.is_file():
            return path
        return next((found for found in sorted(self.table.root.glob(f"*/{name}")) if found.is_file()), None)


# ---- files ----------------------------------------------------------------------------------------------------------


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
    problems = [f"{some(twins)} in several sub-folders of {folder}: ids are the paths below it."] if twins else []
    problems += [f"{some(outside)} are links out of {folder}; they are followed."] if outside else []
    problems += [f"{some(broken)} in {folder} are no files that can be read; they are left out."] if broken else []
    problems += [f"{some(closed)} cannot be opened; what is inside is left out."] if closed else []
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


# ---- tables ---------------------------------------------------------------------------------------------------------


def listed_csv(path: Path, split: str = "") -> dict[str, Listed]:
    """Rows of a label csv: `name`, `label|emotion|discrete`, perhaps `valence`, `split`, `speaker`.

    Raises:
        UsageError: Not such a file.
    """
    rows = read_csv(
        path, ["name", ("label", "emotion", "discrete")], [("valence", "val"), "split", ("speaker", "speaker_id")]
    )
    return {
        name: Listed(row.fields.get("split") or split, csv_label(path, row), row.fields.get("speaker") or None)
        for name, row in rows_by_name(path, rows).items()
    }


def transcript_csv(path: Path) -> dict[str, dict[str, str]]:
    """Transcripts of a csv: `name` and any of `chinese`, `english`, `sentence`, `sentence_en`, `text`.

    A bare `sentence` or `text` is English where the file's name has `_en` or `-en` (Emotion-LLaMA's
    `transcription_en_all.csv`), Chinese where the file is one of the MER baseline's (`transcription*.csv`), and
    otherwise of no stated language: its key is `text`.

    Raises:
        UsageError: Not such a file, or no transcript column.
    """
    rows = read_csv(path, ["name"], ["chinese", ("english", "sentence_en"), ("sentence", "text", "transcript")])
    if len(rows[0].fields) == 1:
        columns = "chinese, english, sentence, sentence_en, text or transcript"
        raise UsageError(f"{path} has no column {columns}.")
    stem = path.stem.lower()
    bare = "english" if "_en" in stem or "-en" in stem else "chinese" if stem.startswith("transcription") else "text"
    found = {}
    for name, row in rows_by_name(path, rows).items():
        fields = {bare if key == "sentence" else key: text for key, text in row.fields.items() if key != "name"}
        found[name] = {language: text for language, text in fields.items() if text}
    return found


def some(names: list[str]) -> str:
    """`a, b, c and 5 more`."""
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
