"""Batches hold every item once, in order, within the budget, and none but the last could take its successor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emo.extract.run.batching import cut


@given(
    costs=st.lists(st.floats(min_value=0.1, max_value=100), max_size=60), budget=st.floats(min_value=1, max_value=200)
)
def test_every_item_once_in_order_and_within_budget(costs: list[float], budget: float) -> None:
    batches = cut(costs, budget)
    assert [i for batch in batches for i in batch] == list(range(len(costs)))
    for batch, after in zip(batches, [*batches[1:], None], strict=False):
        total = sum(costs[i] for i in batch)
        assert len(batch) == 1 or total <= budget * (1 + 1e-9)
        if after is not None:
            assert total + costs[after[0]] > budget * (1 - 1e-9)


def test_an_item_above_the_budget_stands_alone() -> None:
    assert cut([3, 3, 3, 9, 1], 6) == [[0, 1], [2], [3], [4]]
