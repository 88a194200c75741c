"""The leaderboard: cells by the mean of their runs, each against the best one over the same clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from emo.featstore.clip import Label
from emo.featstore.document import TEX
from emo.featstore.files import csv_text
from emo.featstore.page import Table, span_text
from emo.train.answers import Prediction
from emo.train.bench.recipe import VALIDATION
from emo.train.heads.search import spread_text
from emo.train.metrics.compare import RESAMPLES, Comparison, Interval, compare

TITLES = {"f1_weighted": "weighted F1", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Row:
    """One cell of a bench that was ranked.

    Attributes:
        result: What its metrics.json holds.
        said: Its answers by clip name, the mean of all runs, for the clips that rank.
        truth: The labels of these clips.
        rank: Its place, from 1.
        against: The best cell compared with it; `None` for the best.
    """

    result: Mapping[str, Any]
    said: Mapping[str, Prediction]
    truth: Mapping[str, Label]
    rank: int = 0
    against: Comparison | None = None

    @property
    def title(self) -> str:
        """How it is named in sentences."""
        return f"{self.result['head']} on {self.result['features']}"

    def mean(self, split: str, metric: str) -> float:
        """Mean of a number over the runs."""
        return float(self.result["average"][split][metric]["mean"])

    def difference(self, metric: str) -> Interval | None:
        """This cell minus the best one, with its interval."""
        if self.against is None:
            return None
        return self.against.f1_difference if metric == "f1_weighted" else self.against.accuracy_difference


def row_of(result: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], split: str) -> Row:
    """Make a row of a cell's files.

    Args:
        result: Of its metrics.json.
        predictions: Of its predictions.jsonl.
        split: The clips that rank: `validation` or a split.
    """
    here = [row for row in predictions if "truth" in row and _is_of(row, split)]
    said = {row["name"]: Prediction(row["answer"], row.get("valence")) for row in here}
    truth = {row["name"]: Label(row["truth"], row.get("truth_valence")) for row in here}
    return Row(result, said, truth)


def _is_of(row: Mapping[str, Any], split: str) -> bool:
    return bool(row["folds"]) if split == VALIDATION else not row["folds"] and row["split"] == split


def ranked(rows: Sequence[Row], split: str, metric: str, resamples: int = RESAMPLES) -> list[Row]:
    """Order cells by the mean over their runs, and compare each with the first, clip by clip."""

    def place(row: Row) -> tuple[float, str]:
        return -row.mean(split, metric), row.title

    found: list[Row] = []
    for rank, row in enumerate(sorted(rows, key=place), 1):
        against = None
        if found:
            best = found[0]
            against = compare(best.truth | row.truth, best.said, row.said, "strict", resamples)
        found.append(replace(row, rank=rank, against=against))
    return found


def splits_of(rows: Sequence[Row]) -> list[str]:
    """Validation, then every split that all cells have a score for."""
    named = [list(row.result["average"]) for row in rows]
    return [split for split in (named[0] if named else []) if all(split in each for each in named)]


def board_table(rows: Sequence[Row], split: str, metric: str, seconds: Sequence[float] | None = None) -> Table:
    """The leaderboard for people; numbers are in hundredths, as the field's tables have them.

    With `seconds`, for a screen: of the splits that do not rank the mean alone, and of the difference its interval.
    """
    splits = splits_of(rows)
    numbers = [*splits, *(["to best"] if seconds else ["to best", "95 %"])]
    columns = ["rank", "features", "head", *numbers, *(["time"] if seconds else [])]
    cells = []
    for i, row in enumerate(rows):
        values = [hundredths(row.result["average"][each].get(metric)) for each in splits]
        if seconds:
            values = [v if each == split else v.split(" ")[0] for v, each in zip(values, splits, strict=True)]
            values = [each.replace(" ", "") for each in values]
        value, interval = against_texts(row, metric)
        difference = [interval or value] if seconds else [value, interval]
        line = [row.rank, row.result["features"], row.result["head"], *values, *difference]
        cells.append([*line, *([span_text(seconds[i])] if seconds else [])])
    return Table(f"{TITLES[metric]}, ranked by {split}", columns, cells, ["rank", *numbers, "time"])


def hundredths(number: Mapping[str, Any] | None) -> str:
    """Mean and standard deviation of a number over runs, in hundredths; of a single run the number alone."""
    return spread_text(number, 100, 2)


def against_texts(row: Row, metric: str) -> tuple[str, str]:
    """Difference to the best, and its interval, in hundredths; a star where the interval leaves out zero."""
    found = row.difference(metric)
    if found is None:
        return "best", ""
    star = "*" if found.low > 0 or found.high < 0 else ""
    return f"{100 * found.value:+.2f}", f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]{star}"


def board_csv(rows: Sequence[Row], metric: str, others: Sequence[Mapping[str, Any]]) -> str:
    """The leaderboard for programs: a line per cell, with every number of every split; `others` were not ranked."""
    splits = splits_of(rows)
    names = [(each, name) for each in splits for name in _numbers(rows, each)]
    header = ["rank", "features", "head", "status", *(f"{s}_{n}_{what}" for s, n in names for what in ("mean", "std"))]
    header += ["difference", "low", "high", "mcnemar_p", "clips", "runs", "settings"]
    lines: list[Sequence[Any]] = [header]
    for row in rows:
        average, found = row.result["average"], row.difference(metric)
        line = [row.rank, row.result["features"], row.result["head"], row.result["status"]]
        for each, name in names:
            both = [average[each][name][what] for what in ("mean", "std")]
            line += ["" if number is None else f"{number:.6f}" for number in both]
        ends = (
            ["", "", "", ""]
            if found is None or row.against is None
            else [found.value, found.low, found.high, row.against.p]
        )
        settings = "; ".join(f"{key}={value}" for key, value in row.result["settings"].items())
        line += [f"{end:.6g}" if end != "" else "" for end in ends]
        lines.append([*line, len(row.truth), len(row.result["runs"]), settings])
    for other in others:
        blank = [""] * (2 * len(names) + 7)
        lines.append(["", other["features"], other["head"], other["status"], *blank])
    return csv_text(lines)


def _numbers(rows: Sequence[Row], split: str) -> list[str]:
    """Names of the numbers that all cells have of a split."""
    return [name for name in rows[0].result["average"][split] if all(name in r.result["average"][split] for r in rows)]


def board_latex(rows: Sequence[Row], split: str, metric: str, title: str) -> str:
    """The leaderboard as a LaTeX table of the package booktabs; the best mean of every column is bold."""
    splits = splits_of(rows)
    best = {each: max(row.mean(each, metric) for row in rows) for each in splits} if rows else {}
    lines = [
        r"\begin{table}",
        rf"\caption{{{title.translate(TEX)}: {TITLES[metric]}, mean $\pm$ deviation over runs; ranked by "
        rf"{split.translate(TEX)}. $\Delta$: against the best, 95\,\% interval over clips; $*$ leaves out zero.}}",
        rf"\begin{{tabular}}{{ll{'r' * len(splits)}r}}",
        r"\toprule",
        " & ".join(["features", "head", *(each.translate(TEX) for each in splits), r"$\Delta$"]) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        cells = [str(row.result[key]).translate(TEX) for key in ("features", "head")]
        for each in splits:
            text = hundredths(row.result["average"][each][metric]).replace("±", r"$\pm$")
            cells.append(rf"\textbf{{{text}}}" if row.mean(each, metric) == best[each] else text)
        cells.append(" ".join(against_texts(row, metric)).strip().replace("*", "$^*$"))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])
