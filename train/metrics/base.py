"""The contract of a metric: the options it takes, what it reads, how it scores, and what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from emo.featstore.page import Page
from emo.train.answers import Answers, Prediction, read_answers

Say = Callable[[str], None]
USUAL_TASK = "emotion"  # what every run knows


@dataclass(frozen=True)
class Option:
    """Marks a field of a metric as an option: `Annotated[Path, Option("Tables.", "FILE", Path)]`.

    A field without a default is an option that the metric cannot do without.

    Attributes:
        about: What it is, in one sentence.
        example: A value to show in messages.
        read: Turns text into its value, and raises `ValueError` where it cannot.
    """

    about: str
    example: str = ""
    read: Callable[[str], Any] = str


def flag(name: str) -> str:
    """The flag of `emo score` that gives an option."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Sample:
    """Small files on which a metric can be tried; the answers are the truth.

    Attributes:
        truth: A file that `Metric.truth` reads, with three clips or more.
        answers: For each clip of it an answer that is right.
        options: Values of the metric's options.
    """

    truth: Path
    answers: Mapping[str, Prediction]
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """One way to score answers about clips.

    A metric is a frozen dataclass whose fields are its options, marked by `Option`. It stands in one file and has one
    line in the registry, or one entry point of group `emo.metrics`; `emo.train.testing.check_metric` tries it.

    Attributes:
        name: What `--metric` calls it.
        about: One sentence.
        columns: Columns that may hold its answers or its truth; of such a column answers are read only where no other
            column can be meant.
        one_of: Whether the truth is a `Label` whose word an answer must hit.
        policy: How a run is asked: free text, or `likelihood`.
        task: What a run or model is asked, where it knows that.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ()
    one_of: ClassVar[bool] = False
    task: ClassVar[str] = USUAL_TASK

    @property
    def policy(self) -> str:
        return "official"

    @abstractmethod
    def truth(self, path: Path) -> Mapping[str, Any]:
        """Read what is true of each clip, by clip name.

        Raises:
            UsageError: The file is absent or of another form.
        """

    def read(self, path: Path, column: str | None = None) -> Answers:
        """Read a file of answers.

        Raises:
            UsageError: As `read_answers`.
        """
        return read_answers(path, column, self.columns)

    @abstractmethod
    def score(
        self,
        truth: Mapping[str, Any],
        said: Mapping[str, Prediction],
        allow_missing: bool = False,
        say: Say | None = None,
    ) -> Any:
        """Score answers.

        Args:
            truth: From `truth`.
            said: By clip name.
            allow_missing: Score the clips that have an answer although others have none.
            say: Gets a sentence now and then.

        Raises:
            UsageError: As `shared_clips`; or the answers cannot be used.
        """

    def scored(self, truth: Mapping[str, Any], said: Mapping[str, Prediction]) -> list[str]:
        """Return the names of the clips that `score` compares."""
        return [name for name, each in truth.items() if each and name in said]

    @abstractmethod
    def page(self, found: Any, title: str, notes: Sequence[str] = ()) -> Page:
        """Say what was found. The page's value has `n`, `missing`, `extra` and `notes`.

        Args:
            found: From `score`.
            title: Of the page.
            notes: Further sentences that must stand beside the numbers.
        """

    def write(self, found: Any, page: Page, folder: Path, title: str) -> None:
        """Write a report folder: the page, and pictures where there are any."""
        from emo.featstore.document import write_page

        write_page(page, folder, title)

    @classmethod
    @abstractmethod
    def sample(cls, folder: Path) -> Sample:
        """Write small files into a folder, for the contract test."""

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The options by their names."""
        hints = get_type_hints(cls, include_extras=True)
        marks = {each.name: getattr(hints[each.name], "__metadata__", ()) for each in fields(cls)}
        return {
            name: next((each for each in mark if isinstance(each, Option)), Option("")) for name, mark in marks.items()
        }

    @classmethod
    def needs(cls) -> list[str]:
        """Names of the options that must be given."""
        return [each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING]
