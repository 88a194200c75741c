"""Action units by py-feat: its networks run on a clip, or csv tables that they wrote.

py-feat (Cheong et al. 2023) gives the probability that a unit is there, from 0 to 1, by a classifier per unit; it gives
no intensities. So the columns are `AU01_p`, and `AU01_c` where the probability is a half or more; a table with larger
numbers is refused, for intensities of OpenFace would pass for certainty. Of 20 units three have no column of OpenFace's
(AU11, AU24, AU43), and AU45 is missing: AU43 is closed eyes, not a blink.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.openface import bad_table, csv_cells, table_bytes, table_of
from emo.extract.annotate.units import UnitTable, unit_spec
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.files import digest
from emo.featstore.install import install_command
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

UNIT = re.compile(r"AU\d\d")
PRESENT = 0.5  # probability from which a unit counts as present, as a classifier of two classes decides
FACE_MODEL, AU_MODEL = "retinaface", "xgb"  # py-feat's own defaults
NOTE = "probabilities from 0 to 1 of py-feat, not intensities; present from 0.5 on"
SEVERAL = "{} frames show several faces and the table has no Identity: the surest face of each frame is taken"


@dataclass(frozen=True)
class PyFeatUnits:
    """Probabilities of action units by py-feat.

    Attributes:
        folder: Where its tables lie, `CLIP.csv`; `None` runs its networks on the clip's media.
        face: Number of the person to take, as in py-feat's `Person_0`; `None` takes the one with the largest sum of
            `FaceScore`, of equal ones the first.
    """

    folder: Path | None = None
    face: int | None = None
    name: str = "pyfeat"
    _network: _Network = field(default_factory=lambda: _Network(), repr=False, compare=False)

    def spec(self, columns: Sequence[str]) -> EncoderSpec:
        """Return the identity of the feature with these columns."""
        recipe: dict[str, Any] = {"face": "surest" if self.face is None else self.face, "present": PRESENT}
        if self.folder is not None:
            return unit_spec(self.name, "py-feat", columns, recipe | {"run": self.folder.name})
        recipe |= {"face_model": FACE_MODEL, "au_model": AU_MODEL}
        return unit_spec(self.name, f"py-feat {version('py-feat')}", columns, recipe)

    def digest(self, clip: Clip) -> str:
        """Return the hash of the clip's table; where the networks run, the content of the clip says it all."""
        if self.folder is not None:
            return digest(table_bytes(table_of(self.folder, clip)))
        _media(clip)
        return f"{FACE_MODEL} {AU_MODEL}"

    def read(self, clip: Clip) -> UnitTable:
        """Return the table of a clip."""
        if self.folder is not None:
            path = table_of(self.folder, clip)
            return read_feat(table_bytes(path), path, self.face)
        media = _media(clip)
        return read_feat(self._network.detect(media), media, self.face)


def _media(clip: Clip) -> Path:
    if clip.media is None:
        raise MediaError("no-action-units", f"Clip {clip.id} has no media that py-feat could look at.", retry=True)
    return clip.media


class _Network:
    """py-feat's detector, made when it is first asked; one clip at a time."""

    def __init__(self) -> None:
        self._lock, self._detector = threading.Lock(), None

    def detect(self, media: Path) -> bytes:
        """Return what py-feat finds in a clip, as the csv that it would save.

        Raises:
            UsageError: py-feat is not installed, or its weights cannot be had.
        """
        with self._lock:
            if self._detector is None:
                self._detector = _detector()
            try:
                found = self._detector.detect(str(media), data_type="video", progress_bar=False)
            except Exception as error:
                raise bad_table(media, f"cannot be looked at by py-feat: {error}", "Does it play?") from error
            return str(found.to_csv(index=False)).encode()


def _absent() -> UsageError:
    hint = f"Install it: {install_command('pyfeat')}; or name a folder of its tables: pyfeat:FOLDER."
    return UsageError("py-feat is not installed.", hint)


def _detector() -> Any:
    try:
        import feat
    except ImportError as error:
        raise _absent() from error
    kind = getattr(feat, "Detectorv1", None) or feat.Detector  # 2.x, and before
    try:
        return kind(face_model=FACE_MODEL, au_model=AU_MODEL, emotion_model=None)
    except Exception as error:
        hint = "Its weights come from huggingface.co/py-feat; run it once where the hub can be reached."
        raise UsageError(f"py-feat's networks cannot be loaded: {error}.", hint) from error


