"""How many processors a process may use, from control groups as Linux writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emo.featstore import processors as module
from emo.featstore.processors import processors, tell_libraries


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_bound", lambda: 16)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 16),
        ({"slurm/job": "max 100000"}, 16),
        ({"slurm/job": "400000 100000"}, 4),
        ({"slurm/job": "250000 100000"}, 3),  # two and a half: a third thread has work half of the time
        ({"slurm/job": "10000 100000"}, 1),
        ({"slurm/job": "800000 100000", "slurm": "200000 100000"}, 2),  # what holds a group holds those in it
        ({".": "300000 100000"}, 3),  # a container sees its own group as the root
        ({"slurm/job": "9900000 100000"}, 16),
        ({"slurm/job": "nonsense"}, 16),
        ({"other": "100000 100000"}, 16),
    ],
)
def test_version_2(limits: dict[str, str], expected: int, tmp_path: Path) -> None:
    for group, text in limits.items():
        write(tmp_path / "groups" / group, cpu__max=text)
    (tmp_path / "own").write_text("0::/slurm/job\n")
    assert processors(tmp_path / "groups", tmp_path / "own") == expected


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize(("quota", "expected"), [("600000", 6), ("-1", 16)])
@pytest.mark.parametrize("place", ["docker/abc", "."])
def test_version_1(place: str, quota: str, expected: int, tmp_path: Path) -> None:
    """In a container the file names the host's group, and the container's own is mounted as the root."""
    write(tmp_path / "groups" / "cpu" / place, cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    (tmp_path / "own").write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n")
    assert processors(tmp_path / "groups", tmp_path / "own") == expected


def test_a_system_without_groups(tmp_path: Path) -> None:
    assert processors(tmp_path, tmp_path / "none") == module._bound()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to processors")
def test_what_a_process_is_bound_to(tmp_path: Path) -> None:
    code = f"""
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from pathlib import Path
from emo.featstore.processors import processors
print(processors(Path({str(tmp_path)!r}), Path({str(tmp_path / "none")!r})))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_libraries_are_told_and_the_user_is_not_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_bound", lambda: 16)
    monkeypatch.setattr(module, "processors", lambda: 16)
    environ: dict[str, str] = {}
    tell_libraries(environ)
    assert environ == {"OMP_WAIT_POLICY": "PASSIVE"}  # how many, they know themselves
    monkeypatch.setattr(module, "processors", lambda: 3)
    tell_libraries(environ)
    assert environ == {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "3"}
    given = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "5"}
    tell_libraries(given)
    assert given == {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "5"}
