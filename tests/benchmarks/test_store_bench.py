"""The measuring scripts of the store and of start-up run end to end at toy sizes; nothing is asserted about speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(script: str, words: str, page: Path) -> str:
    page.write_text("# Benchmarks\n")
    command = [sys.executable, str(HERE / script), *words.split(), "--page", str(page)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return page.read_text()


def test_store_compares_ways_that_give_the_same_bytes_and_grows(tmp_path: Path) -> None:
    read = "--utterances 70 --records 17 --batches 2 --dim 16 --tokens 3"
    write = "--write-utterances 8 --write-records 2"
    found = run("store.py", f"--rounds 1 {read} {write} --clips 10,30 --dim-grown 4", tmp_path / "page.md")
    for part in ("P6 Reading random batches", "P6 Writing features", "P8, P9 Stores of many clips", "LMDB", "30 clips"):
        assert part in found
    assert found.count("What limits it now: ") == 3
    assert str(tmp_path) not in found


def test_start_names_what_is_imported(tmp_path: Path) -> None:
    found = run("start.py", "--clips 10 --rounds 1", tmp_path / "page.md")
    for part in ("P8 Start-up", "| emo --help |", "| emo store info, 10 clips |", "goal 0.2 s", "typer"):
        assert part in found
