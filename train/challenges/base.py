"""The contract of a challenge: its tracks as data, the columns of a submission, and how each column is filled."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from emo.featstore.errors import UsageError
from emo.featstore.text import counted, did_you_mean
from emo.train.answers import Answers, Prediction, read_answers
from emo.train.metrics.labels import TO_NEUTRAL, parse_answers, parse_official
from emo.train.metrics.words import read_set_answers, split_words

Key: TypeAlias = tuple[str, ...]  # a clip's name, and what else tells rows of one name apart
Said: TypeAlias = Mapping[Key, Prediction]


@dataclass(frozen=True)
class Column(ABC):
    """One column of a submission besides the name.

    Attributes:
        name: In the header.
        optional: Whether a file may lack it; it is written where every prediction gives a value.
        task: What a run is asked for it.
        wrong_ones: Texts that are no value, for the contract test.
    """

    name: str
    optional: bool = False
    task: ClassVar[str] = "emotion"
    wrong_ones: ClassVar[tuple[str, ...]] = ("",)

    @abstractmethod
    def example(self) -> str:
        """Return a value, for the contract test."""

    def read(self, path: Path, column: str | None) -> Answers:
        """Read a file of predictions.

        Raises:
            UsageError: As `read_answers`.
        """
        return read_answers(path, column, (self.name,))

    @abstractmethod
    def values(self, said: Said, policy: str) -> dict[Key, str | None]:
        """Return the text of each prediction's cell; `None` where it gives none."""

    def guessed(self, said: Said, policy: str) -> str:
        """Say which values are not what was answered; empty where all are."""
        return ""

    @abstractmethod
    def wrong(self, text: str) -> str:
        """Say why a text is no value of this column; empty where it is one."""

    def help(self, policy: str) -> str:
        """Return what to do where predictions give no value."""
        return f"Give every prediction a {self.name}."

    def remark(self, texts: Sequence[str]) -> str:
        """Return what must be said about values that are right; empty where nothing must."""
        return ""


@dataclass(frozen=True)
class OneOf(Column):
    """A word out of several.

    Attributes:
        labels: The words, as the organisers' scorer looks them up.
    """

    labels: tuple[str, ...] = ()
    wrong_ones: ClassVar[tuple[str, ...]] = ("", "Neutral ", "nothing of the kind")

    def example(self) -> str:
        return self.labels[-1]

    def values(self, said: Said, policy: str) -> dict[Key, str | None]:
        names = {str(number): key for number, key in enumerate(said)}
        parsed = parse_answers({name: said[key] for name, key in names.items()}, policy, self.labels)
        return {key: parsed[name] for name, key in names.items()}

    def guessed(self, said: Said, policy: str) -> str:
        lost = sum(parse_official(each.answer, self.labels) is None for each in said.values())
        what = f"of {len(said):,} answers are no {self.name} and are written as neutral, by --answers {policy}."
        return f"{lost:,} {what}" if lost and policy in TO_NEUTRAL else ""

    def help(self, policy: str) -> str:
        others = " or official (which counts them as neutral)" if "neutral" in self.labels else ""
        more = f"--answers nearest{others} reads more than {policy}, likelihood takes a tuned run's likeliest word"
        return f"The words are {', '.join(self.labels)}; {more}."

    def wrong(self, text: str) -> str:
        return "" if text in self.labels else f"{text!r} is none of {', '.join(self.labels)}"

    def remark(self, texts: Sequence[str]) -> str:
        counts = {label: texts.count(label) for label in self.labels}
        return f"{self.name}: " + ", ".join(f"{label} {count:,}" for label, count in counts.items()) + "."


@dataclass(frozen=True)
class Number(Column):
    """A finite number: the prediction's valence."""

    wrong_ones: ClassVar[tuple[str, ...]] = ("", "nan", "1,5", "-inf")

    def example(self) -> str:
        return "-0.25"

    def values(self, said: Said, policy: str) -> dict[Key, str | None]:
        return {key: None if each.valence is None else repr(float(each.valence)) for key, each in said.items()}

    def wrong(self, text: str) -> str:
        try:
            finite = math.isfinite(float(text))
        except ValueError:
            finite = False
        return "" if finite else f"{text!r} is no finite number"


