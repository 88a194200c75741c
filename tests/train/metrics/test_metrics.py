"""The door to the other scores: a name and files in, a page out, and one sentence where something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.document import write_page
from emo.featstore.errors import UsageError
from emo.featstore.page import Page
from emo.train.answers import Prediction
from emo.train.metrics.registry import METRICS, make_metric
from emo.train.testing import check_metric


def metric_page(
    name: str, truth: Path, said: Path | dict[str, Prediction], title: str, notes: Any = (), **options: Any
) -> Page:
    metric = make_metric(name, options)
    answers = metric.read(said).said if isinstance(said, Path) else said
    return metric.page(metric.score(metric.truth(truth), answers), title, notes)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_keeps_the_contract(name: str, tmp_path: Path) -> None:
    check_metric(name, tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "truth.csv").write_text("name,openset\na,\"['happy', 'calm']\"\nb,['sad']\n")
    (tmp_path / "said.csv").write_text("name,openset\na,\"['glad', 'happily']\"\nb,['sad']\n")
    (tmp_path / "groups.txt").write_text("happy, glad, happily\n")
    (tmp_path / "labels.csv").write_text("name,label\na,happy\nb,sad\n")
    (tmp_path / "emer.csv").write_text("names,reasons\na,He laughs aloud.\nb,She cries at home.\n")
    return {path.stem: path for path in tmp_path.iterdir()}


def test_open_sets(files: dict[str, Path]) -> None:
    page = metric_page("openset", files["truth"], files["said"], "OV", synonyms=files["groups"])
    assert page.value["metric"] == "openset"
    assert (page.value["accuracy"], page.value["recall"], page.value["score"]) == (1.0, 0.75, 0.875)
    run = {"a": Prediction("glad, happily"), "b": Prediction("sad")}
    assert metric_page("openset", files["truth"], run, "OV", synonyms=files["groups"]).value == page.value


def test_wheels(files: dict[str, Path], shared: Path) -> None:
    tables = shared / "data/openvocab/wheel_mapping.npz"
    page = metric_page("emotion-wheel", files["truth"], files["said"], "EW", wheels=tables)
    assert page.value["f"] > 0.5
    page = metric_page("hit-rate", files["labels"], files["said"], "Hits", wheels=tables)
    assert page.value["hit_rate"] == page.value["mscore"] == 1.0
    assert page.value["words_answered"] == 1.5


def test_emer_by_proxy(files: dict[str, Path]) -> None:
    page = metric_page("emer", files["emer"], files["emer"], "EMER", judge="proxy", self_test=2)
    assert page.value["token-overlap-1"] == 1.0
    assert page.value["self_test"] == {"same": 1.0, "shuffled": 0.0}


@pytest.mark.parametrize(
    ("metric", "given", "says"),
    [
        ("f1", {}, "There is no metric 'f1'"),
        ("emotion-wheel", {}, "needs --wheels. For example: --wheels wheel_mapping.npz"),
        ("hit-rate", {}, "needs --wheels"),
        ("emer", {}, "needs --judge. For example: --judge proxy"),
        ("openset", {"wheels": Path("w.npz")}, "openset takes no --wheels. It takes --synonyms"),
        ("emer", {"judge": "proxy", "synonyms": Path("s.txt")}, "emer takes no --synonyms"),
    ],
)
def test_what_is_missing_or_too_much_is_one_sentence(
    files: dict[str, Path], metric: str, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        metric_page(metric, files["truth"], files["said"], "T", **given)
    assert says in str(caught.value)


def test_a_page_becomes_a_folder(files: dict[str, Path], tmp_path: Path) -> None:
    page = metric_page("openset", files["truth"], files["said"], "OV | <b>", notes=["A <note>."])
    write_page(page, tmp_path / "report", "OV | <b>")
    assert json.loads((tmp_path / "report/metrics.json").read_text()) == page.value
    html = (tmp_path / "report/report.html").read_text()
    assert "A &lt;note&gt;." in html
    assert "<b>" not in html
    text = (tmp_path / "report/report.md").read_text()
    assert "| set recall | 0.5000 |" in text
