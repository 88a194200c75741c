"""A describer that replays what another one said: a file of recorded answers, and a recorder that writes one."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emo.extract.annotate.describer import Asking, Describer, Question
from emo.featstore.errors import UsageError
from emo.featstore.files import digest
from emo.featstore.sources.chat import Recorded, Reply

SEED = 0


def recorded_as(question: Question) -> str:
    """Return the text under which the answer to a question is recorded: its words, and hashes of what is shown."""
    shown = [digest(each) for each in (*question.images(), question.wave()) if each is not None]
    return json.dumps([question.system, question.text, *shown], ensure_ascii=False)


@dataclass(frozen=True)
class Replay:
    """Answers from a file.

    Attributes:
        recorded: The file's.
    """

    recorded: Recorded

    @property
    def id(self) -> str:
        """The model whose answers they are."""
        return self.recorded.id

    @property
    def remote(self) -> bool:
        """Answers cost nothing."""
        return False

    def decoding(self) -> Mapping[str, Any]:
        """Return that they are replayed: whoever recorded them knows the settings."""
        return {"replayed": True}

    def answers(self, kind: str) -> bool:
        """Whether a question is recorded shows when it is asked."""
        return True

    def describe(self, question: Question) -> Reply:
        """Look the answer up."""
        return Reply(self.recorded.reply(recorded_as(question), SEED))


def open_replay(rest: str, asking: Asking, name: str) -> Replay:
    """Return the describer of `replay:FILE` or `replay:FILE#MODEL`.

    Raises:
        UsageError: The file is absent or damaged, or it is not clear whose answers to replay.
    """
    path, _, model = rest.rpartition("#") if "#" in rest else (rest, "", "")
    if not path:
        raise UsageError(f"{name}: names no file.", "Write replay:FILE or replay:FILE#MODEL.")
    return Replay(Recorded(Path(path), None, model))


@dataclass
class Recorder:
    """A describer whose answers are also written to a file, which `replay:FILE` reads.

    Attributes:
        inner: Who answers.
        path: The file; answers are appended.
    """

    inner: Describer
    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def id(self) -> str:
        """The inner describer's."""
        return self.inner.id

    @property
    def remote(self) -> bool:
        """As the inner describer."""
        return self.inner.remote

    def decoding(self) -> Mapping[str, Any]:
        """Return the inner describer's settings."""
        return self.inner.decoding()

    def answers(self, kind: str) -> bool:
        """Whether the inner describer does."""
        return self.inner.answers(kind)

    def describe(self, question: Question) -> Reply:
        """Ask the inner describer and write its answer down."""
        reply = self.inner.describe(question)
        row = {"model": self.id, "seed": SEED, "prompt": recorded_as(question), "reply": reply.text}
        with self._lock, open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return reply
