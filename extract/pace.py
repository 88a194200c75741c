"""Pace of passes on this machine: kept by a pass, so that `emo doctor` can say how long all clips will take."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emo.featstore.errors import UsageError
from emo.featstore.files import emo_home, write_json
from emo.featstore.reading import read_json
from emo.featstore.spec import EncoderSpec

LEAST = 8  # clips of a pass whose pace says anything
KEPT = 50  # passes, of different features


@dataclass(frozen=True)
class Pace:
    """Facts of one pass, loading of its models included.

    Attributes:
        profile: Of its features.
        features: Their names.
        device: Name of the GPU, or `cpu`.
        clips: Clips that went through.
        seconds: It took.
        gpu_bytes: Most memory of a GPU that its tensors took at once; `None` without one.
    """

    profile: str
    features: tuple[str, ...]
    device: str
    clips: int
    seconds: float
    gpu_bytes: int | None = None


def begin() -> None:
    """Forget how much memory of the GPUs was taken so far."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)


def keep(specs: Sequence[EncoderSpec], clips: int, seconds: float) -> None:
    """Keep the pace of a pass that has just ended in this process, unless it had too few clips to say anything."""
    if clips < LEAST or len({spec.profile for spec in specs}) != 1:
        return
    import torch

    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    peaks = {i: torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())} if used else {}
    busiest = max(peaks, key=peaks.__getitem__, default=None)
    gpu = None if busiest is None or not peaks[busiest] else busiest
    device = "cpu" if gpu is None else torch.cuda.get_device_name(gpu)
    names = tuple(sorted(spec.name for spec in specs))
    pace = Pace(specs[0].profile, names, device, clips, round(seconds, 3), None if gpu is None else peaks[gpu])
    others = [each for each in _all() if (each.profile, each.features, each.device) != (pace.profile, names, device)]
    with contextlib.suppress(OSError):  # a home that cannot be written costs a line of `emo doctor`, nothing else
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(), [asdict(each) for each in (*others, pace)][-KEPT:])


def last(profile: str, names: Collection[str]) -> Pace | None:
    """Return the newest pass over just these features on this machine."""
    wanted = tuple(sorted(names))
    return next((each for each in reversed(_all()) if (each.profile, each.features) == (profile, wanted)), None)


def _file() -> Path:
    return emo_home() / "passes.json"


def _all() -> list[Pace]:
    rows: Any = []
    with contextlib.suppress(UsageError):  # none yet, or a damaged one
        rows = read_json(_file()) if _file().is_file() else []
    found = []
    for row in rows if isinstance(rows, list) else ():
        with contextlib.suppress(TypeError, KeyError, ValueError):
            pace = Pace(**{**row, "features": tuple(row["features"])})
            if pace.clips >= LEAST and pace.seconds > 0:
                found.append(pace)
    return found
