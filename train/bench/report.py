"""Files that a bench leaves: leaderboard.csv, leaderboard.tex, heatmap.png, report.html, report.md, metrics.json.

None of these holds a time, so that a bench that was stopped and went on ends in the same bytes; times.csv has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emo.featstore.document import Part, Picture, write_parts
from emo.featstore.files import csv_text, write_atomic
from emo.featstore.page import Page, Table, span_text
from emo.featstore.text import counted
from emo.train.bench.board import TITLES, Row, board_csv, board_latex, board_table, hundredths, ranked, row_of
from emo.train.bench.cell import CELLS, RANKED
from emo.train.bench.run import FAILED, Outcome, read_rows
from emo.train.bench.setup import Setup
from emo.train.metrics.compare import RESAMPLES
from emo.train.metrics.pictures import grid_png

SENTENCES = (
    "Mean ± standard deviation over the runs of a cell, in hundredths. To best: the answers of all runs of a cell "
    f"together minus those of the best one, and the middle 95 % of that in {RESAMPLES:,} resamples of the clips, the "
    "same ones for both (paired bootstrap); * where it leaves out zero. It is not corrected for the number of rows.",
)


def write_bench(setup: Setup, outcome: Outcome) -> Page:
    """Rank the cells, write the files of the bench, and return what the command says."""
    split, metric = setup.bench.rank_by, setup.bench.metric
    of = {cell.title: cell for cell in setup.cells}
    rows = [
        row_of(result, read_rows(setup, of[_title(result)]), split)
        for result in outcome.results
        if result["status"] == RANKED
    ]
    rows = ranked(rows, split, metric)
    others = [result for result in outcome.results if result["status"] != RANKED]
    others += [
        {"features": cell.features, "head": cell.head, "status": "left out", "why": why} for cell, why in setup.left_out
    ]
    title = setup.bench.title or setup.name
    verdict, sentences = _verdict(rows, split, metric), _sentences(setup, rows)
    write_atomic(setup.folder / "leaderboard.csv", board_csv(rows, metric, others))
    write_atomic(setup.folder / "leaderboard.tex", board_latex(rows, split, metric, title))
    tables = [table for table in (_left_out(others), _settings(rows), _commands(setup, rows)) if table]
    parts: list[Part] = [board_table(rows, split, metric), _heat_map(setup, rows, title), *tables]
    value = {
        "title": title,
        "rank_by": split,
        "metric": metric,
        "cells": [dict(row.result) | {"rank": row.rank, "against": _against(row)} for row in rows],
        "others": others,
        "notes": sentences,
    }
    write_parts(setup.folder, value, title, verdict, sentences, parts)
    seconds = dict(zip((_title(result) for result in outcome.results), outcome.seconds, strict=True))
    write_atomic(setup.folder / "times.csv", _times(outcome))
    board = board_table(rows, split, metric, [seconds[row.title] for row in rows])
    spent = f"{sum(outcome.models):,} models took {span_text(sum(outcome.seconds))} to train, added up over threads."
    code = 6 if any(each["status"] == FAILED for each in others) or (outcome.results and not rows) else 0
    said = [board, *tables[: 1 if others else 0], *sentences, spent, f"Files: {setup.folder}"]
    return Page(value | {"seconds": seconds, "folder": str(setup.folder)}, said, verdict, code)


def _title(result: Mapping[str, Any]) -> str:
    return f"{result['head']} on {result['features']}"


def _verdict(rows: Sequence[Row], split: str, metric: str) -> str:
    if not rows:
        return "No cell could be ranked."
    best, rest = rows[0], rows[1:]
    line = f"{best.title} is first: {TITLES[metric]} {hundredths(best.result['average'][split][metric])} on {split}"
    close = 0
    for row in rest:
        found = row.difference(metric)
        close += found is not None and found.low <= 0 <= found.high
    return line + (f"; {close} of the {len(rest)} others do not differ from it beyond chance." if rest else ".")


def _sentences(setup: Setup, rows: Sequence[Row]) -> list[str]:
    """Return sentences that must stand beside the numbers: of what they are, and what they cannot say."""
    protocol = setup.bench.protocol
    of = counted(protocol.folds, "fold") if not protocol.val_splits else f"chosen by {', '.join(protocol.val_splits)}"
    search = "settings as in the recipes"
    if protocol.search:
        search = f"{counted(protocol.search, 'setting')} drawn per cell"
    clips = sorted({len(row.truth) for row in rows})
    over = " or ".join(map(str, clips))
    runs = counted(protocol.repeats, "run")
    lines = [f"{of}, {search}, {runs} of the chosen ones; ranked over {over} clips.", *SENTENCES]
    shared = [note for row in rows for note in row.result["notes"]]
    return [*lines, *dict.fromkeys(shared)]


def _left_out(others: Sequence[Mapping[str, Any]]) -> Table | None:
    lines = [(each["features"], each["head"], each["status"], each["why"]) for each in others]
    return Table("Not ranked", ("features", "head", "what", "why"), lines) if lines else None


def _settings(rows: Sequence[Row]) -> Table | None:
    lines = []
    for row in rows:
        chosen = ", ".join(f"{key} {value}" for key, value in row.result["settings"].items()) or "the recipe's"
        lost = [f"{row.result[key]['diverged']} of {row.result[key]['models']}" for key in ("search", "ran")]
        told = "" if all(each.startswith("0 ") for each in lost) else f"search {lost[0]}, runs {lost[1]}"
        lines.append((row.result["features"], row.result["head"], chosen, told))
    columns = ("features", "head", "settings", "trainings not finite")
    return Table("Chosen settings", columns, lines) if lines else None


def _commands(setup: Setup, rows: Sequence[Row]) -> Table | None:
    """Name the files with the answers of every cell."""
    of = {cell.title: cell for cell in setup.cells}
    lines = [(row.title, f"{CELLS}/{of[row.title].folder}/predictions.jsonl") for row in rows]
    title = "Answers, for emo score LABELS --predictions A --against B"
    return Table(title, ("cell", "file"), lines) if lines else None


def _heat_map(setup: Setup, rows: Sequence[Row], title: str) -> Picture:
    split, metric = setup.bench.rank_by, setup.bench.metric
    sets, heads = [each.title for each in setup.bench.features], [each.title for each in setup.bench.heads]
    values = np.full((len(sets), len(heads)), np.nan)
    for row in rows:
        values[sets.index(row.result["features"]), heads.index(row.result["head"])] = row.mean(split, metric)
    png = grid_png(values, sets, heads, f"{TITLES[metric]} on {split}, mean over runs", title)
    lines = [[name, *("" if np.isnan(v) else float(v) for v in line)] for name, line in zip(sets, values, strict=True)]
    return Picture("heatmap.png", "Features by heads", png, Table("", ("", *heads), lines, heads))


def _against(row: Row) -> dict[str, Any] | None:
    return None if row.against is None else row.against.to_json()


def _times(outcome: Outcome) -> str:
    rows = zip(outcome.results, outcome.models, outcome.seconds, strict=True)
    lines = [(result["features"], result["head"], models, f"{seconds:.2f}") for result, models, seconds in rows]
    return csv_text([("features", "head", "models", "seconds"), *lines])
