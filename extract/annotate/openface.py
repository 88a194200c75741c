"""Action units from the csv tables of OpenFace 2: `FeatureExtraction` (a face), `FaceLandmarkVidMulti` (several)."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.actions import INTENSITIES, PRESENCES
from emo.extract.annotate.units import UnitTable, absent, no_units, unit_spec
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.files import digest
from emo.featstore.reading import read_bytes
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

# OpenFace's name of each column that is kept -> ours; names are stripped, because it writes a blank before each.
TIME_COLUMNS = {"frame": "frame", "timestamp": "time_s", "confidence": "confidence", "success": "success"}
UNIT_COLUMN = re.compile(r"AU\d\d_[rc]")
ORDER = [f"{unit}_r" for unit in INTENSITIES] + [f"{unit}_c" for unit in PRESENCES]


@dataclass(frozen=True)
class OpenFaceTables:
    """A folder of OpenFace tables: `CLIP.csv`, `CLIP/CLIP.csv` or `CLIP_of/CLIP.csv`.

    Attributes:
        folder: Where they lie. Its name is part of the feature's identity, as with OpenFace's faces.
        face: `face_id` of the face to take; `None` takes the one with the largest sum of confidence over its
            successful frames (of equal ones, the lowest id).
    """

    folder: Path
    face: int | None = None
    name: str = "openface"

    def spec(self, columns: Sequence[str]) -> EncoderSpec:
        """Return the identity of the feature with these columns."""
        chosen = "most confident" if self.face is None else self.face
        return unit_spec(self.name, "openface", columns, {"run": self.folder.name, "face": chosen, "frames_from": 0})

    def path(self, clip: Clip) -> Path:
        """Return the table of a clip.

        Raises:
            MediaError: There is none.
        """
        return table_of(self.folder, clip)

    def digest(self, clip: Clip) -> str:
        """Return the hash of the clip's table."""
        return digest(table_bytes(self.path(clip)))

    def read(self, clip: Clip) -> UnitTable:
        """Return the table of a clip."""
        path = self.path(clip)
        return read_table(table_bytes(path), path, self.face)


def table_of(folder: Path, clip: Clip) -> Path:
    """Return the table of a clip in a folder: `CLIP.csv`, `CLIP/CLIP.csv` or `CLIP_of/CLIP.csv`.

    Raises:
        MediaError: There is none (`no-action-units`).
    """
    for parts in ((f"{clip.id}.csv",), (clip.id, f"{clip.id}.csv"), (f"{clip.id}_of", f"{clip.id}.csv")):
        if os.path.isfile(path := os.path.join(folder, *parts)):
            return Path(path)
    raise no_units(clip, folder)


def open_tables(rest: str, face: int | None, store: Store | None) -> OpenFaceTables:
    """Return the source of a folder of tables.

    Raises:
        UsageError: It is no folder.
    """
    folder = Path(rest)
    if not folder.is_dir():
        raise UsageError(f"{rest or 'openface:'} is no folder.", "It holds OpenFace's tables, CLIP.csv.")
    return OpenFaceTables(folder, face)


def table_bytes(path: Path) -> bytes:
    """Return the content of a table.

    Raises:
        MediaError: It cannot be read (`bad-action-units`).
    """
    try:
        return read_bytes(path)
    except UsageError as error:
        raise MediaError("bad-action-units", error.message, error.hint, retry=True) from error


