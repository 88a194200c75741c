"""Proxies of action units from the face mesh: what moves, in which direction, against the clip's own median."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emo.extract.annotate.mesh_units import MOVES, NOTE, STEP, MeshUnits, open_mesh, proxies
from emo.extract.annotate.registry import find_units
from emo.extract.annotate.testing import check_unit_source
from emo.extract.encoders.mesh import COLUMNS
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store

NAMES = [column.name for column in COLUMNS]
MEDIA = {"a": f"{1:032x}", "gap": f"{2:032x}", "none": f"{3:032x}"}


def rows(frames: int = 9, **moves: float) -> np.ndarray:
    """Columns of a face that rests, but for one frame in which some columns are moved by so many steps."""
    found = np.ones((frames, len(NAMES)), np.float32)
    for name, steps in moves.items():
        found[4, NAMES.index(name)] += STEP * steps
    return found


@pytest.mark.parametrize(
    ("moves", "unit", "value"),
    [
        ({"brow_inner_right": 2, "brow_inner_left": 2}, "AU01", 2.0),
        ({"brow_inner_right": 2}, "AU01", 1.0),
        ({"brow_gap": -2, "brow_middle_right": -2, "brow_middle_left": -2}, "AU04", 2.0),
        ({"mouth_corner_right": 3, "mouth_corner_left": 3, "mouth_width": 3}, "AU12", 3.0),
        ({"mouth_corner_right": -1, "mouth_corner_left": -1}, "AU15", 1.0),
        ({"mouth_open": 100}, "AU25", 5.0),
        ({"eye_open_right": -2.5, "eye_open_left": -2.5}, "AU45", 1.0),
    ],
)
def test_each_unit_goes_by_its_columns(moves: dict[str, float], unit: str, value: float) -> None:
    found = proxies(rows(**moves), NAMES)
    assert found[4, list(MOVES).index(unit)] == pytest.approx(value, abs=1e-3)
    assert (found[[0, 1, 2, 3, 5, 6, 7, 8]] == 0).all()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    columns = [f"{column.name} ({column.unit})" for column in COLUMNS]
    spec = EncoderSpec(
        "mesh_FRA", "mesh", "face", "frame", len(columns), None, "paper", "none", 1, {"columns": columns}
    )
    made = Store.create(tmp_path / "s.emo")
    with made.writer() as writer:
        for clip, media in MEDIA.items():
            writer.clip(clip, media)
        writer.add(spec, MEDIA["a"], rows(mouth_open=2), t0_s=0.08, hop_s=0.04)
        writer.add(spec, MEDIA["gap"], rows(), t0_s=0.0, hop_s=None)
    return made


def test_the_source_keeps_the_contract_and_says_what_it_is(store: Store) -> None:
    source = find_units("mesh", None, store)
    check_unit_source(source, Clip("a"), Clip("none"))
    table = source.read(Clip("a"))
    assert table.notes == (NOTE,)
    assert "not FACS-coded" in NOTE
    assert table.column("frame").tolist() == list(range(2, 11))
    assert source.spec(table.columns).name == "mesh-aus"
    with pytest.raises(MediaError, match="no even times"):
        source.read(Clip("gap"))


def test_what_is_missing_is_said(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column"):
        proxies(rows()[:, :3], NAMES[:3])
    with pytest.raises(UsageError, match="has no mesh_FRA"):
        open_mesh("", None, Store.create(tmp_path / "empty.emo"))
    with pytest.raises(UsageError, match="one face per clip"):
        open_mesh("", 1, store)
    with pytest.raises(UsageError, match="no store"):
        open_mesh("", None, None)
    assert isinstance(find_units("mesh", None, store), MeshUnits)
    with pytest.raises(UsageError, match="no folder"):
        find_units(str(tmp_path / "nowhere"))
