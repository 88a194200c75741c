"""Which of the scored clips a run was trained on, and the words that must stand beside every number for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emo.featstore.datasets import open_dataset
from emo.featstore.datasets.tables import read_text
from emo.featstore.errors import TrainError
from emo.featstore.reading import parse_json
from emo.featstore.workspace import Workspace
from emo.train.runs import Run, check_listed, load_run


@dataclass(frozen=True)
class Trained:
    """The clips that a run was trained on.

    Attributes:
        run: Its name.
        clips: Their names.
        chose: Names of clips that chose the epoch or the checkpoint and were not trained on.
        by_folds: Whether a training clip is answered by folds that did not train on it.
        media: Content hashes of the media that the run was trained on, with a clip's name each, as far as known.
        unknown: Why these may not be all; empty where they are.
    """

    run: str
    clips: frozenset[str]
    chose: frozenset[str] = frozenset()
    by_folds: bool = False
    unknown: str = ""
    media: Mapping[str, str] = field(default_factory=dict)

    def seen(self, names: Collection[str]) -> list[str]:
        """Return those of the clips that the run was trained on."""
        return [name for name in names if name in self.clips]

    def verdict(self, names: Collection[str]) -> str:
        """Return the remark that stands in the verdict over these clips."""
        if self.unknown:
            return f"How many of these clips {self.run} has seen in training is not known."
        seen = self.seen(names)
        if not seen:
            return f"{self.run} has seen none of these clips in training."
        how = ", each answered by folds that did not train on it" if self.by_folds else ""
        return f"{self.run} has seen {len(seen)} of these {len(names)} clips in training{how}."

    def notes(self, names: Collection[str]) -> list[str]:
        """Return the sentences that say what this means for a score over these clips."""
        seen, chose = self.seen(names), sum(name in self.chose for name in names)
        lines = [self.unknown] if self.unknown else []
        if seen and self.by_folds and len(seen) < len(names):
            lines.append(
                f"Two kinds of answers are mixed: {len(seen)} out-of-fold answers of training clips, and "
                f"{len(names) - len(seen)} answers of all folds about other clips. Score each kind by itself."
            )
        elif seen and self.by_folds:
            lines.append("All are out-of-fold answers of training clips, which also chose the epochs.")
        elif seen:
            lines.append(f"The {len(seen)} clips that {self.run} was trained on say nothing about new clips.")
        if chose:
            lines.append(f"{chose} of these clips chose the checkpoint of {self.run}.")
        return lines


def trained_on(run: Run) -> Trained:
    """Return the clips that a run was trained on, with those of the runs that it started from.

    Raises:
        TrainError: What the run folder says about it cannot be read.
    """
    known = _own(run)
    before = run.info.get("init_from")
    if not isinstance(before, str) or not before:
        return known
    folder = run.path.parent / before
    if not (folder / "run.json").exists():
        why = f"{run.name} started from {before}, and what that was trained on is not known."
        return Trained(run.name, known.clips, known.chose, unknown=why)
    first = trained_on(load_run(folder))
    unknown, media = known.unknown or first.unknown, {**first.media, **known.media}
    return Trained(run.name, known.clips | first.clips, known.chose, unknown=unknown, media=media)


def own_datasets(workspace: Workspace, run: Run) -> list[str]:
    """Return the datasets that the run was trained on: the one that it names, or those that hold most of its clips."""
    if isinstance(named := run.info.get("dataset"), str):
        return [named] if named in workspace.data else []
    clips = trained_on(run).clips
    tables = [table for table in workspace.data.values() if len(workspace.data) > 1 and table.root.is_dir()]
    held = {each.name: sum(clip.id in clips for clip in open_dataset(each.name, each).clips()) for each in tables}
    return [name for name, count in held.items() if count and count == max(held.values())]


def run_of(path: Path) -> Run | None:
    """Return the run in whose folder a file of predictions lies, `None` for any other file."""
    return load_run(path.parent) if (path.parent / "run.json").exists() else None


def _own(run: Run) -> Trained:
    if run.info.get("imported"):
        why = f"{run.name} was trained elsewhere, on clips that nobody here knows."
        return Trained(run.name, frozenset(), unknown=why)
    folds = run.info.get("members") is not None  # a head: each clip is held out by some of its members
    if (run.path / "clips.json").exists():
        path = run.path / "clips.json"
        check_listed(run.path, "clips.json")
        said = _table(parse_json(read_text(path), str(path)), path)
        lists = [said.get("train"), said.get("validation", [])]
        if not all(isinstance(each, list) for each in lists):
            raise TrainError(f"{path} is damaged: it does not list the clips that were trained on.")
        train, chose = (frozenset(map(str, each)) for each in lists)
        media = {str(media): name for name, media in _table(said.get("media", {}), path).items() if name in train}
        return Trained(run.name, train, frozenset() if folds else chose - train, folds, media=media)
    path = run.path / "predictions.jsonl"
    if folds and path.exists():
        lines = enumerate(read_text(path).split("\n"), 1)
        rows = [_table(parse_json(line, str(path), line=number), path) for number, line in lines if line.strip()]
        return Trained(run.name, frozenset(str(row.get("name")) for row in rows if row.get("folds")), by_folds=True)
    return Trained(run.name, frozenset(), unknown=f"{run.name} does not say which clips it was trained on.")


def _table(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TrainError(f"{path} is damaged: it is not a JSON object.")
    return value
