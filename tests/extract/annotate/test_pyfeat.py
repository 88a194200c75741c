"""Action units by py-feat: probabilities stay probabilities, one person is followed, no other table passes."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emo.extract.annotate import pyfeat
from emo.extract.annotate.expression import Matching, pseudo_label
from emo.extract.annotate.pages import run_page
from emo.extract.annotate.peak import PeakOptions, find_peak
from emo.extract.annotate.pyfeat import read_feat
from emo.extract.annotate.registry import find_units
from emo.extract.annotate.testing import check_unit_source
from emo.featstore.annotations import annotations_of
from emo.featstore.clip import Clip
from emo.featstore.errors import MediaError, UsageError
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import load_workspace

# As py-feat 2.1 names them, in its order.
UNITS = [f"AU{n:02}" for n in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)]
BOX = ["FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"]
AFTER = ["Pitch", "Roll", "Yaw", "anger", "happiness", "neutral", "input", "frame", "approx_time", "Identity"]
PATH = Path("a.csv")


def row(frame: int, score: float | None = 0.99, person: str = "Person_0", **units: float) -> dict[str, Any]:
    """A row as py-feat writes it; without a score it found no face, and leaves cells empty."""
    if score is None:
        return {"input": "a.mp4", "frame": frame, "approx_time": "00:00", "Identity": ""}
    values = {unit: units.get(unit, 0.1) for unit in UNITS}
    box = dict(zip(BOX, (10, 10, 50, 60, score), strict=True))
    rest = dict(zip(AFTER, (1, 2, 3, 0, 1, 0, "a.mp4", frame, "00:00", person), strict=True))
    return {**box, **values, **rest}


def table(*rows: dict[str, Any], without: str = "") -> str:
    out = io.StringIO()
    names = [name for name in [*BOX, *UNITS, *AFTER] if name != without]
    writer = csv.DictWriter(out, names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def smile(frames: int = 8, peak: int = 4) -> str:
    chances = [0.95 if i == peak else 0.3 for i in range(frames)]
    return table(*(row(i, AU06=p, AU12=p, AU14=p) for i, p in enumerate(chances)))


def test_probabilities_are_named_as_such_and_never_as_intensities() -> None:
    found = read_feat(smile().encode(), PATH)
    assert found.intensity("AU12") is None
    assert found.probability("AU12") == pytest.approx([0.3] * 4 + [0.95] + [0.3] * 3)
    assert found.presence("AU12").tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert found.probability("AU45") is None  # AU43 is closed eyes
    assert found.columns[:2] == ("frame", "confidence")
    assert pyfeat.NOTE in found.notes
    peak = find_peak(found, PeakOptions())
    assert (peak.index, peak.units) == (4, {})
    assert peak.score == pytest.approx(
        3 * 0.95 + 14 * 0.1, abs=1e-4
    )  # of units that OpenFace has: neither 11, 24 nor 43
    assert peak.active == ("AU06", "AU12", "AU14")
    assert pseudo_label(peak.active, peak.units, Matching()) == "happy"


def test_label_au_asks_for_presence_and_not_for_a_probability_above_zero() -> None:
    rows = [row(0, AU01=0.9, AU02=0.9, AU05=0.4, AU26=0.9), row(1, AU01=0.6, AU02=0.6, AU05=0.6, AU26=0.6)]
    found = read_feat(table(*rows).encode(), PATH)
    assert find_peak(found, PeakOptions("label-au"), "surprise").index == 1
    with pytest.raises(MediaError, match="present together"):
        find_peak(read_feat(table(rows[0]).encode(), PATH), PeakOptions("label-au"), "surprise")


def test_a_table_of_intensities_is_refused() -> None:
    with pytest.raises(MediaError, match=r"has 3\.2 for AU12; py-feat's units are probabilities") as caught:
        read_feat(table(row(0), row(1, AU12=3.2)).encode(), PATH)
    assert caught.value.kind == "bad-action-units"


def test_frames_without_a_face_are_left_out_and_counted() -> None:
    found = read_feat(table(row(0), row(1, None), row(2)).encode(), PATH)
    assert found.column("frame").tolist() == [0, 2]
    assert "1 of 3 rows hold no face and are left out" in found.notes
    with pytest.raises(MediaError, match="no row with a face") as caught:
        read_feat(table(row(0, None)).encode(), PATH)
    assert caught.value.kind == "no-tracked-frame"


def test_one_person_is_followed() -> None:
    rows = [row(0, 0.9, AU12=0.7), row(0, 0.8, "Person_1", AU12=0.2), row(1, 0.5, "Person_1", AU12=0.2), row(1, 0.9)]
    found = read_feat(table(*rows).encode(), PATH)
    assert found.probability("AU12") == pytest.approx([0.7, 0.1])
    assert "2 people; Person_0 is taken" in found.notes
    assert read_feat(table(*rows).encode(), PATH, face=1).probability("AU12") == pytest.approx([0.2, 0.2])
    with pytest.raises(MediaError, match="has no Person_7, but Person_0, Person_1"):
        read_feat(table(*rows).encode(), PATH, face=7)
    unnamed = read_feat(table(*rows, without="Identity").encode(), PATH)
    assert pyfeat.SEVERAL.format(2) in unnamed.notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("frame,AU01_r\n1,0.5\n", "no columns frame and AU01"),
        (smile().rpartition(",")[0], "line 9 has"),
        (smile().replace("0.95", "high"), "no number"),
        (smile() + smile().split("\n", 1)[1], "names a frame twice"),
        ("", "no rows"),
    ],
)
def test_what_is_no_table_of_it_is_said(text: str, words: str) -> None:
    with pytest.raises(MediaError, match=words) as caught:
        read_feat(text.encode(), PATH)
    assert caught.value.kind == "bad-action-units"


def test_it_keeps_the_contract_and_annotates(study: Callable[..., Path]) -> None:
    folder = study(2)
    tables = folder / "feat"
    tables.mkdir()
    for i in range(2):
        (tables / f"c{i}.csv").write_text(smile(peak=3 + i))
    check_unit_source(find_units(f"pyfeat:{tables}"), Clip("c0"), Clip("none"))
    assert run_page(load_workspace(folder), lambda sentence: None, aus=f"pyfeat:{tables}").value["made"] == 2
    store = open_store(folder / "s.emo")
    found = annotations_of(store)
    assert [found[name]["peak_index"] for name in ("c0", "c1")] == ["3", "4"]
    assert {each["pseu_emotion"] for each in found.values()} == {"happy"}
    assert [each.key.partition("@")[0] for each in store.features() if "aus" in each.key] == ["pyfeat-aus"]


def test_its_networks_run_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a detector that answers as py-feat's: a data frame that can be written as csv."""
    made: list[dict[str, Any]] = []

    class Detector:
        def __init__(self, **settings: Any) -> None:
            made.append(settings)

        def detect(self, inputs: str, data_type: str, progress_bar: bool) -> Any:
            if "broken" in inputs:
                raise RuntimeError("no frames")
            return SimpleNamespace(to_csv=lambda index: smile())

    with pytest.raises(UsageError, match="py-feat is not installed"):
        find_units("pyfeat")
    monkeypatch.setitem(sys.modules, "feat", SimpleNamespace(Detectorv1=Detector, __spec__=object()))
    monkeypatch.setattr(pyfeat, "version", lambda name: "2.1.5")
    source = find_units("pyfeat")
    check_unit_source(source, Clip("a", tmp_path / "a.mp4"), Clip("none"))
    assert made == [{"face_model": "retinaface", "au_model": "xgb", "emotion_model": None}]
    assert np.array_equal(source.read(Clip("a", tmp_path / "a.mp4")).rows, read_feat(smile().encode(), PATH).rows)
    with pytest.raises(MediaError, match="cannot be looked at by py-feat: no frames"):
        source.read(Clip("b", tmp_path / "broken.mp4"))
    assert source.spec(("frame",)).weights == "py-feat 2.1.5"


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        find_units(f"pyfeat:{tmp_path / 'none'}")
