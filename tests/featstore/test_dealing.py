"""Dealing items to workers that end, die, are late and give back: each item is done, and nobody waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo.featstore.dealing import Dealer


def test_a_worker_gets_more_before_it_has_nothing_and_is_closed_at_the_end() -> None:
    dealer = Dealer(5, 2)
    assert dealer.deal("a", 0) == [0, 1]
    assert dealer.deal("a", 2) == []
    assert dealer.deal("a", 1) == [2, 3]
    assert dealer.deal("b", 0) == [4]
    assert not dealer.hand("a").closed
    assert dealer.deal("a", 0) == []
    assert dealer.hand("a").closed
    dealer.ended("a")
    assert dealer.open == {4}
    assert dealer.deal("a", 0) == []
    assert not dealer.hand("a").closed  # it has nothing: there is nothing to finish


def test_what_a_lost_worker_had_is_dealt_in_quarters_that_stand_alone() -> None:
    dealer = Dealer(20, 8)
    assert dealer.deal("a", 0) == [*range(8)]
    assert dealer.deal("b", 0) == [*range(8, 16)]
    dealer.lost("a", left=range(4, 8))  # the first four were committed
    assert dealer.open == set(range(4, 20))
    assert dealer.deal("b", 0) == [16, 17, 18, 19]  # it is in the middle of something
    assert dealer.deal("c", 0) == [4]
    assert dealer.hand("c").closed
    assert dealer.deal("c", 0) == []
    dealer.ended("c")
    assert [dealer.deal(name, 0) for name in "cde"] == [[5], [6], [7]]


def test_an_item_that_kills_two_workers_alone_is_given_up_and_no_other() -> None:
    dealer, deaths = Dealer(100, 32), 0
    for _ in range(1000):
        if not dealer.open:
            break
        items = dealer.deal("w", 0)
        if 41 in dealer.hand("w").items:
            deaths += 1
            dealer.lost("w", left=dealer.held("w"))
        elif not items:
            dealer.ended("w")
    assert dealer.given_up == [41]
    assert not dealer.open
    assert deaths <= 6


def test_a_worker_that_ends_with_an_error_is_no_sign_against_its_items() -> None:
    dealer = Dealer(4, 4)
    dealer.deal("a", 0)
    dealer.lost("a", left=range(4), blame=False)
    assert dealer.deal("b", 0) == [0, 1, 2, 3]


@pytest.mark.parametrize("first", ["late", "helper"])
def test_of_two_that_have_an_item_the_first_to_end_has_done_it(first: str) -> None:
    dealer = Dealer(2, 2)
    dealer.deal("late", 0)
    dealer.again("late", left=[1])
    assert dealer.open == {1}  # the other is done, though its worker has not ended
    dealer.again("late", left=[1])  # asked twice: it is dealt once
    assert dealer.deal("helper", 0) == [1]
    assert dealer.deal("other", 0) == []
    dealer.lost("helper" if first == "late" else "late", left=[1])  # the other still has it
    assert dealer.deal("other", 0) == []
    dealer.ended(first)
    assert not dealer.open


def test_where_the_helper_of_a_late_worker_dies_there_is_another() -> None:
    dealer = Dealer(2, 2)
    dealer.deal("late", 0)
    dealer.again("late", left=[0, 1])
    assert dealer.deal("helper", 0) == [0, 1]
    dealer.lost("helper", left=[1])
    assert dealer.deal("other", 0) == []
    dealer.again("late", left=[1])
    assert dealer.deal("other", 0) == [1]


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(1, 9))
def test_whatever_happens_each_item_is_done_once_it_is_given_the_chance(
    data: st.DataObject, count: int, size: int
) -> None:
    """Workers come, end, die, are late and give back as they like; then the rest is left to one that is well."""
    dealer, done = Dealer(count, size), set[int]()
    for _ in range(data.draw(st.integers(0, 60))):
        worker = data.draw(st.sampled_from("abc"))
        what = data.draw(st.sampled_from(["deal", "deal", "end", "die", "return", "late", "fail"]))
        held = dealer.held(worker)
        some = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
        if what == "deal":
            dealer.deal(worker, 0)
        elif what == "end":
            done.update(dealer.hand(worker).items)
            dealer.ended(worker)
        elif what in ("die", "fail"):
            done.update(set(held) - set(some))
            dealer.lost(worker, some, blame=what == "die")
        elif what == "return":
            dealer.returned(worker, some)
        else:
            done.update(set(held) - set(some))
            dealer.again(worker, some)
    for worker in "abc":
        dealer.lost(worker, dealer.held(worker), blame=False)
    while dealer.deal("well", 0) or dealer.hand("well").items:
        if dealer.hand("well").closed:
            done.update(dealer.hand("well").items)
            dealer.ended("well")
    assert not dealer.open
    assert done | set(dealer.given_up) == set(range(count))
