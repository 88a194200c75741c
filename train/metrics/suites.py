"""Tables over several sets, each with a metric of its own: `emo score @mer-unibench`.

The sets, lists and metrics of MER-UniBench are those of AffectGPT's paper, as far as evaluation code and users' threads
tell; the notes of the suite say what could not be checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emo.featstore.datasets import find_labels
from emo.featstore.errors import UsageError
from emo.featstore.page import Page, Table
from emo.featstore.text import counted, did_you_mean
from emo.featstore.workspace import DataTable, Workspace

MARK = "@"


@dataclass(frozen=True)
class Row:
    """One set of a suite.

    Attributes:
        name: As the paper calls it.
        readers: Datasets that are this set: kinds of a table in emo.toml, or its name.
        lists: Files of the truth, the first one that is there.
        metric: Its name.
        key: Of the headline number in the metric's JSON.
        beside: Of a number that must stand beside it; empty for none.
        starts: Only clips whose name begins so.
        clips: How many the paper counts, where it is known.
    """

    name: str
    readers: tuple[str, ...]
    lists: tuple[str, ...]
    metric: str
    key: str
    beside: str = ""
    starts: str = ""
    clips: int | None = None

    def find(self, workspace: Workspace) -> tuple[DataTable, str]:
        """Return the table of this set, and which of its lists is there.

        Raises:
            UsageError: It is absent; the message says what is missing.
        """
        tables = [each for each in workspace.data.values() if (each.kind or each.name) in self.readers]
        tables += [each for each in workspace.data.values() if each.name in self.readers and each not in tables]
        if not tables:
            raise UsageError(f"no [data.{self.readers[0]}] in emo.toml")
        if len(tables) > 1:
            raise UsageError(f"it may be {' or '.join(each.name for each in tables)}")
        for each in self.lists:
            try:
                find_labels(each, workspace.root, tables[0].name)
            except UsageError:
                continue
            return tables[0], each
        raise UsageError(f"{' or '.join(self.lists)} is not under {tables[0].root}")


@dataclass(frozen=True)
class Suite:
    """A table of a paper.

    Attributes:
        name: Behind the `@`.
        title: As the paper calls it.
        rows: Its sets.
        notes: Sentences that must stand beside the numbers.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def _hits(name: str, readers: tuple[str, ...], *lists: str, starts: str = "", clips: int | None = None) -> Row:
    return Row(name, readers, lists, "hit-rate", "hit_rate", "mscore", starts, clips)


def _sign(name: str, reader: str) -> Row:
    return Row(name, (reader,), ("label.npz#test",), "sentiment", "f1_weighted", "accuracy")


SUITES = {
    "mer-unibench": Suite(
        "mer-unibench",
        "MER-UniBench",
        (
            _hits("MER2023", ("MER2023", "MER2023-SEMI"), "label-6way.npz#test1"),
            _hits("MER2024", ("MER2024",), "reference-semi.csv"),
            _hits("MELD", ("MELD",), "label.npz#test", clips=2610),
            _hits("IEMOCAP", ("IEMOCAP-4way",), "label_4way.npz", starts="Ses05", clips=1241),
            _sign("MOSI", "CMU-MOSI"),
            _sign("MOSEI", "CMU-MOSEI"),
            _sign("SIMS", "SIMS"),
            _sign("SIMSv2", "SIMSv2"),
            Row(
                "OV-MERD+",
                ("OV-MERD+", "OVMERDPlus"),
                ("ovlabel.csv", "openset.csv"),
                "emotion-wheel",
                "f",
                "words_answered",
            ),
        ),
        (
            "Sets of one label are scored by the hit rate, which is neither accuracy nor F1; a model that names every "
            "emotion has 1, so read what stands beside it.",
            "The paper has a language model take words and numbers out of free answers; emo asks for words, and for a "
            "valence where the run or model knows that question. That the paper's score of the sentiment sets is the "
            "weighted F1 of the sign could not be checked.",
        ),
    )
}


