"""`emo annotate units`: do two sources of action units move together, unit by unit, on clips that have both?"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.actions import PRESENCES
from emo.extract.annotate.units import UnitTable, stored_table
from emo.featstore.errors import FeatureMissing, UsageError
from emo.featstore.page import Flag, Page, Table
from emo.featstore.storage.store import Store
from emo.featstore.text import counted

LEAST_FRAMES = 10  # that two tables share, for a correlation to say anything


def unit_correlation(first: UnitTable, second: UnitTable) -> dict[str, float | None]:
    """Return Pearson's correlation of each unit that both have, over the frames that both have.

    Intensities are taken, or probabilities where there are none. `None` where a unit does not change, or where they
    share fewer than ten frames.
    """
    frames, mine, theirs = np.intersect1d(first.rows[:, 0], second.rows[:, 0], return_indices=True)
    found: dict[str, float | None] = {}
    for unit in PRESENCES:
        one, two = (_moves(table, unit) for table in (first, second))
        if one is None or two is None:
            continue
        a, b = one[mine].astype("f8"), two[theirs].astype("f8")
        still = len(frames) < LEAST_FRAMES or not a.std() or not b.std()
        found[unit] = None if still else float(np.corrcoef(a, b)[0, 1])
    return found


def _moves(table: UnitTable, unit: str) -> NDArray[np.float32] | None:
    intensity = table.intensity(unit)
    return table.probability(unit) if intensity is None else intensity


def units_page(
    store: Store,
    first: Annotated[str, Flag("Action units of one source: aus, mesh-aus or pyfeat-aus.")] = "aus",
    second: Annotated[str, Flag("Those of the other.")] = "mesh-aus",
) -> Page:
    """Correlate action units of two sources, unit by unit, over the clips that have both."""
    try:
        specs = [store.resolve(name) for name in (first, second)]
    except FeatureMissing as error:
        hint = "Run `emo annotate run` with --aus of each source; it keeps their action units."
        raise UsageError(f"{store.path} lacks one of {first} and {second}: {error.message}", hint) from error
    clips = sorted(clip for clip in store.clips() if all(store.status(spec, clip) == "ok" for spec in specs))
    if not clips:
        raise UsageError(f"No clip has both {specs[0].key} and {specs[1].key}.", "Annotate the same clips with both.")
    by_unit: dict[str, list[float | None]] = {}
    for clip in clips:
        tables = [stored_table(spec, store.get(spec, clip).array) for spec in specs]
        for unit, r in unit_correlation(*tables).items():
            by_unit.setdefault(unit, []).append(r)
    value: dict[str, Any] = {"first": specs[0].key, "second": specs[1].key, "clips": len(clips), "units": {}}
    for unit, every in sorted(by_unit.items()):
        known = [each for each in every if each is not None]
        low, middle, high = np.percentile(known, [25, 50, 75]).tolist() if known else (None, None, None)
        value["units"][unit] = {"clips": len(known), "still": len(every) - len(known), "median": middle}
        value["units"][unit] |= {"low": low, "high": high}
    rows = [
        [
            unit,
            *("none" if each[k] is None else each[k] for k in ("median", "low", "high")),
            each["clips"],
            each["still"],
        ]
        for unit, each in value["units"].items()
    ]
    columns = ("AU", "r, median", "lower quartile", "upper quartile", "clips", "clips where it is still")
    note = "Pearson's correlation within each clip, over the frames of both; it says nothing about levels."
    return Page(
        value,
        [Table("Correlation of action units", columns, rows, columns[1:]), note],
        f"{counted(len(clips), 'clip has', 'clips have')} both.",
    )
