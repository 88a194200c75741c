"""Files of submissions: read and written as the organisers have them, and everything that is wrong with one."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from emo.featstore.datasets.tables import DAMAGE, MAX_MEMBER_BYTES, csv_records, normal_name, without_suffix
from emo.featstore.errors import UsageError
from emo.featstore.files import csv_text
from emo.featstore.reading import read_bytes
from emo.featstore.text import counted, some_of
from emo.train.challenges.base import Form, Key, Track
from emo.train.metrics.words import npz_texts

SHOWN = 3  # examples named in a problem
EPOCH = (1980, 1, 1, 0, 0, 0)  # of members of archives, so that equal submissions are equal files


@dataclass(frozen=True)
class Sheet:
    """The table of a submission as its file has it.

    Attributes:
        header: Names of the columns.
        rows: Cells, each with where it stands in the file.
    """

    header: list[str]
    rows: list[tuple[str, list[str]]]

    def column(self, name: str) -> list[str]:
        """Cells of one column; rows of another length are left out."""
        at = self.header.index(name)
        return [cells[at] for _, cells in self.rows if len(cells) == len(self.header)]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a submission: its kind, in how many places, and a sentence."""

    kind: str
    count: int
    sentence: str


# ---- files -----------------------------------------------------------------------------------------------------------


def load(path: Path, form: Form, track: Track) -> Sheet:
    """Read a file of a form.

    Raises:
        UsageError: It cannot be read as such a file.
    """
    return parse(read_bytes(path), form, track, str(path))


