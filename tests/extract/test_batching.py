"""Batches hold every item once, within the budget, and sort by length where padding would be paid."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emo.extract.batching import cut, enough

COSTS = st.lists(st.floats(min_value=0.1, max_value=100), max_size=60)


@given(costs=COSTS, budget=st.floats(min_value=1, max_value=200), padded=st.booleans())
def test_every_item_once_and_within_budget(costs: list[float], budget: float, padded: bool) -> None:
    batches = cut(costs, budget, padded=padded)
    assert sorted(i for batch in batches for i in batch) == list(range(len(costs)))
    for batch in batches:
        assert batch
        members = [costs[i] for i in batch]
        size = max(members) * len(members) if padded else sum(members)
        assert len(batch) == 1 or size <= budget * (1 + 1e-9)


def test_padded_batches_hold_neighbours_in_length() -> None:
    assert cut([9, 1, 8, 2], 18, padded=True) == [[1, 3], [2, 0]]


def test_sums_keep_the_order() -> None:
    assert cut([3, 3, 3, 9, 1], 6, padded=False) == [[0, 1], [2], [3], [4]]


def test_padded_encoders_wait_for_more() -> None:
    assert enough([5, 5], 10, padded=False)
    assert not enough([5, 5], 10, padded=True)
    assert enough([10] * 4, 10, padded=True)
