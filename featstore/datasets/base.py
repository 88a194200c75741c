"""The contract of a dataset, and what all readers share: join labels, media, transcripts and faces by clip name."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from emo.featstore.clip import Clip
from emo.featstore.datasets.cells import held_out, is_missing, split_name
from emo.featstore.datasets.likely import likely_pairs, told_pairs
from emo.featstore.datasets.lists import Listed, add_rows, listed_table, transcript_csv, two_labels
from emo.featstore.datasets.media import MediaTree, escapes, face_folders, scan_media
from emo.featstore.errors import UsageError
from emo.featstore.text import counted, did_you_mean, quoted
from emo.featstore.workspace import DataTable

__all__ = ["Card", "Dataset", "DatasetCheck", "LabelledFolder", "ListFolder", "SplitCheck", "escapes", "transcript_csv"]

WORDS_SHOWN = 5  # spellings in a problem
SPLITS_SHOWN = 8  # more are summed up on a card


@dataclass(frozen=True)
class Card:
    """Description of a dataset, for people who do not have it yet.

    Attributes:
        name: Its name here.
        about: One sentence.
        how_to_get: Where it comes from.
        tree: The files expected under the root, one per line.
        licence: Its terms in one line.
        labels: Label words in the official index order; empty where the data decides.
        counts: Published number of clips per split.
        classes: Published number of clips per label word, in the order of `labels`: by split, or under `all`.
    """

    name: str
    about: str
    how_to_get: str
    tree: str
    licence: str
    labels: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def text(self) -> str:
        """The card as lines for people; the first is the name."""
        rows = {"get it": self.how_to_get, "terms": self.licence}
        if self.labels:
            rows["labels"] = ", ".join(self.labels)
        if self.counts:
            each = ", ".join(f"{split} {count:,}" for split, count in self.counts.items())
            many = f"{sum(self.counts.values()):,} in {len(self.counts)} splits"
            rows["clips"] = each if len(self.counts) <= SPLITS_SHOWN else many
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
    """Files of a dataset that are on disk.

    Attributes:
        name: Name of the dataset.
        listed: Clips named by the label files.
        present: Clips whose media file is there, labelled or not.
        labelled: Present clips with a label.
        unlabelled: Present clips without one.
        absent: Listed clips without a media file.
        transcripts: Present clips with a non-empty transcript.
        faces: Present clips with a folder of face crops.
        size_bytes: Size of the media files.
        splits: The same by split; a clip that several lists name is counted in each.
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
    """Contract of a dataset: all that the rest of emo knows of one."""

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

    @property
    def pool(self) -> str:
        """Split of the clips that are present and in no list; empty where they are in no split."""
        ...

    def clips(self) -> Iterator[Clip]:
        """All clips: the listed ones split by split in file order, then those present but not listed."""
        ...

    def members(self) -> Mapping[str, Sequence[str]]:
        """Clip ids by split. A clip that several lists name is in each of them, while its `Clip.split` is one."""
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


