"""bench.py runs end to end at a toy size; nothing is asserted about speed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def test_the_bench_writes_its_section_and_the_table_of_goals(measure: Callable[..., str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Benchmarks\n\n| goal | asked | found |\n| --- | --- | --- |\n| P9 | x | y |\n| | z | w |\n\nWords.\n"
    )
    toy = ("--device", "cpu", "--heads", "lf_dnn", "mfn", "--settings", "2", "--folds", "2", "--clips", "80")
    words = (*toy, "--few-clips", "20", "--units", "1", "--rounds", "1")
    written = measure("bench.py", *words, page=page)
    assert "| P9 | x | y |" not in written
    assert re.search(r"^\| P10 \| 12 heads .* \| [\d.]+x on one CPU core, extrapolated", written, re.MULTILINE)
    assert "| not measured |" in written
    for part in (
        "## P10 A bench",
        "| lf_dnn |",
        "| heads of single rows |",
        "24 models: 3 feature sets",
        "Extrapolated: ",
    ):
        assert part in written
    again = measure("bench.py", *words, page=page)
    assert again.count("| P10 |") == 1
