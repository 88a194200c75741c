"""heads.py runs end to end at a toy size; nothing is asserted about speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().with_name("heads.py")


def test_heads_writes_its_section(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    toy = ("--clips", "40", "--dim", "8", "--configurations", "4", "--folds", "2", "--sample", "1", "--rounds", "1")
    command = [sys.executable, str(SCRIPT), "--device", "cpu", *toy, "--page", str(page)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "round 1: MERBench's way 1.0x" in result.stdout
    text = page.read_text()
    for part in ("## P5 Heads", "| emo, all together |", "8 models (4 settings", "Goal 6x: ", "What limits it now"):
        assert part in text
    assert " min |" not in text  # absolute times only from a GPU
