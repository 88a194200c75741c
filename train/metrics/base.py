"""One door to the scores that are not classification: a metric's name and files in, a page out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from emo.featstore.datasets.tables import read_labels
from emo.featstore.errors import UsageError
from emo.featstore.page import Page
from emo.train.answers import Prediction

METRICS = ("openset", "emotion-wheel", "hit-rate", "emer")  # `sentiment` is `valence.by_sign` and then `score`


def check_metric(metric: str, wheels: Path | None, synonyms: Path | None, judge: str | None) -> None:
    """Refuse a metric that lacks what it needs, or is given what it does not use.

    Raises:
        UsageError: So it is; or the metric is unknown.
    """
    given = {"--wheels": wheels, "--synonyms": synonyms, "--judge": judge}
    takes = {"openset": "--synonyms", "emotion-wheel": "--wheels", "hit-rate": "--wheels", "emer": "--judge"}
    if metric not in takes:
        raise UsageError(f"Unknown metric {metric!r}.", f"Metrics: {', '.join(METRICS)}, sentiment.")
    if strange := [flag for flag, value in given.items() if value is not None and flag != takes[metric]]:
        raise UsageError(f"Metric {metric} takes no {strange[0]}.", f"It takes {takes[metric]}.")
    if metric != "openset" and given[takes[metric]] is None:
        example = {"--wheels": "wheel_mapping.npz", "--judge": "proxy"}[takes[metric]]
        raise UsageError(f"Metric {metric} needs {takes[metric]}.", f"For example: {takes[metric]} {example}.")


def metric_page(
    metric: str,
    truth: Path,
    predictions: Path | Mapping[str, Prediction],
    title: str,
    wheels: Path | None = None,
    synonyms: Path | None = None,
    judge: str | None = None,
    cache: Path | None = None,
    repeats: int = 1,
    test_clips: int = 0,
    language: str | None = None,
    allow_missing: bool = False,
    notes: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Page:
    """Score by one of `METRICS`.

    Args:
        metric: Its name.
        truth: `name,openset`; labels as in `emo score` for `hit-rate`; EMER's descriptions for `emer`.
        predictions: Lists of words, or descriptions; a file, or a run's answers.
        title: Of the page.
        wheels: For `emotion-wheel` and `hit-rate`: see `load_wheels`.
        synonyms: For `openset`: see `read_synonyms`.
        judge: For `emer`: `proxy`, or see `find_chat`.
        cache: For `emer`: where the judge's replies are kept.
        repeats: For `emer`: how often each clip is judged.
        test_clips: For `emer`: clips of the judge's self-test.
        language: For `emer`: column of a file that has both, `zh` or `en`.
        allow_missing: Leave out clips without a prediction.
        notes: Further sentences that must stand beside the numbers.
        on_progress: For `emer`: called after every clip.

    Raises:
        UsageError: Unknown metric, or one that lacks what it needs.
    """
    check_metric(metric, wheels, synonyms, judge)
    if metric == "emer":
        from emo.train.metrics.emer import emer_page, read_descriptions
        from emo.train.metrics.judges import find_chat

        if isinstance(predictions, Path):
            texts = read_descriptions(predictions, language)
        else:
            texts = {name: each.answer for name, each in predictions.items()}
        return emer_page(
            read_descriptions(truth, language),
            texts,
            None if judge == "proxy" else find_chat(str(judge), cache),
            title,
            repeats=repeats,
            test_clips=test_clips,
            allow_missing=allow_missing,
            notes=notes,
            on_progress=on_progress,
        )
    from emo.train.metrics import openset, wheel

    said = openset.read_opensets(predictions) if isinstance(predictions, Path) else openset.words_of(predictions)
    if metric == "hit-rate":
        true = {name: [label.emotion] if label.emotion else [] for name, label in read_labels(truth).items()}
    else:
        true = openset.read_opensets(truth)
    if metric == "openset":
        groups = openset.read_synonyms(synonyms) if synonyms else None
        return openset.sets_page(openset.score_sets(true, said, groups, allow_missing), title, notes)
    assert wheels is not None
    tables = wheel.load_wheels(wheels)
    if metric == "hit-rate":
        return wheel.hit_page(wheel.hit_rate(true, said, tables, allow_missing), title, notes)
    return wheel.wheel_page(wheel.score_wheels(true, said, tables, allow_missing), title, notes)
