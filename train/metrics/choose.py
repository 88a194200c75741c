"""Which score is meant: the flags of `emo score` in, a page out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from emo.featstore.clip import Label
from emo.featstore.datasets import find_labels, open_dataset
from emo.featstore.datasets.lookup import named_clips
from emo.featstore.errors import UsageError
from emo.featstore.inquiry import Ask
from emo.featstore.page import Arg, Flag, Page
from emo.featstore.text import some_of
from emo.featstore.workspace import DataTable, Workspace, find_workspace, load_workspace
from emo.train.answers import FILES, Prediction
from emo.train.answers_page import silence
from emo.train.asked import AskedModel, ask_recipe, untrained
from emo.train.metrics.base import USUAL_TASK, Metric
from emo.train.metrics.compare import compare, comparison_page
from emo.train.metrics.labels import sayable
from emo.train.metrics.made import made_of
from emo.train.metrics.registry import make_metric, metric_class
from emo.train.metrics.seen import Trained, own_datasets, run_of, trained_on
from emo.train.metrics.suites import MARK, Row, find_suite, score_suite
from emo.train.predictor import Predictor, find_run, open_predictor
from emo.train.runs import Run

Say = Callable[[str], None]


@dataclass(frozen=True)
class ScoreArgs:
    """Request of one call of `emo score`; its flags, by their names.

    Attributes:
        labels: Truth, as typed.
        dataset: Where it is looked up.
        run: Run whose answers are scored; the newest finished one if `None`.
        predictions: A file in place of a run.
        column: Its column that holds the answers, where that is not plain.
        require_all: Refuse if a clip has no prediction.
        against: Another run, or file of predictions.
        report: Folder for the report.
        metric: Its name; one label per clip if `None`.
        options: Of the metric, such as `answers` or `wheels`.
        protocol: `dfew` or `iemocap`: score by folds.
        fold: One of its folds.
        task: What is asked; the metric's own if `None`.
        model: A model that is asked in place of a run.
        recipe: Its questions.
        overrides: `key=value` above that recipe.
        ask: Shows it clips.
        opened: The run, where it is open already.
    """

    labels: str
    dataset: str | None = None
    run: str | None = None
    predictions: Path | None = None
    column: str | None = None
    require_all: bool = False
    against: str | None = None
    report: Path | None = None
    metric: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    protocol: str | None = None
    fold: str | None = None
    task: str | None = None
    model: str | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    ask: Ask | None = None
    opened: Predictor | None = None


@dataclass(frozen=True)
class Asked:
    """Predictions of a run or a file.

    Attributes:
        name: Of the run or the file.
        said: By clip name.
        notes: What must stand beside their score.
        trained: What the run was trained on; `None` for a file that lies in no run folder.
        labels: Words that the run knows; empty where nobody says.
        unknown: Said where nobody knows what it was trained on.
    """

    name: str
    said: Mapping[str, Prediction]
    notes: tuple[str, ...]
    trained: Trained | None = None
    labels: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def beside(self, names: Sequence[str]) -> list[str]:
        """Return the sentences that must stand beside a score over these clips."""
        if self.trained is None:
            return [*self.notes, *self.unknown]
        return [*self.notes, self.trained.verdict(names), *self.trained.notes(names)]

    def verdict(self, names: Sequence[str]) -> str:
        """Return what the verdict over these clips says besides its number."""
        return "" if self.trained is None else f" {self.trained.verdict(names)}"


def scored_page(args: ScoreArgs, say: Say) -> Page:
    """Score predictions against labels.

    Args:
        args: See there.
        say: Gets a sentence now and then.

    Raises:
        UsageError: Flags that do not go together, or files that cannot be used.
        EmoError: As the run that is asked.
    """
    _check(args)
    if args.labels.startswith(MARK):
        return _suite(args, say)
    metric = make_metric(args.metric or "labels", args.options)
    path = _labels(args)
    if args.protocol is not None:
        page = _by_folds(args, metric, path, say)
    elif args.against is not None:
        page = _compared(args, metric, path, say)
    else:
        page = _scored(args, metric, path, say)
    return replace(page, value={**page.value, "truth": str(path)})


def score_command(
    say: Say,
    ask: Ask,
    labels: Annotated[
        str, Arg("Truth: text list, csv, or npz#split; also looked up in the dataset; or a suite, @mer-unibench.")
    ],
    dataset: Annotated[str | None, Flag("Look for the truth in this [data.NAME] table only.")] = None,
    run: Annotated[str | None, Flag("Run whose predictions to score. Default: the newest.")] = None,
    model: Annotated[str | None, Flag("Asked in place of a run: http://HOST/v1#NAME, hf:MODEL, replay:FILE.")] = None,
    recipe: Annotated[str | None, Flag("With --model: its questions. Default: zero-shot.")] = None,
    task: Annotated[str | None, Flag("What to ask a run or model. Default: what the metric scores.")] = None,
    predictions: Annotated[Path | None, Flag("csv, jsonl or json with predictions or answers.")] = None,
    column: Annotated[str | None, Flag("Its column of answers, where several may be meant.")] = None,
    answers: Annotated[str | None, Flag("official (default), strict, nearest or likelihood.")] = None,
    require_all: Annotated[bool, Flag("Refuse if a clip has no prediction.", "--require-all")] = False,
    against: Annotated[str | None, Flag("A run or a file: is the difference more than chance?")] = None,
    report: Annotated[Path | None, Flag("Write numbers, page and pictures into this folder.")] = None,
    protocol: Annotated[str | None, Flag("By folds: dfew or iemocap.")] = None,
    fold: Annotated[str | None, Flag("One fold of the protocol.")] = None,
    metric: Annotated[str | None, Flag("labels, sentiment, openset, emotion-wheel, hit-rate, emer.")] = None,
    wheels: Annotated[Path | None, Flag("Tables of the emotion wheels.")] = None,
    synonyms: Annotated[Path | None, Flag("Groups of words, for openset.")] = None,
    judge: Annotated[str | None, Flag("For emer: proxy, URL#MODEL, hf:MODEL, replay:FILE.")] = None,
    cache: Annotated[Path | None, Flag("Where a judge's replies are kept.")] = None,
    repeats: Annotated[int | None, Flag("How often a judge sees each clip.", least=1)] = None,
    self_test: Annotated[int | None, Flag("Clips on which the judge is tried first.", least=1)] = None,
    language: Annotated[str | None, Flag("For emer: zh or en.")] = None,
    set_: Annotated[
        list[str] | None, Flag("key=value of the recipe with --model, else of a metric; may be repeated.", "--set")
    ] = None,
) -> Page:
    """Score predictions against labels by the published definitions.

    Raises:
        EmoError: As `scored_page`.
    """
    options = {"answers": answers, "wheels": wheels, "synonyms": synonyms, "judge": judge, "cache": cache}
    options |= {"repeats": repeats, "self_test": self_test, "language": language}
    options |= _pairs(set_ or ()) if model is None else {}
    given = {name: value for name, value in options.items() if value is not None}
    args = ScoreArgs(
        labels, dataset, run, predictions, column, require_all, against, report, metric, given, protocol, fold, task
    )
    args = replace(args, model=model, recipe=recipe, overrides=tuple(set_ or ()) if model else (), ask=ask)
    return scored_page(args, say)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if wrong := [word for word, (_, equals, _) in zip(words, pairs, strict=True) if not equals]:
        raise UsageError(f"--set {wrong[0]} is not key=value.")
    return {key: value for key, _, value in pairs}


def _check(args: ScoreArgs) -> None:
    chosen = {"--metric": args.metric, "--protocol": args.protocol, "--against": args.against}
    if len(given := [flag for flag, value in chosen.items() if value is not None]) > 1:
        raise UsageError(f"{' and '.join(given)} do not go together.", "Ask for one of them.")
    if args.fold is not None and args.protocol is None:
        raise UsageError("--fold belongs to a protocol.", "Add --protocol dfew.")
    if args.run is not None and args.predictions is not None:
        raise UsageError("--run and --predictions do not go together.", "Give one of them.")
    if args.model is not None and (args.run is not None or args.predictions is not None):
        raise UsageError("--model does not go with --run or --predictions.", "Give one of them.")
    if args.recipe is not None and args.model is None:
        raise UsageError("--recipe says what a model is asked.", "Add --model URL#NAME.")
    if args.task is not None and args.predictions is not None:
        raise UsageError("--task is asked of a run or a model, and --predictions has answers.", "Leave it out.")
    if args.against is not None and args.require_all:
        raise UsageError("--require-all and --against do not go together.", "Clips that both have are compared.")
    if args.column is not None and args.predictions is None and Path(args.against or "").suffix.lower() not in FILES:
        raise UsageError("--column is of a file of predictions, and none is given.", "Add --predictions FILE.")


def _labels(args: ScoreArgs) -> Path:
    """Find the truth: as typed, in the dataset that is named, or first in the one that the run was trained on."""
    if args.dataset is not None or args.predictions is not None or args.model is not None:
        return find_labels(args.labels, dataset=args.dataset)
    try:
        workspace = load_workspace(find_workspace())
        run = find_run(workspace, args.run)
    except UsageError:  # it is said where the run is asked
        return find_labels(args.labels)
    return find_labels(args.labels, first=own_datasets(workspace, run))


def _suite(args: ScoreArgs, say: Say) -> Page:
    """Score a suite: each set by its own metric, one open run or model for all."""
    suite, workspace = find_suite(args.labels), load_workspace(find_workspace())
    given = {"--metric": args.metric, "--protocol": args.protocol, "--against": args.against, "--dataset": args.dataset}
    if wrong := [flag for flag, value in given.items() if value is not None]:
        raise UsageError(f"{wrong[0]} is for one list; {args.labels} has sets and metrics of its own.", "Leave it out.")
    metrics = {row.metric: _for_metric(row.metric, args.options) for row in suite.rows}
    if args.predictions is None and args.model is None:
        args = replace(args, opened=open_predictor(workspace, args.run))

    def one(row: Row, table: DataTable, truth: str) -> Page:
        say(f"{row.name}: {truth}")
        files = _answers_of(args.predictions, row.name) if args.predictions is not None else None
        mine = replace(args, labels=truth, dataset=table.name, predictions=files, metric=row.metric, report=None)
        return _scored(mine, metrics[row.metric], find_labels(truth, dataset=table.name), say, row.starts)

    page = score_suite(suite, workspace, one)
    if args.report is not None:
        from emo.featstore.document import write_page

        write_page(page, args.report, suite.title)
        say(f"report: {args.report}")
    return page


def _for_metric(name: str, options: Mapping[str, Any]) -> Metric:
    """Make a metric with those of the options that it takes."""
    takes = metric_class(name).options()
    return make_metric(name, {each: value for each, value in options.items() if each in takes})


def _answers_of(folder: Path, name: str) -> Path:
    """Return the file of answers about a set in a folder of such files.

    Raises:
        UsageError: There is none.
    """
    files = [folder / f"{name}{suffix}" for suffix in FILES]
    found = next((each for each in files if each.is_file()), None)
    if found is None:
        raise UsageError(f"{folder} has no {' or '.join(each.name for each in files)}")
    return found


def _scored(args: ScoreArgs, metric: Metric, path: Path, say: Say, starts: str = "") -> Page:
    truth = {name: each for name, each in _truth(args, metric, path, say).items() if name.startswith(starts)}
    asked = _asked(args, metric, path, list(truth), say)
    found = metric.score(truth, asked.said, allow_missing=not args.require_all, say=say)
    names = metric.scored(truth, asked.said)
    strange = _unknown(truth, names, asked, metric.policy) if metric.one_of else []
    page = metric.page(found, args.labels, [*strange, *asked.beside(names), _where(path)])
    page = replace(page, verdict=page.verdict + asked.verdict(names))
    if args.report is not None:
        made = made_of(args.run, args.predictions, args.model, path)
        whole = replace(page, value={**page.value, "made": made})
        metric.write(found, whole, args.report, f"{args.labels}, {asked.name}")
        say(f"report: {args.report}")
    return page


def _truth(args: ScoreArgs, metric: Metric, path: Path, say: Say) -> Mapping[str, Any]:
    """Read the truth; a list that has the numbers of classes, as MERBench's, gets the words of its dataset.

    Raises:
        UsageError: The workspace or that dataset cannot be read.
    """
    truth = metric.truth(path)
    words = {name: _word(each) for name, each in truth.items()}
    if not all(word is None or word.isdecimal() for word in words.values()) or not any(words.values()):
        return truth
    toml, known = None, dict[str, str]()
    with suppress(UsageError):  # there is none
        toml = find_workspace()
    if toml is not None:
        workspace = load_workspace(toml)
        for name in _holders(args, workspace, path):
            clips = open_dataset(name, workspace.table(name)).clips()
            known |= {clip.id: clip.label.emotion for clip in clips if clip.label and clip.label.emotion}
    if unknown := [name for name, word in words.items() if word is not None and name not in known]:
        say(f"{path}: its labels stay numbers: no dataset that it lies in says what {some_of(unknown, 3)} is in words")
        return truth
    return {name: each if words[name] is None else _reworded(each, known[name]) for name, each in truth.items()}


def _word(each: Any) -> str | None:
    """Return the one class of a clip's truth; `None` where it has none or is of another kind."""
    if isinstance(each, Label):
        return each.emotion
    return each[0] if isinstance(each, list) and len(each) == 1 else None


