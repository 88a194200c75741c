"""Cost-budgeted batches across clips: many small clips share a forward pass, one long clip gets its own."""

from __future__ import annotations

from collections.abc import Sequence


def cut(costs: Sequence[float], budget: float) -> list[list[int]]:
    """Cut items, in their order, into batches that cost at most `budget` each.

    Every batch but the last is as full as it gets: the next item would not fit. The last may be worth waiting for more.

    Args:
        costs: Cost of each item, in the encoder's own unit (faces, frames, audio samples).
        budget: Largest cost of one batch. An item above it gets a batch of its own.

    Returns:
        Lists of item numbers; together they hold every item once.
    """
    batches: list[list[int]] = []
    total = 0.0
    for i, cost in enumerate(costs):
        if not batches or total + cost > budget:
            batches.append([])
            total = 0.0
        batches[-1].append(i)
        total += cost
    return batches


def alike(lengths: Sequence[int], slack: float, budget: float) -> list[list[int]]:
    """Group items of like length, short ones first, so that padding a group to its longest costs little.

    Args:
        lengths: Of each item.
        slack: The longest of a group is at most so many times as long as the shortest.
        budget: Largest padded size of a group, its longest times its number; a longer item gets a group of its own.

    Returns:
        Lists of item numbers; together they hold every item once.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        shortest = lengths[groups[-1][0]] if groups else 0
        if not groups or lengths[i] > slack * shortest or lengths[i] * (len(groups[-1]) + 1) > budget:
            groups.append([])
        groups[-1].append(i)
    return groups
