"""Which score is meant: the flags of `emo score` in, a page out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo.featstore.datasets import find_labels
from emo.featstore.datasets.lookup import listed_names, named_clips
from emo.featstore.datasets.tables import read_labels
from emo.featstore.errors import UsageError
from emo.featstore.page import Page
from emo.featstore.workspace import find_workspace, load_workspace
from emo.train.answers import Prediction, read_predictions
from emo.train.metrics.compare import compare, comparison_page
from emo.train.metrics.labels import score
from emo.train.metrics.report import score_page, write_report
from emo.train.predictor import answers, check_question, find_run, tell_missing, tell_zeros

FILES = (".csv", ".json", ".jsonl")
OPTIONS = {  # of the metrics that have any
    "openset": ("synonyms",),
    "emotion-wheel": ("wheels",),
    "hit-rate": ("wheels",),
    "emer": ("judge", "cache", "repeats", "test_clips", "language"),
}


@dataclass(frozen=True)
class Wanted:
    """What one call of `emo score` asks for; its flags, by their names.

    Attributes:
        labels: Truth, as typed.
        run: Run whose answers are scored; the newest finished one if `None`.
        predictions: A file in place of a run.
        answers: How free text becomes labels.
        require_all: Refuse if a clip has no prediction.
        against: Another run, or file of predictions.
        report: Folder for the report.
        metric: Another measure than that of one label per clip, see `metric_page`; or `sentiment`.
        options: Of that metric: `wheels`, `synonyms`, `judge`, `cache`, `repeats`, `test_clips`, `language`.
        protocol: `dfew` or `iemocap`: score by folds.
        fold: One of its folds.
    """

    labels: str
    run: str | None = None
    predictions: Path | None = None
    answers: str = "official"
    require_all: bool = False
    against: str | None = None
    report: Path | None = None
    metric: str | None = None
    options: Mapping[str, Any] | None = None
    protocol: str | None = None
    fold: str | None = None


def scored_page(wanted: Wanted, say: Callable[[str], None]) -> Page:
    """Score predictions against labels.

    Args:
        wanted: See there.
        say: Gets a sentence now and then.

    Raises:
        UsageError: Flags that do not go together, or files that cannot be used.
        EmoError: As the run that is asked.
    """
    _check(wanted)
    if wanted.metric not in (None, "sentiment"):
        return _other_metric(wanted, say)
    if wanted.protocol is not None:
        return _by_folds(wanted, say)
    truth = read_labels(find_labels(wanted.labels))
    found, notes, origin = _asked(wanted, list(truth), say)
    if wanted.against is not None:
        others, more, other = _predictions(wanted.against, list(truth), wanted.answers, say)
        both = compare(truth, found, others, wanted.answers)
        page = comparison_page(both, (origin, other), [*dict.fromkeys([*notes, *more])])
        return _reported(page, wanted, say)
    if wanted.metric == "sentiment":
        from emo.train.metrics import valence

        signs, said, more = valence.by_sign(truth, found)
        result = score(signs, said, "strict", valence.SIGNS, allow_missing=not wanted.require_all)
        truth, found, notes = signs, said, [*notes, *more]
    else:
        result = score(truth, found, wanted.answers, allow_missing=not wanted.require_all)
    if wanted.report is not None:
        write_report(result, wanted.report, f"{wanted.labels}, {origin}", notes, truth, found)
        say(f"report: {wanted.report}")
    return score_page(result, wanted.labels, notes)


def _check(wanted: Wanted) -> None:
    chosen = {"--metric": wanted.metric, "--protocol": wanted.protocol, "--against": wanted.against}
    if len(given := [flag for flag, value in chosen.items() if value is not None]) > 1:
        raise UsageError(f"{' and '.join(given)} do not go together.", "Ask for one of them.")
    if wanted.fold is not None and wanted.protocol is None:
        raise UsageError("--fold belongs to a protocol.", "Add --protocol dfew.")
    if wanted.run is not None and wanted.predictions is not None:
        raise UsageError("--run and --predictions do not go together.", "Give one of them.")
    if wanted.against is not None and wanted.require_all:
        raise UsageError("--require-all and --against do not go together.", "Clips that both have are compared.")
    if wanted.metric == "sentiment" and wanted.answers != "official":
        raise UsageError("Metric sentiment reads valence, not answers.", "Leave --answers out.")
    takes = OPTIONS.get(str(wanted.metric), ())
    if strange := [name for name in wanted.options or () if name not in takes]:
        flag = {"test_clips": "--self-test"}.get(strange[0], f"--{strange[0]}")
        users = ", ".join(metric for metric, names in OPTIONS.items() if strange[0] in names)
        raise UsageError(f"{flag} is for --metric {users}.", "Leave it out, or name that metric.")
    if wanted.metric not in (None, "sentiment"):
        from emo.train.metrics.base import check_metric

        given = wanted.options or {}
        check_metric(str(wanted.metric), given.get("wheels"), given.get("synonyms"), given.get("judge"))


def _other_metric(wanted: Wanted, say: Callable[[str], None]) -> Page:
    from emo.train.metrics.base import metric_page

    truth = find_labels(wanted.labels)
    notes: list[str] = []
    said: Path | Mapping[str, Prediction]
    if wanted.predictions is not None:
        said = wanted.predictions
    else:
        said, notes, _ = _asked(wanted, listed_names(wanted.labels), say)
    page = metric_page(
        str(wanted.metric),
        truth,
        said,
        wanted.labels,
        allow_missing=not wanted.require_all,
        notes=notes,
        on_progress=lambda done, total: say(f"{done} of {total} clips judged"),
        **(wanted.options or {}),
    )
    return _reported(page, wanted, say)


def _reported(page: Page, wanted: Wanted, say: Callable[[str], None]) -> Page:
    from emo.train.metrics.document import write_page

    if wanted.report is not None:
        write_page(page, wanted.report, wanted.labels)
        say(f"report: {wanted.report}")
    return page


def _by_folds(wanted: Wanted, say: Callable[[str], None]) -> Page:
    from emo.train.metrics.folds import folds_page, read_folds, score_folds, write_folds

    folds, labels = read_folds(str(wanted.protocol), find_labels(wanted.labels))
    names = [name for truth in folds.values() for name in truth]
    found, notes, origin = _asked(wanted, names, say)
    result = score_folds(
        str(wanted.protocol), folds, found, labels, wanted.answers, wanted.fold, allow_missing=not wanted.require_all
    )
    if wanted.report is not None:
        write_folds(result, wanted.report, f"{wanted.labels}, {origin}", notes)
        say(f"report: {wanted.report}")
    return folds_page(result, wanted.labels, notes)


def _asked(
    wanted: Wanted, names: list[str], say: Callable[[str], None]
) -> tuple[dict[str, Prediction], list[str], str]:
    if wanted.predictions is not None:
        return read_predictions(wanted.predictions), [], wanted.predictions.name
    return _predictions(wanted.run, names, wanted.answers, say)


def _predictions(
    source: str | None, names: list[str], policy: str, say: Callable[[str], None]
) -> tuple[dict[str, Prediction], list[str], str]:
    """Predictions of a file, or of a run (the newest one if `None`); what must stand beside them; their name."""
    if source is not None and Path(source).suffix.lower() in FILES:
        return read_predictions(source), [], Path(source).name
    workspace = load_workspace(find_workspace())
    run = find_run(workspace, source)
    check_question(run, "emotion", policy)
    found = answers(workspace, run, named_clips(workspace, names), policy)
    say(f"run {run.name}: answers for {len(found):,} of {len(names):,} clips")
    if told := tell_missing(workspace, run, names, found):
        say(told)
    return found, [*run.info["notes"], *tell_zeros(run, policy, list(found))], run.name