def _reworded(each: Any, word: str) -> Any:
    return replace(each, emotion=word) if isinstance(each, Label) else [word]


def _compared(args: ScoreArgs, metric: Metric, path: Path, say: Say) -> Page:
    from emo.featstore.document import write_page

    truth = _truth(args, metric, path, say)
    a = _asked(args, metric, path, list(truth), say)
    b = _predictions(args, str(args.against), metric, path, list(truth), say)
    both = compare(truth, a.said, b.said, metric.policy)
    names = [name for name in metric.scored(truth, a.said) if name in b.said]
    notes = [note for each in (a, b) for note in (*_unknown(truth, names, each, metric.policy), *each.beside(names))]
    called = (a.name, b.name) if a.name != b.name else (str(args.predictions or a.name), str(args.against))
    page = comparison_page(both, called, [*dict.fromkeys(notes), _where(path)])
    page = replace(page, verdict=page.verdict + "".join(dict.fromkeys([a.verdict(names), b.verdict(names)])))
    if args.report is not None:
        write_page(page, args.report, args.labels)
        say(f"report: {args.report}")
    return page


def _by_folds(args: ScoreArgs, metric: Metric, path: Path, say: Say) -> Page:
    from emo.train.metrics.folds import clip_names, folds_page, plain_names, read_folds, score_folds, write_folds

    protocol, policy = str(args.protocol), metric.policy
    folds, labels = read_folds(protocol, path)
    names = clip_names(protocol, [name for truth in folds.values() for name in truth])
    asked = _asked(args, metric, path, names, say)
    result = score_folds(protocol, folds, asked.said, labels, policy, args.fold, not args.require_all)
    truth = {name: label for fold, each in folds.items() if fold in result.folds for name, label in each.items()}
    said = plain_names(protocol, asked.said)
    names = [name for name in truth if name in said]
    if asked.trained is not None:
        asked = replace(
            asked, trained=replace(asked.trained, clips=frozenset(plain_names(protocol, asked.trained.clips)))
        )
    notes = [*_unknown(truth, names, asked, policy), *asked.beside(names), _where(path)]
    verdict = asked.verdict(names)
    if args.report is not None:
        write_folds(result, args.report, f"{args.labels}, {asked.name}", notes, verdict)
        say(f"report: {args.report}")
    page = folds_page(result, args.labels, notes)
    return replace(page, verdict=page.verdict + verdict)


