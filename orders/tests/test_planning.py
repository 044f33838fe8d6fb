from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from exchanges.adapters.types import OrderType, Side
from orders.planning import (
    BookPlan,
    Candidate,
    Caps,
    Lane,
    Standing,
    caps_for,
    in_turn,
    plan_book,
    priority_of,
    sort_price_of,
)
from orders.tests.candidates import (
    CALM,
    Scene,
    candidate,
    candidates,
    caps,
    claim,
    deserving,
    over,
    scenes,
)

BUY, SELL = Side.BUY, Side.SELL
WAITING, RESTING, FIXED = Standing.WAITING, Standing.RESTING, Standing.FIXED
RETURNING, LEAVING = Standing.RETURNING, Standing.LEAVING
LIMIT, STOP = Lane.LIMIT, Lane.STOP
DEFAULT = caps_for(default_limit=20)
ROOMY = st.builds(Caps, st.integers(2, 5), st.integers(2, 4))

drawn = settings(max_examples=80, deadline=None)


def ladder(count: int, side: Side, price: int, standing: Standing, *, first: int = 1) -> list[Candidate]:
    """LIMIT orders from `price` downwards (buys) or upwards (sells): the best first."""
    step = -1 if side is BUY else 1
    return [candidate(first + rung, side, price + step * rung, standing) for rung in range(count)]


def ids(orders: list[Candidate]) -> list[int]:
    return [order.id for order in orders]


class TestSortPrice:
    @pytest.mark.parametrize(
        ("order_type", "side", "priority", "sort_price"),
        [
            (OrderType.LIMIT, BUY, 3, "95000.10"),
            (OrderType.LIMIT, SELL, 3, "-95000.10"),
            (OrderType.STOP_MARKET, BUY, 5, "-94000.20"),
            (OrderType.STOP_MARKET, SELL, 5, "94000.20"),
            (OrderType.STOP_LIMIT, BUY, 5, "-94000.20"),  # its trigger counts, not its price
            (OrderType.STOP_LIMIT, SELL, 5, "94000.20"),
        ],
    )
    def test_is_the_table(self, order_type: OrderType, side: Side, priority: int, sort_price: str) -> None:
        assert priority_of(order_type) == priority
        price, stop_price = Decimal("95000.10"), Decimal("94000.20")
        assert sort_price_of(order_type, side, price=price, stop_price=stop_price) == Decimal(sort_price)

    def test_of_a_market_order_is_not_asked_for(self) -> None:
        assert priority_of(OrderType.MARKET) == 1
        with pytest.raises(AssertionError):
            sort_price_of(OrderType.MARKET, BUY, price=None, stop_price=None)