class LabelledFolder(ABC):
    """A dataset made of a folder of media files and tables that name them. Readers say only where their tables are.

    A clip's media is looked up by name among the files that the folder holds; a name is never turned into a path, so
    a label file cannot point outside the data root. Labels and transcripts without any media are a dataset too.

    Attributes:
        folders: Folders under the root that hold the media, the first that exists; else it is the root itself.
        transcript_files: Patterns of the transcript table under the root, best first.
        pool: Split of the clips that are present and not listed.
    """

    folders: tuple[str, ...] = ("clips", "video", "videos")
    transcript_files: tuple[str, ...] = ()
    pool = ""

    def __init__(self, table: DataTable, card: Card) -> None:
        self.name = table.name
        self.table = table
        self.card = replace(card, labels=table.classes) if table.classes else card

    @abstractmethod
    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        """Rows of the label files by clip name in file order, and problems."""

    def read_transcripts(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        """Transcripts by clip name and language without empty ones, and problems."""
        if self.table.transcripts is not None:
            return transcript_csv(self.table.transcripts), []
        root = self.table.root
        files = list(dict.fromkeys(p for pattern in self.transcript_files for p in sorted(root.glob(pattern))))
        if not files:
            last = self.transcript_files[-1:]
            return {}, [f"{root} has no {pattern}: no clip has a transcript." for pattern in last]
        names = ", ".join(path.name for path in files)
        more = [f"{names} are there; the first is used, `transcripts` chooses another."] if len(files) > 1 else []
        return transcript_csv(files[0]), more

    def media_folder(self) -> Path:
        """Folder that is searched for media files."""
        named = [self.table.root / name for name in self.folders]
        return self.table.clips or next((folder for folder in named if folder.is_dir()), self.table.root)

    @property
    def labels(self) -> tuple[str, ...]:
        words = {row.label.emotion for row in self._listed.values() if row.label is not None}
        return self.card.labels or tuple(sorted(word for word in words if word is not None))

    @property
    def splits(self) -> tuple[str, ...]:
        listed = dict.fromkeys(row.split for row in self._listed.values() if row.split)
        return (*listed, self.pool) if self.pool and self._unlisted else tuple(listed)

    @cached_property
    def _tables(self) -> tuple[dict[str, Listed], dict[str, dict[str, str]], list[str]]:
        listed, problems = self.read_listed()
        listed, alike = _one_spelling(listed)
        transcripts, more = self.read_transcripts()
        return listed, transcripts, problems + alike + more

    @property
    def _listed(self) -> dict[str, Listed]:
        return self._tables[0]

    @cached_property
    def _media(self) -> MediaTree:
        folder = self.media_folder()
        if not folder.is_dir():
            raise UsageError(f"The clips folder of {self.name}, {folder}, does not exist.", "Correct it in emo.toml.")
        return self.scan(folder)

    def scan(self, folder: Path) -> MediaTree:
        """Media files under a folder by clip id."""
        return scan_media(folder)

    def _id(self, name: str) -> str:
        """Clip id of a name in a table."""
        return name if name in self._media.files else self._media.aliases.get(name, name)

    @cached_property
    def _joined(self) -> tuple[dict[str, Listed], list[str]]:
        """Listed rows by clip id, and the names that mean a clip which another name has already given.

        Raises:
            UsageError: The two give the clip different labels or splits.
        """
        rows: dict[str, Listed] = {}
        doubles = []
        for name, row in self._listed.items():
            first = rows.setdefault(id_ := self._id(name), row)
            if first is row:
                continue
            if (first.label, first.split) != (row.label, row.split):
                other = next(each for each, its in self._listed.items() if its is first)
                raise UsageError(
                    f"The label files of {self.name} name clip {id_} as {other} and as {name}, with different labels "
                    "or splits.",
                    "Remove one.",
                )
            doubles.append(name)
        return rows, doubles

    @cached_property
    def _unlisted(self) -> list[str]:
        return [id_ for id_ in self._media.files if id_ not in self._joined[0]]

    def clips(self) -> Iterator[Clip]:
        texts: dict[str, dict[str, str]] = {}
        for name, text in self._tables[1].items():
            if texts.setdefault(id_ := self._id(name), text) != text:
                raise UsageError(f"The transcripts of {self.name} give clip {id_} two different texts.", "Remove one.")
        faces = face_folders(self.table.faces)
        for id_, row in self._joined[0].items():
            yield Clip(
                id=id_,
                media=self._media.files.get(id_),
                dataset=self.name,
                split=row.split,
                label=row.label,
                transcripts=texts.get(id_, {}),
                speaker=row.speaker,
                dialogue=row.dialogue,
                session=row.session,
                faces=faces.get(id_),
                annotations=row.annotations,
            )
        for id_ in self._unlisted:
            path = self._media.files[id_]
            yield Clip(id_, path, self.name, self.pool, transcripts=texts.get(id_, {}), faces=faces.get(id_))

    def members(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for id_, row in self._joined[0].items():
            for split in (row.split, *row.also):
                found.setdefault(split, []).append(id_)
        if self._unlisted:
            found.setdefault(self.pool, []).extend(self._unlisted)
        return found

    def check(self) -> DatasetCheck:
        rows, here = self._joined[0], self._media.files
        clips = list(self.clips())
        present = [clip for clip in clips if clip.media is not None]
        splits = tuple(
            SplitCheck(
                split,
                sum(id_ in rows for id_ in ids),
                sum(id_ in here for id_ in ids if id_ in rows or split),
                self.card.counts.get(split),
            )
            for split, ids in self.members().items()
            if split or any(id_ in rows for id_ in ids)
        )
        labelled = sum(clip.label is not None for clip in present)
        return DatasetCheck(
            name=self.name,
            listed=len(rows),
            present=len(present),
            labelled=labelled,
            unlabelled=len(present) - labelled,
            absent=sum(id_ not in here for id_ in rows),
            transcripts=sum(bool(clip.transcripts) for clip in present),
            faces=sum(clip.faces is not None for clip in present),
            size_bytes=self._media.size_bytes(),
            splits=splits,
            problems=tuple(self._problems(clips, splits)),
        )

    def _problems(self, clips: list[Clip], splits: tuple[SplitCheck, ...]) -> Iterator[str]:
        rows, here = self._joined[0], self._media.files
        yield from self._tables[2]
        yield from self._media.problems
        if not here and rows:
            have = f"{counted(len(rows), 'listed clip is a label and text', 'listed clips are labels and texts')} only"
            yield f"{self.media_folder()} holds no media file: {have}, enough to count them and to train on text."
        elif not here:
            yield f"{self.media_folder()} holds no media file."
        elif rows and not any(id_ in here for id_ in rows):
            examples = f"{next(iter(rows))!r} is listed, {next(iter(here))!r} is there"
            yield f"None of the {len(rows):,} listed clips has a file: {examples}. Do the names agree?"
        if rows and here:
            yield from self._names_nearly_alike()
        if self._joined[1]:
            yield f"{quoted(self._joined[1])} in the label files is a clip that another row names; the first is used."
        outside = [name for name in self._listed if escapes(name)]
        if outside:
            yield f"{quoted(outside)} would lie outside the data root, so no media is looked for."
        twice: dict[tuple[str, str], list[str]] = {}
        for id_, row in rows.items():
            for other in row.also:
                if held_out(other) != held_out(row.split):
                    twice.setdefault((row.split, other), []).append(id_)
        for (split, other), ids in twice.items():
            are, count = ("clip is", "it counts") if len(ids) == 1 else ("clips are", "they count")
            yield f"{len(ids):,} {are} listed in {split} and in {other}; {count} as {split}: {quoted(ids)}."
        words = {clip.label.emotion for clip in clips if clip.label is not None and clip.label.emotion is not None}
        yield from self._words_as_written()
        strange = sorted(words - set(self.labels))
        if strange:
            yield f"{quoted(strange)} in the label files is not one of {', '.join(self.labels)}."
        for each in splits:
            if each.published is not None and each.name != self.pool and each.listed != each.published:
                yield f"{each.name} lists {counted(each.listed, 'clip')}; the published set has {each.published:,}."
        if self.table.faces is not None and here and not any(clip.faces for clip in clips):
            yield f"{self.table.faces} holds no <clip>_aligned/, <clip>/ or <clip>.npy for any clip."

    def _names_nearly_alike(self) -> Iterator[str]:
        """Listed clips without a file, and texts without a clip, whose name nearly is that of a clip that lacks one."""
        rows, here = self._joined[0], self._media.files
        for what, pairs in likely_pairs((id_ for id_ in rows if id_ not in here), self._unlisted).items():
            yield (
                f"{len(pairs):,} listed clips without a file are probably files that no list names, but for {what}: "
                f"{told_pairs(pairs)}. They are not joined; correct the names."
            )
        texts = {self._id(name) for name in self._tables[1]}
        silent = [id_ for id_ in dict.fromkeys([*rows, *here]) if id_ not in texts]
        for what, pairs in likely_pairs(
            (name for name in texts if name not in rows and name not in here), silent
        ).items():
            belong = counted(len(pairs), "transcript belongs", "transcripts belong")
            yield (
                f"{belong} to no clip and probably to one without words, but for {what}: {told_pairs(pairs)}. Nothing "
                "is joined; correct the names."
            )

    def _words_as_written(self) -> Iterator[str]:
        """Meaning of cells that look like something else: no label at all, or the class of another word."""
        nothing, forms = Counter[str](), dict[str, Counter[str]]()
        for row in self._listed.values():
            emotion = None if row.label is None else row.label.emotion
            if row.written and emotion is None and is_missing(row.written, self.card.labels):
                nothing[row.written] += 1
            elif row.written and emotion is not None and row.written.lower() != emotion:
                forms.setdefault(emotion, Counter())[row.written] += 1
        if nothing:
            each = ", ".join(f"{word!a} ({count:,})" for word, count in nothing.most_common(WORDS_SHOWN))
            more = "" if self.table.classes else " If one of them is a class, name all classes in emo.toml (`classes`)."
            yield f"{counted(nothing.total(), 'clip is', 'clips are')} not annotated, as their label is {each}.{more}"
        for emotion, written in forms.items():
            ways = ", ".join(f"{word!a} ({count:,})" for word, count in written.most_common(WORDS_SHOWN))
            yield f"{emotion!r} is also written {ways}: one class."

    def find_split(self, text: str) -> str:
        wanted = split_name(text)
        for split in self.splits:
            if wanted in (split_name(split), split_name(split).removeprefix("test-")):
                return split
        meant = did_you_mean(wanted, self.splits)
        have = f"It has {', '.join(self.splits)}." if self.splits else "Its label files name no splits."
        raise UsageError(f"{self.name} has no split {text!r}. {meant}".strip(), have)

    def find_file(self, name: str) -> Path | None:
        if escapes(name):
            return None
        folders = [self.table.root, *sorted(Path(each.path) for each in os.scandir(self.table.root))]
        return next((path for folder in folders if os.path.isfile(path := folder / name)), None)


def _one_spelling(rows: dict[str, Listed]) -> tuple[dict[str, Listed], list[str]]:
    """The rows with one name for each split: of names that are compared as one, the first; and problems."""
    written = Counter(split for row in rows.values() for split in (row.split, *row.also))
    first: dict[str, str] = {}
    alike: dict[str, list[str]] = {}
    for split in written:
        known = first.setdefault(split_name(split), split)
        if known != split:
            alike.setdefault(known, []).append(f"{split!r} ({written[split]:,})")
    if not alike:
        return rows, []
    one = {split: first[split_name(split)] for split in written}
    for name, row in rows.items():
        also = tuple(split for split in dict.fromkeys(one[each] for each in row.also) if split != one[row.split])
        rows[name] = replace(row, split=one[row.split], also=also)
    return rows, [f"Split {split!r} is also written {', '.join(ways)}: one split." for split, ways in alike.items()]


class ListFolder(LabelledFolder):
    """A dataset whose lists are files of fixed names, one or more per split; what is not there is not missed.

    Attributes:
        lists: File name and the split that it makes; where lists share clips, earlier ones decide.
    """

    lists: tuple[tuple[str, str], ...] = ()

    def read_list(self, path: Path, split: str) -> tuple[dict[str, Listed], list[str]]:
        """Rows of one file, and problems."""
        return listed_table(path, split, label_needed=False, classes=self.card.labels), []

    def read_listed(self) -> tuple[dict[str, Listed], list[str]]:
        if self.table.labels is not None:
            return self.read_list(self.table.labels, dict(self.lists).get(self.table.labels.name, ""))
        rows: dict[str, Listed] = {}
        differ: list[str] = []
        problems: list[str] = []
        found = [(path, split) for name, split in self.lists if (path := self.find_file(name)) is not None]
        for path, split in found:
            more, wrong = self.read_list(path, split)
            differ += add_rows(rows, more)
            problems += wrong
        problems += two_labels(differ, self.table.root)
        if not found:
            names = ", ".join(name for name, _ in self.lists)
            problems.append(f"{self.table.root} has none of {names}: no clip is listed.")
        return rows, problems
