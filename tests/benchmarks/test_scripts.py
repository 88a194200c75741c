"""The measuring scripts run end to end at toy sizes; nothing is asserted about speed or quality here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


def test_the_cost_of_long_sound_is_written(measure: Callable[..., str]) -> None:
    written = measure("long_sound.py", "--profile=tiny", "--seconds", "2")
    assert written.startswith("# Benchmarks\n\n## Long sound")
    assert written.count("| 2 s |") == 2


def test_text_only_writes_its_row_and_replaces_it(measure: Callable[..., str], shared: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\nWords.\n\n## Another\n\nkept\n")
    toy = ("llm=tiny", "epochs=1", "steps_per_epoch=2", "validation.limit=8", "lora.targets=[q_proj]", "max_txt_len=64")
    words = ["--data", str(shared / "data" / "mer2023"), "--work", str(tmp_path / "work")]
    words += [word for pair in toy for word in ("--set", pair)]
    first = measure("text_only.py", *words, page=page)
    assert first.startswith("# Benchmarks\n\nWords.\n\n## Another\n\nkept\n\n## Text only: MER2023 test3")
    for part in ("--set llm=tiny", "834 clips", "Text only", "| MacBERT |", "0.4632", "Python 3."):
        assert part in first
    again = measure("text_only.py", *words, page=page)  # nothing is trained twice, and nothing stands there twice
    assert again == first


def test_annotating_writes_its_row(measure: Callable[..., str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n")
    words = ["--clips", "6", "--small", "3", "--asked", "4", "--concurrency", "2", "--delay", "0.01"]
    found = measure("annotate.py", *words, page=page)
    for part in ("## P11 Annotating many clips", "offline, 6 clips", "endpoint of 10 ms, 2 at once, 4 clips"):
        assert part in found


def test_steps_of_the_families_and_their_reads_are_written(measure: Callable[..., str]) -> None:
    written = measure("families.py", "--device=cpu", "--clips=4", "--rounds=1", "--recipes=videollama2-24gb")
    assert "## P14 LoRA step of AffectGPT and VideoLLaMA2 (tiny sizes on a CPU: overhead only)" in written
    assert written.count("not measured: no GPU") == 6
    rows = [
        line.split(" | ") for line in written.split("\n") if line.startswith(("| before", "| connected", "| sound"))
    ]
    assert [row[3] for row in rows] == ["26.9 GB", "9.7 GB", "2.3 GB"]


def test_the_page_under_load_writes_its_row(measure: Callable[..., str]) -> None:
    words = ["--clips", "300", "--users", "2", "--seconds", "2", "--uploads", "0"]
    found = measure("serve.py", *words)
    for part in ("## P12 The page under load", "| all |", "2 users look at 300 clips"):
        assert part in found


@pytest.mark.skipif(os.environ.get("EMO_HARD") != "1", reason="minutes of a Ray cluster: EMO_HARD=1")
def test_a_cluster_that_grows_and_the_reckoning_are_written(measure: Callable[..., str]) -> None:
    pytest.importorskip("ray", reason="the cluster is Ray's")
    words = "--workers 1,2 --clips 3 --unpaused 20 --writers 2 --rows 400"
    found = measure("ray_growth.py", *words.split())
    for part in ("## A Ray cluster of 1 to 2 workers", "| 1 | 3 |", "| 2 | 6 |", "Without a pause 2 workers made"):
        assert part in found
    for part in ("## 10 million clips on 64 GPUs, on paper", "measured: 2 writers", "| 400 | 10,000,000 |"):
        assert part in found
