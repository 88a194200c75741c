"""A question about clips to a model that sees and hears them itself, and its answers.

What is asked is the matter of `train`, which has prompts and labels; what is shown, and the asking, that of `extract`,
which decodes. Both know these two values and nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from emo.featstore.clip import Clip
from emo.featstore.workspace import Workspace

SAID = "{}"  # place of the transcript in a sentence


@dataclass(frozen=True)
class Inquiry:
    """One question about many clips.

    Attributes:
        task: What is asked: name of the records of its answers.
        system: Text of the system's role; may be empty.
        question: Text of the user's role.
        said: Sentence in front of it with a place for the transcript, left out where there is none; empty for never.
        languages: Which transcript, best first.
        frames: How many are shown, evenly from the whole clip; 0 for none.
        side: Most pixels of their longer side.
        sound: Whether the sound is sent.
        temperature, seed, max_tokens: Of the decoding.
        timeout_s: Of one attempt.
        concurrency: Clips that are asked about at once; `None` for the usual number.
        max_requests, max_cost, prices: Limits of one run, and the table of prices that a cost needs.
        retry_failed: Ask again what failed for good.
        cached: Ask nothing; give what was answered before.
        device: Of a model in this process.
    """

    task: str
    question: str
    system: str = ""
    said: str = ""
    languages: tuple[str, ...] = ("english", "text")
    frames: int = 8
    side: int = 512
    sound: bool = True
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 512
    timeout_s: float = 60.0
    concurrency: int | None = None
    max_requests: int | None = None
    max_cost: float | None = None
    prices: Path | None = None
    retry_failed: bool = False
    cached: bool = False
    device: str = "auto"

    @property
    def identity(self) -> str:
        """Everything that a model is told, with the place of the transcript."""
        return "\n".join((self.system, self.said, self.question))

    def words(self, transcript: str) -> str:
        """Return what a model is told about a clip."""
        brought = transcript.join(self.said.split(SAID)) if transcript and self.said else ""
        return f"{brought} {self.question}" if brought else self.question


@dataclass(frozen=True)
class Replies:
    """Answers of a model about clips.

    Attributes:
        model: Its name.
        record: Key of the records in the store that hold them.
        said: By clip.
        why: Why the others have none.
        notes: What must stand beside them.
        counts: Requests, cost and such of this run.
        interrupted: Whether a person stopped it.
    """

    model: str
    record: str
    said: Mapping[str, str]
    why: Mapping[str, str]
    notes: tuple[str, ...] = ()
    counts: Mapping[str, Any] = field(default_factory=dict)
    interrupted: bool = False


class Ask(Protocol):
    """Way to ask a model about clips, for layers that cannot show them."""

    def __call__(
        self, workspace: Workspace, clips: Sequence[Clip], model: str, inquiry: Inquiry, say: Callable[[str], None]
    ) -> Replies:
        """Ask a model what it was not asked before."""
        ...
