"""Which of the scored clips a run was trained on, and the words that must stand beside every number for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from emo.featstore.clip import Clip
from emo.featstore.datasets import open_dataset
from emo.featstore.errors import TrainError
from emo.featstore.reading import read_json, read_jsonl
from emo.featstore.text import counted, some_of
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
        dataset: Whose clips they are; empty where nobody says.
        contents: Content hashes of the media of all clips that the run knows, by name, as far as known.
        made: Checksums of the features of these clips at the time, by name, as far as known.
        others: Names of trained clips that mean other clips where this is asked.
        twins: Names of clips of content that was trained on under another name, with that name.
    """

    run: str
    clips: frozenset[str]
    chose: frozenset[str] = frozenset()
    by_folds: bool = False
    unknown: str = ""
    media: Mapping[str, str] = field(default_factory=dict)
    dataset: str = ""
    contents: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    twins: Mapping[str, str] = field(default_factory=dict)

    def knows(self, clip: Clip, media: str | None) -> bool:
        """Say whether a clip may be the one that the run knows by this name; `media` is its content as far as known."""
        return same_clip(clip, media, self.dataset, self.contents.get(clip.id))

    def among(self, clips: Iterable[Clip], media: Mapping[str, str]) -> Trained:
        """Return the same for these clips: without names that mean others here, with those that had another name then.

        Args:
            clips: Those that are asked about.
            media: Their contents by name, as far as known.
        """
        names = {clip.id: clip for clip in clips}
        named = [clip for name, clip in names.items() if name in self.clips or name in self.chose]
        others = tuple(clip.id for clip in named if not self.knows(clip, media.get(clip.id)))
        known = self.clips.difference(others)
        contents = ((name, media.get(name)) for name in names if name not in known)
        twins = {name: self.media[content] for name, content in contents if content in self.media}
        return replace(self, clips=known, chose=self.chose.difference(others), others=others, twins=twins)

    def seen(self, names: Collection[str]) -> list[str]:
        """Return those of the clips that the run was trained on."""
        return [name for name in names if name in self.clips]

    def verdict(self, names: Collection[str]) -> str:
        """Return the remark that stands in the verdict over these clips."""
        if self.unknown:
            return f"How many of these clips {self.run} has seen in training is not known."
        seen, twins = self.seen(names), sum(name in self.twins for name in names)
        if not seen and not twins:
            return f"{self.run} has seen none of these clips in training."
        if twins:
            more = f" by their names, and {twins} more under other names" if seen else " under other names"
            return f"{self.run} has seen {len(seen) or twins} of these {len(names)} clips in training{more}."
        how = "answered by folds that did not train on it"
        if len(names) == 1:
            return f"{self.run} has seen this clip in training{f', and it is {how}' if self.by_folds else ''}."
        how = f", each {how}" if self.by_folds else ""
        return f"{self.run} has seen {len(seen)} of these {len(names)} clips in training{how}."

    def notes(self, names: Collection[str]) -> list[str]:
        """Return the sentences that say what this means for a score over these clips."""
        seen, chose = self.seen(names), sum(name in self.chose for name in names)
        lines = [self.unknown] if self.unknown else []
        if seen and self.by_folds and len(seen) < len(names):
            answers, others = counted(len(seen), "out-of-fold answer"), counted(len(names) - len(seen), "answer")
            lines.append(
                f"Two kinds of answers are mixed: {answers} of training clips, and {others} of all folds about other "
                "clips. Score each kind by itself."
            )
        elif seen and self.by_folds:
            one = "The answer is an out-of-fold answer of a training clip, which also chose the epochs."
            many = "All are out-of-fold answers of training clips, which also chose the epochs."
            lines.append(one if len(names) == 1 else many)
        elif seen:
            say = "says" if len(seen) == 1 else "say"
            lines.append(
                f"The {counted(len(seen), 'clip')} that {self.run} was trained on {say} nothing about new clips."
            )
        if chose:
            lines.append(f"{chose} of these clips chose the checkpoint of {self.run}.")
        if twins := [f"{name} is {self.twins[name]}" for name in names if name in self.twins]:
            lines.append(
                f"{self.run} was trained on {len(twins):,} of these clips under other names: {some_of(twins, 3)}."
            )
        if others := [name for name in names if name in self.others]:
            lines.append(
                f"{len(others)} of these clips have names of clips of {self.run}, but are others: {some_of(others, 3)}."
            )
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
    return replace(
        known,
        clips=known.clips | first.clips,
        unknown=known.unknown or first.unknown,
        media={**first.media, **known.media},
        dataset=known.dataset if known.dataset == first.dataset else "",
        contents={**first.contents, **known.contents},
    )


def same_clip(clip: Clip, media: str | None, dataset_then: str, media_then: str | None) -> bool:
    """Say whether a clip may be one that was known by its name: of the same content, or else of the same dataset.

    Args:
        clip: The clip.
        media: Its content hash, as far as known.
        dataset_then: Dataset of the other; empty where nobody says.
        media_then: Content hash of the other, as far as known.
    """
    if media and media_then:
        return media == media_then
    return not (clip.dataset and dataset_then) or clip.dataset == dataset_then


def own_datasets(workspace: Workspace, run: Run) -> list[str]:
    """Return the datasets that the run was trained on: the one that it names.

    Those that hold most of its clips where it names none, as runs of earlier versions do.
    """
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
    dataset = str(run.info.get("dataset") or "")
    check_listed(run.path, "clips.json")
    if (run.path / "clips.json").exists():
        path = run.path / "clips.json"
        said = _table(read_json(path), path)
        lists = [said.get("train"), said.get("validation", [])]
        if not all(isinstance(each, list) for each in lists):
            raise TrainError(f"{path} is damaged: it does not list the clips that were trained on.")
        train, chose = (frozenset(map(str, each)) for each in lists)
        tables = [_table(said.get(key, {}), path) for key in ("media", "answered")]
        contents = {name: str(content) for table in tables for name, content in table.items()}
        media = {content: name for name, content in contents.items() if name in train}
        made = {name: str(each) for name, each in _table(said.get("made", {}), path).items()}
        chose = frozenset() if folds else chose - train
        return Trained(run.name, train, chose, folds, media=media, dataset=dataset, contents=contents, made=made)
    path = run.path / "predictions.jsonl"
    if folds and path.exists():
        rows = [_table(row, path) for _, row in read_jsonl(path)]
        train = frozenset(str(row.get("name")) for row in rows if row.get("folds"))
        return Trained(run.name, train, by_folds=True, dataset=dataset)
    return Trained(run.name, frozenset(), unknown=f"{run.name} does not say which clips it was trained on.")


def _table(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TrainError(f"{path} is damaged: it is not a JSON object.")
    return value
