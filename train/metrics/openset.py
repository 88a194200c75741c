"""MER2024's open-vocabulary score: sets of words, compared up to synonyms."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from emo.featstore.datasets.tables import normal_name
from emo.featstore.errors import UsageError
from emo.featstore.page import Page, Table
from emo.featstore.reading import parse_json, read_text
from emo.train.answers import Prediction
from emo.train.metrics.base import Option, Say
from emo.train.metrics.labels import shared_clips
from emo.train.metrics.words import (
    Groups,
    SetMetric,
    Words,
    mean_length,
    need_words,
    overlap,
    set_remarks,
    split_words,
    words_of,
)

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
        value = parse_json(text, str(path))
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


@dataclass(frozen=True, kw_only=True)
class OpenSet(SetMetric):
    """MER2024's score of sets."""

    name = "openset"
    about = "sets of words, as MER2024 scores them"

    synonyms: Annotated[Path | None, Option("Groups of words that mean the same.", "FILE", Path)] = None

    def score(
        self,
        truth: Mapping[str, Words],
        said: Mapping[str, Prediction],
        allow_missing: bool = False,
        say: Say | None = None,
    ) -> SetScore:
        groups = read_synonyms(self.synonyms) if self.synonyms else None
        return score_sets(truth, words_of(said), groups, allow_missing)

    def page(self, found: SetScore, title: str, notes: Sequence[str] = ()) -> Page:
        return sets_page(found, title, notes)
