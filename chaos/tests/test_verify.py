"""The verifier finds nothing in a world that is right, and names what is wrong in each that is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.verify import Audit, Ours, Promise, Theirs, Try, fold

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ACCOUNT, KEY = "r1a", "key-r1a"
Row = dict[str, Any]


def name(number: int, attempt: int = 1) -> str:
    return f"th{'0' * 25}{number}{attempt:04d}"


def there(number: int, attempt: int = 1, **more: Any) -> Row:
    """An order as the exchange's ledger has it: it rests, nothing filled."""
    return {
        "exchange": "binance-futures", "api_key": KEY, "symbol": "BTC/USDT", "parent_id": "",
        "client_order_id": name(number, attempt), "status": "NEW", "side": "BUY", "quantity": "1",
        "filled": "0", "fills": [], "accepted_ns": number * 100 + attempt, "ended_ns": 0,
    } | more  # fmt: skip


def fill(trade_id: int, quantity: str, price: str = "100") -> Row:
    return {"trade_id": trade_id, "quantity": quantity, "price": price, "fee": "0.01"}


class World:
    """Three intents of one webhook: one rests, one filled by 0.4 and 0.6, one waits behind a full lane."""

    def __init__(self) -> None:
        self.ours = Ours(
            deliveries=[{"id": 1, "webhook_id": "w1", "state": "ANSWERED", "strategy": "s1"}],
            intents=[self.intent(1, "EXCHANGE"), self.intent(2, "DONE", filled="1"), self.intent(3, "QUEUE")],
            placements=[self.placement(1), self.placement(2, filled="1")],
            open=[self.open_order(1)],
            pending=[{"intent_id": 3, "book_id": 1, "waits_until": None, "order_type": "LIMIT",
                      "cancel_requested": False}],
            executions=[self.execution(1, "0.4"), self.execution(2, "0.6", price="110")],
            trades=[{"intent_id": 2, "quantity": Decimal(1), "notional": Decimal(106)}],
            positions=[{"strategy_account_id": 1, "account": ACCOUNT, "market_type": "FUTURES",
                        "symbol": "BTC/USDT", "quantity": Decimal(1), "realized_pnl": Decimal(0)}],
            books=[{"id": 1, "external_limit_orders": 0, "external_stop_orders": 0, "limit_believed": None,
                    "stop_believed": None}],
            submitted_events=[{"id": 10, "intent_id": 1}, {"id": 11, "intent_id": 2}],
        )  # fmt: skip
        filled = there(2, status="FILLED", filled="1", fills=[fill(1, "0.4"), fill(2, "0.6", "110")])
        self.theirs = Theirs([there(1), filled], [], {(ACCOUNT, "BTC/USDT"): Decimal(1)})
        self.promises = [Promise("s1", "w1", 3)]
        self.tries = [Try("s1", "w1", 200, 0.0, 0.1), Try("s1", "w1", 409, 0.05, 0.06)]
        self.is_over = False

    @staticmethod
    def intent(number: int, home: str, filled: str = "0", **more: Any) -> Row:
        return {
            "id": number, "delivery_id": 1, "order_type": "LIMIT", "quantity": Decimal(1),
            "filled_quantity": Decimal(filled), "home": home, "cancel_requested": False,
        } | more  # fmt: skip

    @staticmethod
    def placement(number: int, attempt: int = 1, filled: str = "0", **more: Any) -> Row:
        return {
            "id": number * 10 + attempt - 1, "intent_id": number, "client_order_id": name(number, attempt),
            "filled_quantity": Decimal(filled), "exchange_filled_quantity": Decimal(filled),
            "outcome": "PLACED",
        } | more  # fmt: skip

    @staticmethod
    def open_order(number: int, **more: Any) -> Row:
        return {
            "intent_id": number, "status": "NEW", "book_id": 1, "client_order_id": name(number),
            "order_type": "LIMIT", "cancel_requested": False,
        } | more  # fmt: skip

    @staticmethod
    def execution(trade_id: int, quantity: str, price: str = "100", **more: Any) -> Row:
        return {
            "intent_id": 2, "placement_id": 20, "strategy_account_id": 1, "account": ACCOUNT,
            "market_type": "FUTURES", "symbol": "BTC/USDT", "trade_id": str(trade_id), "side": "BUY",
            "quantity": Decimal(quantity), "price": Decimal(price), "fee": Decimal("0.01"),
            "executed_at": NOON + timedelta(seconds=trade_id),
        } | more  # fmt: skip

    def rules(self) -> set[str]:
        """The names of the rules that find something."""
        audit = Audit(
            self.ours,
            self.theirs,
            self.promises,
            {KEY: ACCOUNT},
            1,
            1,
            is_over=self.is_over,
            tries=self.tries,
        )
        return {finding.rule for finding in audit.findings()}


