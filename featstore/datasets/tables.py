"""Readers of the small tables that datasets come with: label lists, csv files, MERBench label npz, frame indices.

Every reader takes what people really have (a byte-order mark, blank lines, double spaces, the same row twice) and says
file and line where it cannot.
"""

from __future__ import annotations

import csv
import io
import lzma
import math
import os
import re
import struct
import tokenize
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from emo.featstore.clip import Label
from emo.featstore.datasets.cells import is_missing, label_word, split_name
from emo.featstore.errors import UsageError
from emo.featstore.pickles import Refused, read_pickle
from emo.featstore.reading import read_bytes, read_json, read_jsonl, read_text

Column: TypeAlias = str | tuple[str, ...]  # a name, or its accepted spellings, of which the first is the key

EMOTION_COLUMNS = ("label", "emotion", "discrete")
VALENCE_COLUMNS = ("valence", "val")
_ONE_MEANING = (EMOTION_COLUMNS, VALENCE_COLUMNS)  # where a table has several of these, they must say the same
NO_VALENCE = -10.0  # "not annotated" in MERBench's npz and in the relative_*_NCEV.txt lists
MAX_MEMBER_BYTES = 1 << 28  # the largest published label table is below 1 MB; a bomb is refused
# What zipfile, the decompressors behind it and numpy's header parser make of damaged bytes; nothing else runs there.
_DAMAGED_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, EOFError)
DAMAGE = (*_DAMAGED_ARCHIVE, RuntimeError, OSError, ValueError, TypeError, LookupError, SyntaxError, ArithmeticError)
_HALVES = re.compile("[\ud800-\udfff]")  # how Python writes bytes that are not UTF-8; half a character in JSON
# name frames emotion [valence]; greedy on the right, so that a name may hold spaces
_LIST_LINE = re.compile(
    r"(?P<name>\S.*?)\s+(?P<frames>\d{1,18})\s+(?P<emotion>\S+)(?:\s+(?P<valence>[-+.\deE]+|nan))?", re.I
)


@dataclass(frozen=True)
class ListRow:
    """One line of a label list: `name frames emotion [valence]`.

    Attributes:
        name: Clip id.
        frames: Frame count as written; 0 or a placeholder in some published lists, so it is never relied on.
        label: Emotion (lower case) and valence, `None` where the list says -10.
        written: The emotion as it is written.
    """

    name: str
    frames: int
    label: Label
    written: str = field(default="", compare=False)


@dataclass(frozen=True)
class CsvRow:
    """One row of a csv file: its first line in the file (from 1) and its fields by column name."""

    line: int
    fields: Mapping[str, str]


# ---- text -----------------------------------------------------------------------------------------------------------


# What the decoder opens, in order of preference where one clip has several files: video first (it carries the audio),
# mp4 before avi as in Emotion-LLaMA, sound files last. tests/extract/media holds this against the decoder.
_VIDEO = """mp4 avi mkv mov webm m4v flv mpg mpeg wmv mts m2ts m2t ts 3gp 3g2 3gpp ogv vob asf mxf f4v qt divx mpe m2p
    tp trp dvd vro mk3d mj2 ismv ism psp"""
_AUDIO = """wav flac mp3 m4a ogg opus aac wma aiff aif aifc caf au snd w64 rf64 bwf oga spx mka weba m4b mp2 mpa m2a
    isma ac3 adts amr awb 3ga afc"""
MEDIA_SUFFIXES = tuple(f".{each}" for each in _VIDEO.split())
AUDIO_SUFFIXES = tuple(f".{each}" for each in _AUDIO.split())
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")  # only where a tree has first frames in place of clips


