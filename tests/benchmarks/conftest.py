"""How the measuring scripts are run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., str]:
    """Runs a script, as a user does, at the sizes that are named; returns the page that it wrote its section into."""

    def run(script: str, *words: str, page: Path = tmp_path / "page.md") -> str:
        if not page.exists():
            page.write_text("# Benchmarks\n", encoding="utf-8")
        command = [sys.executable, str(HERE / script), *words, "--page", str(page)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return page.read_text(encoding="utf-8")

    return run
