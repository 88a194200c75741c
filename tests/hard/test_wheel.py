"""The wheel in an environment of its own: installed as a user would, away from the checkout, with the demo in it.

It fetches every requirement, torch included: minutes, and a network or an index of one's own (PIP_INDEX_URL,
PIP_FIND_LINKS). Without EMO_HARD it is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program without anything of this process's Python environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-4000:])
    return done


@pytest.mark.timeout(3600)
def test_the_wheel_installs_alone_and_runs_the_demo(hard: bool, tmp_path: Path) -> None:
    if not hard:
        pytest.skip("EMO_HARD=1: the wheel and all its requirements in a new environment")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", os.environ.get("TORCH", "torch"), cwd=tmp_path)
    run(programs / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    where = run(programs / "python", "-c", "import emo; print(emo.__file__)", cwd=tmp_path).stdout
    assert where.startswith(str(tmp_path / "env"))
    (tmp_path / "work").mkdir()
    done = run(programs / "emo", "demo", "d", "--clips", "4", cwd=tmp_path / "work")
    assert "the whole path works" in done.stdout
    assert (tmp_path / "work/d/report/report.html").exists()
    found = run(programs / "emo", "doctor", "--json", cwd=tmp_path / "work/d").stdout
    assert '"status": "problem"' not in found
