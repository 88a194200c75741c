"""Processors that a process may use, and what libraries that compute on them are told before they are loaded."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def processors(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Return how many processors this process may use: those it is bound to, fewer where its container gets less time.

    Args:
        groups: Where the control groups are mounted (Linux).
        own: File that says in which of them this process is.
    """
    share = min(_shares(groups, own), default=math.inf)
    return min(_bound(), max(1, math.ceil(share))) if math.isfinite(share) else _bound()


def tell_libraries(environ: MutableMapping[str, str]) -> None:
    """Say that threads sleep while they wait, and how many there may be; what the user has said stays.

    OpenMP, on which torch computes, reads this once, when it is loaded. Left alone its threads wait busily: as soon as
    something else runs on the machine, they take the processor from those that they wait for. It knows what a process
    is bound to, and nothing of the time that a container gets.
    """
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if (may := processors()) < _bound():
        environ.setdefault("OMP_NUM_THREADS", str(may))


def _bound() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shares(groups: Path, own: Path) -> Iterator[float]:
    """Yield each limit of time that holds for this process, in processors (Linux: cgroup-v2.rst, sched-bwc.rst)."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and "cpu" not in names.split(","):
            continue
        top = groups / "cpu" if names else groups
        folder = top / path.strip("/")
        for each in (folder, *folder.parents):  # a limit holds for all groups below
            with contextlib.suppress(OSError, ValueError):  # no such file, or max: no limit
                yield _limit(each, ("cpu.cfs_quota_us", "cpu.cfs_period_us") if names else ("cpu.max",))
            if each == top:
                break


def _limit(folder: Path, files: tuple[str, ...]) -> float:
    """Return the quota over the period. Raises `OSError` or `ValueError` where there is none."""
    quota, period = " ".join((folder / name).read_text(encoding="ascii") for name in files).split()
    if int(quota) <= 0 or int(period) <= 0:
        raise ValueError(quota)
    return int(quota) / int(period)