class TestCaps:
    @pytest.mark.parametrize(
        ("default_limit", "stop"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (20, 5), (200, 50)]
    )
    def test_of_stops_are_a_quarter_rounded_up(self, default_limit: int, stop: int) -> None:
        assert caps_for(default_limit=default_limit) == Caps(default_limit, stop)

    @pytest.mark.parametrize(
        ("lowered", "expected"),
        [
            ({"limit": 10}, Caps(10, 3)),
            ({"limit": 0}, Caps(0, 0)),
            ({"limit": 50}, Caps(20, 5)),  # lowers, never raises
            ({"stop": 2}, Caps(20, 2)),
            ({"stop": 50}, Caps(20, 5)),
            ({"stop": 0}, Caps(20, 0)),
            ({"exchange_limit": 10}, Caps(10, 5)),
            ({"exchange_limit": 200, "exchange_stop": 10}, Caps(20, 5)),
            ({"exchange_stop": 3}, Caps(20, 3)),
            ({"limit": 8, "exchange_limit": 6, "exchange_stop": 1}, Caps(6, 1)),
            ({"total": 25}, Caps(20, 5)),
            ({"total": 24}, Caps(20, 5, 24)),
            ({"total": 20}, Caps(16, 5, 20)),
            ({"total": 10}, Caps(8, 5, 10)),
            ({"total": 4}, Caps(3, 4, 4)),
            ({"total": 2}, Caps(1, 2, 2)),
            ({"total": 1}, Caps(1, 1, 1)),
            ({"total": 0}, Caps(0, 0, 0)),
            ({"total": 10, "stop": 0}, Caps(10, 0, 10)),
            ({"total": 10, "stop": 1}, Caps(9, 1, 10)),
        ],
    )
    def test_are_lowered_by_the_operator_and_by_the_exchange(
        self, lowered: dict[str, int], expected: Caps
    ) -> None:
        assert caps_for(default_limit=20, **lowered) == expected

    def test_hold_whatever_is_lowered(self) -> None:
        counts = (None, 0, 1, 2, 7, 30)
        for default, (limit, stop, total, theirs, stops) in product((0, 1, 5, 20), product(counts, repeat=5)):
            got = caps_for(
                default_limit=default,
                limit=limit,
                stop=stop,
                total=total,
                exchange_limit=theirs,
                exchange_stop=stops,
            )
            limits = [count for count in (default, limit, theirs) if count is not None]
            assert 0 <= got.limit <= min(limits)
            assert 0 <= got.stop <= min([10**6, *(count for count in (stop, stops) if count is not None)])
            assert got.total in (None, total)
            if total is None:
                assert got.limit == min(limits)
            elif got.total is None:
                assert got.limit + got.stop <= total
            elif total > 1 and got.stop:
                # A full LIMIT lane leaves the stops a fifth, one slot at least, unless they may have fewer.
                assert total - got.limit >= min(got.stop, max(1, total // 5))


class TestTurns:
    @given(candidates(standings=[WAITING], sides=[BUY]) | candidates(standings=[WAITING], sides=[SELL]))
    @drawn
    def test_of_one_side_are_the_plain_sort(self, orders: list[Candidate]) -> None:
        plain = sorted(orders, key=lambda one: (one.priority, -one.sort_price, one.created_at, one.id))
        assert in_turn(orders) == plain

    @given(candidates(sides=[BUY]))
    @drawn
    def test_of_one_side_prefer_who_is_there_at_the_same_price(self, orders: list[Candidate]) -> None:
        assert in_turn(orders) == sorted(
            orders, key=lambda one: (one.priority, -one.sort_price, one.waits, one.created_at, one.id)
        )

    @given(candidates(), st.randoms())
    @drawn
    def test_are_those_of_each_order_whatever_comes_first(
        self, orders: list[Candidate], random: object
    ) -> None:
        line = in_turn(orders)
        assert line == sorted(orders, key=lambda one: claim(one, orders))
        assert in_turn(reversed(orders)) == line

    def test_alternate_and_the_older_is_first(self) -> None:
        buys = [candidate(number, BUY, 100 - number, age=5) for number in (1, 2, 3)]
        sells = [candidate(number, SELL, 100 + number, age=9) for number in (11, 12)]
        assert ids(in_turn(buys + sells)) == [11, 1, 12, 2, 3]

    def test_of_limits_do_not_delay_the_first_stop_of_a_side(self) -> None:
        stops = [candidate(number, side, 90, lane=STOP) for number, side in ((8, BUY), (9, SELL))]
        assert ids(in_turn([*stops, *ladder(2, BUY, 100, WAITING)])) == [1, 2, 8, 9]


class TestPlan:
    @given(scenes())
    @drawn
    def test_submits_only_into_slots_that_are_free_now(self, scene: Scene) -> None:
        held, plan = scene.held(), scene.plan()
        sent = [order.lane for order in scene.orders if order.id in plan.to_submit]
        for lane in sent:
            held[lane] += 1
        excess = over(held, scene.caps)
        assert not any(lane.value in excess for lane in sent)
        assert not (sent and "total" in excess)

    @given(scenes())
    @drawn
    def test_is_never_over_a_cap_once_carried_out(self, scene: Scene) -> None:
        before = over(scene.held(), scene.caps)
        after = over(scene.carried_out().held(), scene.caps)
        assert all(after[name] <= before.get(name, 0) for name in after)

    @given(scenes())
    @drawn
    def test_moves_only_what_rests_and_sends_only_what_waits(self, scene: Scene) -> None:
        plan = scene.plan()
        standing = {order.id: order.standing for order in scene.orders}
        assert all(standing[number] is RESTING for number in plan.to_cancel)
        assert all(standing[number] is WAITING for number in plan.to_submit + plan.to_follow)
        moved = plan.to_cancel + plan.to_submit + plan.to_follow
        assert len(moved) == len(set(moved))

    @given(scenes())
    @drawn
    def test_sends_exactly_the_best(self, scene: Scene) -> None:
        plan, best = scene.plan(), deserving(scene)
        assert {*plan.to_submit, *plan.to_follow} == {
            order.id for order in scene.orders if order.waits and order.id in best
        }
        assert not best.intersection(plan.to_cancel)

    @given(scenes())
    @drawn
    def test_names_the_best_first(self, scene: Scene) -> None:
        there = [order for order in scene.orders if order.standing is not LEAVING]
        place = {order.id: claim(order, there) for order in there}
        for sent in (scene.plan().to_submit, scene.plan().to_follow):
            assert list(sent) == sorted(sent, key=place.__getitem__)

    @given(scenes())
    @drawn
    def test_cancels_only_for_a_strictly_better_one(self, scene: Scene) -> None:
        plan, held = scene.plan(), scene.held()
        there = [order for order in scene.orders if order.standing is not LEAVING]
        claims = {order.id: claim(order, there)[:2] for order in there}  # no tie decides: lane and turn do
        for order in there:
            if order.id in plan.to_cancel:
                beyond = order.lane is LIMIT and held[LIMIT] > scene.caps.limit
                assert any(claims[better] < claims[order.id] or beyond for better in plan.to_follow)

    @given(scenes())
    @drawn
    def test_cancels_one_for_one(self, scene: Scene) -> None:
        assume(not scene.is_over())
        plan = scene.plan()
        assert len(plan.to_cancel) <= len(plan.to_follow)

    @given(scenes())
    @drawn
    def test_cancels_none_too_many(self, scene: Scene) -> None:
        held = scene.carried_out().held()
        lanes = {order.id: order.lane for order in scene.orders}
        coming = [
            order for order in scene.orders if order.standing is RETURNING and order.id in deserving(scene)
        ]
        for order in coming:
            held[order.lane] += 1
        for number in scene.plan().to_cancel:
            back = held.copy()
            back[lanes[number]] += 1
            assert over(back, scene.caps)

    @given(scenes())
    @drawn
    def test_leaves_the_slots_of_whoever_keeps_one(self, scene: Scene) -> None:
        after = {order.id: order.standing for order in scene.carried_out().orders}
        fixed = {order.id for order in scene.orders if order.standing is FIXED}
        assert all(after[number] is FIXED for number in fixed)
        touched = {*scene.plan().to_cancel, *scene.plan().to_submit, *scene.plan().to_follow}
        assert not touched & {
            order.id for order in scene.orders if order.standing in (FIXED, RETURNING, LEAVING)
        }

    @given(scenes(standings=[WAITING, WAITING, RESTING, RESTING, FIXED, LEAVING]))
    @drawn
    def test_has_nothing_to_do_on_its_own_result(self, scene: Scene) -> None:
        assert scene.carried_out().plan() == BookPlan()

    @given(scenes())
    @drawn
    def test_settles_with_the_best_and_cancels_nothing_twice(self, scene: Scene) -> None:
        canceled = set(scene.plan().to_cancel)
        end = scene.settled()
        assert not canceled & end.resting()
        assert not (deserving(end) - end.resting())
        if not end.is_over():
            assert end.resting() == deserving(end)

    @given(scenes(), st.permutations(range(16)))
    @drawn
    def test_does_not_depend_on_the_order_of_its_input(self, scene: Scene, order: list[int]) -> None:
        shuffled = [scene.orders[place] for place in order if place < len(scene.orders)]
        assert replace(scene, orders=shuffled).plan() == scene.plan()

    @given(scenes())
    @drawn
    def test_needs_only_the_best_waiting_ones(self, scene: Scene) -> None:
        read = [order for order in scene.orders if not order.waits]
        for lane, side in product(Lane, Side):
            waiting = [one for one in scene.orders if one.waits and (one.lane, one.side) == (lane, side)]
            waiting.sort(key=lambda one: (one.priority, -one.sort_price, one.created_at, one.id))
            read += waiting[: scene.caps.of(lane)]
        assert replace(scene, orders=read).plan() == scene.plan()

    @given(
        scenes(standings=[WAITING, WAITING, RESTING, RESTING, FIXED, LEAVING]),
        candidates(standings=[WAITING]),
    )
    @drawn
    def test_with_one_more_order_never_rests_worse_ones(self, scene: Scene, more: list[Candidate]) -> None:
        added = [replace(order, id=100 + order.id) for order in more[:1]]
        with_it = replace(scene, orders=[*scene.orders, *added])
        there = [order for order in with_it.orders if order.standing is not LEAVING]
        movable = [order for order in in_turn(there) if order.standing is not FIXED]
        lanes = {order.id: order.lane for order in movable}
        place = {order.id: place for place, order in enumerate(movable)}
        before, after = scene.settled().resting() & {*place}, with_it.settled().resting() & {*place}
        if not scene.is_over():
            assert len(after) >= len(before)
            assert sum(sorted(place[one] for one in after)[: len(before)]) <= sum(
                place[one] for one in before
            )
        for lane in Lane:  # a book that is too full may have to shrink before the better one fits
            old, new = (sorted(place[one] for one in ones if lanes[one] is lane) for ones in (before, after))
            assert all(better <= worse for better, worse in zip(new, old, strict=False))

    @given(scenes(standings=CALM, caps=ROOMY, external=st.just({})))
    @drawn
    def test_starves_neither_side(self, scene: Scene) -> None:
        assume(not scene.is_over())
        resting = {(one.lane, one.side) for one in scene.settled().orders if not one.waits}
        assert resting == {(one.lane, one.side) for one in scene.orders}

    @given(scenes(caps=st.builds(Caps, st.integers(0, 5), st.integers(0, 3))))
    @drawn
    def test_of_one_lane_says_nothing_of_the_other(self, scene: Scene) -> None:
        whole, parts = scene.plan(), []
        for lane in Lane:
            alone = replace(scene, orders=[one for one in scene.orders if one.lane is lane])
            parts.append(alone.plan())
        limits, stops = parts
        assert set(whole.to_cancel) == {*limits.to_cancel, *stops.to_cancel}
        assert whole.to_submit == limits.to_submit + stops.to_submit
        assert whole.to_follow == limits.to_follow + stops.to_follow

    @given(candidates(standings=CALM), st.integers(2, 14), st.integers(1, 12))
    @drawn
    def test_keeps_a_fifth_of_a_lowered_total_for_stops(
        self, orders: list[Candidate], total: int, limit: int
    ) -> None:
        caps = caps_for(default_limit=limit, total=total)
        end = Scene(orders, caps).settled()
        stops = {order.id for order in orders if order.lane is STOP}
        if caps.total is not None:
            assert len(stops & end.resting()) >= min(len(stops), caps.stop, max(1, total // 5))

    @given(candidates(sides=[BUY], standings=[WAITING]), caps)
    @drawn
    def test_of_one_side_takes_the_first_of_the_plain_sort(self, orders: list[Candidate], caps: Caps) -> None:
        caps = replace(caps, total=None)
        plain = sorted(orders, key=lambda one: (one.priority, -one.sort_price, one.created_at, one.id))
        best = [
            one.id for lane in Lane for one in [two for two in plain if two.lane is lane][: caps.of(lane)]
        ]
        assert plan_book(orders, caps=caps) == BookPlan(to_submit=tuple(best))


class TestTheQueuesCases:
    """The cases that must hold and are the plan's alone; the others need a webhook and an exchange."""

    def test_1_the_twentieth_is_sent(self) -> None:
        book = [*ladder(19, BUY, 100, RESTING), candidate(50, BUY, 1)]
        assert plan_book(book, caps=DEFAULT) == BookPlan(to_submit=(50,))

    def test_2_one_below_a_full_book_waits(self) -> None:
        book = [*ladder(20, BUY, 100, RESTING), candidate(50, BUY, 80)]
        assert plan_book(book, caps=DEFAULT) == BookPlan()

    @pytest.mark.parametrize("age", [0, 9])
    def test_2_one_at_the_price_of_the_worst_waits_however_old(self, age: int) -> None:
        book = [*ladder(20, BUY, 100, RESTING), candidate(50, BUY, 81, age=age)]
        assert plan_book(book, caps=DEFAULT) == BookPlan()

    @pytest.mark.parametrize("price", ["81.5", "100.5"])
    def test_3_one_above_another_takes_the_slot_of_the_worst(self, price: str) -> None:
        book = [*ladder(20, BUY, 100, RESTING), candidate(50, BUY, price)]
        assert plan_book(book, caps=DEFAULT) == BookPlan(to_cancel=(20,), to_follow=(50,))

    def test_3_while_the_worst_is_on_its_way_back_nothing_more_is_done(self) -> None:
        book = [*ladder(19, BUY, 100, RESTING), candidate(20, BUY, 81, RETURNING), candidate(50, BUY, 101)]
        assert plan_book(book, caps=DEFAULT) == BookPlan(to_follow=(50,))

    def test_4_the_best_twenty_of_thirty_are_sent(self) -> None:
        assert plan_book(ladder(30, BUY, 100, WAITING)[::-1], caps=DEFAULT) == BookPlan(
            to_submit=tuple(range(1, 21))
        )

    @pytest.mark.parametrize("side", Side)
    def test_9_a_stop_has_a_lane_of_its_own(self, side: Side) -> None:
        book = [*ladder(20, BUY, 100, RESTING), candidate(50, side, 90, lane=STOP)]
        assert plan_book(book, caps=DEFAULT) == BookPlan(to_submit=(50,))

    def test_10_five_sells_move_into_a_full_book_of_thirty_buys(self) -> None:
        buys = [*ladder(20, BUY, 100, RESTING), *ladder(10, BUY, 80, WAITING, first=21)]
        plan = plan_book([*buys, *ladder(5, SELL, 101, WAITING, first=51)], caps=DEFAULT)
        assert plan == BookPlan(to_cancel=(20, 19, 18, 17, 16), to_follow=(51, 52, 53, 54, 55))

    def test_10_twenty_waiting_sells_get_half(self) -> None:
        book = [*ladder(20, BUY, 100, RESTING), *ladder(20, SELL, 101, WAITING, first=51)]
        plan = plan_book(book, caps=DEFAULT)
        assert plan.to_cancel == tuple(range(20, 10, -1))
        assert plan.to_follow == tuple(range(51, 61))


class TestFreeSlots:
    def test_are_filled_before_anything_is_canceled(self) -> None:
        book = [candidate(1, BUY, 100, RESTING), candidate(2, BUY, 80, RESTING), candidate(3, BUY, 90)]
        assert plan_book(book, caps=Caps(3, 1)) == BookPlan(to_submit=(3,))

    def test_are_given_away_once(self) -> None:
        book = [candidate(1, BUY, 80, RESTING), candidate(2, BUY, 90), candidate(3, BUY, 91)]
        assert plan_book(book, caps=Caps(2, 1)) == BookPlan(to_cancel=(1,), to_submit=(3,), to_follow=(2,))


class TestABookThatIsTooFull:
    @pytest.mark.parametrize("external", [{}, {LIMIT: 3}])
    def test_is_left_alone_while_nothing_better_comes(self, external: dict[Lane, int]) -> None:
        book = [*ladder(20, BUY, 100, RESTING), candidate(50, BUY, 80)]
        assert plan_book(book, caps=Caps(10, 3), external=external) == BookPlan()

    def test_shrinks_until_a_better_one_fits(self) -> None:
        book = [*ladder(20, BUY, 100, RESTING), candidate(50, BUY, 101)]
        plan = plan_book(book, caps=Caps(10, 3))
        assert plan == BookPlan(to_cancel=tuple(range(20, 9, -1)), to_follow=(50,))

    def test_gives_nobody_a_slot_that_others_hold(self) -> None:
        book = [candidate(1, BUY, 100, FIXED), candidate(2, BUY, 1, RESTING), candidate(50, BUY, 101)]
        assert plan_book(book, caps=Caps(3, 1), external={LIMIT: 2}) == BookPlan()

    def test_cancels_the_same_ones_however_many_waiting_ones_were_read(self) -> None:
        # Stops rest beyond their own cap of 0, so that no waiting one is read; a limit needs one slot.
        book = [
            candidate(1, BUY, 90, RESTING, lane=STOP, age=1),
            candidate(2, SELL, 80, RESTING, lane=STOP, age=2),
            candidate(3, BUY, 85),
        ]
        unread = candidate(4, SELL, 81, lane=STOP)  # with it the second is its side's second
        plan = BookPlan(to_cancel=(1,), to_follow=(3,))
        assert plan_book(book, caps=Caps(1, 0, 2)) == plan
        assert plan_book([*book, unread], caps=Caps(1, 0, 2)) == plan

    def test_makes_room_for_a_stop_when_limits_rest_beyond_their_own_cap(self) -> None:
        lowered = caps_for(default_limit=20, total=10)
        book = [*ladder(10, BUY, 100, RESTING), candidate(50, SELL, 80, lane=STOP)]
        assert plan_book(book, caps=lowered) == BookPlan(to_cancel=(10,), to_follow=(50,))
        by_hand = [*ladder(8, BUY, 100, RESTING), candidate(50, SELL, 80, lane=STOP)]
        plan = plan_book(by_hand, caps=lowered, external={LIMIT: 2})
        assert plan == BookPlan(to_cancel=(8,), to_follow=(50,))


class TestOrdersOnTheirWay:
    def test_one_that_leaves_gives_the_other_side_no_better_turn(self) -> None:
        # With a turn of its own it would have the second buy canceled, to be sent again a moment later.
        book = [*ladder(3, BUY, 105, RESTING), *ladder(2, SELL, 110, WAITING, first=51)]
        book[0] = replace(book[0], standing=LEAVING)
        scene = Scene(book, Caps(3, 1))
        assert scene.plan() == BookPlan(to_follow=(51,))
        assert scene.carried_out().plan() == BookPlan()

    def test_one_that_comes_back_to_a_slot_is_waited_for(self) -> None:
        book = [candidate(1, BUY, 100, RETURNING), candidate(2, BUY, 90), candidate(3, BUY, 80)]
        assert plan_book(book, caps=Caps(2, 1)) == BookPlan(to_submit=(2,))
        assert plan_book(book, caps=Caps(1, 1)) == BookPlan()

    def test_one_that_comes_back_to_a_slot_is_not_promised_to_another(self) -> None:
        book = [candidate(1, BUY, 100, RETURNING), candidate(2, BUY, 80, RESTING), candidate(3, BUY, 90)]
        assert plan_book(book, caps=Caps(2, 1)) == BookPlan(to_cancel=(2,), to_follow=(3,))

    def test_the_slot_of_one_that_does_not_deserve_it_is_promised(self) -> None:
        book = [candidate(1, BUY, 100, RETURNING), candidate(2, BUY, 110), candidate(3, BUY, 90)]
        assert plan_book(book, caps=Caps(1, 1)) == BookPlan(to_follow=(2,))
