"""How far a bench is, and about how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from emo.featstore.page import span_text, throttle
from emo.train.bench.recipe import Cell


@dataclass
class Meter:
    """Counts finished models of all cells.

    Attributes:
        cells: Of the bench.
        models: How many models each cell trains.
        say: Gets a sentence now and then.
        threads: Units that are trained at a time.
        done: Models that are done, by cell.
        rates: Seconds per model, by cell, as far as known.
    """

    cells: Sequence[Cell]
    models: Sequence[int]
    say: Callable[[str], None]
    threads: int = 1
    done: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tell = throttle(self.say)

    @property
    def finished(self) -> int:
        """Models that are done."""
        return sum(self.done.values())

    @property
    def total(self) -> int:
        """Models of the bench."""
        return sum(self.models)

    def add(self, cell: Cell, count: int) -> None:
        """Count models of a cell, and say so now and then."""
        self.keep(cell, count)
        left = left_s(self.cells, self.models, self.done, self.rates)
        words = "" if left is None else f", about {span_text(left / self.threads)} left"
        self._tell(f"{cell.title}: {self.finished:,} of {self.total:,} models of the bench{words}")

    def keep(self, cell: Cell, count: int) -> None:
        """Count models of a cell that were trained earlier."""
        self.done[cell.folder] = self.done.get(cell.folder, 0) + count

    def close(self, cell: Cell, models: int) -> None:
        """A cell needs no more models; one that diverged early has fewer than were planned."""
        self.done[cell.folder] = models


def left_s(
    cells: Sequence[Cell], models: Sequence[int], done: Mapping[str, int], rates: Mapping[str, float]
) -> float | None:
    """Seconds that one thread would take for the models that are left; `None` where no model has been timed.

    A cell without a timed model takes the mean of its head's others, or else of all.
    """
    if not rates:
        return None
    whole = sum(rates.values()) / len(rates)
    of_head: dict[str, list[float]] = {}
    for cell in cells:
        if cell.folder in rates:
            of_head.setdefault(cell.head, []).append(rates[cell.folder])
    total = 0.0
    for cell, count in zip(cells, models, strict=True):
        same = of_head.get(cell.head)
        rate = rates.get(cell.folder, sum(same) / len(same) if same else whole)
        total += rate * max(0, count - done.get(cell.folder, 0))
    return total
