"""Run folders: `runs/<name>/` in the workspace. A run counts only when its run.json says `finished`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emo.featstore.clip import Clip
from emo.featstore.errors import TrainError, UsageError
from emo.featstore.files import digest, encoded, file_digest, write_atomic, write_json
from emo.featstore.reading import parse_own, read_bytes, read_json
from emo.featstore.text import is_plain_name, some_of


def utc(seconds: float) -> str:
    """A time of `time.time()` as ISO text in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


_USES = {
    "trained": "Trained on",
    "validation": "held out for validation:",
    "left_out": "left out:",
    "unlabelled": "without a label:",
}


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
        """Say whether everything the run promises is in the folder."""
        return self.info.get("status") == "finished"

    @property
    def kind(self) -> str:
        """Name under which its trainer and its predictor are registered."""
        return str(self.info.get("kind"))

    def require(self, kind: str, what: str) -> None:
        """Refuse a run that is not of this kind.

        Raises:
            UsageError: It is of another; `what` says what was needed.
        """
        if self.kind != kind:
            raise UsageError(f"Run {self.name} is of kind {self.kind}, not {what}.", "Name another run.")


def dataset_of(clips: Iterable[Clip]) -> str | None:
    """Return the dataset of clips; `None` where they name none, or several."""
    names = {clip.dataset for clip in clips}
    return names.pop() or None if len(names) == 1 else None


def split_counts(clips: Iterable[Clip], trained: Iterable[str], validation: Iterable[str] = ()) -> dict[str, Any]:
    """Clips per split: trained on, held out for validation, left out though they have a label, without a label."""
    use = dict.fromkeys(validation, "validation") | dict.fromkeys(trained, "trained")
    counts = {what: Counter[str]() for what in _USES}
    for clip in clips:
        labelled = clip.label is not None and clip.label.emotion is not None
        counts[use.pop(clip.id, "left_out" if labelled else "unlabelled")][clip.split or "(no split)"] += 1
    for what in use.values():
        counts[what]["(not in the dataset)"] += 1
    return {what: dict(each) for what, each in counts.items() if each}


def tell_splits(counts: Mapping[str, Mapping[str, int]]) -> str:
    """One sentence on the splits that a run was trained on and those that it left out."""
    told = [
        f"{words} {', '.join(f'{split} ({count:,})' for split, count in counts[what].items())}"
        for what, words in _USES.items()
        if what in counts
    ]
    return "; ".join(told) + "."


def runs_folder(root: Path) -> Path:
    """Folder of a workspace's runs, there or not.

    Raises:
        UsageError: Something else lies in its place.
    """
    folder = root / "runs"
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"{folder} is no folder, and runs cannot lie in it.", "Move it away.")
    return folder


def new_run(root: Path, name: str | None = None, prefix: str = "run") -> Path:
    """Create an empty run folder under `root/runs`.

    Args:
        root: Workspace root.
        name: Folder name; default `prefix-YYYYMMDD-HHMMSS` in UTC, with a number where that is taken.
        prefix: What the default name starts with, such as the head's name.

    Raises:
        UsageError: The given name is taken or is no plain folder name.
    """
    runs = runs_folder(root)
    runs.mkdir(parents=True, exist_ok=True)
    if name is not None:
        if not is_plain_name(name):
            raise UsageError(f"Run name {name!r} is not a plain folder name.")
        try:
            (runs / name).mkdir()
        except FileExistsError as error:
            how = f"Choose another --run name, or remove that run: emo run drop {name}"
            raise UsageError(f"Run {name!r} exists in {runs}.", how) from error
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
    run = read_run(path)
    if run.finished:
        check_listed(path, "run.json")
    return run


REMOVE = "Restore it from a copy, or remove the run: emo run drop {}"


def is_run(folder: Path) -> bool:
    """Say whether a folder is, or was, a run: also where run.json is gone, or a link that leads nowhere."""
    return any(os.path.lexists(folder / name) for name in ("run.json", DIGESTS))


def run_folders(root: Path) -> list[Path]:
    """Folders of a workspace's runs by name, damaged ones too."""
    runs = runs_folder(root)
    return sorted(filter(is_run, runs.iterdir())) if runs.is_dir() else []


def all_runs(root: Path) -> list[Run]:
    """Runs of a workspace by name, finished or not; their digests are not looked at."""
    folders = sorted(runs_folder(root).glob("*/run.json"))
    return [read_run(path.parent) for path in folders]


