"""The measuring scripts of the store and of start-up run end to end at toy sizes; nothing is asserted about speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def test_store_compares_ways_that_give_the_same_bytes_and_grows(measure: Callable[..., str], tmp_path: Path) -> None:
    read = "--utterances 70 --records 17 --batches 2 --dim 16 --tokens 3"
    write = "--write-utterances 8 --write-records 2"
    found = measure("store.py", *f"--rounds 1 {read} {write} --clips 10,30 --dim-grown 4".split())
    for part in ("P6 Reading random batches", "P6 Writing features", "P8, P9 Stores of many clips", "LMDB", "30 clips"):
        assert part in found
    assert found.count("What limits it now: ") == 3
    assert str(tmp_path) not in found


def test_start_names_what_is_imported(measure: Callable[..., str]) -> None:
    found = measure("start.py", "--clips=10", "--asked=12", "--rounds=1")
    for part in ("P8 Start-up", "| emo --help |", "| emo store info, 10 clips |", "goal 0.2 s", "typer"):
        assert part in found