def _where(path: Path) -> str:
    return f"Truth: {path}."


def _asked(args: ScoreArgs, metric: Metric, path: Path, names: list[str], say: Say) -> Asked:
    if args.model is not None:
        return _asked_model(args, metric, path, names, say)
    source = args.run if args.predictions is None else args.predictions
    return _predictions(args, source, metric, path, names, say)


def _asked_model(args: ScoreArgs, metric: Metric, truth: Path, names: list[str], say: Say) -> Asked:
    """Return the answers of a model that was not trained here about the clips that a truth names."""
    if args.model is None or args.ask is None:
        raise UsageError("No model is named.", "Add --model URL#NAME.")
    if metric.policy == "likelihood":
        raise UsageError("A model behind an endpoint gives no likelihoods.", "Use --answers official or nearest.")
    workspace, recipe = load_workspace(find_workspace()), ask_recipe(args.recipe, args.overrides)
    asked = AskedModel(workspace, args.ask, args.model, recipe, say=say)
    task = args.task or metric.task
    clips = named_clips(workspace, names, _holders(args, workspace, truth))
    said, replies = asked.predict(clips, task)
    if replies.interrupted:
        raise KeyboardInterrupt
    say(f"model {replies.model}: answers for {len(said):,} of {len(names):,} clips")
    silent = silence(replies.why, len(clips))
    for line in silent if not said else ():  # what follows is an error, which has no notes
        say(line)
    notes = (*silent, *replies.notes, f"Asked for {task} by recipe {recipe.name}.")
    notes = (*notes, untrained(replies))
    return Asked(replies.model, said, notes, None, recipe.labels if task == "emotion" else ())