@dataclass(frozen=True)
class Words(Column):
    """A set of words as the organisers write it, `['sad', 'left out']`; the empty set, `[]`, scores 0.

    An answer between brackets stands as it is, because the scorers split words at apostrophes, and a file should not.
    """

    def example(self) -> str:
        return "['sad', 'left out']"

    def read(self, path: Path, column: str | None) -> Answers:
        return read_set_answers(path, column)

    def values(self, said: Said, policy: str) -> dict[Key, str | None]:
        texts = {key: " ".join(each.answer.split()) for key, each in said.items()}
        return {
            key: text if text[:1] + text[-1:] == "[]" else str(list(dict.fromkeys(split_words(text))))
            for key, text in texts.items()
        }

    def wrong(self, text: str) -> str:
        return "" if text.strip() else "there is no text; a clip without words is written []"

    def remark(self, texts: Sequence[str]) -> str:
        sizes = [len(split_words(text)) for text in texts]
        told = f"{self.name}: {sum(sizes) / max(len(sizes), 1):.2f} words per clip"
        have = counted(sizes.count(0), "clip has", "clips have")
        return told + (f"; {have} none, which scores 0." if 0 in sizes else ".")


@dataclass(frozen=True)
class Text(Column):
    """Free text in one line: runs of blanks and line ends become one blank."""

    task: ClassVar[str] = "reason"

    def example(self) -> str:
        return 'He smiles, and his voice is "warm".'

    def values(self, said: Said, policy: str) -> dict[Key, str | None]:
        return {key: " ".join(each.answer.split()) or None for key, each in said.items()}

    def wrong(self, text: str) -> str:
        return "" if text.strip() else "there is no text"


@dataclass(frozen=True)
class Form:
    """One kind of file that a track is handed in as.

    Attributes:
        kind: `csv`; `npz` with the text arrays `filenames` and `fileitems`; or `zip` with one csv in it.
        file: What the file is called where nobody says.
        inside: Name of the csv in a zip.
        must: The names that the organisers take, as a glob; empty where they do not say.
    """

    kind: Literal["csv", "npz", "zip"]
    file: str
    inside: str = ""
    must: str = ""


@dataclass(frozen=True)
class Track:
    """One track of a challenge.

    Attributes:
        name: What `--track` calls it; `also` are its other names.
        about: One sentence.
        columns: Besides the name, in order. The first one that is not optional is what predictions are about.
        forms: The first is written where nobody says.
        source: Where the form is published, in a sentence.
        doubts: What no public source states, one sentence each.
        clips: The organisers' list of clips to predict, looked for in the dataset's folder.
        split: The dataset's split of these clips, where there is no such list.
        rows: How many clips the published list has.
        carried: Columns of that list that stand in the file too, after the name: rows may share a name.
        more: Whether the organisers' scorer takes clips beside those.
    """

    name: str
    also: tuple[str, ...]
    about: str
    columns: tuple[Column, ...]
    forms: tuple[Form, ...]
    source: str
    doubts: tuple[str, ...] = ()
    clips: str = ""
    split: str = ""
    rows: int | None = None
    carried: tuple[str, ...] = ()
    more: bool = False

    @property
    def main(self) -> Column:
        """The column that predictions are about."""
        return next(each for each in self.columns if not each.optional)

    def header(self, without: Sequence[str] = ()) -> list[str]:
        """Names of all columns, in order, but for optional ones that are named."""
        return ["name", *self.carried, *(each.name for each in self.columns if each.name not in without)]

    def form(self, file: Path | None) -> Form:
        """Return the form that a file's name asks for; the first where there is no file.

        Raises:
            UsageError: The track is not handed in as such a file.
        """
        if file is None:
            return self.forms[0]
        for form in self.forms:
            if file.suffix.lower() == f".{form.kind}":
                return form
        kinds = " or ".join(f".{form.kind}" for form in self.forms)
        raise UsageError(f"Track {self.name} is not handed in as {file.name}.", f"Its files end in {kinds}.")


@dataclass(frozen=True)
class Challenge:
    """A challenge with its tracks.

    Attributes:
        name: What `--challenge` calls it.
        about: One sentence.
        datasets: Kinds of datasets that hold its clips, the usual one first.
        tracks: Those that emo writes.
        left_out: Other tracks by their names, with the reason.
    """

    name: str
    about: str
    datasets: tuple[str, ...]
    tracks: tuple[Track, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def track(self, name: str) -> Track:
        """Return a track by one of its names.

        Raises:
            UsageError: There is none, or emo does not write it.
        """
        asked = name.strip().lower()
        for each in self.tracks:
            if asked in (each.name, *each.also):
                return each
        have = f"Its tracks: {', '.join(each.name for each in self.tracks)}."
        if asked in self.left_out:
            raise UsageError(f"Track {asked} of {self.name} is not written: {self.left_out[asked]}", have)
        known = [word for each in self.tracks for word in (each.name, *each.also)]
        raise UsageError(f"{self.name} has no track {name!r}.", f"{have} {did_you_mean(asked, known)}".strip())
