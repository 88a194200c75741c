"""Two sources of action units on the same clips, and captions that say nearly the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emo.extract.annotate.correlate import unit_correlation, units_page
from emo.extract.annotate.near import embedder, near_pairs
from emo.extract.annotate.pages import run_page, status_page
from emo.extract.annotate.units import UnitTable
from emo.featstore.errors import UsageError, WeightsMissing
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import load_workspace


def units(columns: tuple[str, ...], frames: range, *values: np.ndarray) -> UnitTable:
    return UnitTable(("frame", *columns), np.column_stack([np.array(frames), *values]).astype(np.float32))


def test_units_are_correlated_over_the_frames_that_both_have() -> None:
    wave = np.sin(np.arange(40) / 3)
    first = units(("AU06_r", "AU12_r", "AU04_r"), range(40), wave, wave, np.zeros(40))
    second = units(
        ("AU12_r", "AU06_p", "AU04_r", "AU17_r"), range(5, 30), -wave[5:30], 0.2 * wave[5:30], *[wave[5:30]] * 2
    )
    found = unit_correlation(first, second)
    assert found["AU12"] == pytest.approx(-1.0)
    assert found["AU06"] == pytest.approx(1.0)
    assert found["AU04"] is None  # it does not move
    assert "AU17" not in found
    assert unit_correlation(first, units(("AU12_r",), range(35, 60), np.arange(25)))["AU12"] is None  # five frames


def test_the_command_reports_clips_that_have_both(study: Callable[..., Path], openface: Callable[..., str]) -> None:
    folder = study(2, n_frames=16)
    (folder / "feat").mkdir()
    (folder / "of").mkdir()
    for i in range(2):
        (folder / f"of/c{i}.csv").write_text(openface("happy", 16, 6 + i))
        peak = [max(0.0, 3.0 - abs(k - 6 - i)) / 3 for k in range(16)]
        rows = "".join(f"{k},0.9,{0.9 * p:.3f},{0.9 * p:.3f}\n" for k, p in enumerate(peak))
        (folder / f"feat/c{i}.csv").write_text("frame,FaceScore,AU06,AU12\n" + rows)
    run_page(load_workspace(folder), lambda sentence: None, aus=str(folder / "of"))
    store = open_store(folder / "s.emo")
    with pytest.raises(UsageError, match="lacks one of aus and pyfeat-aus"):
        units_page(store, second="pyfeat-aus")
    run_page(load_workspace(folder), lambda sentence: None, aus=f"pyfeat:{folder}/feat")
    page = units_page(open_store(folder / "s.emo"), second="pyfeat-aus")
    assert page.value["clips"] == 2
    assert sorted(page.value["units"]) == ["AU06", "AU12"]
    assert page.value["units"]["AU12"]["median"] == pytest.approx(1.0, abs=1e-3)


def test_status_names_the_clips_without_an_annotation_and_says_why(study: Callable[..., Path]) -> None:
    folder = study(14)
    for i in range(12):
        (folder / f"openface/c{i}.csv").unlink()
    run_page(load_workspace(folder), lambda sentence: None, concurrency=2)
    page = status_page(open_store(folder / "s.emo"))
    ((_, without),) = page.value["without"].items()
    assert sorted(without) == sorted(f"c{i}" for i in range(12))
    assert without["c3"].startswith("no-action-units: There are no action units for clip c3")
    failed = next(each for each in page.value["failures"] if each["record"].startswith("annotation"))
    assert failed["names"] == sorted(without)
    assert "... and 2 more; --json names all." in page.parts


def test_near_texts_are_those_near_to_one_that_is_kept() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1100, 64)).astype(np.float32)
    rows[1050] = rows[3] + 0.01 * rows[4]  # in another block than its neighbour
    rows[700] = rows[699]
    assert list(near_pairs(rows, 0.95)) == [(700, 699), (1050, 3)]
    assert list(near_pairs(rows[[3, 1050, 3]], 0.95)) == [(1, 0), (2, 0)]


def test_minilm_gives_a_text_the_same_vector_in_any_batch() -> None:
    try:
        embed = embedder()
    except WeightsMissing as error:
        pytest.skip(str(error))
    texts = [
        "She smiles.",
        "A man shouts at somebody who is out of sight, and his brows are lowered.",
        "She smiles!",
    ] * 30
    together = embed(texts)
    assert np.abs(together[:2] - embed(texts[:2])).max() < 1e-5
    found = dict(near_pairs(together[:3], 0.9))
    assert found == {2: 0}
    with pytest.raises(UsageError, match="reads English"):
        embed(["她在微笑，眉毛上扬。"])
