"""A metric of somebody else: one file and one entry point, and every door knows it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emo.featstore.errors import UsageError
from emo.train.metrics.registry import make_metric, metric_class, metric_names
from emo.train.testing import check_metric

FILE = '''
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from emo.featstore.page import Page, Table
from emo.train.metrics.base import Metric, Option, Sample
from emo.train.metrics.labels import shared_clips
from emo.train.metrics.words import need_words
from emo.featstore.datasets.tables import read_labels
from emo.train.answers import Prediction


@dataclass(frozen=True, kw_only=True)
class Letters(Metric):
    """How often the first letters agree."""

    name = "first-letters"
    about = "how often the first letters agree"

    letters: Annotated[int, Option("How many letters.", "2", int)]

    def truth(self, path):
        return {name: label.emotion for name, label in read_labels(path).items()}

    def score(self, truth, said, allow_missing=False, say=None):
        names, missing = shared_clips(need_words(list(truth)), said, allow_missing)
        hits = sum(truth[name][: self.letters] == said[name].answer[: self.letters] for name in names)
        extra = sum(name not in truth for name in said)
        return {"n": len(names), "hits": hits, "missing": len(missing), "extra": extra}

    def page(self, found, title, notes=()):
        return Page({**found, "notes": list(notes)}, [Table(title, list(found), [list(found.values())]), *notes],
                    f"{found['hits']} of {found['n']} agree")

    @classmethod
    def sample(cls, folder):
        (folder / "t.csv").write_text("name,label\\na,sad\\nb,happy\\nc,calm\\n")
        answers = {"a": Prediction("sad"), "b": Prediction("happy"), "c": Prediction("calm")}
        return Sample(folder / "t.csv", answers, {"letters": 2})
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the file and what an installer writes beside it."""
    folder = tmp_path / "site"
    (folder / "letters-1.0.dist-info").mkdir(parents=True)
    (folder / "letters_of_mine.py").write_text(FILE)
    (folder / "letters-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
    points = "[emo.metrics]\nfirst-letters = letters_of_mine:Letters\nbroken = letters_of_mine:Nobody\n"
    (folder / "letters-1.0.dist-info/entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "letters_of_mine", raising=False)
    return folder


def test_a_strangers_metric_keeps_the_contract(installed: Path, tmp_path: Path) -> None:
    assert "first-letters" in metric_names()
    check_metric("first-letters", tmp_path)
    with pytest.raises(UsageError, match=r"needs --letters\. For example: --letters 2"):
        make_metric("first-letters")
    with pytest.raises(UsageError, match="--letters 'two' cannot be used"):
        make_metric("first-letters", {"letters": "two"})
    with pytest.raises(UsageError, match="Metric broken of letters_of_mine:Nobody cannot be loaded"):
        metric_class("broken")


def test_the_command_scores_by_it(
    emo: Callable[..., subprocess.CompletedProcess[str]], installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("name,label\na,sad\nb,happy\n")
    (tmp_path / "p.csv").write_text("name,label,prediction\na,sad,said\nb,happy,sad\n")
    env = {"PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}
    words = ("score", "t.csv", "--predictions", "p.csv", "--metric", "first-letters", "--set", "letters=2")
    result = emo(*words, cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stderr
    assert "1 of 2 agree" in result.stdout
    assert "column prediction of p.csv; not read, because it may hold the truth: label" in result.stdout


def test_a_contract_that_is_broken_is_noticed(installed: Path, tmp_path: Path) -> None:
    chosen = metric_class("first-letters")
    honest = chosen.score
    for broken, says in (
        (lambda self, truth, said, allow_missing=False, say=None: honest(self, truth, said, True), "does without"),
        (lambda self, *given, **more: honest(self, *given, **more) | {"extra": 0}, "answers of other clips"),
    ):
        chosen.score = broken
        with pytest.raises(AssertionError, match=says):
            check_metric("first-letters", tmp_path)
