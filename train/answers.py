"""Prediction files as people have them: csv, jsonl, json. One rule says which column holds the answers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo.featstore.clip import many_objects
from emo.featstore.datasets.tables import EMOTION_COLUMNS, VALENCE_COLUMNS, by_clip, normal_name, read_csv, rows_by_name
from emo.featstore.errors import UsageError
from emo.featstore.reading import parse_own, read_json, read_jsonl, read_text
from emo.featstore.text import counted, whole_text

FILES = (".csv", ".json", ".jsonl")
NAMES = ("name", "names")
ANSWER_COLUMNS = (  # nothing but an answer stands here
    *("prediction", "answer", "predictions", "predicted", "predict", "pred", "answers", "response", "output"),
    *("predicted_label", "predicted_emotion", "pred_label", "pred_emotion", "generated_text"),
)
SHARE, WHY = "p_", "why"  # columns that `emo predict --csv` writes: a label's probability; no answer, and the reason
TRUTH_COLUMNS = ("truth", "truth_valence")  # in the files of emo's own runs
ASIDE = (  # never an answer; any other column beside one of EMOTION_COLUMNS may be one
    *("", "index", *NAMES, *TRUTH_COLUMNS, *VALENCE_COLUMNS, "arousal", "split", "speaker", "gender", "frames", "path"),
    *("file", "note", "notes", "comment", "text", "sentence", "subtitle", "transcript", "prompt"),
    *("confidence", "probabilities"),
)


@dataclass(frozen=True)
class Prediction:
    """Answer of a model about a clip: free text, and numbers where it gave them."""

    answer: str
    valence: float | None = None
    probabilities: dict[str, float] | None = None


@dataclass(frozen=True)
class Answers:
    """A file of predictions.

    Attributes:
        said: By clip name.
        told: Sentences that say what was read, to stand beside every number.
    """

    said: dict[str, Prediction]
    told: tuple[str, ...]


def read_predictions(path: str | Path) -> dict[str, Prediction]:
    """Read predictions by clip name; see `read_answers`."""
    return read_answers(path).said


FEW = 16  # clips whose lines are picked out of a run's answers, before any is parsed


def own_predictions(path: Path, names: Collection[str] | None = None) -> dict[str, Prediction]:
    """Return what a run's predictions.jsonl says, taken as it is: its digest says that nobody has changed it.

    Args:
        path: The file.
        names: Clips that are asked about; the lines of all others are not parsed. Default: all.

    Raises:
        UsageError: The file cannot be read.
    """
    return {
        row["name"]: Prediction(row["answer"], row.get("valence"), row.get("probabilities"))
        for row in _own_rows(path, names)
    }


def held_out_by(path: Path, names: Collection[str]) -> dict[str, list[int]]:
    """Return by which fold of each seed a clip was held out, as a head's predictions.jsonl says; none for other clips.

    Raises:
        UsageError: The file cannot be read.
    """
    return {row["name"]: row["folds"] for row in _own_rows(path, names) if row.get("folds")}


def _own_rows(path: Path, names: Collection[str] | None) -> list[dict[str, Any]]:
    lines = [line for line in read_text(path).split("\n") if line]
    names = None if names is None else set(names)
    if names is not None and len(names) <= FEW:
        quoted = [json.dumps(name, ensure_ascii=False) for name in names]  # as `files.write_jsonl` spells them
        lines = [line for line in lines if any(each in line for each in quoted)]
    with many_objects():
        rows = parse_own(f"[{','.join(lines)}]", str(path))
        return [row for row in rows if names is None or row["name"] in names]


def read_answers(
    path: str | Path, column: str | None = None, own: Sequence[str] = (), aside: Sequence[str] = ()
) -> Answers:
    """Read predictions: csv (`name,prediction`), jsonl (`{"name", "prediction"}`) or json (`{name: answer}`).

    csv may also be MER2023's own form, `name,discrete,valence`, or have a column `p_LABEL` per label, as `emo predict
    --csv` writes; jsonl may carry `valence` and `probabilities`. The same row twice counts once. The answer stands in
    the column that `answer_column` chooses. A valence beside another column that may be the truth's is not read.

    Args:
        path: The file.
        column: The column (or key) of the answer, where the rule finds none or several.
        own: Further columns that may hold either answers or the truth.
        aside: Further columns that never hold answers.

    Raises:
        UsageError: No such file, nothing in it, no definite column, a malformed row (named by line), or a name with two
            different answers.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FILES:
        raise UsageError(f"Predictions cannot be read from {path}.", "Use a .csv, .jsonl or .json file.")
    if suffix == ".json":
        if column is not None:
            raise UsageError(f"{path} gives one answer per name and has no column {column}.", "Leave --column out.")
        return Answers(_json_answers(path), (f"Answers were read from {path.name}, one per name.",))
    lines = _jsonl_rows(path) if suffix == ".jsonl" else []
    return _answers(path, lines, column, own, aside)


def prediction_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a run's predictions.jsonl with all that they hold, by the name that stands in them.

    Raises:
        UsageError: As `read_answers`, or a row has no `name` or `answer`.
    """
    lines = _jsonl_rows(path)
    for where, row in lines:
        if not isinstance(row.get("name"), str) or "answer" not in row:
            hint = "Remove the file, and the clips are asked anew."
            raise UsageError(f"{where} is no answer of a run: it needs name and answer.", hint)
    _answers(path, lines)
    return {row["name"]: row for _, row in lines}


def _answers(
    path: Path,
    lines: Sequence[tuple[str, dict[str, Any]]],
    column: str | None = None,
    own: Sequence[str] = (),
    aside: Sequence[str] = (),
) -> Answers:
    """Read rows of jsonl, or a csv where there are none; see `read_answers`."""
    suffix = path.suffix.lower()
    columns = list(dict.fromkeys(key for _, row in lines for key in row)) if lines else _csv_header(path)
    shares = {each.lower(): each[len(SHARE) :] for each in columns if not lines and each.lower().startswith(SHARE)}
    header = [each.lower() for each in columns]
    chosen = answer_column(path, header, column, own, aside)
    doubtful = [each for each in header if each in (*own, *EMOTION_COLUMNS) and each != chosen]
    numbers = [each for each in header if each in VALENCE_COLUMNS and each != chosen]
    if doubtful and not set(header) & set(TRUTH_COLUMNS):
        doubtful, numbers = [*doubtful, *numbers], []
    if len(numbers) > 1:
        raise UsageError(f"{path} has the columns {' and '.join(numbers)}.", "Keep one valence.")
    said: dict[str, Prediction] = {}
    silent = 0
    for where, row in lines or _csv_rows(path, [chosen, *numbers, *shares, *({WHY} & set(header))]):
        if not lines and row.get(WHY, "").strip() and not row[chosen].strip():
            silent += 1
            continue
        name = next((row[each] for each in NAMES if isinstance(row.get(each), str)), "")
        if not name.strip() or chosen not in row:
            lacks = chosen if name.strip() else "name"
            raise UsageError(f"{where} has no {lacks}.", f"Expected: a name and {chosen}.")
        valence = row.get(numbers[0]) if numbers else None
        given = {"answer": row[chosen], "valence": None if valence == "" else valence}
        odds = row.get("probabilities") if suffix == ".jsonl" else _odds(row, shares)
        _add(said, where, name, given | {"probabilities": odds})
    told = f"Answers were read from column {chosen} of {path.name}"
    told += f"; not read, because it may hold the truth: {', '.join(doubtful)}." if doubtful else "."
    left = f"{counted(silent, 'row has', 'rows have')} no answer in {path.name}, with the reason beside it: left out."
    return Answers(by_clip(said), (told, left) if silent else (told,))


def answer_column(
    path: Path, header: Sequence[str], column: str | None, own: Sequence[str] = (), aside: Sequence[str] = ()
) -> str:
    """Choose the column of a table that holds the answers. This is the one rule for every format and metric.

    A column of `ANSWER_COLUMNS` is meant, whatever stands beside it. Where there is none, it is one of `own` or
    `EMOTION_COLUMNS`, which may as well hold the truth, if no other column could be an answer.

    Args:
        path: For messages.
        header: Names of the columns, in lower case.
        column: The one that a user names.
        own: Further columns that may hold either.
        aside: Further columns that hold neither.

    Raises:
        UsageError: There is no such column, or there are several.
    """
    have = f"it has {', '.join(header)}"
    if column is not None:
        if header.count(column.strip().lower()) != 1:
            raise UsageError(f"{path} does not have one column {column}; {have}.", "Correct --column.")
        return column.strip().lower()
    sure = [each for each in header if each in ANSWER_COLUMNS]
    maybe = [each for each in header if each in (*own, *EMOTION_COLUMNS)]
    if not sure and not maybe:
        names = " or ".join([*ANSWER_COLUMNS[:2], *own, *EMOTION_COLUMNS])
        text = ",".join(header)
        hint = "Save it with commas between columns." if len(header) == 1 and (";" in text or "\t" in text) else ""
        raise UsageError(f"{path} has no column {names}; {have}.", hint or "Name the column: --column NAME.")
    others = [each for each in header if each not in ASIDE and each not in aside and each not in maybe]
    candidates = sure or [*maybe, *others]
    if len(candidates) > 1:
        raise UsageError(
            f"{path} may have its answers in {' or '.join(candidates)}, and one of them may be the truth.",
            f"Name the column: --column {candidates[-1]}.",
        )
    return candidates[0]


def _odds(row: Mapping[str, Any], shares: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the probabilities of a row of csv, by label; `None` where it has none."""
    return {label: row[column] for column, label in shares.items()} if any(row.get(each) for each in shares) else None


def _csv_header(path: Path) -> list[str]:
    try:
        records = csv.reader(io.StringIO(read_text(path), newline=""))
        found = [column.strip() for column in next((each for each in records if any(map(str.strip, each))), [])]
    except csv.Error as error:
        raise UsageError(f"{path} is not csv: {error}.") from error
    header = [each.lower() for each in found]
    if twice := [each for each in header if each and header.count(each) > 1]:
        raise UsageError(f"{path} has several columns {twice[0]}.", "Keep one of them.")
    return found


def _csv_rows(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    rows = rows_by_name(path, read_csv(path, [NAMES, *columns]))
    return [(f"{path} line {row.line}", dict(row.fields)) for row in rows.values()]


def _jsonl_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = []
    for number, row in read_jsonl(path):
        if not isinstance(row, dict):
            raise UsageError(f"{path} line {number} has no name.", 'Expected: {"name": ..., "answer": ...}.')
        rows.append((f"{path} line {number}", {key.strip().lower(): value for key, value in row.items()}))
    return rows


def _json_answers(path: Path) -> dict[str, Prediction]:
    pairs = read_json(path, tuple)  # a tuple of pairs keeps names that come twice
    if not isinstance(pairs, tuple):
        raise UsageError(f"{path} is not a table of name: answer.")
    if not pairs:
        raise UsageError(f"{path} holds no predictions.")
    said: dict[str, Prediction] = {}
    for name, answer in pairs:
        _add(said, f"{path}: {name}", name, {"answer": answer})
    return by_clip(said)


def _add(said: dict[str, Prediction], where: str, name: str, row: dict[str, Any]) -> None:
    each = _prediction(row, where)
    if said.setdefault(normal_name(whole_text(name)), each) != each:
        raise UsageError(f"{where} gives clip {name} another answer than before.", "Keep one per clip.")


def _prediction(row: dict[str, Any], where: str) -> Prediction:
    answer, valence, probabilities = row.get("answer"), row.get("valence"), row.get("probabilities")
    if not isinstance(answer, str):
        raise UsageError(f"{where}: the answer {_short(answer)} is not text.")
    if probabilities is not None:
        if not isinstance(probabilities, dict):
            raise UsageError(f"{where}: probabilities must be a table of label: number.")
        probabilities = {
            whole_text(label): _number(p, where, f"probability of {label}") for label, p in probabilities.items()
        }
    number = None if valence is None else _number(valence, where, "valence")
    return Prediction(whole_text(answer), number, probabilities)


def _number(value: Any, where: str, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where}: {what} {_short(value)} is not a number.")
    return number


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 200 else "of too many digits"
    return text if len(text) <= 80 else text[:77] + "..."
