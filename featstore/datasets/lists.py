"""Label files of datasets: rows by clip name, whatever the form of the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from emo.featstore.clip import Label
from emo.featstore.datasets.cells import cell_text, held_out, split_name
from emo.featstore.datasets.tables import (
    EMOTION_COLUMNS,
    VALENCE_COLUMNS,
    Column,
    CsvRow,
    by_clip,
    normal_name,
    npz_splits,
    read_labels,
    read_list,
    read_names,
    read_table,
    read_told_npz,
    row_label,
    rows_by_name,
    without_suffix,
)
from emo.featstore.errors import UsageError
from emo.featstore.reading import read_json
from emo.featstore.text import quoted

SHOWN = 3  # examples named in a problem
NAME = ("name", "names", "video_name")  # MERTools; EMER v1; DFEW
# who speaks, in which conversation or recording, in which session of recordings
PLACES = (
    ("speaker", "speaker_id", "actor", "actor_id"),
    ("dialogue", "dialogue_id", "dialog", "dialog_id", "conversation", "conversation_id", "video_id"),
    ("session", "session_id"),
)
OPEN_COLUMNS = ("openset", "reason", "a1", "a2", "preference")  # what annotators wrote in MER2024 to MER2026


@dataclass(frozen=True)
class Listed:
    """One row of a label file.

    Attributes:
        split: Split that the clip counts as.
        label: `None` where the file only names the clip.
        speaker: Where the file or the name tells; `dialogue` and `session` likewise, as `Clip` has them.
        annotations: Free text by kind, as `Clip.annotations`.
        also: Further splits whose lists name the clip.
        written: The emotion as the file writes it, where that is a word.
    """

    split: str
    label: Label | None = None
    speaker: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    dialogue: str | None = None
    session: str | None = None
    also: tuple[str, ...] = ()
    written: str = ""


def add_rows(rows: dict[str, Listed], more: Mapping[str, Listed]) -> list[str]:
    """Add the rows of another file to `rows`.

    A clip that both name keeps its first label and split, except that a labelled test list wins over a training list.

    Returns:
        Names to which the two give different labels.
    """
    differ = []
    for name, row in more.items():
        before = rows.setdefault(name, row)
        if before is row:
            continue
        if row.label is not None and before.label is not None and row.label != before.label:
            differ.append(name)
        first, second = before, row
        if row.label is not None and held_out(row.split) and not held_out(before.split):
            first, second = row, before
        also = (*first.also, second.split, *second.also)
        rows[name] = replace(
            first,
            label=first.label or second.label,
            speaker=first.speaker or second.speaker,
            dialogue=first.dialogue or second.dialogue,
            session=first.session or second.session,
            annotations={**first.annotations, **second.annotations, **first.annotations},
            also=tuple(split for split in dict.fromkeys(also) if split != first.split),
        )
    return differ


# ---- files ----------------------------------------------------------------------------------------------------------


def listed_table(
    path: Path, split: str = "", label_needed: bool = True, classes: Sequence[str] = (), first: bool = False
) -> dict[str, Listed]:
    """Rows of a label csv or jsonl: `name`, `label|emotion|discrete`, perhaps `valence`, `split`, `speaker`; the open
    annotations of MER2024 to MER2026 (`openset`, `reason`, `a1`, `a2`, `preference`) where they are.

    Args:
        path: The file.
        split: Split of rows that name none.
        label_needed: Whether it must have a column of emotions.
        classes: The dataset's words.
        first: Of several rows of one name take the first, in place of refusing those that differ.

    Raises:
        UsageError: Not such a file.
    """
    columns: list[Column] = [NAME, EMOTION_COLUMNS] if label_needed else [NAME]
    more: list[Column] = [EMOTION_COLUMNS, VALENCE_COLUMNS, "split", *PLACES, *OPEN_COLUMNS]
    rows = read_table(path, columns, more)
    if first:
        kept: dict[str, CsvRow] = {}
        for row in rows:
            kept.setdefault(normal_name(row.fields["name"]), row)
        rows = list(kept.values())
    kinds = [kind for kind in OPEN_COLUMNS if any(kind in row.fields for row in rows[:1])]  # all rows have them or none
    return {name: _listed(path, row, split, classes, kinds) for name, row in rows_by_name(path, rows).items()}


def _listed(path: Path, row: CsvRow, split: str, classes: Sequence[str], kinds: Sequence[str]) -> Listed:
    label = row_label(path, row, classes)
    texts = {kind: row.fields[kind] for kind in kinds}
    if "openset" in texts:
        texts["openset"] = ", ".join(open_words(texts["openset"]))
    return Listed(
        cell_text(row.fields.get("split", "")) or split,
        None if label == Label() else label,
        annotations={kind: text for kind, text in texts.items() if text},
        speaker=cell_text(row.fields.get("speaker", "")),
        dialogue=cell_text(row.fields.get("dialogue", "")),
        session=cell_text(row.fields.get("session", "")),
        written=row.fields.get("label", ""),
    )


def listed_file(
    path: Path, split: str = "", classes: Sequence[str] = (), rename: Callable[[str], str] = split_name
) -> tuple[dict[str, Listed], list[str]]:
    """Rows of any label file: MERBench npz, csv, jsonl, or text list `name frames emotion [valence]`.

    Args:
        path: The file.
        split: Split of rows that name none.
        classes: The dataset's words: for the integer labels of an npz, and for a class that is called `none`.
        rename: How a split that the file names is called here.

    Returns:
        The rows, and names to which splits of an npz give different labels.

    Raises:
        UsageError: Not readable as labels.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        rows: dict[str, Listed] = {}
        differ: list[str] = []
        for each in npz_splits(path):
            labels = read_told_npz(path, each, classes)
            differ += add_rows(
                rows, {n: Listed(rename(each), told.label, written=told.written) for n, told in labels.items()}
            )
        return rows, differ
    if suffix in (".csv", ".jsonl"):
        table = listed_table(path, split, classes=classes)
        called = {each: rename(each) for each in {row.split for row in table.values()}}
        for name, row in table.items():
            if called[row.split] != row.split:
                table[name] = replace(row, split=called[row.split])
        return table, []
    return {row.name: Listed(rename(split), row.label, written=row.written) for row in read_list(path, classes)}, []