def without_suffix(name: str) -> str:
    """A clip name without the suffix of a media file, which some lists carry."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and dot + suffix.lower() in (*MEDIA_SUFFIXES, *AUDIO_SUFFIXES) else name


def by_clip(rows: dict[str, Any]) -> dict[str, Any]:
    """The same table with clip names as keys: suffixes of media files are taken off, unless names would coincide."""
    plain = {without_suffix(name): row for name, row in rows.items()}
    return plain if len(plain) == len(rows) else rows


def normal_name(name: str) -> str:
    """Clip name as it is compared: NFC and stripped, so that names from macOS (NFD) and from lists are equal.

    Bytes of a file's name that are not UTF-8 are written `%E9`, so that every name can be kept in any file.
    """
    if name.isascii():
        return name.strip()
    plain = unicodedata.normalize("NFC", name).strip()
    return _HALVES.sub(
        lambda half: f"%{ord(half[0]) - 0xDC00:02X}" if "\udc80" <= half[0] <= "\udcff" else "\ufffd", plain
    )


def read_list(path: Path, classes: Sequence[str] = ()) -> list[ListRow]:
    """Read the field's label list, three or four columns separated by blanks: `name frames emotion [valence]`.

    Raises:
        UsageError: Not such a list (all bad lines are named), empty, or a name with two different labels.
    """
    rows: dict[str, tuple[int, ListRow]] = {}
    problems = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        match = _LIST_LINE.fullmatch(line.strip())
        if match is None:
            problems.append(f"line {number}: {_short(line)}")
            continue
        label = Label(label_word(match["emotion"], classes), _valence(match["valence"] or "", f"{path} line {number}"))
        row = ListRow(normal_name(match["name"]), int(match["frames"]), label, match["emotion"])
        before = rows.setdefault(row.name, (number, row))
        if before[1].label != row.label:
            raise _conflict(path, row.name, before[0], number)
    if problems:
        raise UsageError(
            f"{path} is not a list of `name frames emotion [valence]`: {'; '.join(problems[:3])}"
            + (f"; and {len(problems) - 3} more lines." if len(problems) > 3 else ".")
        )
    return [row for _, row in rows.values()]


def read_names(path: Path) -> list[str]:
    """Clip names of a list: csv or jsonl with a column `name`; or text, one name a line or as `read_list` has it.

    Raises:
        UsageError: The file is absent, empty or no text.
    """
    if path.suffix.lower() in (".csv", ".jsonl"):
        return list(rows_by_name(path, read_table(path, ["name"])))
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    return [normal_name(found["name"] if (found := _LIST_LINE.fullmatch(line)) else line) for line in lines]


def read_csv(path: Path, columns: Sequence[Column], optional: Sequence[Column] = ()) -> list[CsvRow]:
    """Read chosen columns of a comma-separated file with a header.

    Args:
        path: UTF-8 csv file.
        columns: Columns that must be there; a tuple gives the accepted spellings and is known by its first.
        optional: Columns that may be there; absent ones have no key in `CsvRow.fields`.

    Returns:
        One row per record, fields stripped, in file order. Header names are compared in lower case.

    Raises:
        UsageError: The file is absent, empty, not UTF-8, not comma-separated, lacks a column or has a ragged row; or
            several columns could be the label (or the valence), and they differ.
    """
    (_, first), *records = csv_records(read_text(path), str(path))
    header = [column.strip().lower() for column in first]
    chosen: dict[str, int] = {}
    rivals: list[list[int]] = []
    for each in [*columns, *optional]:
        spellings = (each,) if isinstance(each, str) else each
        found = [header.index(spelling) for spelling in spellings if spelling in header]
        if found and header.count(header[found[0]]) > 1:
            raise UsageError(f"{path} has several columns {header[found[0]]}.", "Keep one of them.")
        if found:
            chosen[spellings[0]] = found[0]
            rivals += [found] if spellings in _ONE_MEANING else []
        elif each in columns:
            raise UsageError(
                f"{path} has no column {' or '.join(spellings)}; its header is {_short(','.join(header))}.",
                "Save it with commas between columns." if len(header) == 1 and re.search(r"[;\t]", header[0]) else "",
            )
    rows = []
    for line, record in records:
        if len(record) != len(header):
            raise UsageError(f"{path} line {line} has {len(record)} fields where the header has {len(header)}.")
        for alike in rivals:
            _same_meaning(f"{path} line {line}", {header[i]: record[i] for i in alike})
        rows.append(CsvRow(line, {name: record[index].strip() for name, index in chosen.items()}))
    if not rows:
        raise UsageError(f"{path} has a header and no rows.")
    return rows


def read_table(path: Path, columns: Sequence[Column], optional: Sequence[Column] = ()) -> list[CsvRow]:
    """As `read_csv`, and the same of a `.jsonl` file: one object of texts and numbers a line.

    Raises:
        UsageError: As `read_csv`, or a line is no such object.
    """
    if path.suffix.lower() != ".jsonl":
        return read_csv(path, columns, optional)
    found = [(number, _json_row(row, f"{path} line {number}")) for number, row in read_jsonl(path)]
    known = {key for _, fields in found for key in fields}
    chosen: dict[str, str] = {}
    for each in [*columns, *optional]:
        spellings = (each,) if isinstance(each, str) else each
        here = [spelling for spelling in spellings if spelling in known]
        if here:
            chosen[spellings[0]] = here[0]
            for number, fields in found if spellings in _ONE_MEANING else ():
                _same_meaning(f"{path} line {number}", {key: fields.get(key, "") for key in here})
        elif each in columns:
            raise UsageError(f"{path} has no key {' or '.join(spellings)}; its keys are {', '.join(sorted(known))}.")
    return [CsvRow(n, {name: fields.get(key, "") for name, key in chosen.items()}) for n, fields in found]


def _same_meaning(where: str, cells: Mapping[str, str]) -> None:
    """Refuse a row in which several columns could be the label (or the valence), and not all say what the first says.

    An empty cell beside a filled first one is no difference.
    """
    (first, said), *others = cells.items()
    for name, other in others:
        if label_word(other) is not None and _as_told(other) != _as_told(said):
            raise UsageError(
                f"{where}: column {first} says {said.strip()!r} and column {name} says {other.strip()!r}.",
                "Keep the one that is meant, or call the other something else.",
            )


def _as_told(cell: str) -> str | float | None:
    word = label_word(cell)
    try:
        return None if word is None else float(word)
    except ValueError:
        return word


def _json_row(row: Any, where: str) -> dict[str, str]:
    if not isinstance(row, dict) or any(isinstance(value, dict | list | bool) for value in row.values()):
        raise UsageError(f"{where} is not an object of texts and numbers.", 'Write {"name": "a", "label": "sad"}.')
    return {key.strip().lower(): "" if value is None else str(value).strip() for key, value in row.items()}


def rows_by_name(path: Path, rows: Sequence[CsvRow]) -> dict[str, CsvRow]:
    """Rows of a csv by their `name` column; the same row twice counts once.

    Raises:
        UsageError: Two rows of one name say different things, or a name is empty.
    """
    found: dict[str, CsvRow] = {}
    for row in rows:
        name = normal_name(row.fields["name"])
        if not name:
            raise UsageError(f"{path} line {row.line} has an empty name.")
        before = found.setdefault(name, row)
        if before.fields != row.fields:
            raise _conflict(path, name, before.line, row.line)
    return found


def csv_records(text: str, where: str) -> list[tuple[int, list[str]]]:
    """Records of a csv text that are not blank, as they are written, each with its first line.

    Raises:
        UsageError: It is not csv, or a quote swallows what looks like rows.
    """
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, strict=True)
    records: list[tuple[int, list[str]]] = []
    several: list[tuple[int, int]] = []  # first and last line of records that have more than one
    line = 1
    try:
        for record in reader:
            if any(field.strip() for field in record):
                records.append((line, record))
            if reader.line_num > line:
                several.append((line, reader.line_num))
            line = reader.line_num + 1
    except csv.Error as error:
        if '"' in lines[line - 1]:
            what = f"{where} line {line} opens a quote that is not closed where its field ends: {error}."
            raise UsageError(what, "Remove the quote, or write it twice inside a quoted text.") from error
        raise UsageError(f"{where} line {line} is not csv: {error}.") from error
    shapes = {_shape(record) for _, record in records[1:]} if several else set()
    for first, last in several:
        inside = [row for row in csv.reader(lines[first:last]) if _shape(row) in shapes]
        if inside:
            what = f"{where} line {first} opens a quote that ends in line {last} and swallows what looks like rows"
            raise UsageError(f"{what}, such as {_short(','.join(inside[0]))}.", "Remove the quote, or write it twice.")
    return records


def _shape(record: Sequence[str]) -> tuple[int, str]:
    """How a row looks: its number of fields, and its first field with `9` for digits and `a` for letters."""
    name = re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", record[0].strip())) if record else ""
    return len(record), name


def _conflict(path: Path, name: str, first: int, second: int) -> UsageError:
    return UsageError(f"{path} names {name} twice, in lines {first} and {second}, and they differ.", "Remove one.")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _valence(text: str, where: str) -> float | None:
    """A valence field: empty, `nan`, `NA` and such, and -10 mean "not annotated"."""
    if is_missing(text):
        return None
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{where}: valence {text!r} is not a number.") from None
    return None if not math.isfinite(value) or value == NO_VALENCE else value


# ---- MERBench label npz ---------------------------------------------------------------------------------------------


def npz_splits(path: Path) -> list[str]:
    """Names of the tables in an npz, in file order: `train_corpus`, `test1_corpus`, ...

    Raises:
        UsageError: The file is absent or not an npz.
    """
    with _open_npz(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npz_dict(path: Path, split: str) -> dict[str, Any]:
    """One pickled dictionary of an npz, without running code that the file may carry.

    Published label files are object arrays, which `np.load` opens only with `allow_pickle=True`, that is by running
    whatever the file asks for. This reader makes dictionaries, lists, words and numbers only.

    Raises:
        UsageError: Absent, damaged, no such split, not a dictionary, or the pickle asks for anything else.
    """
    with _open_npz(path) as archive:
        member = f"{split}.npy"
        if member not in archive.namelist():
            names = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
            raise UsageError(f"{path} has no split {split!r}.", f"It has {names}.")
        if archive.getinfo(member).file_size > MAX_MEMBER_BYTES:
            raise UsageError(f"{path}#{split} unpacks to more than 256 MiB, which is no label table.")
        try:
            value = _npy_object(archive.read(member))
        except Refused as error:
            hint = "A label file holds words and numbers only; do not load this one with allow_pickle=True."
            raise UsageError(f"{path}#{split} is refused: {error}.", hint) from error
        except DAMAGE as error:
            raise UsageError(f"{path}#{split} is damaged: {error}.", "Copy or download it again.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}#{split} is not a dictionary of names.", "MERBench label files hold one per split.")
    return {str(name): entry for name, entry in value.items()}


class Told(NamedTuple):
    """A label, and the emotion as its file writes it; empty where that is a number of a class."""

    label: Label
    written: str


def read_label_npz(path: Path, split: str, classes: Sequence[str] = ()) -> dict[str, Label]:
    """Labels of one split, as `read_told_npz`."""
    return {name: each.label for name, each in read_told_npz(path, split, classes).items()}


def read_told_npz(path: Path, split: str, classes: Sequence[str] = ()) -> dict[str, Told]:
    """Labels of one split of a MERBench npz: `{name: {"emo": word or index, "val": number}}`.

    Args:
        path: `label-6way.npz`, `label.npz`, ...
        split: As in the file, with or without `_corpus`: `test3` finds `test3_corpus`.
        classes: Words for integer `emo` in index order; without them an integer stays its digits, such as `"3"`.

    Raises:
        UsageError: As `read_npz_dict`, or an entry is not such a label.
    """
    labels = {}
    for name, entry in read_npz_dict(path, _find_split(path, split)).items():
        if not isinstance(entry, dict) or "emo" not in entry:
            raise UsageError(f"{path}#{split}: {name} has no 'emo'; a label is {{'emo': ..., 'val': ...}}.")
        emotion, valence = entry["emo"], entry.get("val", "")
        if not isinstance(emotion, str | int | float | None) or not isinstance(valence, str | int | float | None):
            raise UsageError(f"{path}#{split}: {name} has an emotion or a valence that is no word and no number.")
        written = str(emotion)
        if isinstance(emotion, int | float) and float(emotion).is_integer():
            if classes and not 0 <= emotion < len(classes):
                raise UsageError(f"{path}#{split}: {name} has class {emotion} where {len(classes)} are known.")
            emotion, written = classes[int(emotion)] if classes else str(int(emotion)), ""
        label = Label(label_word(str(emotion), classes), _valence(str(valence), f"{path}#{split}: {name}"))
        labels[normal_name(name)] = Told(label, written)
    if not labels:
        raise UsageError(f"{path}#{split} is empty.")
    return labels


def _npy_object(data: bytes) -> object:
    """The one object of an npy file; `None` where it holds something else."""
    stream = io.BytesIO(data)
    read_header = (
        np.lib.format.read_array_header_1_0
        if np.lib.format.read_magic(stream) == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(stream)
    return read_pickle(data[stream.tell() :])[0] if dtype.kind == "O" and shape == () else None


def _open_npz(path: Path) -> zipfile.ZipFile:
    data = read_bytes(path)
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except DAMAGE as error:
        raise UsageError(f"{path} is not an npz file: {error}.", "Copy or download it again.") from error


def _find_split(path: Path, split: str) -> str:
    names = npz_splits(path)
    matches = [name for name in names if split_name(name) == split_name(split)]
    if not matches:
        raise UsageError(f"{path} has no split {split!r}.", f"It has {', '.join(names)}: write {path.name}#{names[0]}.")
    return matches[0]


# ---- any labels -----------------------------------------------------------------------------------------------------


def read_labels(path: Path, split: str | None = None, classes: Sequence[str] = ()) -> dict[str, Label]:
    """Labels by clip name from whatever holds them.

    Accepted: a MERBench npz (`label-6way.npz#test3`), a csv or jsonl with `name` and `label|emotion|discrete` (and
    perhaps `valence`, `split`), or a text list `name frames emotion [valence]`.

    Args:
        path: File, with `#split` appended where it holds several splits.
        split: The split, where it is not part of the path.
        classes: The dataset's words: for integer labels of an npz, and for a class that is called `none` or `unknown`.

    Raises:
        UsageError: Not readable as labels, or the split is missing, unknown or not applicable.
    """
    if not os.path.exists(path) and "#" in path.name:
        name, _, given = path.name.partition("#")
        path, split = path.with_name(name), split or given
    suffix = path.suffix.lower()
    if suffix == ".npz":
        names = npz_splits(path)
        if not split and len(names) != 1:
            raise UsageError(f"{path} holds the splits {', '.join(names)}.", f"Choose one: {path.name}#{names[-1]}.")
        return by_clip(read_label_npz(path, split or names[0], classes))
    if suffix in (".csv", ".jsonl"):
        return by_clip(_read_label_table(path, split, classes))
    if split:
        raise UsageError(f"{path} is a text list and has no splits, so #{split} means nothing.")
    return by_clip({row.name: row.label for row in read_list(path, classes)})


def _read_label_table(path: Path, split: str | None, classes: Sequence[str]) -> dict[str, Label]:
    rows = read_table(path, ["name", EMOTION_COLUMNS], [VALENCE_COLUMNS, *(["split"] if split is not None else [])])
    if split is not None:
        if "split" not in rows[0].fields:
            raise UsageError(f"{path} has no column split, so #{split} means nothing.")
        known = sorted({row.fields["split"] for row in rows})
        rows = [row for row in rows if split_name(row.fields["split"]) == split_name(split)]
        if not rows:
            raise UsageError(f"{path} has no rows of split {split!r}.", f"It has {', '.join(known)}.")
    return {name: row_label(path, row, classes) for name, row in rows_by_name(path, rows).items()}


def row_label(path: Path, row: CsvRow, classes: Sequence[str] = ()) -> Label:
    """Label of a row whose emotion column is known as `label`; an empty field, `nan` and such mean "not annotated"."""
    valence = _valence(row.fields.get("valence", ""), f"{path} line {row.line}")
    return Label(label_word(row.fields.get("label", ""), classes), valence)


def read_frames(path: Path) -> dict[str, int]:
    """Frame index per clip: a csv or jsonl `name,frame|peak_index`, or JSON as MERR has it (`{name: {"peak_index"}}`).

    Raises:
        UsageError: Not such a file, or an index is not a whole number from 0 up.
    """
    found: dict[str, tuple[str, object]] = {}
    if path.suffix.lower() == ".json":
        table = read_json(path)
        if not isinstance(table, dict):
            raise UsageError(f"{path} is not a JSON object of clip names.")
        for name, entry in table.items():
            found[name] = (f"{path}: {name}", entry.get("peak_index") if isinstance(entry, dict) else entry)
    else:
        for name, row in rows_by_name(path, read_table(path, ["name", ("frame", "peak_index", "index")])).items():
            found[name] = (f"{path} line {row.line}", row.fields["frame"])
    frames = {}
    for name, (where, value) in found.items():
        if isinstance(value, bool) or not re.fullmatch(r"\d{1,18}", str(value).strip()):
            raise UsageError(f"{where}: frame index {value!r} is not a whole number from 0 up.")
        frames[normal_name(name)] = int(str(value))
    return frames
