"""`mesh-aus`: proxies of action units from the columns of the face mesh. They are geometry, and not FACS-coded.

A proxy is how far columns of `mesh_FRA` lie from the clip's own median, in the direction of the movement, divided by a
fixed step: 1 stands for 0.02 distances of the outer corners of the eyes (about 1.8 mm), or 0.05 of an eye's opening, up
to 5. So a face that never moves has zeros, whatever it looks like, and a face that smiles all the time has no smile.
There is none for AU14 and AU28, and no presence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.units import UnitTable, no_units, unit_spec
from emo.featstore.clip import Clip
from emo.featstore.errors import FeatureMissing, MediaError, UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

STEP, STEP_EYE = 0.02, 0.05  # a level, in distances of the eyes; in openings of an eye by its width
HIGHEST = 5.0
EYE = ("eye_open_right", "eye_open_left")
BROWS = {part: (f"brow_{part}_right", f"brow_{part}_left") for part in ("inner", "middle", "outer")}
CORNERS = ("mouth_corner_right", "mouth_corner_left")

# Action unit -> columns with the sign in which each moves; the proxy is the mean of their moves.
MOVES: Mapping[str, Sequence[tuple[int, tuple[str, ...]]]] = {
    "AU01": [(1, BROWS["inner"])],
    "AU02": [(1, BROWS["outer"])],
    "AU04": [(-1, BROWS["middle"]), (-1, ("brow_gap",))],
    "AU05": [(1, EYE)],
    "AU06": [(-1, ("cheek_gap_right", "cheek_gap_left"))],
    "AU09": [(-1, ("nose_gap_right", "nose_gap_left"))],
    "AU10": [(-1, ("philtrum",))],
    "AU12": [(1, CORNERS), (1, ("mouth_width",))],
    "AU15": [(-1, CORNERS)],
    "AU17": [(-1, ("chin_gap",))],
    "AU20": [(1, ("mouth_width",)), (-1, CORNERS)],
    "AU23": [(-1, ("lip_upper",)), (-1, ("lip_lower",))],
    "AU25": [(1, ("mouth_open",))],
    "AU26": [(1, ("chin_drop",))],
    "AU45": [(-1, EYE)],
}


@dataclass(frozen=True)
class MeshUnits:
    """Proxies from a feature `mesh_FRA` of a store.

    Attributes:
        store: Where the feature is.
        mesh: Its identity.
        name: Of the source.
    """

    store: Store
    mesh: EncoderSpec
    name: str = "mesh"

    def spec(self, columns: Sequence[str]) -> EncoderSpec:
        """Return the identity of the proxies with these columns."""
        moves = {unit: [[sign, list(names)] for sign, names in parts] for unit, parts in MOVES.items()}
        recipe = {"of": self.mesh.fingerprint, "neutral": "median of the clip", "moves": moves}
        return unit_spec(self.name, "none", columns, recipe | {"steps": [STEP, STEP_EYE]})

    def digest(self, clip: Clip) -> str:
        """Return the identity of the mesh: it is of the clip's content, which the store already goes by."""
        self._feature(clip)
        return self.mesh.fingerprint

    def read(self, clip: Clip) -> UnitTable:
        """Return the proxies of a clip."""
        rows, t0_s, hop_s = self._feature(clip)
        if hop_s is None:
            what = f"The mesh of clip {clip.id} has no even times: the face is out of sight in between."
            raise MediaError("bad-action-units", what, "Use OpenFace's tables for it.")
        frames = np.round(t0_s / hop_s + np.arange(len(rows)))
        columns = ("frame", "time_s", *(f"{unit}_r" for unit in MOVES))
        values = proxies(rows, [each.partition(" (")[0] for each in self.mesh.recipe["columns"]])
        times = t0_s + hop_s * np.arange(len(rows))
        return UnitTable(columns, np.column_stack([frames, times, values]).astype(np.float32), (NOTE,))

    def _feature(self, clip: Clip) -> tuple[NDArray[np.float32], float, float | None]:
        try:
            found = self.store.get(self.mesh, clip.id)
        except FeatureMissing as error:
            failure = no_units(clip, self.mesh.key)
            hint = "Run `emo extract --encoders mesh_UTT --level frame`."
            raise MediaError(failure.kind, failure.message, hint, retry=True) from error
        return np.asarray(found.array, np.float32), found.t0_s, found.hop_s


NOTE = "proxies from the face mesh, not FACS-coded; 0 is the clip's own median"


def proxies(rows: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    """Return proxies (T, len(MOVES)) from 0 to 5.

    Args:
        rows: Columns of the mesh (T, D).
        names: Of these columns.

    Raises:
        UsageError: A column is missing: the feature is of another version.
    """
    place = {name: i for i, name in enumerate(names)}
    if lacking := sorted({each for parts in MOVES.values() for _, group in parts for each in group} - place.keys()):
        raise UsageError(f"The mesh has no column {lacking[0]}.", "Extract mesh_FRA again with this version.")
    moved = rows - np.median(rows, axis=0)
    out = []
    for parts in MOVES.values():
        moves = []
        for sign, group in parts:
            step = STEP_EYE if group == EYE else STEP
            moves.append(sign * moved[:, [place[each] for each in group]].mean(axis=1) / step)
        out.append(np.clip(np.mean(moves, axis=0), 0, HIGHEST))
    return np.stack(out, axis=1).astype(np.float32)


def open_mesh(rest: str, face: int | None, store: Store | None) -> MeshUnits:
    """Return the source `mesh`, or `mesh:mesh_FRA@FINGERPRINT` where the store has several.

    Raises:
        UsageError: There is no such feature, or a face is asked for.
    """
    if face is not None:
        raise UsageError("The mesh has one face per clip.", "Leave --face out; who is taken is [extract] face.")
    hint = "Run `emo extract --encoders mesh_UTT --level frame`; docs/mesh.md says what it needs."
    if store is None:
        raise UsageError("There is no store with mesh_FRA yet.", hint)
    try:
        return MeshUnits(store, store.resolve(rest or "mesh_FRA"))
    except FeatureMissing as error:
        raise UsageError(f"{store.path} has no mesh_FRA.", hint) from error
