"""Prediction files as people have them: csv, jsonl, json. Every row is validated, and named where it is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo.featstore.datasets.tables import (
    EMOTION_COLUMNS,
    VALENCE_COLUMNS,
    by_clip,
    normal_name,
    read_csv,
    read_text,
    rows_by_name,
)
from emo.featstore.errors import UsageError

ANSWER_COLUMNS = ("prediction", "answer", *EMOTION_COLUMNS)


@dataclass(frozen=True)
class Prediction:
    """What a model said of a clip: free text, and numbers where it gave them."""

    answer: str
    valence: float | None = None
    probabilities: dict[str, float] | None = None


def read_predictions(path: str | Path) -> dict[str, Prediction]:
    """Read predictions by clip name: csv (`name,prediction`), jsonl (`{"name", "answer"}`) or json (`{name: answer}`).

    csv may also be MER2023's own form, `name,discrete,valence`; jsonl may carry `valence` and `probabilities`. The same
    row twice counts once.

    Raises:
        UsageError: No such file, nothing in it, a malformed row (named by line), or a name with two different answers.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        rows = rows_by_name(path, read_csv(path, ["name", ANSWER_COLUMNS], [VALENCE_COLUMNS]))
        return by_clip(
            {
                name: _prediction(
                    {"answer": row.fields[ANSWER_COLUMNS[0]], "valence": row.fields.get(VALENCE_COLUMNS[0]) or None},
                    f"{path} line {row.line}",
                )
                for name, row in rows.items()
            }
        )
    if suffix not in (".jsonl", ".json"):
        raise UsageError(f"Predictions cannot be read from {path}.", "Use a .csv, .jsonl or .json file.")
    found: dict[str, Prediction] = {}
    for where, name, row in (_jsonl_rows if suffix == ".jsonl" else _json_rows)(path):
        each = _prediction(row, where)
        if found.setdefault(normal_name(name), each) != each:
            raise UsageError(f"{where} gives clip {name} another answer than before.", "Keep one per clip.")
    if not found:
        raise UsageError(f"{path} holds no predictions.")
    return by_clip(found)


def _jsonl_rows(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):  # not splitlines: answers may hold U+2028
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{where} is not JSON: {error.msg}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise UsageError(f"{where} has no name.", 'Expected: {"name": ..., "answer": ...}.')
        yield where, row["name"], row


def _json_rows(path: Path) -> Iterable[tuple[str, str, dict[str, Any]]]:
    try:
        pairs = json.loads(read_text(path), object_pairs_hook=tuple)  # a tuple of pairs keeps names that come twice
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} line {error.lineno} is not JSON: {error.msg}.") from error
    if not isinstance(pairs, tuple):
        raise UsageError(f"{path} is not a table of name: answer.")
    return [(f"{path}: {name}", name, {"answer": answer}) for name, answer in pairs]


def _prediction(row: dict[str, Any], where: str) -> Prediction:
    answer, valence, probabilities = row.get("answer"), row.get("valence"), row.get("probabilities")
    if not isinstance(answer, str):
        raise UsageError(f"{where}: the answer {answer!r} is not text.")
    if probabilities is not None:
        if not isinstance(probabilities, dict):
            raise UsageError(f"{where}: probabilities must be a table of label: number.")
        probabilities = {label: _number(p, where, f"probability of {label}") for label, p in probabilities.items()}
    return Prediction(answer, None if valence is None else _number(valence, where, "valence"), probabilities)


def _number(value: Any, where: str, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where}: {what} {value!r} is not a number.")
    return number
