from __future__ import annotations

from itertools import product

import pytest

from orders.states import ALLOWED_TRANSITIONS, CLOSED, LIVE, RESTING, OrderStatus, may_follow

FORBIDDEN = {
    (OrderStatus.PARTIALLY_FILLED, OrderStatus.NEW),  # a late New is stale
    *product(OrderStatus, [OrderStatus.SUBMITTING]),  # nothing goes back to before it was sent
    *product(CLOSED, OrderStatus),  # the end is the end
}


class TestAllowedTransitions:
    def test_has_a_row_for_every_status_and_no_other(self) -> None:
        assert set(ALLOWED_TRANSITIONS) == set(OrderStatus)

    def test_counts_every_status_as_before_on_or_after_the_exchange(self) -> None:
        assert {OrderStatus.SUBMITTING} | LIVE | CLOSED == set(OrderStatus)
        assert not LIVE & CLOSED
        assert RESTING < LIVE

    @pytest.mark.parametrize("before", OrderStatus)
    @pytest.mark.parametrize("after", OrderStatus)
    def test_forbids_what_is_listed_and_nothing_else(self, before: OrderStatus, after: OrderStatus) -> None:
        assert may_follow(before, after) is ((before, after) not in FORBIDDEN)


class TestMayFollow:
    def test_takes_the_words_as_they_are_stored(self) -> None:
        assert may_follow("SUBMITTING", "FILLED") is True
        assert may_follow("FILLED", "NEW") is False

    def test_knows_no_other_words(self) -> None:
        with pytest.raises(ValueError, match="PENDING"):
            may_follow("NEW", "PENDING")
