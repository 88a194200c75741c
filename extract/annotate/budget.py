"""How many requests a run may make and what they may cost, by prices that the user gives."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emo.extract.annotate.describer import Stopped
from emo.featstore.errors import UsageError
from emo.featstore.reading import read_toml
from emo.featstore.sources.chat import Reply
from emo.featstore.text import counted, some_of

PER = 1_000_000  # tokens that a price is for


@dataclass
class Budget:
    """Counts requests and cost; asked from many threads at once.

    The cost of a request is known when its reply comes, so a run may exceed `cost` by the requests under way.

    Attributes:
        requests: Most requests, those that are sent again too; `None` for no limit.
        cost: Most cost, in the unit of the prices.
        prices: Per model, price of a million tokens of questions and of answers.
        asked, spent: So far.
        uncounted: Replies that are not in `spent`: their model has no price, or the endpoint did not say their tokens.
        stopped: Why no more may be asked; empty while more may.
        waiting: Questions that wait before they are asked again, with the seconds of each wait.
        halted: Set with `stopped`, so that who waits before trying again wakes up.
    """

    requests: int | None = None
    cost: float | None = None
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    asked: int = 0
    spent: float = 0.0
    uncounted: int = 0
    stopped: str = ""
    waiting: list[float] = field(default_factory=list)
    halted: threading.Event = field(default_factory=threading.Event, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def attempt(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            Stopped: It may not be sent.
        """
        with self._lock:
            if self.requests is not None and self.asked >= self.requests:
                self._halt(counted(self.requests, "request is made", "requests are made"))
            if self.cost is not None and self.spent >= self.cost:
                self._halt(f"{self.spent:.4g} is spent of {self.cost:g}")
            if self.stopped:
                raise Stopped(self.stopped)
            self.asked += 1

    def stop(self, why: str) -> None:
        """Let no more be asked."""
        with self._lock:
            self._halt(why)

    def _halt(self, why: str) -> None:
        self.stopped = self.stopped or why
        self.halted.set()

    def price(self, other: Budget) -> None:
        """Take over the limits and prices of another budget."""
        self.requests, self.cost, self.prices = other.requests, other.cost, other.prices

    def wait(self, seconds: float) -> None:
        """Wait before a request is sent again, or until nothing more may be asked."""
        with self._lock:
            self.waiting.append(seconds)
        try:
            self.halted.wait(seconds)
        finally:
            with self._lock:
                self.waiting.remove(seconds)

    def told(self) -> str:
        """Return how many questions wait, and how long, as the end of a sentence; empty while none does."""
        with self._lock:
            if not self.waiting:
                return ""
            return f"; {counted(len(self.waiting), 'question')} to be asked again in up to {max(self.waiting):.0f} s"

    def value(self) -> dict[str, Any]:
        """Return how many requests were made, what they cost, and how many replies that does not count."""
        return {"requests": self.asked, "cost": round(self.spent, 6), "uncounted": self.uncounted}

    def sentence(self, to: str = "") -> str:
        """Return how many requests were made and, by the prices, what they cost; without a full stop."""
        said = counted(self.asked, "request") + (f" to {to}" if to else "")
        if not self.prices:
            return said
        said += f", cost {self.spent:.4g}"
        lacking = counted(self.uncounted, "reply", "replies")
        return f"{said} without {lacking} whose tokens or price are not known" if self.uncounted else said

    def pay(self, model: str, reply: Reply) -> None:
        """Count what a reply costs; where that cannot be known and a cost is set, nothing more is asked."""
        if not self.prices:
            return
        with self._lock:
            if reply.tokens is None or model not in self.prices:
                self.uncounted += 1
                if self.cost is not None and model in self.prices:
                    self._halt(f"the endpoint of {model} does not say how many tokens a reply took")
                return
            asked, said = self.prices[model]
            self.spent += (reply.tokens[0] * asked + reply.tokens[1] * said) / PER


def read_prices(path: Path) -> dict[str, tuple[float, float]]:
    """Read a table of prices: `["MODEL"]` with `input` and `output`, per million tokens, in any one currency.

    Raises:
        UsageError: It is no such table.
    """
    prices = {}
    for model, row in read_toml(path).items():
        pair = [row.get("input"), row.get("output")] if isinstance(row, dict) else []
        if len(pair) != 2 or not all(type(each) in (int, float) and each >= 0 for each in pair):
            hint = f'Write ["{model}"], input = 0.15 and output = 0.60: per million tokens.'
            raise UsageError(f"{path} has no prices for {model}.", hint)
        prices[model] = (float(pair[0]), float(pair[1]))
    return prices


def make_budget(requests: int | None, cost: float | None, prices: Path | None, models: list[str]) -> Budget:
    """Return a budget for these models.

    Raises:
        UsageError: A cost is set and a model has no price, or a limit makes no sense.
    """
    if (requests is not None and requests < 0) or (cost is not None and cost < 0):
        raise UsageError("A budget cannot be below 0.")
    table = read_prices(prices) if prices else {}
    if cost is not None and (lacking := [each for each in models if each not in table]):
        hint = "Name a file of prices: --prices prices.toml."
        raise UsageError(f"--max-cost needs prices of {some_of(lacking)}.", hint)
    return Budget(requests, cost, table)