def parse(data: bytes, form: Form, track: Track, where: str) -> Sheet:
    """Read the content of a file of a form; `where` is its name in messages.

    Raises:
        UsageError: It cannot be read as such a file.
    """
    if form.kind == "npz":
        names, items = npz_texts(data, where)
        rows = [(f"item {n}", list(pair)) for n, pair in enumerate(zip(names, items, strict=True), 1)]
        return Sheet(["name", track.main.name], rows)
    if form.kind == "zip":
        data, where = _member(data, where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    records = csv_records(text, where) if text.strip() else []
    if not records:
        raise UsageError(f"{where} is empty.", "Make it anew: emo submit.")
    return Sheet(records[0][1], [(f"line {line}", cells) for line, cells in records[1:]])


def _member(data: bytes, where: str) -> tuple[bytes, str]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            tables = [name for name in names if name.lower().endswith(".csv")]
            if len(names) != 1 or not tables:
                raise UsageError(f"{where} holds {some_of(names) or 'nothing'}, not one csv.", "Put one csv into it.")
            if archive.getinfo(names[0]).file_size > MAX_MEMBER_BYTES:
                raise UsageError(f"{where} unpacks to more than 256 MiB, which is no submission.")
            return archive.read(names[0]), f"{where}#{names[0]}"
    except DAMAGE as error:
        raise UsageError(f"{where} is no zip that can be read: {error}.", "Make it again.") from error


def dump(sheet: Sheet, form: Form) -> bytes:
    """The content of a file of a form."""
    if form.kind == "npz":
        names, items = (np.array(sheet.column(name), dtype=np.str_) for name in sheet.header)
        return _archive({"filenames.npy": _npy(names), "fileitems.npy": _npy(items)})
    data = csv_text([sheet.header, *(cells for _, cells in sheet.rows)]).encode()
    return data if form.kind == "csv" else _archive({form.inside: data})


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _archive(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def problems(track: Track, sheet: Sheet, clips: Collection[Key] | None) -> list[Problem]:
    """Everything that is wrong with a submission.

    Args:
        track: What is wanted.
        sheet: What is there.
        clips: The clips that are to be in it; `None` where nobody says, so that only their number can be held against
            the published one.
    """
    found = _columns(track, sheet.header)
    width, key = len(sheet.header), [each for each in ("name", *track.carried) if each in sheet.header]
    ragged = [where for where, cells in sheet.rows if len(cells) != width]
    if ragged:
        found.append(Problem("row", len(ragged), f"{_rows(ragged)} not as many fields as the header ({width})."))
    if "name" not in key:
        return found
    at = [sheet.header.index(name) for name in key]
    whole = [(where, cells) for where, cells in sheet.rows if len(cells) == width]
    keys = [(cells[at[0]], *(cells[i].strip() for i in at[1:])) for _, cells in whole]
    found += _names(track, keys, [where for where, _ in whole], clips, len(sheet.rows))
    for column in track.columns:
        if column.name in sheet.header:
            place = sheet.header.index(column.name)
            why = [(w, k[0], column.wrong(cells[place])) for (w, cells), k in zip(whole, keys, strict=True)]
            wrong = [f"{where} ({name}): {reason}" for where, name, reason in why if reason]
            if wrong:
                told = f"{column.name} is wrong in {len(wrong):,} of {len(whole):,} rows: "
                found.append(Problem("value", len(wrong), told + "; ".join(wrong[:SHOWN]) + "."))
    return found


def _columns(track: Track, header: Sequence[str]) -> list[Problem]:
    optional = [each.name for each in track.columns if each.optional]
    lacks = [name for name in track.header(optional) if name not in header]
    strange = [name for name in dict.fromkeys(header) if name not in track.header()]
    twice = [name for name, count in Counter(header).items() if count > 1]
    told = [
        (lacks, "lacks the column", "lacks the columns"),
        (strange, "has a column too many:", "has columns too many:"),
        (twice, "has several columns", "has several columns each of"),
    ]
    wants = f"; the form is {','.join(track.header(optional))}."
    if len(header) == 1 and (other := next((sign for sign in ";\t|" if sign in header[0]), None)):
        wants += f" Its columns are separated by {other!r}, and must be by commas."
    found = [(names, one if len(names) == 1 else more) for names, one, more in told if names]
    return [
        Problem("column", len(names), f"The header ({','.join(header)}) {what} {some_of(names)}{wants}")
        for names, what in found
    ]


def _names(
    track: Track, keys: Sequence[Key], places: Sequence[str], clips: Collection[Key] | None, total: int
) -> list[Problem]:
    found = []
    if empty := [where for key, where in zip(keys, places, strict=True) if not key[0].strip()]:
        found.append(Problem("name", len(empty), f"{_rows(empty)} no name."))
    counts = Counter(key for key in keys if key[0].strip())
    if twice := [key[0] for key, count in counts.items() if count > 1]:
        found.append(
            Problem("duplicate", len(twice), f"{_some(twice, 'name')} in more than one row: {some_of(twice, SHOWN)}.")
        )
    if clips is None:
        if track.rows is not None and total != track.rows:
            told = f"There are {total:,} rows, and the organisers' list has {track.rows:,} clips."
            found.append(Problem("rows", abs(total - track.rows), told))
        return found
    width = len(keys[0]) if keys else 1  # a file that lacks the carried columns is compared by name
    wanted = {clip[:width] for clip in clips}
    missing = [clip[0] for clip in dict.fromkeys(clip[:width] for clip in clips) if clip not in counts]
    extra = [key for key in counts if key not in wanted]
    if missing:
        verb = "has" if len(missing) == 1 else "have"
        told = f"{len(missing):,} of {counted(len(wanted), 'clip')} {verb} no row: {some_of(missing, SHOWN)}."
        found.append(Problem("missing", len(missing), told))
    if extra and not track.more:
        names = [key[0] for key in extra]
        told = f"{_some(names, 'row')} for no clip of the list: {some_of(names, SHOWN)}."
        near = sum((without_suffix(normal_name(key[0])), *key[1:]) in wanted for key in extra)
        told += f" {near:,} of them would be without suffixes of files and blanks around the name." if near else ""
        found.append(Problem("extra", len(extra), told))
    return found


def _some(items: Sequence[str], what: str) -> str:
    return f"1 {what} is" if len(items) == 1 else f"{len(items):,} {what}s are"


def _rows(places: Sequence[str]) -> str:
    verb = "has" if len(places) == 1 else "have"
    return f"{some_of(places, SHOWN)} {verb}"


def remarks(track: Track, form: Form, path: Path, sheet: Sheet, clips: Sequence[Key] | None) -> list[str]:
    """Say what must stand beside a submission: its values, its names, and what is not known of its form."""
    told = [f"Form: {track.source}", *(f"Not confirmed: {each}" for each in track.doubts)]
    told += [each.remark(sheet.column(each.name)) for each in track.columns if each.name in sheet.header]
    if form.must and not fnmatch(path.name, form.must):
        told.append(f"The organisers take files named {form.must}: rename {path.name}.")
    if clips is not None and track.rows is not None and len(clips) != track.rows:
        told.append(f"The list has {len(clips):,} clips, and the organisers' has {track.rows:,}.")
    expected = [name for name in track.header() if name in sheet.header]
    if expected != [name for name in dict.fromkeys(sheet.header) if name in expected]:
        told.append(f"The columns are in another order than {','.join(expected)}.")
    if clips is not None and "name" in sheet.header:
        names = sheet.column("name")
        beside = len(set(names) - {clip[0] for clip in clips})
        if beside:
            are = counted(beside, "name is", "names are")
            told.append(f"{are} of other clips, which the organisers' scorer passes over.")
        elif len(names) == len(clips) and names != [clip[0] for clip in clips]:
            told.append("The rows are in another order than the list.")
    return [each for each in told if each]
