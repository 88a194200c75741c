"""The metric of one label per clip: accuracy, F1, UAR, and whatever must be said beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from emo.featstore.clip import Label
from emo.featstore.datasets.tables import read_labels
from emo.featstore.page import Page, Table
from emo.train.answers import Prediction
from emo.train.metrics.base import Metric, Option, Sample, Say
from emo.train.metrics.labels import POLICIES, Score, score
from emo.train.metrics.made import media_of_clips
from emo.train.metrics.report import score_page, write_report


@dataclass(frozen=True)
class Classified:
    """A score with what was scored.

    Attributes:
        score: The numbers.
        truth: By clip name.
        said: By clip name.
        notes: Sentences that must stand beside the numbers.
        tables: Further numbers of the metric, shown after the first table.
    """

    score: Score
    truth: Mapping[str, Label]
    said: Mapping[str, Prediction]
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def _policy(text: str) -> str:
    if text not in POLICIES:
        raise ValueError(f"policies are {', '.join(POLICIES)}")
    return text


@dataclass(frozen=True, kw_only=True)
class OneLabel(Metric):
    """Base of metrics of one label per clip: labels as truth, and a page and a report of a `Score`."""

    def truth(self, path: Path) -> Mapping[str, Label]:
        return read_labels(path)

    def scored(self, truth: Mapping[str, Label], said: Mapping[str, Prediction]) -> list[str]:
        return [name for name, label in truth.items() if label.emotion is not None and name in said]

    def page(self, found: Classified, title: str, notes: Sequence[str] = ()) -> Page:
        page = score_page(found.score, title, [*notes, *found.notes])
        return replace(page, parts=[*page.parts[:1], *found.tables, *page.parts[1:]])

    def write(self, found: Classified, page: Page, folder: Path, title: str) -> None:
        beside = {
            "tables": found.tables,
            "line": page.verdict,
            "made": page.value.get("made"),
            "media": media_of_clips(found.truth),
        }
        write_report(found.score, folder, title, page.value["notes"], found.truth, found.said, **beside)


@dataclass(frozen=True, kw_only=True)
class Classification(OneLabel):
    """One label per clip."""

    name = "labels"
    about = "one label per clip: accuracy, F1, UAR"
    one_of = True

    answers: Annotated[str, Option("How free text becomes a label.", "strict", _policy)] = "official"

    @property
    def policy(self) -> str:
        return self.answers

    def score(
        self,
        truth: Mapping[str, Label],
        said: Mapping[str, Prediction],
        allow_missing: bool = False,
        say: Say | None = None,
    ) -> Classified:
        return Classified(score(truth, said, self.answers, allow_missing=allow_missing), truth, said)

    @classmethod
    def sample(cls, folder: Path) -> Sample:
        words = {"a": "happy", "b": "sad", "c": "angry"}
        path = folder / "truth.csv"
        path.write_text("name,label\n" + "".join(f"{name},{word}\n" for name, word in words.items()))
        return Sample(path, {name: Prediction(word) for name, word in words.items()}, {})
