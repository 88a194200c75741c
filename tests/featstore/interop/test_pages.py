"""What a person reads after an import or an export; the JSON holds the same in full."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.interop.exporter import export_features
from emo.featstore.interop.importer import import_features
from emo.featstore.interop.pages import export_page, import_page
from emo.featstore.page import Page, Table
from emo.featstore.storage.store import Store

GOOD = np.arange(8, dtype=np.float32)


def text(page: Page) -> str:
    json.dumps(page.value, default=dataclasses.asdict)
    lines = []
    for part in page.parts:
        lines += [part] if isinstance(part, str) else [part.title, *("|".join(map(str, row)) for row in part.rows)]
    return "\n".join([*lines, page.verdict])


def test_an_import_without_faults_is_a_table_and_a_verdict(store: Store, put: Any) -> None:
    folder = put("x-UTT", a=GOOD, b=GOOD + 1)
    page = import_page(import_features(store, folder))
    key = store.resolve("x-UTT").key
    assert text(page) == (
        f"{folder}: mertools\nx-UTT|{key}|2|0|0|2 x (8,)|2 x float32\n"
        f"2 records imported into {store.path}; 2 clips have features of {folder}"
    )
    assert page.exit_code == 0


def test_whatever_is_remarkable_is_said_with_examples(store: Store, put: Any) -> None:
    zeros = {f"z{i}": np.zeros(8) for i in range(7)}
    folder = put("x-UTT", a=GOOD, b=GOOD, c=b"", d=np.full(8, 2, np.float32), **zeros)
    put("y-FRA", a=np.ones((4, 2), np.float16) * [[1, 2]])
    page = import_page(import_features(store, folder))
    said = text(page)
    for sentence in (
        "x-UTT: float64 is kept as float32.",
        "x-UTT: 7 rows of 7 clips are all zero: z0, z1, z2, z3, z4 and 2 more.",
        "x-UTT: 1 row of 1 clip is constant: d.",
        "x-UTT: 2 clips share their record with another: a = b.",
        "not taken, empty (1):\n  x-UTT/c: The file is empty.",
        "1 x (T, 2); T up to 4",
        "; 1 not taken",
    ):
        assert sentence in said
    assert page.exit_code == 3


def test_an_export_says_what_has_no_place(source: Any, tmp_path: Path) -> None:
    page = export_page(export_features(source.store, tmp_path / "out", "emotion-llama"))
    assert isinstance(page.parts[0], Table)
    said = text(page)
    assert "not exported: eva_g_448@" in said
    assert said.endswith(f"3 features of 7 clips exported to {tmp_path / 'out'}")
    assert page.exit_code == 0


def test_the_measuring_script_runs_at_toy_size(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "import_npy.py"
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    command = [sys.executable, str(script), "--files", "20", "--rounds", "1", "--page", str(page)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "| np.load of every file |" in page.read_text()
