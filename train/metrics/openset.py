"""MER2024's open-vocabulary score: sets of words, compared up to synonyms. Its files, and every file of such sets."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emo.featstore.datasets.tables import by_clip, normal_name, read_csv, read_text, rows_by_name
from emo.featstore.errors import UsageError
from emo.featstore.page import Page, Table
from emo.train.answers import ANSWER_COLUMNS, Prediction, read_predictions
from emo.train.metrics.labels import shared_clips, too_few

Words = list[str]
Groups = list[Words]  # each a list of words that mean the same; the first one stands for all


def split_words(text: str) -> Words:
    """Words of a list as MER's files write it, `['sad', 'left out']`, in lower case.

    One bracket at each end goes, then quotes and commas separate; so labels of several words survive and apostrophes
    split, as in all of MER's scorers.
    """
    text = text.strip().removeprefix("[").removesuffix("]")
    return [word.strip().lower() for word in re.split(r"['\",]", text) if word.strip()]


def read_opensets(path: Path) -> dict[str, Words]:
    """Words by clip name.

    Accepted: a csv of `name,openset`, MER2025's npz of `filenames` and `fileitems`, or a file of predictions, whose
    answers are read as lists.

    Raises:
        UsageError: It is no such file.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        rows = rows_by_name(path, read_csv(path, ["name", ("openset", *ANSWER_COLUMNS)]))
        return by_clip({name: split_words(row.fields["openset"]) for name, row in rows.items()})
    if suffix == ".npz":
        return by_clip(_read_npz(path))
    return words_of(read_predictions(path))


def words_of(predictions: Mapping[str, Prediction]) -> dict[str, Words]:
    """The words of answers that are lists."""
    return {name: split_words(each.answer) for name, each in predictions.items()}


def _read_npz(path: Path) -> dict[str, Words]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names, items = archive["filenames"].tolist(), archive["fileitems"].tolist()
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no npz of the text arrays filenames and fileitems: {error}.") from error
    return {normal_name(str(name)): split_words(str(item)) for name, item in zip(names, items, strict=True)}


# ---- synonyms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Synonyms:
    """Groups of words that mean the same: of each clip, or the same ones for all.

    Attributes:
        source: What said so.
        of_clip: By clip name.
        of_all: For clips that have none of their own.
    """

    source: str
    of_clip: Mapping[str, Groups]
    of_all: Groups

    def standing_for(self, name: str) -> dict[str, str]:
        """For each word of a clip's groups, the first word of its group; a later group has the last word."""
        return {word: group[0] for group in self.of_clip.get(name, self.of_all) for word in group}


