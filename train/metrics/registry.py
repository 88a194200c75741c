"""The metrics by name: emo's own, and those that installed packages add. Each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emo.featstore.errors import UsageError
from emo.featstore.registry import Registry
from emo.train.metrics.base import Metric, flag

METRICS = {
    "labels": "emo.train.metrics.classification:Classification",
    "sentiment": "emo.train.metrics.valence:Sentiment",
    "openset": "emo.train.metrics.openset:OpenSet",
    "emotion-wheel": "emo.train.metrics.wheel:EmotionWheel",
    "hit-rate": "emo.train.metrics.wheel:HitRate",
    "emer": "emo.train.metrics.emer:Emer",
}
_metrics = Registry("metric", "emo.metrics", METRICS, "emo.train.metrics.base:Metric")
metric_names = _metrics.names


def metric_class(name: str) -> type[Metric]:
    """Return the class of a metric.

    Raises:
        UsageError: There is none of that name, or an installed package's cannot be loaded.
    """
    found: type[Metric] = _metrics.find(name)
    return found


def make_metric(name: str, options: Mapping[str, Any] | None = None) -> Metric:
    """Make a metric with its options; values given as text are read.

    Raises:
        UsageError: As `metric_class`; an option that the metric does not take, or lacks, or that cannot be read.
    """
    chosen, given = metric_class(name), dict(options or {})
    takes = chosen.options()
    for each in given:
        if each not in takes:
            users = [other for other in metric_names() if each in metric_class(other).options()]
            hint = f"{flag(each)} is for --metric {', '.join(users)}." if users else ""
            have = f" It takes {', '.join(map(flag, takes))}." if takes else ""
            raise UsageError(f"Metric {name} takes no {flag(each)}.{have}", hint or "Leave it out.")
    if lacks := [each for each in chosen.needs() if each not in given]:
        example = f"For example: {flag(lacks[0])} {takes[lacks[0]].example}."
        raise UsageError(f"Metric {name} needs {flag(lacks[0])}.", example)
    for each, value in given.items():
        if isinstance(value, str):
            try:
                given[each] = takes[each].read(value)
            except ValueError as error:
                raise UsageError(f"{flag(each)} {value!r} cannot be used: {error}.") from error
    return chosen(**given)
