"""Annotations as training samples: what is asked about which clip, the right answer, and the order.

Order and choice of task are pure functions of (seed, pass, index), so a training that was stopped goes on from a step
number alone. No torch here.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from emo.featstore.clip import Clip
from emo.featstore.datasets.cells import held_out, split_name
from emo.featstore.datasets.lists import told_splits, transcript_csv
from emo.featstore.datasets.tables import by_clip, normal_name, read_csv, read_labels, rows_by_name
from emo.featstore.errors import UsageError
from emo.featstore.files import digest
from emo.featstore.reading import Pairs, read_json
from emo.featstore.text import counted, some_of
from emo.train.features import trained_splits
from emo.train.heads.folds import group_clips, make_folds
from emo.train.llm.recipe import CLIPS, FIELDS, SourceKeys, Task, TuneRecipe
from emo.train.llm.spoken import spoken_of, texts_of

NUMBERS: tuple[Task, ...] = ("valence", "sentiment")  # tasks whose answers come from a number
PREFERENCES = ("a1", "a2", "same")
Pair = tuple[str, str]  # two descriptions, of which one is to be preferred
Find = Callable[[str], Path]
Records = Callable[[str], Mapping[str, Mapping[str, Any]]]
Clean = Callable[[str, str], str]  # an annotated answer and its task -> the answer as it is trained on
_ORDER, _TASK, _POOL = 1, 2, 4  # streams of random numbers that must differ; tune.py has 3

# ---- annotation files -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Annotation:
    """One entry of a MERR file: the answer asked for, and what else it says of the clip."""

    answer: str
    label: str | None = None
    transcript: str | None = None
    pair: Pair | None = None


def read_merr_json(path: Path, field: str, labels: Sequence[str]) -> dict[str, Annotation]:
    """Read MERR's annotations, coarse (`field` is `caption`) or fine (`smp_reason_caption`): `{name: {field: ...}}`.

    `pseu_emotion` and `text` are read too, where an entry has them.

    Raises:
        UsageError: Not such a file; all entries that cannot be used are counted, and the first are named.
    """
    pairs = read_json(path, Pairs)
    if not isinstance(pairs, Pairs):
        raise UsageError(f"{path} is not a JSON object of clip names.")
    return _annotated(pairs, str(path), field, labels)


def read_records(
    records: Mapping[str, Mapping[str, Any]], where: str, field: str, labels: Sequence[str]
) -> dict[str, Annotation]:
    """Read annotations as `emo annotate run` keeps them; those that are out of date are left out.

    Raises:
        UsageError: As `read_merr_json`.
    """
    pairs = Pairs((name, Pairs(value.items())) for name, value in records.items() if "failed" not in value)
    return _annotated(pairs, where, field, labels)


def _annotated(pairs: Pairs, path: str, field: str, labels: Sequence[str]) -> dict[str, Annotation]:
    found: dict[str, Annotation] = {}
    problems: dict[str, list[str]] = {}
    for given, entry in pairs:
        name = normal_name(given)
        values = dict(entry) if isinstance(entry, Pairs) else {}
        answer, emotion, text = values.get(field), values.get("pseu_emotion"), values.get("text")
        emotion = emotion.strip().lower() if isinstance(emotion, str) else emotion
        if not isinstance(entry, Pairs):
            problems.setdefault("are no objects", []).append(name)
        elif not isinstance(answer, str) or not answer.strip():
            problems.setdefault(f"have no {field}", []).append(name)
        elif emotion is not None and emotion not in labels:
            problems.setdefault(f"have the unknown emotion {emotion!r}", []).append(name)
        elif name in found:
            problems.setdefault("come twice", []).append(name)
        else:
            found[name] = Annotation(answer, emotion, text if isinstance(text, str) else None)
    if problems:
        said = "; ".join(f"{len(names)} {what}: {some_of(names, 3)}" for what, names in problems.items())
        raise UsageError(f"{path}: of {len(pairs)} entries {said}.", _to_know(pairs, labels))
    if not found:
        raise UsageError(f"{path} holds no annotation.")
    return by_clip(found)


def _to_know(pairs: Pairs, labels: Sequence[str]) -> str:
    """Return which emotions are known, and the words to type for those that are not."""
    named = {dict(entry).get("pseu_emotion") for _, entry in pairs if isinstance(entry, Pairs)}
    more = sorted({each.strip().lower() for each in named if isinstance(each, str) and each.strip()} - set(labels))
    known = f"Known emotions: {', '.join(labels)}."
    return f'{known} To train on all: --set "labels=[{", ".join([*labels, *more])}]"' if more else known


def read_emotions(path: Path, labels: Sequence[str]) -> dict[str, str]:
    """Read emotion words by clip from a TXT list, csv or npz; entries without one are left out.

    Raises:
        UsageError: Not readable as labels, or words outside `labels`, which are named with their clips.
    """
    emotions = {name: label.emotion for name, label in read_labels(path).items() if label.emotion}
    strange: dict[str, list[str]] = {}
    for name, emotion in emotions.items():
        if emotion not in labels:
            strange.setdefault(emotion, []).append(name)
    if strange:
        said = "; ".join(f"{word!r} of {some_of(names, 3)}" for word, names in strange.items())
        raise UsageError(f"{path} has emotions outside the label set: {said}.", f"It is: {', '.join(labels)}.")
    if not emotions:
        raise UsageError(f"{path} names no emotion.")
    return emotions


def read_texts(path: Path, column: str) -> dict[str, Annotation]:
    """Read one text per clip from a csv file with the columns `name` and `column`; empty cells are left out.

    Raises:
        UsageError: It is no such file, a clip comes twice, or no cell holds a text.
    """
    rows = by_clip(rows_by_name(path, read_csv(path, ["name", column.lower()])))
    found = {name: Annotation(row.fields[column.lower()]) for name, row in rows.items() if row.fields[column.lower()]}
    if not found:
        raise UsageError(f"{path} holds no text in its column {column}.")
    return found


def read_preferences(path: Path) -> dict[str, Annotation]:
    """Read two descriptions of each clip and which of them fits from a csv of `name,a1,a2,preference`.

    Raises:
        UsageError: It is no such file, a clip comes twice, or a cell is empty or no preference.
    """
    columns = (*PREFERENCES[:2], FIELDS["preference"])
    found = {}
    for name, row in by_clip(rows_by_name(path, read_csv(path, ["name", *columns]))).items():
        first, second, said = (row.fields[column].strip() for column in columns)
        if not first or not second or said.lower() not in PREFERENCES:
            hint = f"Write two descriptions, and {', '.join(PREFERENCES)} for the one that fits."
            raise UsageError(f"{path} line {row.line}: {name} has no preference between two descriptions.", hint)
        found[name] = Annotation(said.lower(), pair=(first, second))
    return found


def filled(text: str, pair: Pair | None) -> str:
    """Return an instruction with the two descriptions at their places, where there are any."""
    if pair is None:
        return text
    return re.sub(r"\{a[12]\}", lambda place: pair[place[0] == "{a2}"], text)


# ---- examples -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """One clip as training has it.

    Attributes:
        name: Clip id.
        transcript: What the person says; empty where nobody wrote it down.
        label: Emotion word, where one is known.
        answers: By task, in the form that is trained on.
        pair: Two descriptions that the task `preference` asks about.
    """

    name: str
    transcript: str = ""
    label: str | None = None
    answers: Mapping[Task, str] = field(default_factory=dict)
    pair: Pair | None = None


@dataclass(frozen=True)
class Examples:
    """All that a recipe trains and validates on, and what was left out of it.

    Attributes:
        train: In the order of their names.
        validation: Clips that choose the checkpoint; they are not trained on.
        silent: Names of clips without a transcript.
        left_out: By reason, clips that have annotations and are not trained on.
        notes: Sentences that must stand beside the score.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    silent: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of everything in here that changes the training."""
        content = [
            [(e.name, e.transcript, e.label, dict(e.answers), *(e.pair or ())) for e in part]
            for part in (self.train, self.validation)
        ]
        return digest(json.dumps(content, sort_keys=True).encode())

    def tasks(self) -> dict[str, int]:
        """Clips to train on by task."""
        return dict(Counter(task for example in self.train for task in example.answers))


def sources_of(recipe: TuneRecipe) -> list[tuple[Task, SourceKeys]]:
    """Return the annotations that a recipe trains on, in its order, with the task of each."""
    return [(task, source) for task in recipe.active for source in getattr(recipe.data, task)]


def load_examples(
    clips: Sequence[Clip], recipe: TuneRecipe, find: Find, clean: Clean, records: Records | None = None
) -> Examples:
    """Bring clips and annotation files together.

    A clip is trained on if it has an answer for one of the recipe's tasks, unless the dataset puts it into a split that
    is not trained on (by default `test`, `val`, `dev` and such, see `held_out`). Annotated names that the dataset does
    not list are trained on: pseudo-labelled clips are in no split, unless their table puts them into a held-out one.

    Args:
        clips: The dataset's; names must differ.
        recipe: Names the files.
        find: Turns a file name of the recipe into a path.
        clean: Brings an annotated answer into the form that is trained on.
        records: Gives the annotations of the store by the name of their records.

    Raises:
        UsageError: A file is wrong, two sources contradict each other, or nothing is left to train on.
    """
    by_id, splits = {clip.id: clip for clip in clips}, trained_splits(clips, recipe.train_splits)
    if len(by_id) < len(clips):
        twice = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
        raise UsageError(f"{len(twice)} clip names come more than once: {some_of(twice)}.")
    known = _annotations(clips, recipe, find, clean, records)
    chosen = _split_clips(clips, recipe)
    left_out: dict[str, list[str]] = {}
    train: list[Example] = []
    for name in sorted(set().union(*known.answers.values())):
        example, clip = known.example(name, by_id.get(name), recipe), by_id.get(name)
        if clip is not None and split_name(clip.split) not in splits:
            left_out.setdefault(f"split {clip.split}", []).append(name)
        elif clip is None and name in known.held:
            left_out.setdefault(f"split {known.held[name]}", []).append(name)
        elif name in chosen:
            left_out.setdefault("validation", []).append(name)
        elif not example.transcript and recipe.missing_transcript == "skip":
            left_out.setdefault("no transcript", []).append(name)
        else:
            train.append(example)
    validation = [replace(known.example(name, by_id[name], recipe), label=chosen[name], answers={}) for name in chosen]
    train, validation, note = _validated(train, validation, recipe, by_id)
    silent = [example.name for example in (*train, *validation) if not example.transcript]
    _refuse(train, silent, left_out, recipe, len(clips))
    frozen = {reason: tuple(lost) for reason, lost in left_out.items()}
    notes = (*([note] if note else []), *_notes(silent, left_out, recipe))
    return Examples(tuple(train), tuple(validation), tuple(silent), frozen, notes)


def _validated(
    train: list[Example], validation: list[Example], recipe: TuneRecipe, by_id: Mapping[str, Clip]
) -> tuple[list[Example], list[Example], str]:
    """Hold validation examples out of those to train on, where no split is named; keep to the limit of the recipe."""
    keys = recipe.validation
    if keys.split is None and keys.holdout:
        return _hold_out(train, recipe, by_id)
    if keys.limit and len(validation) > keys.limit:
        chosen = _pick([example.label for example in validation], keys.limit, recipe)
        validation = [validation[i] for i in chosen]
    return train, validation, ""


def _refuse(
    train: Sequence[Example],
    silent: Sequence[str],
    left_out: Mapping[str, Sequence[str]],
    recipe: TuneRecipe,
    clips: int,
) -> None:
    """Refuse what cannot be trained on.

    Raises:
        UsageError: Nothing is left, or clips have no transcript where the recipe wants one.
    """
    if not train:
        why = "; ".join(f"{len(names)} left out ({reason})" for reason, names in left_out.items())
        raise UsageError(
            f"No clip is left to train on{f': {why}' if why else ''}.",
            f"Tasks: {', '.join(recipe.active)}; the dataset has {clips} clips.",
        )
    if silent and recipe.missing_transcript == "error":
        lack = counted(len(silent), "clip has", "clips have")
        raise UsageError(
            f"{lack} no {recipe.data.language} transcript: {some_of(silent)}.",
            "Train them with an empty sentence (missing_transcript: empty), or leave them out (skip).",
        )


def _notes(silent: Sequence[str], left_out: Mapping[str, Sequence[str]], recipe: TuneRecipe) -> tuple[str, ...]:
    notes = []
    if silent:
        clips = f"{counted(len(silent), 'clip')} of the recipe"
        notes.append(f"{clips} without transcript; nothing is said in their prompts.")
    for reason, lost in left_out.items():
        notes.append(f"{counted(len(lost), 'annotated clip is', 'annotated clips are')} not trained on ({reason}).")
    split = recipe.validation.split
    if split is not None and split_name(split).startswith("test"):
        notes.append(
            f"The checkpoint was chosen on split {split}, a test list: a score on that list is too good and is not "
            "comparable with one that never saw it."
        )
    return tuple(notes)


@dataclass(frozen=True)
class _Known:
    """Everything that annotations say: answers by task and clip; labels, transcripts, pairs and splits by clip."""

    answers: Mapping[Task, Mapping[str, str]]
    labels: Mapping[str, str]
    texts: Mapping[str, str]
    pairs: Mapping[str, Pair]
    held: Mapping[str, str]  # clips that a table holds out itself, and where it says so

    def example(self, name: str, clip: Clip | None, recipe: TuneRecipe) -> Example:
        """Return what is known of a clip; its own transcript and label count more than those of files."""
        own = clip.label.emotion if clip and clip.label else None
        said = spoken_of(clip or Clip(name), recipe.data.language, lambda: self.texts.get(name, ""))
        answers = {task: found[name] for task, found in self.answers.items() if name in found}
        return Example(name, said, own or self.labels.get(name), answers, self.pairs.get(name))


def _annotations(
    clips: Sequence[Clip], recipe: TuneRecipe, find: Find, clean: Clean, records: Records | None
) -> _Known:
    """Read all annotation files of a recipe."""
    answers: dict[Task, dict[str, str]] = {task: {} for task in recipe.active}
    labels: dict[str, str] = {}
    pairs: dict[str, Pair] = {}
    written, held = [], dict[str, str]()
    for task, source in sources_of(recipe):
        notes, differ = read_source(source, task, clips, recipe.labels, find, records), []
        held |= _held_out(source, find, recipe.train_splits)
        written.append({name: note.transcript for name, note in notes.items()})
        for name, note in notes.items():
            answer = clean(note.answer, task)
            if answers[task].setdefault(name, answer) != answer:
                differ.append(name)
            if note.label:
                labels.setdefault(name, note.label)
            if note.pair and pairs.setdefault(name, note.pair) != note.pair:
                differ.append(name)
        if differ:
            raise UsageError(
                f"data.{task}: {source.file} contradicts a source before it on {some_of(differ, 3)}.",
                "Keep one answer per clip and task.",
            )
    tables = [transcript_csv(find(file)) for file in recipe.data.transcripts]
    return _Known(answers, labels, texts_of(recipe.data.language, written, tables), pairs, held)


def _held_out(source: SourceKeys, find: Find, chosen: Sequence[str] | None) -> dict[str, str]:
    """Return clips of held-out splits of a table that names splits, and no split of it was chosen by `#split`."""
    if source.record or source.file == CLIPS:
        return {}
    path = find(source.file)
    splits = told_splits(path)
    known, wanted = set(splits.values()), {split_name(split) for split in chosen or ()}
    out = {split for split in known if held_out(split, known) and split_name(split) not in wanted}
    return {name: f"{split} of {path.name}" for name, split in splits.items() if split in out}


def read_source(
    source: SourceKeys, task: Task, clips: Sequence[Clip], labels: Sequence[str], find: Find, records: Records | None
) -> dict[str, Annotation]:
    """Read one source of a recipe's annotations; see `load_examples` for the arguments and errors."""
    if source.record:
        if records is None:
            raise UsageError(f"data.{task}: {source.file} needs a store.", "Run `emo annotate run` first.")
        return read_records(records(source.record), source.file, source.field or FIELDS[task], labels)
    if task in NUMBERS:
        return _read_numbers(source, task, clips, find)
    if source.file == CLIPS:
        given = {clip.id: clip.label.emotion for clip in clips if clip.label and clip.label.emotion}
        if strange := sorted(set(given.values()) - set(labels)):
            raise UsageError(
                f"Clips carry labels outside the label set: {', '.join(strange)}.", f"It is: {', '.join(labels)}."
            )
        return {name: Annotation(emotion, emotion) for name, emotion in given.items()}
    path = find(source.file)
    if task == "preference":
        return read_preferences(path)
    if path.suffix.lower() == ".json":
        return read_merr_json(path, source.field or FIELDS[task], labels)
    if task != "emotion":
        return read_texts(path, source.field or FIELDS[task])
    return {name: Annotation(emotion, emotion) for name, emotion in read_emotions(path, labels).items()}