def listed_runs(root: Path) -> list[Run]:
    """Runs of a workspace by name, for lists: of one that cannot be read, status `damaged` and why, as `error`."""
    found = list[Run]()
    for folder in run_folders(root):
        try:
            found.append(read_run(folder))
        except (TrainError, UsageError) as error:
            found.append(Run(folder, {"status": "damaged", "error": error.message}))
    return found


def read_run(path: Path) -> Run:
    """Read what run.json of a folder says; its digest is not looked at. Raises as `load_run`."""
    try:
        data = read_bytes(path / "run.json")
    except UsageError as error:
        raise UsageError(f"{path} is no run folder: {error.message}", error.hint) from error
    try:
        found = parse_own(data, str(path / "run.json"))
    except UsageError as error:
        raise TrainError(f"A run is damaged: {error.message}", REMOVE.format(path.name)) from error
    if not isinstance(found, dict):
        raise TrainError(f"{path / 'run.json'} is damaged: not a JSON object.", REMOVE.format(path.name))
    return Run(path, found)


def latest_run(root: Path) -> Run:
    """The newest finished run of a workspace.

    Raises:
        UsageError: No run of the workspace is finished.
    """
    runs = all_runs(root)
    finished = [run for run in runs if run.finished]
    if not finished:
        unfinished = f" ({len(runs)} unfinished)" if runs else ""
        what = f"{root / 'runs'} holds no finished run{unfinished}."
        raise UsageError(what, "Train one: emo train --head attention.")
    return load_run(max(finished, key=lambda run: (run.info.get("finished_at", ""), run.name)).path)


# ---- digests --------------------------------------------------------------------------------------------------------

DIGESTS = "digests.json"
UNSEALED = "{} has no digests: it was made by an earlier version, and its files are read as they are."


def seal(folder: Path) -> None:
    """Write the digests of all files of a folder into its `digests.json`, from which `check` knows damaged ones.

    Args:
        folder: A run, a checkpoint, or another folder of files that are whole. Folders in it are sealed on their own.
    """
    known = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name != DIGESTS:
            found = _digest_of(path)
            if found is None:
                raise TrainError(f"{path} cannot be read.", "Is it still there?")
            known[path.name] = found
    write_json(folder / DIGESTS, known)


def write_sealed(path: Path, text: str) -> None:
    """Write a file of a sealed folder anew. A folder without digests stays without: some would damn all others.

    Whenever the process dies, the file is as its digest says: while it changes, the entry names both, before and after.
    """
    known = _digests(path.parent)
    if known is None:
        write_atomic(path, text)
        return
    new = digest(encoded(text))
    if path.name in known:  # a new file has no entry until it is there
        write_json(path.parent / DIGESTS, known | {path.name: f"{known[path.name]} {new}"})
    reached("announced")
    write_atomic(path, text)
    reached("written")
    write_json(path.parent / DIGESTS, dict(sorted((known | {path.name: new}).items())))


def reached(step: str) -> None:
    """Does nothing; tests replace it to stop the process while a file changes."""


def check(folder: Path, *names: str) -> str | None:
    """Compare files of a folder with the digests that `seal` wrote.

    Args:
        folder: As of `seal`.
        names: Files to compare, which must all be sealed; without names all that are.

    Returns:
        A sentence for the user where the folder has no digests because an earlier version made it, else `None`.

    Raises:
        TrainError: A file is gone or not what was written; all such files are named.
    """
    known = _digests(folder)
    if known is None:
        return UNSEALED.format(folder.name)
    wrong = [name for name in names or known if _digest_of(folder / name) not in known.get(name, "").split()]
    if wrong:
        raise TrainError(
            f"{folder} is damaged: {some_of(wrong, 5)} {'is' if len(wrong) == 1 else 'are'} not what was written.",
            "Restore it from a copy, or make it again.",
        )
    return None


def check_listed(folder: Path, name: str) -> None:
    """Compare one file with its digest, if it has one.

    Raises:
        TrainError: It is not what was written.
    """
    if name in (_digests(folder) or ()):
        check(folder, name)


def _digests(folder: Path) -> dict[str, str] | None:
    path = folder / DIGESTS
    if not path.exists() and not path.is_symlink():
        return None
    try:
        found = read_json(path)
    except UsageError as error:
        raise TrainError(f"{path} cannot be read: {error.message}", "Restore it from a copy.") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise TrainError(f"{folder / DIGESTS} is damaged: not a table of digests.", "Restore it from a copy.")
    return found


def _digest_of(path: Path) -> str | None:
    """Return the digest of a file, or `None` where it is gone or cannot be read."""
    try:
        if not path.is_file():  # nobody waits for the other end of a pipe
            return None
        with open(path, "rb") as file:
            return file_digest(file)
    except OSError:
        return None