def accepted_twice(world: World) -> None:
    world.theirs.orders.append(there(2, status="FILLED"))


def conditional_accepted_twice(world: World) -> None:
    world.theirs.conditional += [there(2, status="CANCELED"), there(2, status="CANCELED")]


def unknown_order(world: World) -> None:
    world.theirs.orders.append(there(9, status="CANCELED"))


def two_live(world: World) -> None:
    world.theirs.orders.append(there(1, attempt=2))
    world.ours.placements.append(World.placement(1, attempt=2))


def two_at_once(world: World) -> None:
    world.theirs.orders[0] |= {"status": "CANCELED", "ended_ns": 103}
    world.theirs.orders.append(there(1, attempt=2))
    world.ours.placements.append(World.placement(1, attempt=2))


def too_much(world: World) -> None:
    world.theirs.orders.append(there(2, attempt=2, status="FILLED", filled="0.1"))
    world.ours.placements.append(World.placement(2, attempt=2))


def asks_too_much(world: World) -> None:
    world.theirs.orders[0] |= {"status": "CANCELED", "filled": "0.3", "ended_ns": 150}
    world.theirs.orders.append(there(1, attempt=2, accepted_ns=160))  # for 1 again, not for 0.7
    world.ours.placements.append(World.placement(1, attempt=2))


def placed_after_cancel(world: World) -> None:
    world.ours.cancel_events.append({"id": 9, "intent_id": 2})


def lost_webhook(world: World) -> None:
    world.promises.append(Promise("s1", "w2", 0))


def carried_out_late(world: World) -> None:
    world.tries.append(Try("s1", "w2", 409, 0.05, 0.06))


def lost_intents(world: World) -> None:
    world.promises[0] = Promise("s1", "w1", 4)


def two_homes(world: World) -> None:
    world.ours.failed.append({"intent_id": 1, "reason": "", "exchange_error": ""})


def homeless(world: World) -> None:
    world.ours.pending.clear()


def done_too_early(world: World) -> None:
    world.ours.intents[1]["quantity"] = Decimal(2)


def rests_there(world: World) -> None:
    world.theirs.orders.append(there(2, attempt=2))
    world.ours.placements.append(World.placement(2, attempt=2))


def open_here(world: World) -> None:
    world.theirs.orders[0]["status"] = "CANCELED"


def status_differs(world: World) -> None:
    world.theirs.orders[0]["status"] = "PARTIALLY_FILLED"


def fill_missing(world: World) -> None:
    world.ours.executions.pop()


def fill_invented(world: World) -> None:
    world.ours.executions.append(World.execution(3, "0.1"))


def fill_counted_twice(world: World) -> None:
    world.ours.executions.append(World.execution(2, "0.6"))


def fill_differs(world: World) -> None:
    world.ours.executions[0]["price"] = Decimal(101)


def intent_sum(world: World) -> None:
    world.ours.intents[1]["filled_quantity"] = Decimal("0.9")


def placement_sum(world: World) -> None:
    world.ours.placements[1]["filled_quantity"] = Decimal("0.9")


def trade_missing(world: World) -> None:
    world.ours.trades.clear()


def trade_notional(world: World) -> None:
    world.ours.trades[0]["notional"] = Decimal(105)


def position_there(world: World) -> None:
    world.theirs.positions.clear()


def position_here(world: World) -> None:
    world.ours.positions[0]["quantity"] = Decimal("0.9")


def profit(world: World) -> None:
    world.ours.positions[0]["realized_pnl"] = Decimal("0.1")


def submitting(world: World) -> None:
    world.ours.open[0]["status"] = "SUBMITTING"


def held(world: World) -> None:
    world.theirs.held = 1


def unanswered(world: World) -> None:
    world.ours.deliveries[0]["state"] = "WORKING"


def unresolved(world: World) -> None:
    world.ours.placements[0]["outcome"] = "UNRESOLVED"


def gap(world: World) -> None:
    world.ours.placements[0]["exchange_filled_quantity"] = Decimal("0.1")


def unmatched(world: World) -> None:
    world.ours.unmatched.append({"exchange_order_id": "1"})


def forgotten_cancel(world: World) -> None:
    world.ours.open[0]["cancel_requested"] = True


def forgotten_in_the_queue(world: World) -> None:
    world.ours.pending[0]["cancel_requested"] = True


def starving(world: World) -> None:
    world.ours.open[0]["book_id"] = 2


def alive_at_the_end(world: World) -> None:
    world.is_over = True