def _read_numbers(source: SourceKeys, task: Task, clips: Sequence[Clip], find: Find) -> dict[str, Annotation]:
    """Read valences, or their signs in words."""
    if source.file == CLIPS:
        labels = {clip.id: clip.label for clip in clips if clip.label is not None}
    else:
        labels = dict(read_labels(find(source.file)))
    found = {name: label for name, label in labels.items() if label.valence is not None}
    if not found:
        raise UsageError(f"data.{task}: {source.file} holds no valence.", "Name labels that have a column valence.")
    told = {name: _number_text(label.valence or 0.0, task) for name, label in found.items()}
    return {name: Annotation(told[name], label.emotion) for name, label in found.items()}


def _number_text(valence: float, task: Task) -> str:
    if task == "valence":
        return repr(valence)
    return "neutral" if valence == 0 else "positive" if valence > 0 else "negative"


def _split_clips(clips: Sequence[Clip], recipe: TuneRecipe) -> dict[str, str]:
    """Labels of the validation split's clips, where the recipe names a split."""
    if recipe.validation.split is None:
        return {}
    split = split_name(recipe.validation.split)
    inside = [clip for clip in clips if split_name(clip.split) == split]
    found = {c.id: c.label.emotion for c in inside if c.label and c.label.emotion in recipe.scored}
    if not found:
        known = sorted({clip.split or "(none)" for clip in clips})
        raise UsageError(
            f"validation.split: {recipe.validation.split} has no clip with a label to score.",
            f"Splits: {', '.join(known)}.",
        )
    return cast(dict[str, str], found)


