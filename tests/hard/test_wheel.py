"""The wheel in an environment of its own: installed as a user would, away from the checkout, with the demo in it.

The short form takes what emo needs from the environment that runs the test. With EMO_HARD=1 every requirement is
installed anew, torch included: minutes, and a network or an index of one's own (PIP_INDEX_URL, PIP_FIND_LINKS).
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from sources import built_wheel


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program without anything of this process's Python environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{words} {done.stdout[-2000:]} {done.stderr[-4000:]}"
    return done


def install(python: Path, wheel: Path, hard: bool, cwd: Path) -> None:
    """Install the wheel, and what it needs; in the short form that is lent by this environment, emo itself is not."""
    pip = (python, "-m", "pip", "install", "--quiet")
    if hard:
        run(*pip, os.environ.get("TORCH", "torch"), cwd=cwd)
        run(*pip, wheel, cwd=cwd)
        return
    run(*pip, "--no-deps", wheel, cwd=cwd)
    (own,) = python.parents[1].glob("lib/python*/site-packages")
    lent = [each for each in sys.path if each.endswith("-packages")]  # behind its own; .pth files there do not count
    (own / "lent.pth").write_text("".join(f"{each}\n" for each in lent))


@pytest.mark.timeout(3600)
def test_the_wheel_installs_alone_and_runs_the_demo(hard: bool, tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    wheel = built_wheel(tmp_path / "dist", isolated=hard)
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / "bin"
    install(programs / "python", wheel, hard, tmp_path)
    where = run(programs / "python", "-c", "import emo; print(emo.__file__)", cwd=tmp_path).stdout
    assert where.startswith(str(tmp_path / "env"))
    (tmp_path / "work").mkdir()
    done = run(programs / "emo", "demo", "d", "--clips", "4", cwd=tmp_path / "work")
    assert "the whole path works" in done.stdout
    assert (tmp_path / "work/d/report/report.html").exists()
    found = run(programs / "emo", "doctor", "--json", cwd=tmp_path / "work/d").stdout
    assert '"status": "problem"' not in found
