"""The scripts that measure tuning and answers run end to end at toy sizes; nothing is asserted about speed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ENDS = {"answers.py": ("P4 Answers about 834 clips", 5), "tune.py": ("P3 LoRA step", 5)}
SMALL = {
    "answers.py": ["--clips=6", "--sample=2", "--captions=4", "--captions-sample=1", "--batch-size=4"],
    "tune.py": ["--clips=8", "--batches=2", "--steps=1", "--rows=1,2,6,8"],
}


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """With one thread, which is enough for toys and does not wait for a second core."""
    command = [sys.executable, str(HERE / script), *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("script", SMALL)
def test_every_row_runs_and_is_written(script: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    words = [*SMALL[script], "--device=cpu", "--rounds=1", "--page", str(page)]
    result = run(script, *words)
    assert result.returncode == 0, result.stderr
    title, rows = ENDS[script]
    text = page.read_text()
    assert f"## {title} (tiny sizes on a CPU: overhead only)" in text
    table = [line.split(" | ") for line in text.split("\n") if line.startswith("| ")][2:]
    assert len(table) == rows
    assert all(float(cells[1]) > 0 for cells in table), "a ratio in every row"
    assert "--page" not in text


def test_memory_in_four_bits_is_said_not_to_be_measured_without_a_gpu(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    words = ["--quantise=nf4", "--device=cpu", "--clips=8", "--batches=2", "--steps=1", "--rows=3"]
    assert run("tune.py", *words, "--page", str(page)).returncode == 0
    table = [line for line in page.read_text().split("\n") if line.startswith("| ")][2:]
    assert [line.split(" | ")[0] for line in table] == ["| bf16"] * 2 + ["| nf4"] * 2
    assert all("not measured: no GPU" in line for line in table[2:])


@pytest.mark.parametrize(
    ("script", "titles"),
    [
        ("tune.py", ("P3 Where the time of a step goes", "P3 Levers of the step")),
        ("answers.py", ("P4 Where the time of answers goes", "P4 Levers of answers")),
    ],
)
def test_a_profile_names_what_takes_the_time_and_every_lever(
    script: str, titles: tuple[str, str], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    words = [*SMALL[script], "--profile", "--device=cpu", "--rounds=1", "--page", str(page)]
    result = run(script, *words)
    assert result.returncode == 0, result.stderr
    times, levers = page.read_text().split("\n## ")[1:]
    for title, section in zip(titles, (times, levers), strict=True):
        assert section.startswith(f"{title} (tiny sizes on a CPU: overhead only)")
    rows = [line.split(" | ") for line in times.split("\n") if line.startswith("| ")][2:]
    shares = [float(cells[2].rstrip("%")) for cells in rows]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.5
    assert any(cells[0] == "| matrix products" and "aten::" in cells[1] for cells in rows)
    rows = [line.split(" | ") for line in levers.split("\n") if line.startswith("| ")][2:]
    assert {cells[1].partition(":")[0] for cells in rows} == {"yes", "no"}


def test_the_start_of_training_is_held_against_reading_the_file(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    result = run("begin.py", "--device=cpu", "--size=toy", "--rounds=1", "--page", str(page))
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert "## P3 Start of training (size toy, CPU)" in text
    table = [line.split(" | ") for line in text.split("\n") if line.startswith("| ")][2:]
    assert [float(cells[1]) for cells in table[:1]] == [1.0]
    whole, *parts = (float(cells[3]) for cells in table[1:])
    assert len(parts) == 4
    assert sum(parts) == pytest.approx(whole, rel=0.01)
