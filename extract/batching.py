"""Cost-budgeted batches across clips: many small clips share a forward pass, one long clip gets its own."""

from __future__ import annotations

from collections.abc import Sequence


def cut(costs: Sequence[float], budget: float, *, padded: bool) -> list[list[int]]:
    """Cut items into batches that cost at most `budget` each.

    With `padded`, every item of a batch costs as much as its largest one (sequences padded to one length), so items are
    first sorted by cost and neighbours share a batch. Without, costs add up and the order is kept.

    Args:
        costs: Cost of each item, in the encoder's own unit (faces, frames, audio samples).
        budget: Largest cost of one batch. An item above it gets a batch of its own.
        padded: Whether the encoder pads a batch to its longest item.

    Returns:
        Lists of item numbers; together they hold every item once.
    """
    order = sorted(range(len(costs)), key=lambda i: costs[i]) if padded else list(range(len(costs)))
    batches: list[list[int]] = []
    total = 0.0
    for i in order:
        size = costs[i] * (len(batches[-1]) + 1) if padded and batches else total + costs[i]
        if not batches or size > budget:
            batches.append([])
            total = 0.0
        batches[-1].append(i)
        total += costs[i]
    return batches


def enough(costs: Sequence[float], budget: float, *, padded: bool) -> bool:
    """Whether a waiting room holds enough items to be worth a forward pass.

    A padded encoder waits for several batches' worth, so that sorting by length leaves little padding.
    """
    return sum(costs) >= budget * (4 if padded else 1)