def read_synonyms(path: Path) -> Synonyms:
    """Synonym groups, from what people have.

    Accepted: MER2024's cache of a model's replies (`openset-synonym.zip`, or its folder of `NAME.npy`), which has the
    groups of each clip; json with such groups by clip name, or one list of groups for all clips; text with one group a
    line, words separated by commas; or a `wheel_mapping.npz`, which groups by its tables of synonyms and word forms.

    Raises:
        UsageError: It is none of these.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".zip":
        return Synonyms(path.name, _read_replies(path), [])
    if suffix == ".npz":
        from emo.train.metrics.wheel import load_wheels

        return Synonyms(path.name, {}, load_wheels(path).groups())
    text = read_text(path)
    if suffix != ".json":
        return Synonyms(path.name, {}, [words for line in text.splitlines() if (words := split_words(line))])
    try:
        value = json.loads(text)
        if isinstance(value, dict):
            return Synonyms(path.name, {normal_name(name): _groups(each) for name, each in value.items()}, [])
        return Synonyms(path.name, {}, _groups(value))
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{path} holds no synonym groups: {error}.", 'Expected [["glad", "happy"], ...], or this by clip name.'
        ) from error


def _read_replies(path: Path) -> dict[str, Groups]:
    try:
        if path.is_dir():
            replies = {each.stem: each.read_bytes() for each in sorted(path.glob("*.npy"))}
        else:
            with zipfile.ZipFile(path) as archive:
                replies = {Path(n).stem: archive.read(n) for n in archive.namelist() if n.endswith(".npy")}
        found = {normal_name(n): _groups(np.load(io.BytesIO(b), allow_pickle=False).item()) for n, b in replies.items()}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no cache of synonyms, one NAME.npy a clip: {error}.") from error
    if not found:
        raise UsageError(f"{path} holds no NAME.npy.")
    return found


def _groups(value: Any) -> Groups:
    """Groups of a nested list, or of the text of one as a model replied it."""
    if isinstance(value, str):
        parts = [split_words(part) for part in re.split(r"[\[\]]", value)]
        return [words for words in parts if words]
    if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
        raise ValueError("it is no list of lists")
    return [words for group in value if (words := [str(word).strip().lower() for word in group])]


# ---- the score -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SetScore:
    """MER2024's score of sets.

    Attributes:
        n: Clips scored.
        accuracy: Mean over clips of the share of answered groups that are true; 0 where nothing is answered.
        recall: Mean over clips of the share of true groups that are answered.
        score: Mean of both, MER2024's figure.
        synonyms: Where the groups come from; empty if words were compared as they are.
        words_true: Mean number of words per clip of the truth.
        words_answered: Likewise of the answers.
        empty_truth: Clips without a true word, left out.
        empty_answers: Clips without an answer, which count as 0.
        missing: Labelled clips without a prediction, left out.
        extra: Predictions for other clips, ignored.
    """

    n: int
    accuracy: float
    recall: float
    score: float
    synonyms: str
    words_true: float
    words_answered: float
    empty_truth: int
    empty_answers: int
    missing: int
    extra: int

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {"metric": "openset", **asdict(self)}


def score_sets(
    truth: Mapping[str, Words],
    predictions: Mapping[str, Words],
    synonyms: Synonyms | None = None,
    allow_missing: bool = False,
) -> SetScore:
    """Score sets of words as MER2024 does.

    Args:
        truth: Words by clip name.
        predictions: Likewise.
        synonyms: Words of one group count as one.
        allow_missing: Score the clips that have a prediction although others have none.

    Raises:
        UsageError: As `shared_clips`, or no clip has a true word.
    """
    labelled = [name for name, words in truth.items() if words]
    names, missing = shared_clips(need_words(labelled), predictions, allow_missing)
    pairs = []
    for name in names:
        first = synonyms.standing_for(name) if synonyms else {}
        pairs.append(tuple({first.get(word, word) for word in side[name]} for side in (truth, predictions)))
    accuracy, recall, _ = overlap(pairs)
    return SetScore(
        n=len(names),
        accuracy=accuracy,
        recall=recall,
        score=float(np.mean([accuracy, recall])),
        synonyms=synonyms.source if synonyms else "",
        words_true=mean_length(truth[name] for name in names),
        words_answered=mean_length(predictions[name] for name in names),
        empty_truth=len(truth) - len(labelled),
        empty_answers=sum(not predictions[name] for name in names),
        missing=len(missing),
        extra=sum(name not in truth for name in predictions),
    )


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


def sets_page(found: SetScore, title: str, notes: Sequence[str] = ()) -> Page:
    """A score of sets with the sentences that must stand beside it."""
    rows = [
        ("clips", found.n),
        ("set accuracy", found.accuracy),
        ("set recall", found.recall),
        ("mean of both", found.score),
        ("words per clip, truth", found.words_true),
        ("words per clip, answers", found.words_answered),
    ]
    how = f"Synonyms: {found.synonyms}." if found.synonyms else "No synonyms were given: only equal words count as one."
    lines = [how, *set_remarks(found.n, found.empty_truth, found.empty_answers, found.missing, found.extra)]
    verdict = (
        f"MER2024 open vocabulary: {found.score:.4f} (set accuracy {found.accuracy:.4f}, recall {found.recall:.4f}"
    )
    return Page(
        {**found.to_json(), "notes": list(notes)},
        [Table(title, ("", "value"), rows, ("value",)), *dict.fromkeys([*lines, *notes])],
        f"{verdict}) over {found.n} clips.",
    )


def set_remarks(n: int, empty_truth: int, empty_answers: int, missing: int, extra: int) -> list[str]:
    """What must be said beside a score of sets, one sentence each."""
    told = [
        (empty_truth, "clips have no word in the truth and are in no number here."),
        (empty_answers, "clips have no word in their answer, which counts as 0."),
        (missing, "labelled clips have no prediction and are in no number here."),
        (extra, "predictions are for clips without a label here and were ignored."),
    ]
    lines = [f"{count} {what}" for count, what in told if count]
    return [*lines, few] if (few := too_few(n)) else lines
