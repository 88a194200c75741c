"""Sets of words: how they are split, compared and counted. The scores of open vocabulary share this."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from emo.featstore.datasets.lists import open_words
from emo.featstore.datasets.tables import DAMAGE, EMOTION_COLUMNS, by_clip, normal_name, read_csv, rows_by_name
from emo.featstore.errors import UsageError
from emo.featstore.reading import read_bytes
from emo.featstore.text import counted
from emo.train.answers import ANSWER_COLUMNS, Answers, Prediction, read_answers
from emo.train.metrics.base import Metric, Sample
from emo.train.metrics.labels import too_few

Words = list[str]
Groups = list[Words]  # each a list of words that mean the same; the first one stands for all
COLUMNS = ("openset",)


def split_words(text: str) -> Words:
    """Words of a list as MER's files write it, `['sad', 'left out']`, in lower case.

    One bracket at each end goes, then quotes and commas separate; so labels of several words survive and apostrophes
    split, as in all of MER's scorers.
    """
    return [word.lower() for word in open_words(text)]


def words_of(predictions: Mapping[str, Prediction]) -> dict[str, Words]:
    """The words of answers that are lists."""
    return {name: split_words(each.answer) for name, each in predictions.items()}


def need_words(labelled: Sequence[str]) -> Sequence[str]:
    """The names, unless there are none.

    Raises:
        UsageError: There are none.
    """
    if not labelled:
        raise UsageError("The truth holds no words, so there is nothing to score.")
    return labelled


def overlap(pairs: Iterable[tuple[set[str], set[str]]]) -> tuple[float, float, int]:
    """Mean precision and recall of (true, answered) sets, and their number; pairs without a true word are left out."""
    scored = [
        (len(true & said) / len(said), len(true & said) / len(true)) if said else (0.0, 0.0)
        for true, said in pairs
        if true
    ]
    if not scored:
        return 0.0, 0.0, 0
    precision, recall = (float(np.mean(column)) for column in zip(*scored, strict=True))
    return precision, recall, len(scored)


def mean_length(sets: Iterable[Words]) -> float:
    """Mean number of different words, which must stand beside every score that guessing more words can raise."""
    return float(np.mean([len(set(words)) for words in sets]))


def set_remarks(n: int, empty_truth: int, empty_answers: int, missing: int, extra: int) -> list[str]:
    """Return what must be said beside a score of sets, one sentence each."""
    said = [
        ("clip has no word in the truth and is", "clips have no word in the truth and are", " in no number here."),
        ("clip has no word in its answer", "clips have no word in their answer", ", which counts as 0."),
        ("labelled clip has no prediction and is", "labelled clips have no prediction and are", " in no number here."),
        ("prediction is for a clip", "predictions are for clips", " without a label here, and ignored."),
    ]
    counts = (empty_truth, empty_answers, missing, extra)
    told = zip(counts, said, strict=True)
    lines = [f"{counted(count, one, many)}{end}" for count, (one, many, end) in told if count]
    return [*lines, few] if (few := too_few(n)) else lines


# ---- files -----------------------------------------------------------------------------------------------------------


def read_opensets(path: Path) -> dict[str, Words]:
    """Read true words by clip name: a csv of `name,openset`, or what `read_set_answers` takes.

    Raises:
        UsageError: It is no such file.
    """
    if path.suffix.lower() == ".csv":
        rows = rows_by_name(path, read_csv(path, ["name", (*COLUMNS, *EMOTION_COLUMNS, *ANSWER_COLUMNS)]))
        return by_clip({name: split_words(row.fields[COLUMNS[0]]) for name, row in rows.items()})
    return words_of(read_set_answers(path).said)


def read_set_answers(path: Path, column: str | None = None) -> Answers:
    """Read answers that are lists of words: a file of predictions, or MER2025's npz of `filenames` and `fileitems`.

    Raises:
        UsageError: It is no such file.
    """
    if path.suffix.lower() != ".npz":
        return read_answers(path, column, COLUMNS)
    if column is not None:
        raise UsageError(f"{path} is no table and has no column {column}.", "Leave --column out.")
    return Answers(by_clip(_read_npz(path)), (f"Answers were read from fileitems of {path.name}.",))


def _read_npz(path: Path) -> dict[str, Prediction]:
    found: dict[str, Prediction] = {}
    for name, item in zip(*npz_texts(read_bytes(path), str(path)), strict=True):
        if found.setdefault(normal_name(name), Prediction(item)).answer != item:
            raise UsageError(f"{path} gives clip {name} another answer than before.", "Keep one per clip.")
    return found


def npz_texts(data: bytes, where: str) -> tuple[list[str], list[str]]:
    """The text arrays `filenames` and `fileitems` of MER2025's npz.

    Raises:
        UsageError: It is no such file, or the arrays are not of one length.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            names, items = archive["filenames"], archive["fileitems"]
    except DAMAGE as error:
        raise UsageError(f"{where} is no npz of the text arrays filenames and fileitems: {error}.") from error
    if not all(each.ndim == 1 and each.dtype.kind == "U" for each in (names, items)):
        kinds = f"{names.dtype} {names.shape} and {items.dtype} {items.shape}"
        raise UsageError(f"filenames and fileitems of {where} are no lists of texts but {kinds}.")
    if len(names) != len(items):
        raise UsageError(
            f"{where} has {len(names):,} filenames and {len(items):,} fileitems.", "Give one item per name."
        )
    return names.tolist(), items.tolist()


class SetMetric(Metric):
    """Base of metrics of sets of words: their files."""

    columns = COLUMNS
    task = "ovlabel"

    def truth(self, path: Path) -> Mapping[str, Words]:
        return read_opensets(path)

    def read(self, path: Path, column: str | None = None) -> Answers:
        return read_set_answers(path, column)

    @classmethod
    def sample(cls, folder: Path) -> Sample:
        words = {"a": "happy, glad", "b": "sad", "c": "angry"}
        path = folder / "truth.csv"
        path.write_text("name,openset\n" + "".join(f'{name},"{each}"\n' for name, each in words.items()))
        return Sample(path, {name: Prediction(each) for name, each in words.items()}, {})
