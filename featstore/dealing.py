"""Dealing of items to many workers: they come back from the lost, and are dealt twice where one is late.

Nothing here knows a clock, a network or a store, so that every course of events can be played in a test. Items are
named by their place in the list of all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Parcel:
    """Items that are dealt together.

    Attributes:
        items: Their places.
        careful: They were in the hands of a worker that died: whoever gets them gets nothing else until they are done.
        deaths: How many workers died that had this one item alone.
    """

    items: list[int]
    careful: bool = False
    deaths: int = 0


@dataclass
class Hand:
    """Items of a worker: of a stream that is still open (more may follow), or of one that is closed."""

    items: list[int] = field(default_factory=list)
    careful: Parcel | None = None
    closed: bool = False


class Dealer:
    """Deals items until each is done.

    Args:
        count: How many items there are.
        size: How many are dealt at a time.

    Attributes:
        open: Items that are not done.
        given_up: Items that killed two workers which had nothing else.
    """

    def __init__(self, count: int, size: int) -> None:
        self.open, self.size = set(range(count)), size
        self.given_up: list[int] = []
        self._fresh = range(count)  # never dealt so far
        self._todo: deque[Parcel] = deque()
        self._hands: dict[str, Hand] = {}
        self._twice: set[int] = set()  # dealt again while somebody still has it

    def hand(self, worker: str) -> Hand:
        """Return what a worker has."""
        return self._hands.setdefault(worker, Hand())

    def held(self, worker: str) -> list[int]:
        """Return what a worker has of what is not done."""
        return [i for i in self.hand(worker).items if i in self.open]

    def idle(self, worker: str) -> bool:
        """Say whether a worker has nothing."""
        return not self.hand(worker).items

    def deal(self, worker: str, waiting: int) -> list[int]:
        """Return what a worker should take next, and note that it has it.

        Args:
            worker: Its name.
            waiting: Items that it has and has not begun.

        Returns:
            Nothing where it has enough, or there is nothing left. Then `hand(worker).closed` says that no more follows
            before it has ended what it has: whoever works in a stream should finish it now.
        """
        hand = self.hand(worker)
        if hand.closed or waiting >= self.size:
            return []
        parcel = self._next(careful=not hand.items)
        if parcel is None:
            hand.closed = bool(hand.items)
            return []
        hand.items += parcel.items
        hand.careful = parcel if parcel.careful else None
        hand.closed = parcel.careful
        return parcel.items

    def _next(self, careful: bool) -> Parcel | None:
        for _ in range(len(self._todo)):
            parcel = self._todo.popleft()
            if not parcel.careful or careful:
                parcel.items = [i for i in parcel.items if i in self.open]
                if parcel.items:
                    return parcel
                continue
            self._todo.append(parcel)
        fresh, self._fresh = self._fresh[: self.size], self._fresh[self.size :]
        return Parcel([*fresh]) if fresh else None

    @property
    def all_dealt(self) -> bool:
        """Whether nothing is left that nobody has."""
        return not self._fresh and not self._todo

    def ended(self, worker: str) -> None:
        """Note that a worker has finished all that it had."""
        self.open.difference_update(self._hands.pop(worker, Hand()).items)

    def returned(self, worker: str, items: Iterable[int]) -> None:
        """Note that a worker gave back items which it had not begun, and gets no more before it has ended the rest."""
        back = set(items)
        hand = self.hand(worker)
        hand.items, hand.closed = [i for i in hand.items if i not in back], True
        rest = self._unheld(sorted(back))
        some = max(1, len(rest) // 4)  # for several that have nothing
        self._todo += [Parcel(rest[at : at + some]) for at in range(0, len(rest), some)]

    def lost(self, worker: str, left: Iterable[int], blame: bool = True) -> None:
        """Note that a worker is no more.

        What it had and did not finish is dealt again: in quarters, each to a worker that has nothing else, so that an
        item which kills workers stands alone before long. The second worker that it kills alone is the last one.

        Args:
            worker: Its name.
            left: What of its items is not done, whoever looked; the others are done.
            blame: Whether an item may be why. A worker that ended with an error is no such case.
        """
        hand = self._hands.pop(worker, Hand())
        left = set(left)
        self.open.difference_update(i for i in hand.items if i not in left)
        rest = self._unheld(hand.items)
        if not rest:
            return
        if not blame:
            self._todo.append(Parcel(rest))
        elif hand.careful is not None and len(hand.careful.items) == 1:
            if hand.careful.deaths:
                self.open.difference_update(rest)
                self.given_up += rest
            else:
                self._todo.append(Parcel(rest, True, 1))
        else:
            quarter = max(1, len(rest) // 4)
            self._todo += [Parcel(rest[at : at + quarter], True) for at in range(0, len(rest), quarter)]

    def again(self, late: str, left: Iterable[int]) -> None:
        """Deal again what a late worker has not done; whichever worker ends first has done it.

        Args:
            late: Name of the worker.
            left: What of its items is not done, whoever looked; the others are done.
        """
        left = set(left)
        self.open.difference_update(i for i in self.hand(late).items if i not in left)
        rest = [i for i in sorted(left) if i in self.open and i not in self._twice]
        self._twice.update(rest)
        if rest:
            self._todo.append(Parcel(rest))

    def _unheld(self, items: Iterable[int]) -> list[int]:
        """Return those of the items that are not done and that nobody else has; of none are there two any more."""
        items = [i for i in items if i in self.open]
        elsewhere = {i for i in items if i in self._twice and self._elsewhere(i)}
        self._twice.difference_update(items)
        return [i for i in items if i not in elsewhere]

    def _elsewhere(self, item: int) -> bool:
        held = any(item in hand.items for hand in self._hands.values())
        return held or any(item in parcel.items for parcel in self._todo)
