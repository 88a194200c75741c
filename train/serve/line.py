"""The line of questions: one is answered at a time, the others see their place in it."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from emo.featstore.errors import EmoError, UsageError

State = Literal["waiting", "running", "done", "failed", "cancelled"]
KEPT_S, KEPT = 600.0, 200  # ended tickets are remembered that long, and so many of them


class LineFull(UsageError):
    """Too many questions wait already."""


@dataclass(eq=False)
class Ticket:
    """One question and what has become of it so far.

    Attributes:
        id: Known to whoever asked, and to nobody else.
        what: Of it, in a few words.
        state: Where it is.
        stages: What was done for it, in order: `stage`, `text`, `at_s` since it began, and `done` of `total`.
        text: Answer of a language model as far as it has come.
        body: The answer, as the bytes that are sent.
        error: Why there is none.
        dropped: Called where nobody will work on it.
        cancelled: Set when nobody wants it any more.
    """

    what: str
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: State = "waiting"
    stages: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""
    body: bytes = b""
    error: EmoError | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    dropped: Callable[[], None] = lambda: None
    began_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None

    @property
    def ended(self) -> bool:
        """Say whether nothing more will happen."""
        return self.state in ("done", "failed", "cancelled")

    def tell(self, said: dict[str, Any]) -> None:
        """Add a stage, or say how far the last one is."""
        row = said | {"at_s": round(time.monotonic() - self.began_s, 2)}
        if self.stages and self.stages[-1]["stage"] == row["stage"]:
            self.stages = [*self.stages[:-1], row | {"at_s": self.stages[-1]["at_s"]}]
        else:
            self.stages = [*self.stages, row]


Work = Callable[[Ticket], bytes]


class Line:
    """Questions in the order they came; a thread of its own answers them one by one.

    Args:
        most: So many may wait.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._waiting: deque[tuple[Ticket, Work]] = deque()
        self._tickets: dict[str, Ticket] = {}
        self._change = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, what: str, work: Work, dropped: Callable[[], None] = lambda: None) -> Ticket:
        """Put a question at the end of the line.

        Args:
            what: Of it, in a few words.
            work: Answers it; called on the line's thread.
            dropped: Called in its place where nobody will work on it.

        Raises:
            LineFull: Too many wait.
        """
        with self._change:
            self._forget()
            if len(self._waiting) >= self.most:
                dropped()
                raise LineFull(f"{self.most} questions wait already.", "Try again in a minute.")
            ticket = Ticket(what, dropped=dropped)
            self._tickets[ticket.id] = ticket
            self._waiting.append((ticket, work))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
                self._thread.start()
            self._change.notify_all()
            return ticket

    def get(self, ticket_id: str) -> Ticket | None:
        """Return a ticket that is not forgotten yet."""
        with self._change:
            return self._tickets.get(ticket_id)

    def cancel(self, ticket: Ticket) -> None:
        """Take a question out of the line, or end the work on it."""
        with self._change:
            ticket.cancelled.set()
            if ticket.state == "waiting":
                self._waiting = deque(each for each in self._waiting if each[0] is not ticket)
                self._end(ticket, "cancelled")
                ticket.dropped()

    def show(self, ticket: Ticket) -> dict[str, Any]:
        """Return what a ticket's owner may see; `place` is 0 for the question that is being answered."""
        with self._change:
            places = [each.id for each, _ in self._waiting]
            place = places.index(ticket.id) + 1 if ticket.id in places else 0
            error = ticket.error
            shown = {"id": ticket.id, "what": ticket.what, "state": ticket.state, "place": place}
            shown |= {"stages": ticket.stages, "text": ticket.text}
            return shown | ({"error": error.message, "hint": error.hint} if error else {})

    def waiting(self) -> int:
        """Return how many wait."""
        with self._change:
            return len(self._waiting)

    def close(self) -> None:
        """Cancel everything."""
        with self._change:
            self._closed = True
            for ticket in self._tickets.values():
                ticket.cancelled.set()
            for ticket, _ in self._waiting:
                self._end(ticket, "cancelled")
                ticket.dropped()
            self._waiting.clear()
            self._change.notify_all()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._closed:
                    self._change.wait()
                if self._closed:
                    return
                ticket, work = self._waiting.popleft()
                ticket.state, ticket.began_s = "running", time.monotonic()
            try:
                body, error = work(ticket), None
            except EmoError as caught:
                body, error = b"", caught
            except Exception as caught:
                body, error = b"", EmoError(f"The server failed on this: {type(caught).__name__}.")
                import logging

                logging.getLogger("emo.serve").exception("an answer failed")
            with self._change:
                ticket.body, ticket.error = body, error
                self._end(ticket, "cancelled" if ticket.cancelled.is_set() else "failed" if error else "done")

    def _end(self, ticket: Ticket, state: State) -> None:
        ticket.state, ticket.ended_s = state, time.monotonic()

    def _forget(self) -> None:
        now = time.monotonic()
        ended = [each for each in self._tickets.values() if each.ended_s is not None]
        old = [each for each in ended if now - (each.ended_s or now) > KEPT_S]
        for ticket in {*old, *ended[: max(0, len(ended) - KEPT)]}:
            self._tickets.pop(ticket.id, None)