def _holders(args: ScoreArgs, workspace: Workspace, truth: Path) -> list[str]:
    """Return the datasets whose clips a truth names: the one that is given, or those whose folder it lies in."""
    inside = (table for table in workspace.data.values() if Path(os.path.abspath(truth)).is_relative_to(table.root))
    return [args.dataset] if args.dataset else [table.name for table in inside]


def _predictions(
    args: ScoreArgs, source: str | Path | None, metric: Metric, truth: Path, names: list[str], say: Say
) -> Asked:
    """Return the predictions of a file, or of a run (the newest one if `None`), about the clips that a truth names."""
    if isinstance(source, Path) or Path(source or "").suffix.lower() in FILES:
        path = Path(str(source))
        found, run = metric.read(path, args.column), run_of(path)
        unknown = (f"Which clips the model of {path.name} was trained on is not known.",)
        trained = None if run is None else trained_on(run)
        beside = () if run is None else tuple(map(str, run.info.get("notes") or ()))  # of the run whose file it is
        return Asked(path.name, found.said, (*found.told, *beside), trained, _words(run), unknown)
    workspace = load_workspace(find_workspace())
    own = args.opened if source == args.run else None
    predictor = own or open_predictor(workspace, None if source is None else str(source))
    task = _task(predictor, args.task, metric)
    meant = _holders(args, workspace, truth) or own_datasets(workspace, predictor.run)
    clips = named_clips(workspace, names, meant)
    said = predictor.predict(clips, metric.policy, task)
    say(f"run {predictor.run.name}: answers for {len(said):,} of {len(names):,} clips")
    if told := predictor.tell_missing(names, said):
        say(told)
    answered = [clip for clip in clips if clip.id in said]
    notes, trained = tuple(predictor.notes(metric.policy, answered, task)), predictor.trained_among(answered)
    notes = notes if task == USUAL_TASK else (*notes, f"The run was asked for {task}.")
    return Asked(predictor.run.name, said, notes, trained, _words(predictor.run))


