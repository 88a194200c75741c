"""Contract tests of the plug-ins that `train` takes, for the tests of anybody who writes one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from emo.featstore.errors import UsageError
from emo.featstore.page import Page, Table
from emo.train.answers import Prediction
from emo.train.metrics.base import Metric
from emo.train.metrics.registry import make_metric, metric_class

NOTE = "A sentence that must stand beside the number."


def check_metric(name: str, folder: Path) -> None:
    """Check that a metric keeps its contract.

    Args:
        name: Its name in the registry, or of its entry point.
        folder: An empty folder for its small files.

    Raises:
        AssertionError: It does not.
    """
    chosen = metric_class(name)
    assert issubclass(chosen, Metric), f"{name} is no Metric"
    assert chosen.name == name, f"{name} calls itself {chosen.name}"
    assert chosen.about, f"{name} does not say what it is"
    for each, option in chosen.options().items():
        assert option.about, f"option {each} of {name} does not say what it is"
    sample = chosen.sample(folder)
    _refuses(lambda: make_metric(name, {**sample.options, "no_such_option": 1}), f"{name} takes any option")
    metric = make_metric(name, sample.options)

    truth = metric.truth(sample.truth)
    assert set(truth) == set(sample.answers), f"{name}: the sample's answers are not of the clips of its truth"
    assert len(truth) >= 3, f"{name}: the sample needs three clips"
    page = _page(metric, truth, sample.answers)
    assert page == _page(metric, truth, sample.answers), f"{name} gives two pages of the same answers"
    assert page.value["n"] == len(truth), f"{name} does not count its clips"
    assert (page.value["missing"], page.value["extra"]) == (0, 0), f"{name} counts missing and extra clips wrongly"
    _check_missing(metric, truth, sample.answers)
    _check_files(metric, truth, sample.answers, folder)


def _page(
    metric: Metric, truth: Mapping[str, Any], said: Mapping[str, Prediction], allow_missing: bool = False
) -> Page:
    page = metric.page(metric.score(truth, said, allow_missing), "Sample", [NOTE])
    json.dumps(page.value, allow_nan=False)
    assert page.verdict, f"{metric.name} has no verdict"
    assert page.value["notes"][0] == NOTE, f"{metric.name} drops notes from its value"
    assert NOTE in page.parts, f"{metric.name} drops notes from its page"
    assert any(isinstance(part, Table) and "Sample" in part.title for part in page.parts), "no table has the title"
    return page


def _check_missing(metric: Metric, truth: Mapping[str, Any], said: Mapping[str, Prediction]) -> None:
    """Missing answers are refused or counted, those of other clips counted and ignored."""
    name = metric.name
    first, *rest = said
    fewer = {each: said[each] for each in rest}
    _refuses(lambda: metric.score(truth, fewer), f"{name} does without answers that it was not allowed to do without")
    _refuses(lambda: metric.score(truth, {"of another clip": said[first]}, True), f"{name} scores no clip at all")
    _refuses(lambda: metric.score({}, said), f"{name} scores against no truth")
    page = _page(metric, truth, fewer, allow_missing=True)
    assert (page.value["n"], page.value["missing"]) == (len(rest), 1), f"{name} does not count missing answers"
    page = _page(metric, truth, {**said, "of another clip": said[first]})
    assert (page.value["n"], page.value["extra"]) == (len(said), 1), f"{name} does not count answers of other clips"


def _check_files(metric: Metric, truth: Mapping[str, Any], said: Mapping[str, Prediction], folder: Path) -> None:
    """Answers are read from the column of answers, and what cannot be read is an error of one sentence."""
    rows = [{"name": name, "label": "x", "prediction": each.answer} for name, each in said.items()]
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = metric.read(path)
    assert {name: each.answer for name, each in found.said.items()} == {n: each.answer for n, each in said.items()}
    assert "prediction" in " ".join(found.told), f"{metric.name} does not say which column it has read"
    assert _page(metric, truth, found.said).value["n"] == len(said)
    for read in (metric.read, metric.truth):
        _refuses(lambda read=read: read(folder / "absent.csv"), f"{metric.name} reads a file that is not there")
        for suffix in (".csv", ".jsonl", ".json", ".npz"):
            junk = folder / f"junk{suffix}"
            junk.write_bytes(b"\xff\x00junk\n,,\n")
            _refuses(lambda read=read, junk=junk: read(junk), f"{metric.name} reads junk{suffix}")


def _refuses(call: Callable[[], object], otherwise: str) -> None:
    try:
        call()
    except UsageError:
        return
    raise AssertionError(otherwise)
