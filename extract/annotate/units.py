"""Action units of a clip, frame by frame: the table, and the contract of a source of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.actions import INTENSITIES, PRESENCES
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError
from emo.featstore.spec import EncoderSpec

TIMES = ("frame", "time_s", "confidence", "success")  # columns that are no action units
OWN_NAMES = ("mesh", "pyfeat")  # sources whose numbers are of another kind than OpenFace's
EVEN_S = 0.002  # tables round time stamps to milliseconds


@dataclass(frozen=True)
class UnitTable:
    """Action units of one person in one clip.

    Attributes:
        columns: Names of the columns: some of `TIMES` (`frame`, counted from 0, is always there), then intensities
            from 0 to 5 as `AU01_r`, presences (0 or 1) as `AU01_c` and probabilities of presence (0 to 1) as `AU01_p`.
            A column that the source lacks is absent.
        rows: (T, len(columns)) float32, in the order of the frames.
        notes: What a user should know: columns that are absent, rows and faces that were left out.
    """

    columns: tuple[str, ...]
    rows: NDArray[np.float32]
    notes: tuple[str, ...] = ()
    _places: Mapping[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {name: i for i, name in enumerate(self.columns)})

    @property
    def frames(self) -> int:
        """Frames that it counts: the number of the last one, and one."""
        return int(self.rows[-1, self._places["frame"]]) + 1

    def column(self, name: str) -> NDArray[np.float32] | None:
        """Return one column (T,), or `None` where it is absent."""
        place = self._places.get(name)
        return None if place is None else self.rows[:, place]

    def intensity(self, unit: str) -> NDArray[np.float32] | None:
        """Return intensities of an action unit (T,), or `None` where the source has none."""
        return self.column(f"{unit}_r")

    def presence(self, unit: str) -> NDArray[np.float32] | None:
        """Return presences of an action unit (T,), or `None` where the source has none."""
        return self.column(f"{unit}_c")

    def probability(self, unit: str) -> NDArray[np.float32] | None:
        """Return probabilities of an action unit (T,), or `None` where the source has none."""
        return self.column(f"{unit}_p")

    def timing(self) -> tuple[float, float | None]:
        """Return the time of the first row, and the time between rows where they are evenly spaced."""
        times = self.column("time_s")
        if times is None:
            return 0.0, None
        steps = np.diff(times.astype("f8"))
        even = len(steps) and np.abs(steps - steps.mean()).max() <= EVEN_S
        return float(times[0]), float(steps.mean()) if even else None


class UnitSource(Protocol):
    """A source of action units: the contract of a plug-in."""

    name: str

    def spec(self, columns: Sequence[str]) -> EncoderSpec:
        """Return the identity of the feature with these columns: everything that changes the numbers."""
        ...

    def digest(self, clip: Clip) -> str:
        """Return what identifies the source's material of a clip, so that a change of it is noticed.

        Raises:
            MediaError: There is none.
        """
        ...

    def read(self, clip: Clip) -> UnitTable:
        """Return the table of a clip.

        Raises:
            MediaError: There is none (`no-action-units`), or it cannot be used (`bad-action-units`).
        """
        ...


def unit_spec(source: str, version: str, columns: Sequence[str], recipe: Mapping[str, Any]) -> EncoderSpec:
    """Return the spec of a feature of action units: `aus` of OpenFace, `mesh-aus` and `pyfeat-aus` of others.

    Args:
        source: What made them.
        version: What is known of its weights.
        columns: Of the table.
        recipe: Whatever else changes the numbers.
    """
    return EncoderSpec(
        name=f"{source}-aus" if source in OWN_NAMES else "aus",
        encoder=source,
        modality="face",
        level="frame",
        dim=len(columns),
        rows=None,
        profile="imported",
        weights=version,
        recipe={"columns": list(columns), "stored_dtype": "float32", **recipe},
    )


def stored_table(spec: EncoderSpec, array: NDArray[np.float32]) -> UnitTable:
    """Return a table as the store has it."""
    return UnitTable(tuple(spec.recipe["columns"]), np.asarray(array, np.float32))


def absent(columns: Sequence[str]) -> str:
    """Return a sentence about the columns that OpenFace would have and a table lacks; empty where it has all."""
    whole = [*TIMES, *(f"{unit}_r" for unit in INTENSITIES), *(f"{unit}_c" for unit in PRESENCES)]
    lacking = [name for name in whole if name not in columns]
    return f"columns that are absent: {', '.join(lacking)}" if lacking else ""


def no_units(clip: Clip, where: Path | str) -> MediaError:
    """Return the failure of a clip without action units."""
    sentence = f"There are no action units for clip {clip.id} in {where}."
    return MediaError("no-action-units", sentence, "Run OpenFace's FeatureExtraction on it.", retry=True)