def _task(predictor: Predictor, given: str | None, metric: Metric) -> str:
    """Return what a run is asked: what is given, or what the metric scores if the run knows that, or its emotion."""
    try:
        predictor.check(metric.policy, given or metric.task)
    except UsageError:
        if given is not None or metric.task == USUAL_TASK:
            raise
        predictor.check(metric.policy)
        return USUAL_TASK
    return given or metric.task


def _words(run: Run | None) -> tuple[str, ...]:
    labels = None if run is None else run.info.get("labels")
    return tuple(map(str, labels)) if isinstance(labels, list) else ()


def _unknown(truth: Mapping[str, Label], names: Sequence[str], asked: Asked, policy: str) -> list[str]:
    """Say which true labels the run does not know, as it can never be right about them.

    Raises:
        UsageError: It knows none of them.
    """
    words = Counter(label.emotion for name in names if (label := truth[name]).emotion is not None)
    known = sayable(asked.labels, policy, words)
    strange = {word: count for word, count in words.items() if word not in known}
    if not asked.labels:
        return []
    run = asked.name if asked.trained is None else asked.trained.run
    near = [f"{word} ({count})" for word, count in words.items() if word in known and word not in asked.labels]
    sentence = f"{run} was not offered these labels of the list, but words near them count: {', '.join(near)}."
    told = [sentence] if near else []
    if not strange:
        return told
    if len(strange) == len(words):
        have = f"{run} knows {', '.join(asked.labels)}."
        raise UsageError(f"{run} knows none of the labels {', '.join(strange)}.", have)
    counts = ", ".join(f"{word} ({count})" for word, count in strange.items())
    return [*told, f"{sum(strange.values())} of {len(names)} clips carry a label that {run} does not know: {counts}."]