def _hold_out(
    examples: list[Example], recipe: TuneRecipe, by_id: Mapping[str, Clip]
) -> tuple[list[Example], list[Example], str]:
    """Set a part of the labelled examples aside: whole speakers, dialogues and sessions, as far as these are known.

    Returns:
        Examples to train on, examples to validate on, and what must be said of the choice; empty for nothing.
    """
    labelled = [i for i, example in enumerate(examples) if example.label in recipe.scored]
    size = math.floor(len(labelled) * recipe.validation.holdout)
    size = min(size, recipe.validation.limit or size)
    if size == 0:
        return examples, [], ""
    groups = group_clips([by_id.get(e.name, Clip(e.name)) for e in examples], recipe.validation.fold_by)
    of = groups.take(np.array(labelled))
    if of is None or len(np.unique(of)) < 2:
        held = {labelled[i] for i in _pick([examples[i].label for i in labelled], size, recipe)}
        train = [example for i, example in enumerate(examples) if i not in held]
        return train, [example for i, example in enumerate(examples) if i in held], groups.note
    rows = _pick([examples[i].label for i in labelled], size, recipe, of)
    train = [
        e for e, group in zip(examples, groups.take(np.arange(len(examples))), strict=True) if group not in of[rows]
    ]
    validation = [examples[labelled[i]] for i in rows]
    if (limit := recipe.validation.limit) and len(validation) > limit:
        validation = [validation[i] for i in _pick([example.label for example in validation], limit, recipe)]
    what = " and one ".join(groups.by)
    return (
        train,
        validation,
        f"Validation holds out all clips of one {what}: {len(np.unique(of[rows]))} groups of them.",
    )