def find_suite(text: str) -> Suite:
    """Return a suite from what a person writes, `@mer-unibench`.

    Raises:
        UsageError: There is none of that name.
    """
    name = text.removeprefix(MARK)
    if name not in SUITES:
        raise UsageError(
            f"There is no suite {text!r}.", f"Suites: {MARK}{', @'.join(SUITES)}. {did_you_mean(name, SUITES)}"
        )
    return SUITES[name]


@dataclass(frozen=True)
class Scored:
    """Outcome of one set.

    Attributes:
        row: The set.
        page: Of its score; `None` where it was not scored.
        why: Why not.
        truth: The list.
    """

    row: Row
    page: Page | None
    why: str = ""
    truth: str = ""

    @property
    def value(self) -> float | None:
        """The headline number."""
        return None if self.page is None else float(self.page.value[self.row.key])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = {"set": self.row.name, "metric": self.row.metric, "value": self.value}
        if self.page is None:
            return {**told, "why": self.why}
        given = {name: self.page.value[name] for name in (self.row.beside, "n", "missing") if name}
        return {**told, "truth": self.truth, **given}


def score_suite(suite: Suite, workspace: Workspace, one: Callable[[Row, DataTable, str], Page]) -> Page:
    """Score all sets of a suite that are here.

    Args:
        suite: The suite.
        workspace: Its datasets.
        one: Scores one set by a list of its table.

    Raises:
        UsageError: None of them can be scored.
    """
    found = []
    for row in suite.rows:
        try:
            table, truth = row.find(workspace)
            found.append(Scored(row, one(row, table, truth), truth=truth))
        except UsageError as error:
            found.append(Scored(row, None, error.message))
    if all(each.page is None for each in found):
        why = "; ".join(f"{each.row.name}: {each.why.rstrip('.')}" for each in found)
        raise UsageError(f"No set of {suite.title} can be scored. {why}.")
    return suite_page(suite, found)


def suite_page(suite: Suite, found: Sequence[Scored]) -> Page:
    """Draw the outcome; the paper's mean is given only over all sets, any other names its sets."""
    there = [(each.row.name, each.value) for each in found if each.value is not None]
    absent = {each.row.name: each.why for each in found if each.value is None}
    mean = float(np.mean([value for _, value in there]))
    names = ", ".join(name for name, _ in there)
    silent = {each.row.name: each.page.value["missing"] for each in found if each.page and each.page.value["missing"]}
    rows, notes = [], list(suite.notes)
    for each in found:
        if each.page is None:
            continue
        value, beside = each.page.value, each.row.beside
        shown = f"{beside} {value[beside]:.4f}" if beside else ""
        rows.append([each.row.name, each.truth, each.row.metric, each.value, shown, value["n"], value["missing"]])
        if each.row.clips not in (None, value["n"] + value["missing"]):
            total = value["n"] + value["missing"]
            notes.append(f"{each.row.name} has {total:,} labelled clips here; the paper counts {each.row.clips:,}.")
    notes += [
        f"{name}: {counted(count, 'clip has no answer and is', 'clips have no answer and are')} in no number."
        for name, count in silent.items()
    ]
    notes += list(dict.fromkeys(note for each in found if each.page for note in each.page.value["notes"]))
    columns = ("set", "truth", "metric", "score", "beside it", "clips", "without an answer")
    parts: list[Table | str] = [Table(suite.title, columns, rows, ("score", "clips", "without an answer"))]
    parts += [f"{name} is not scored: {why}" for name, why in absent.items()] + notes
    whole = f"{suite.title} {mean:.4f}, the mean over its {len(found)} sets" + (
        f", of which {', '.join(silent)} lack answers." if silent else "."
    )
    part = (
        f"No {suite.title} mean: {len(absent)} of its {len(found)} sets are not scored. The mean over {names} alone is "
        f"{mean:.4f}, which compares with no published mean."
    )
    value = {
        "suite": suite.name,
        "sets": [each.to_json() for each in found],
        "mean": None if absent else mean,
        "part": {"mean": mean, "sets": [name for name, _ in there]} if absent else None,
        "notes": notes,
    }
    return Page(value, parts, part if absent else whole, exit_code=3 if absent else 0)