def told_splits(path: Path) -> dict[str, str]:
    """Return the split by clip that a csv or jsonl of `name` and `split` gives; of several, one that is held out.

    Nothing for other files, and none for rows without a split.

    Raises:
        UsageError: The table cannot be read.
    """
    found: dict[str, str] = {}
    for row in read_table(path, ["name"], ["split"]) if path.suffix.lower() in (".csv", ".jsonl") else ():
        name, split = normal_name(row.fields["name"]), cell_text(row.fields.get("split", ""))
        if split and (name not in found or held_out(split)):
            found[name] = split
    return by_clip(found)


def transcript_csv(path: Path) -> dict[str, dict[str, str]]:
    """Transcripts of a csv or jsonl: `name` and any of `chinese`, `english`, `sentence`, `sentence_en`, `text`.

    A bare `sentence` or `text` is English where the file's name has `_en` or `-en` (Emotion-LLaMA's
    `transcription_en_all.csv`), Chinese where the file is one of the MER baseline's (`transcription*.csv`), and
    otherwise of no stated language: its key is `text`.

    Raises:
        UsageError: Not such a file, or no transcript column.
    """
    rows = read_table(path, [NAME], ["chinese", ("english", "sentence_en"), ("sentence", "text", "transcript")])
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


def names_of(path: Path) -> list[str]:
    """Clip names of an annotation file: MERR's JSON (`{name: {...}}`), jsonl, csv, `label.npz#split`, or a text
    list.

    Raises:
        UsageError: Not such a file, or it names no clip.
    """
    suffix = path.suffix.lower()
    names: list[str] = []
    if suffix == ".json":
        content = read_json(path)
        if isinstance(content, dict):
            names = list(content)
        elif isinstance(content, list):
            names = [str(each["name"]) for each in content if isinstance(each, dict) and "name" in each]
    elif suffix.partition("#")[0] == ".npz":
        names = list(read_labels(path))
    elif suffix in (".csv", ".jsonl"):
        names = list(rows_by_name(path, read_table(path, [NAME])))
    else:
        names = read_names(path)
    if not names:
        raise UsageError(f"{path} names no clip.", "A JSON file holds an object by clip name, or a list with `name`.")
    return list(dict.fromkeys(without_suffix(normal_name(name)) for name in names))


def two_labels(names: Sequence[str], where: Path) -> list[str]:
    """Return the sentence about clips to which lists give different labels, where there are any."""
    return [f"{quoted(names)} has two different labels in {where}; the first is used."] if names else []


def open_words(text: str) -> list[str]:
    """Words of an open-vocabulary label, by the rule of MERTools: brackets off, split at quotes and commas, trimmed."""
    text = text.strip().removeprefix("[").removesuffix("]")
    return [word for part in re.split(r"['\",]", text) if (word := part.strip())]