def _pick(labels: Sequence[str | None], size: int, recipe: TuneRecipe, groups: np.ndarray | None = None) -> list[int]:
    """About `size` positions, evenly over the emotions, as a function of the seed; never more, unless groups are so."""
    index = {label: i for i, label in enumerate(recipe.scored)}
    emotion = np.array([index[cast(str, label)] for label in labels])
    folds = math.ceil(len(labels) / size)
    if groups is not None:
        folds = min(folds, len(np.unique(groups)))
    return cast(list[int], make_folds(emotion, folds, recipe.seed, groups=groups)[-1].tolist())


# ---- order ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One question about one clip: `text` is an instruction of the task's pool, `answer` what to learn."""

    name: str
    task: Task
    text: str
    transcript: str
    answer: str
    label: str | None = None

    @property
    def size(self) -> int:
        """Characters, a cheap stand-in for its length in tokens."""
        return len(self.text) + len(self.transcript) + len(self.answer)


def chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """Runs of at most `size`, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of `0..n-1`: a pure function, the same on every machine."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(n)


@dataclass(frozen=True)
class TaskMix:
    """Which task an example is asked, and in which words: drawn by weight among the tasks that it has an answer for."""

    weights: Mapping[Task, float]
    prompts: Mapping[Task, Sequence[str]]

    def draw(self, seed: int, epoch: int, index: int, example: Example) -> Sample:
        """The question of example `index` in pass `epoch`: a pure function."""
        tasks = [task for task, weight in self.weights.items() if weight and task in example.answers]
        weights = np.array([self.weights[task] for task in tasks])
        rng = np.random.default_rng([seed, _TASK, epoch, index])
        task = tasks[int(rng.choice(len(tasks), p=weights / weights.sum()))]
        text = filled(self.prompts[task][int(rng.integers(len(self.prompts[task])))], example.pair)
        return Sample(example.name, task, text, example.transcript, example.answers[task], example.label)


@dataclass(frozen=True)
class Sampler:
    """Which samples each optimizer step takes: passes over the data, cut into windows of `batch_size * accumulate`.

    The last window of a pass may be smaller; no sample is dropped. Where the position (pass, offset) is needed it is a
    function of the step, and so is everything else.

    Attributes:
        by_length: Sort a window by length before it is cut into batches. The samples of a step stay the same.
        pool: Windows that are sorted together, and then taken in a random order: less padding where a window is one
            batch, but which samples share a step depends on their lengths.
    """

    examples: Sequence[Example]
    mix: TaskMix
    seed: int
    batch_size: int
    accumulate: int = 1
    by_length: bool = True
    pool: int = 1

    @property
    def window(self) -> int:
        """Samples per optimizer step."""
        return self.batch_size * self.accumulate

    @property
    def steps_per_pass(self) -> int:
        """Optimizer steps in one pass over the data."""
        return -(-len(self.examples) // self.window)

    def position(self, step: int) -> tuple[int, int]:
        """Pass, and the offset in it, at which `step` (from 0) begins."""
        number, window = divmod(step, self.steps_per_pass)
        return number, window * self.window

    def longest(self) -> list[Sample]:
        """Return the longest samples of the first pass, as many as a batch holds: no batch of it is larger."""
        samples = [self.mix.draw(self.seed, 0, i, example) for i, example in enumerate(self.examples)]
        return sorted(samples, key=lambda sample: (sample.size, sample.name))[-self.batch_size :]

    def batches(self, step: int) -> list[list[Sample]]:
        """The samples of one optimizer step, in batches of at most `batch_size`."""
        number, window = divmod(step, self.steps_per_pass)
        pool, place = divmod(window, self.pool)
        first, size = pool * self.pool * self.window, self.pool * self.window
        chosen = order(self.seed, number, len(self.examples))[first : first + size]
        samples = [self.mix.draw(self.seed, number, int(i), self.examples[int(i)]) for i in chosen]
        if self.by_length:
            samples.sort(key=lambda sample: (sample.size, sample.name))
        windows = list(chunks(samples, self.window))
        if self.by_length and self.pool > 1:
            place = int(np.random.default_rng([self.seed, _POOL, number, pool]).permutation(len(windows))[place])
        return [list(batch) for batch in chunks(windows[place], self.batch_size)]
