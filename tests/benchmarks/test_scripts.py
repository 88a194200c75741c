"""The measuring scripts run end to end at toy sizes; nothing is asserted about speed or quality here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


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
    for part in ("## P11 Annotating many clips", "offline, 6 clips", "endpoint of 10 ms, concurrency 2, 4 clips"):
        assert part in found