def read_feat(data: bytes, path: Path, face: int | None = None) -> UnitTable:
    """Read a table of py-feat; rows in which it found no face are left out and counted.

    Args:
        data: Content of the csv.
        path: Its name, for messages.
        face: See `PyFeatUnits.face`.

    Raises:
        MediaError: It is no such table (`bad-action-units`), or no face was found (`no-tracked-frame`).
    """
    header, lines = csv_cells(data, path)
    places = {name: i for i, name in enumerate(header)}
    units = [name for name in header if UNIT.fullmatch(name)]
    if not units or "frame" not in places:
        raise bad_table(path, "has no columns frame and AU01", "Is it a table that py-feat's Detector saved?")
    if short := [i for i, line in enumerate(lines) if len(line) != len(header)]:
        what = f"line {short[0] + 2} has {len(lines[short[0]])} of {len(header)} cells"
        raise bad_table(path, what, "Was it cut off? Run py-feat again on this clip.")
    score = ["FaceScore"] if "FaceScore" in places else []
    wanted = ["frame", *score, *units]
    numbers = _numbers(lines, [places[name] for name in wanted], path)
    people = [line[places["Identity"]] for line in lines] if "Identity" in places else None
    found = np.isfinite(numbers).all(axis=1)
    notes = [NOTE]
    if not found.all():
        notes.append(f"{int((~found).sum())} of {len(found)} rows hold no face and are left out")
    if not found.any():
        raise MediaError("no-tracked-frame", f"{path} holds no row with a face.", "Look at the clip.")
    values = numbers[:, len(wanted) - len(units) :]
    if (wrong := found & ((values < 0) | (values > 1)).any(axis=1)).any():
        row = int(np.argmax(wrong))
        unit = units[int(np.argmax((values[row] < 0) | (values[row] > 1)))]
        what = f"has {values[row, units.index(unit)]:g} for {unit}; py-feat's units are probabilities from 0 to 1"
        raise bad_table(path, what, "A table of OpenFace is named by its folder alone, without pyfeat:.")
    kept = np.flatnonzero(found)
    chosen = numbers[_one_person(numbers, kept, score, people, face, path, notes)]
    chosen = chosen[np.argsort(chosen[:, 0], kind="stable")]
    if (np.diff(chosen[:, 0]) <= 0).any() or chosen[0, 0] < 0:
        raise bad_table(path, "names a frame twice for one person, or one below 0", "Is it a table of one video?")
    chances = chosen[:, len(wanted) - len(units) :]
    columns = ("frame", *(["confidence"] if score else []), *(f"{u}_p" for u in units), *(f"{u}_c" for u in units))
    rows = np.column_stack([chosen, (chances >= PRESENT).astype("f8")])
    return UnitTable(columns, rows.astype(np.float32), tuple(notes))


def _numbers(lines: Sequence[Sequence[str]], places: Sequence[int], path: Path) -> NDArray[np.float64]:
    """Return the wanted columns (T, len(places)); an empty cell is a number that is not known."""
    try:
        return np.array([[line[place].strip() or "nan" for place in places] for line in lines], np.float64)
    except ValueError as error:
        raise bad_table(path, f"holds what is no number: {error}", "Is it a table that py-feat saved?") from error


def _one_person(
    numbers: NDArray[np.float64],
    kept: NDArray[np.intp],
    score: Sequence[str],
    people: Sequence[str] | None,
    face: int | None,
    path: Path,
    notes: list[str],
) -> NDArray[np.intp]:
    """Return the rows of one person among the rows that are kept."""
    sure = numbers[:, 1] if score else np.ones(len(numbers))
    if people is None:
        if face is not None:
            raise bad_table(path, "has no column Identity", "Leave --face out.")
        best: dict[float, int] = {}
        for row in kept.tolist():
            frame = float(numbers[row, 0])
            if frame not in best or sure[row] > sure[best[frame]]:
                best[frame] = row
        several = sum(count > 1 for count in Counter(numbers[kept, 0].tolist()).values())
        if several:
            notes.append(SEVERAL.format(several))
        return np.array(sorted(best.values()))
    sums: dict[str, float] = {}
    for row in kept.tolist():
        sums[people[row]] = sums.get(people[row], 0.0) + float(sure[row])
    wanted = max(sums, key=lambda each: sums[each]) if face is None else f"Person_{face}"
    if wanted not in sums:
        raise bad_table(path, f"has no {wanted}, but {', '.join(sorted(sums))}", "Choose one of these by --face.")
    if len(sums) > 1:
        notes.append(f"{len(sums)} people; {wanted} is taken")
    return np.array([row for row in kept.tolist() if people[row] == wanted])


def open_pyfeat(rest: str, face: int | None, store: Store | None) -> PyFeatUnits:
    """Return the source `pyfeat` (its networks run) or `pyfeat:FOLDER` (tables that it saved).

    Raises:
        UsageError: The folder is none, or py-feat is not installed.
    """
    if rest and not Path(rest).is_dir():
        raise UsageError(
            f"{rest} is no folder.", "It holds py-feat's tables, CLIP.csv; pyfeat alone runs its networks."
        )
    if not rest and find_spec("feat") is None:
        raise _absent()
    return PyFeatUnits(Path(rest) if rest else None, face)
