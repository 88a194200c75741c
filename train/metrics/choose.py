"""Which score is meant: the flags of `emo score` in, a page out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emo.featstore.datasets import find_labels
from emo.featstore.datasets.lookup import named_clips
from emo.featstore.datasets.tables import read_labels
from emo.featstore.errors import UsageError
from emo.featstore.page import Page
from emo.featstore.workspace import find_workspace, load_workspace
from emo.train.answers import FILES, Prediction
from emo.train.metrics.base import Metric
from emo.train.metrics.compare import compare, comparison_page
from emo.train.metrics.registry import make_metric
from emo.train.predictor import answers, check_question, find_run, tell_missing, tell_zeros

Say = Callable[[str], None]


@dataclass(frozen=True)
class ScoreArgs:
    """What one call of `emo score` asks for; its flags, by their names.

    Attributes:
        labels: Truth, as typed.
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
    """

    labels: str
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


@dataclass(frozen=True)
class Asked:
    """Predictions of a run or a file.

    Attributes:
        name: Of the run or the file.
        said: By clip name.
        notes: What must stand beside their score.
    """

    name: str
    said: Mapping[str, Prediction]
    notes: tuple[str, ...]


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
    metric = make_metric(args.metric or "labels", args.options)
    path = find_labels(args.labels)
    if args.protocol is not None:
        return _by_folds(args, metric.policy, path, say)
    if args.against is not None:
        return _compared(args, metric, path, say)
    truth = metric.truth(path)
    asked = _asked(args, metric, list(truth), say)
    found = metric.score(truth, asked.said, allow_missing=not args.require_all, say=say)
    page = metric.page(found, args.labels, asked.notes)
    if args.report is not None:
        metric.write(found, page, args.report, f"{args.labels}, {asked.name}")
        say(f"report: {args.report}")
    return page


def _check(args: ScoreArgs) -> None:
    chosen = {"--metric": args.metric, "--protocol": args.protocol, "--against": args.against}
    if len(given := [flag for flag, value in chosen.items() if value is not None]) > 1:
        raise UsageError(f"{' and '.join(given)} do not go together.", "Ask for one of them.")
    if args.fold is not None and args.protocol is None:
        raise UsageError("--fold belongs to a protocol.", "Add --protocol dfew.")
    if args.run is not None and args.predictions is not None:
        raise UsageError("--run and --predictions do not go together.", "Give one of them.")
    if args.against is not None and args.require_all:
        raise UsageError("--require-all and --against do not go together.", "Clips that both have are compared.")
    if args.column is not None and args.predictions is None and Path(args.against or "").suffix.lower() not in FILES:
        raise UsageError("--column is of a file of predictions, and none is given.", "Add --predictions FILE.")


def _compared(args: ScoreArgs, metric: Metric, path: Path, say: Say) -> Page:
    from emo.train.metrics.document import write_page

    truth = read_labels(path)
    a = _asked(args, metric, list(truth), say)
    b = _predictions(str(args.against), metric, args.column, list(truth), say)
    both = compare(truth, a.said, b.said, metric.policy)
    page = comparison_page(both, (a.name, b.name), [*dict.fromkeys([*a.notes, *b.notes])])
    if args.report is not None:
        write_page(page, args.report, args.labels)
        say(f"report: {args.report}")
    return page


def _by_folds(args: ScoreArgs, policy: str, path: Path, say: Say) -> Page:
    from emo.train.metrics.folds import folds_page, read_folds, score_folds, write_folds

    folds, labels = read_folds(str(args.protocol), path)
    names = [name for truth in folds.values() for name in truth]
    asked = _asked(args, make_metric("labels", {"answers": policy}), names, say)
    missing = not args.require_all
    result = score_folds(str(args.protocol), folds, asked.said, labels, policy, args.fold, missing)
    if args.report is not None:
        write_folds(result, args.report, f"{args.labels}, {asked.name}", asked.notes)
        say(f"report: {args.report}")
    return folds_page(result, args.labels, asked.notes)


def _asked(args: ScoreArgs, metric: Metric, names: list[str], say: Say) -> Asked:
    source = args.run if args.predictions is None else args.predictions
    return _predictions(source, metric, args.column, names, say)


def _predictions(source: str | Path | None, metric: Metric, column: str | None, names: list[str], say: Say) -> Asked:
    """Predictions of a file, or of a run (the newest one if `None`)."""
    if isinstance(source, Path) or Path(source or "").suffix.lower() in FILES:
        path = Path(str(source))
        found = metric.read(path, column)
        return Asked(path.name, found.said, found.told)
    workspace = load_workspace(find_workspace())
    run = find_run(workspace, source)
    check_question(run, "emotion", metric.policy)
    said = answers(workspace, run, named_clips(workspace, names), metric.policy)
    say(f"run {run.name}: answers for {len(said):,} of {len(names):,} clips")
    if told := tell_missing(workspace, run, names, said):
        say(told)
    return Asked(run.name, said, (*run.info["notes"], *tell_zeros(run, metric.policy, list(said))))