def read_table(data: bytes, path: Path, face: int | None = None) -> UnitTable:
    """Read a table of OpenFace, in any of its spellings; rows whose numbers are not finite are left out and counted.

    Args:
        data: Content of the file.
        path: Its name, for messages.
        face: See `OpenFaceTables.face`.

    Raises:
        MediaError: It is no such table (`bad-action-units`).
    """
    header, lines = csv_cells(data, path)
    places = {name: i for i, name in reversed(list(enumerate(header)))}  # of a name that comes twice, the first
    found = [name for name in TIME_COLUMNS if name in places]
    units = [name for name in ORDER if name in places]
    notes = []
    if not units:
        raise bad_table(path, "has no column of action units, such as AU01_r", "Run OpenFace with -aus.")
    if strange := [name for name in header if UNIT_COLUMN.fullmatch(name) and name not in ORDER]:
        notes.append(f"columns that OpenFace 2 does not have: {', '.join(strange)}")
    wanted = [*found, *units, *(["face_id"] if "face_id" in places else [])]
    numbers = _numbers(lines, [places[name] for name in wanted], len(header), path)  # (T, columns)
    if "frame" not in found:
        found = ["frame", *found]
        wanted = ["frame", *wanted]
        numbers = np.column_stack([np.arange(1, len(numbers) + 1), numbers])
        notes.append("there is no column frame: rows are counted")
    kept = np.isfinite(numbers).all(axis=1)
    if not kept.all():
        notes.append(f"{int((~kept).sum())} of {len(kept)} rows hold no numbers and are left out")
    numbers = _one_face(numbers[kept], wanted, path, face, notes)
    rows = numbers[:, : len(found) + len(units)]
    frames = rows[:, 0] = rows[:, 0] - 1  # OpenFace counts frames from 1
    if (np.diff(frames) <= 0).any() or (len(frames) and frames[0] < 0):
        raise bad_table(path, "names a frame twice for one face, or one below 1", "Is it a table of one video?")
    columns = (*(TIME_COLUMNS[name] for name in found), *units)
    if words := absent(columns):
        notes.append(words)
    return UnitTable(columns, rows.astype(np.float32), tuple(notes))


def csv_cells(data: bytes, path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header of a csv table, and its rows.

    Raises:
        MediaError: It is none, or has no rows (`bad-action-units`).
    """
    try:
        text = data.decode("utf-8-sig")
        lines = [line for line in csv.reader(text.splitlines(), skipinitialspace=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise bad_table(path, f"is no csv: {error}", "Is it the table that OpenFace wrote?") from error
    if len(lines) < 2:
        raise bad_table(path, "has no rows", "OpenFace may have stopped early; run it again.")
    return [name.strip() for name in lines[0]], lines[1:]


def _numbers(lines: Sequence[Sequence[str]], places: Sequence[int], width: int, path: Path) -> NDArray[np.float64]:
    """Return the wanted columns (T, len(places)); a spelling of nan or infinity becomes a number that is not finite."""
    if all(len(line) == width for line in lines):
        with suppress(ValueError):
            pick = itemgetter(*places) if len(places) > 1 else lambda line: (line[places[0]],)
            return np.array([pick(line) for line in lines], np.float64)
    out = np.empty((len(lines), len(places)))
    for i, line in enumerate(lines):
        if len(line) != width:
            what = f"line {i + 2} has {len(line)} of {width} cells"
            raise bad_table(path, what, "Was it cut off? Run OpenFace again on this clip.")
        for j, place in enumerate(places):
            cell = line[place].strip()
            try:
                out[i, j] = float(cell)
            except ValueError:
                if "nan" not in cell.lower() and "inf" not in cell.lower() and "#ind" not in cell.lower():
                    raise bad_table(
                        path, f"line {i + 2} has {cell[:40]!r} where a number is due", "Correct it."
                    ) from None
                out[i, j] = np.nan
    return out


def _one_face(
    numbers: NDArray[np.float64], wanted: Sequence[str], path: Path, face: int | None, notes: list[str]
) -> NDArray[np.float64]:
    """Return the rows of one face, in the order of the frames."""
    ids = numbers[:, wanted.index("face_id")] if "face_id" in wanted else np.zeros(len(numbers))
    weight = np.ones(len(numbers))
    for name in ("confidence", "success"):
        if name in wanted:
            weight = weight * numbers[:, wanted.index(name)]
    faces = np.unique(ids)
    sums = np.array([weight[ids == each].sum() for each in faces])
    if not len(faces):
        raise bad_table(path, "has no row with numbers", "Did OpenFace find a face in it?")
    if face is not None and face not in faces:
        known = ", ".join(f"{each:g}" for each in faces)
        raise bad_table(path, f"has no face {face}, but {known}", "Choose one of these.")
    chosen = faces[int(np.argmax(sums))] if face is None else face
    if len(faces) > 1:
        notes.append(f"{len(faces)} faces; face {chosen:g} is taken ({int((ids == chosen).sum())} of {len(ids)} rows)")
    mine = numbers[ids == chosen]
    return mine[np.argsort(mine[:, wanted.index("frame")], kind="stable")]


def bad_table(path: Path | str, what: str, hint: str) -> MediaError:
    """Return the failure of a clip whose table of action units cannot be used."""
    return MediaError("bad-action-units", f"{path} {what}.", hint)
