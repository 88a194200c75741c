"""The notebook runs from its first cell to its last, and makes what its text promises."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from following import ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / "docs" / "mer2023.ipynb"


def said(cell: Any) -> str:
    """What a cell printed, and the text of its value."""
    outputs = cell.get("outputs", [])
    return "".join(each.get("text", "") + each.get("data", {}).get("text/plain", "") for each in outputs)


def test_the_notebook_is_kept_without_outputs() -> None:
    """They would be of one machine, and of one day."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_every_cell_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "100")
    book = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(book, timeout=550, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    here, text = tmp_path / "mer2023-drawn", "".join(map(said, book.cells))
    assert "'train_corpus': 18, 'test3': 6" in text
    assert (here / "look" / "sample_00000000.png").stat().st_size > 10_000
    for report in ("report-head", "report"):
        assert (here / report / "report.html").exists()
    for sentence in ("24 clips", "stage2", "'tiny')"):
        assert sentence in text, sentence
