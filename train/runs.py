"""Run folders: `runs/<name>/` in the workspace. A run counts only when its run.json says `finished`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emo.featstore.errors import TrainError, UsageError


def utc(seconds: float) -> str:
    """A time of `time.time()` as ISO text in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Run:
    """One run folder and what its run.json says."""

    path: Path
    info: dict[str, Any]

    @property
    def name(self) -> str:
        """Folder name, unique in the workspace."""
        return self.path.name

    @property
    def finished(self) -> bool:
        """Whether everything the run promises is in the folder."""
        return self.info.get("status") == "finished"

    @property
    def kind(self) -> str:
        """What was trained, by the name under which its trainer and its predictor are registered."""
        return str(self.info.get("kind"))

    def require(self, kind: str, what: str) -> None:
        """Refuse a run that is not of this kind.

        Raises:
            UsageError: It is of another; `what` says what was needed.
        """
        if self.kind != kind:
            raise UsageError(f"Run {self.name} is of kind {self.kind}, not {what}.", "Name another run.")


def new_run(root: Path, name: str | None = None, prefix: str = "run") -> Path:
    """Create an empty run folder under `root/runs`.

    Args:
        root: Workspace root.
        name: Folder name; default `prefix-YYYYMMDD-HHMMSS` in UTC, with a number where that is taken.
        prefix: What the default name starts with, such as the head's name.

    Raises:
        UsageError: The given name is taken or is no plain folder name.
    """
    runs = root / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    if name is not None:
        if name in ("", ".", "..") or Path(name).name != name:
            raise UsageError(f"Run name {name!r} is not a plain folder name.")
        try:
            (runs / name).mkdir()
        except FileExistsError as error:
            raise UsageError(f"Run {name!r} exists in {runs}.", "Choose another --run name.") from error
        return runs / name
    stamp = f"{prefix}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    count = 1
    while True:
        path = runs / (stamp if count == 1 else f"{stamp}-{count}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            count += 1


def load_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        UsageError: There is no run at `path`.
        TrainError: Its run.json is damaged.
    """
    try:
        info = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} is no run folder: {error.strerror} (run.json).") from error
    except ValueError as error:
        raise TrainError(f"{path / 'run.json'} is damaged: {error}.") from error
    if not isinstance(info, dict):
        raise TrainError(f"{path / 'run.json'} is damaged: not a JSON object.")
    return Run(path, info)


def latest_run(root: Path) -> Run:
    """The newest finished run of a workspace.

    Raises:
        UsageError: No run of the workspace is finished.
    """
    folders = sorted((root / "runs").glob("*/run.json")) if (root / "runs").is_dir() else []
    runs = [load_run(path.parent) for path in folders]
    finished = [run for run in runs if run.finished]
    if not finished:
        raise UsageError(
            f"{root / 'runs'} holds no finished run ({len(runs)} unfinished).", "Train one: emo train --head attention."
        )
    return max(finished, key=lambda run: (run.info.get("finished_at", ""), run.name))
