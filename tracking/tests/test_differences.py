from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from exchanges.adapters.types import OrderReport, VenueOrderStatus
from orders.states import LIVE, OrderStatus
from tracking.differences import Disagreement, OurOrder, differences
from tracking.tests.making import SYMBOL, report


def ours(number: int = 1, **overrides: object) -> OurOrder:
    order = OurOrder(
        placement_id=number,
        symbol=SYMBOL,
        client_order_id=f"th-{number}",
        exchange_order_id=str(number),
        child_order_id="",
        status=OrderStatus.NEW,
        booked=Decimal(0),
        is_open=True,
    )
    return replace(order, **overrides)  # type: ignore[arg-type]  # a test's own overrides


def theirs(number: int = 1, **overrides: object) -> OrderReport:
    return report(exchange_order_id=str(number), client_order_id=f"th-{number}", **overrides)


def kinds(their: list[OrderReport], our: list[OurOrder]) -> list[Disagreement]:
    return [one.kind for one in differences(their, our)]


class TestDifferences:
    def test_finds_none_where_both_agree(self) -> None:
        assert differences([theirs(1), theirs(2)], [ours(2), ours(1)]) == []

    def test_finds_none_while_a_cancel_is_on_its_way(self) -> None:
        assert differences([theirs()], [ours(status=OrderStatus.CANCELING)]) == []

    def test_finds_an_order_that_ended_there(self) -> None:
        assert kinds([], [ours()]) == [Disagreement.NOT_OPEN_THERE]

    def test_finds_a_canceling_order_that_ended_there(self) -> None:
        assert kinds([], [ours(status=OrderStatus.CANCELING)]) == [Disagreement.NOT_OPEN_THERE]

    def test_says_nothing_about_a_submitting_order_that_is_not_listed(self) -> None:
        assert kinds([], [ours(status=OrderStatus.SUBMITTING, exchange_order_id="")]) == []

    def test_finds_a_submitting_order_that_arrived(self) -> None:
        order = ours(status=OrderStatus.SUBMITTING, exchange_order_id="")

        assert kinds([theirs()], [order]) == [Disagreement.FOUND]

    def test_finds_fills_that_we_have_not_booked(self) -> None:
        listed = theirs(status=VenueOrderStatus.PARTIALLY_FILLED, filled_quantity=Decimal("0.4"))

        assert kinds([listed], [ours(booked=Decimal("0.3"))]) == [Disagreement.FILLED_MORE]
        assert kinds([listed], [ours(booked=Decimal("0.4"))]) == []

    def test_does_not_take_a_stale_list_for_fewer_fills(self) -> None:
        assert kinds([theirs(filled_quantity=Decimal(0))], [ours(booked=Decimal("0.3"))]) == []

    def test_finds_an_order_that_lives_there_and_ended_here(self) -> None:
        assert kinds([theirs()], [ours(is_open=False)]) == [Disagreement.NOT_OPEN_HERE]

    def test_finds_nothing_in_an_ended_order_that_is_not_listed(self) -> None:
        assert kinds([], [ours(is_open=False)]) == []

    def test_finds_a_stop_that_triggered(self) -> None:
        assert kinds([theirs(child_order_id="77")], [ours()]) == [Disagreement.TRIGGERED]
        assert kinds([theirs(child_order_id="77")], [ours(child_order_id="77")]) == []

    def test_finds_a_stop_that_is_listed_as_the_order_that_it_became(self) -> None:
        child = report(exchange_order_id="77", client_order_id="th-1")
        stop = ours(is_conditional=True)

        assert kinds([child], [stop]) == [Disagreement.TRIGGERED]
        assert kinds([child], [replace(stop, child_order_id="77")]) == []

    def test_tells_a_stop_from_a_plain_order_of_the_same_number(self) -> None:
        by_hand = report(exchange_order_id="1", client_order_id="by-hand")
        stop = ours(is_conditional=True)

        assert kinds([by_hand, theirs(conditional=True)], [stop]) == [Disagreement.EXTERNAL]

    def test_knows_a_child_order_by_its_own_id(self) -> None:
        child = report(exchange_order_id="77", client_order_id="")

        assert differences([child], [ours(child_order_id="77")]) == []

    def test_calls_an_order_that_nobody_here_knows_external(self) -> None:
        found = differences([theirs(1), report()], [ours(1)])

        assert [(one.kind, one.theirs, one.ours) for one in found] == [
            (Disagreement.EXTERNAL, report(), None)
        ]

    def test_does_not_mix_up_the_ids_of_two_symbols(self) -> None:
        same_number = report(exchange_order_id="1", client_order_id="by-hand", symbol="ETH/USDT")

        assert kinds([theirs(1), same_number], [ours(1)]) == [Disagreement.EXTERNAL]


statuses = st.sampled_from([OrderStatus.SUBMITTING, *sorted(LIVE)])
amounts = st.integers(0, 4).map(Decimal)
our_orders = st.lists(
    st.builds(ours, st.integers(1, 12), status=statuses, booked=amounts, is_open=st.booleans()),
    unique_by=lambda order: order.placement_id,
)
their_orders = st.lists(
    st.builds(theirs, st.integers(1, 12), filled_quantity=amounts),
    unique_by=lambda order: order.exchange_order_id,
)


class TestDifferencesProperties:
    @given(our_orders, their_orders)
    def test_names_each_order_at_most_once(self, our: list[OurOrder], their: list[OrderReport]) -> None:
        found = differences(their, our)

        named = [one.ours.placement_id for one in found if one.ours]
        strangers = [one.theirs.exchange_order_id for one in found if one.ours is None and one.theirs]
        assert len(named) == len(set(named))
        assert len(strangers) == len(set(strangers))

    @given(our_orders, their_orders)
    def test_lists_exactly_the_strangers_as_external(
        self, our: list[OurOrder], their: list[OrderReport]
    ) -> None:
        known = {order.exchange_order_id for order in our}

        external = [one.theirs for one in differences(their, our) if one.kind is Disagreement.EXTERNAL]

        assert external == [one for one in their if one.exchange_order_id not in known]

    @given(our_orders)
    def test_agrees_with_itself(self, our: list[OurOrder]) -> None:
        live = [order for order in our if order.is_open and order.status != OrderStatus.SUBMITTING]
        mirror = [theirs(order.placement_id, filled_quantity=order.booked) for order in live]

        assert differences(mirror, our) == []

    @given(our_orders, their_orders)
    def test_never_lets_an_order_go_unnoticed(self, our: list[OurOrder], their: list[OrderReport]) -> None:
        named = {one.ours.placement_id for one in differences(their, our) if one.ours}
        listed = {one.exchange_order_id: one for one in their}
        for order in our:
            there = listed.get(order.exchange_order_id)
            agrees = (there is None and (not order.is_open or order.status == OrderStatus.SUBMITTING)) or (
                there is not None
                and order.is_open
                and order.status != OrderStatus.SUBMITTING
                and (there.filled_quantity or 0) <= order.booked
            )
            assert agrees == (order.placement_id not in named)