WRONG: list[tuple[Callable[[World], None], str]] = [
    (accepted_twice, "accepted twice"),
    (conditional_accepted_twice, "accepted twice"),
    (unknown_order, "unknown order"),
    (two_live, "two live placements"),
    (two_at_once, "two at once"),
    (too_much, "too much"),
    (asks_too_much, "asks too much"),
    (placed_after_cancel, "placed after cancel"),
    (lost_webhook, "lost webhook"),
    (lost_intents, "lost intents"),
    (carried_out_late, "carried out late"),
    (two_homes, "home"),
    (homeless, "home"),
    (done_too_early, "done too early"),
    (rests_there, "rests there"),
    (open_here, "open here"),
    (status_differs, "status"),
    (fill_missing, "fill missing"),
    (fill_invented, "fill invented"),
    (fill_counted_twice, "counted twice"),
    (fill_differs, "fill differs"),
    (intent_sum, "sums"),
    (placement_sum, "sums"),
    (trade_missing, "sums"),
    (trade_notional, "sums"),
    (position_there, "position"),
    (position_here, "position"),
    (profit, "profit"),
    (submitting, "in flight"),
    (held, "in flight"),
    (unanswered, "in flight"),
    (unresolved, "in flight"),
    (gap, "in flight"),
    (unmatched, "in flight"),
    (forgotten_cancel, "cancel forgotten"),
    (forgotten_in_the_queue, "cancel forgotten"),
    (starving, "starving"),
    (alive_at_the_end, "still alive"),
]


class TestFindings:
    def test_are_none_where_both_sides_agree(self) -> None:
        assert World().rules() == set()

    @pytest.mark.parametrize(("break_it", "rule"), WRONG, ids=[each.__name__ for each, _ in WRONG])
    def test_name_what_is_wrong(self, break_it: Callable[[World], None], rule: str) -> None:
        world = World()
        break_it(world)
        assert rule in world.rules()

    def test_let_a_triggered_stop_and_its_child_share_an_id(self) -> None:
        world = World()
        world.theirs.conditional.append(there(2, status="TRIGGERED"))
        world.theirs.orders[1]["parent_id"] = "77"
        assert world.rules() == set()

    def test_let_an_order_follow_its_canceled_predecessor(self) -> None:
        world = World()
        world.theirs.orders[0] |= {"status": "CANCELED", "ended_ns": 102}
        world.theirs.orders.append(there(1, attempt=2, accepted_ns=102))
        world.ours.placements.append(World.placement(1, attempt=2))
        world.ours.open[0]["client_order_id"] = name(1, 2)
        assert world.rules() == set()

    def test_let_one_who_slept_hear_that_its_work_was_taken_over(self) -> None:
        world = World()
        world.tries.append(Try("s1", "w2", 409, 0.05, 2.0))
        assert world.rules() == set()

    def test_leave_orders_that_others_placed_alone(self) -> None:
        world = World()
        world.theirs.orders.append(there(1, client_order_id="by-hand"))
        assert world.rules() == set()

    def test_take_nothing_that_filled_of_them_for_our_position(self) -> None:
        world = World()
        world.theirs.orders.append(
            there(1, client_order_id="by-hand", side="SELL", filled="0.3", status="FILLED")
        )
        assert world.rules() == {"position"}
        world.theirs.positions[ACCOUNT, "BTC/USDT"] = Decimal("0.7")
        assert world.rules() == set()

    def test_believe_a_lane_that_the_exchange_called_full(self) -> None:
        world = World()
        world.ours.open[0]["book_id"] = 2
        world.ours.books[0]["limit_believed"] = 0
        assert world.rules() == set()


FILLS = st.lists(
    st.tuples(st.sampled_from(["BUY", "SELL"]), st.integers(1, 5), st.integers(90, 110)),
    min_size=1,
    max_size=12,
)


class TestFold:
    @given(fills=FILLS, order=st.randoms(use_true_random=False))
    @settings(deadline=None)
    def test_does_not_depend_on_the_order_of_the_rows(self, fills: list[Any], order: Any) -> None:
        rows = [
            World.execution(number, str(quantity), str(price), side=side)
            for number, (side, quantity, price) in enumerate(fills)
        ]
        mixed = list(rows)
        order.shuffle(mixed)
        assert fold(mixed) == fold(rows)

    @given(fills=FILLS)
    @settings(deadline=None)
    def test_keeps_the_money(self, fills: list[Any]) -> None:
        """What was earned is what came in for what went out, once the rest is valued at its entry."""
        rows = [
            World.execution(number, str(quantity), str(price), side=side)
            for number, (side, quantity, price) in enumerate(fills)
        ]
        held, realized = fold(rows)[1, "FUTURES", "BTC/USDT"]
        signed = [quantity if side == "BUY" else -quantity for side, quantity, _ in fills]
        assert held == sum(signed)
        if held == 0:
            paid = sum(sign * price for sign, (_, _, price) in zip(signed, fills, strict=True))
            assert abs(realized + paid) < Decimal("1e-9")
