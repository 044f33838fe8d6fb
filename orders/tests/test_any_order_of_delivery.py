"""Whatever the order, the doubling and the bundling of what the exchange says: the books end the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exchanges.adapters.types import OrderReport
from exchanges.fields import plain
from orders.models import (
    EventSource,
    FailedOrder,
    OpenOrder,
    OrderIntent,
    Placement,
    StrategyAccount,
    StrategyPosition,
    Trade,
    TradeExecution,
)
from orders.services.settlement import apply_reports
from orders.tests.factories import (
    FUTURES,
    NOON,
    make_fill,
    make_follower,
    make_placements,
    make_report,
)

pytestmark = pytest.mark.django_db

LATER = NOON + timedelta(minutes=1)


@dataclass(frozen=True)
class Life:
    """What becomes of one order: its fills (quantity, price, seconds after noon), and how it ends."""

    symbol: str
    side: str
    fills: tuple[tuple[Decimal, Decimal, int], ...]
    ending: str  # "" while it still rests
    ending_counts: bool = True  # False: the word of its end does not say how much was filled


lives = st.builds(
    Life,
    symbol=st.sampled_from(["BTC/USDT", "ETH/USDT"]),
    side=st.sampled_from(["BUY", "SELL"]),
    fills=st.lists(
        st.tuples(
            st.decimals(min_value="0.001", max_value=3, places=3),
            st.decimals(min_value=1, max_value=500, places=1),
            st.integers(min_value=0, max_value=4),  # few seconds: many share one
        ),
        max_size=4,
    ).map(tuple),
    ending=st.sampled_from(["", "FILLED", "CANCELED", "EXPIRED"]),
    ending_counts=st.booleans(),
)


@contextmanager
def undone() -> Iterator[None]:
    """Everything that is written inside is gone afterwards."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def story(placements: Sequence[Placement], told: Sequence[Life]) -> list[OrderReport]:
    """What the exchange says, in the order in which it happened. Trade ids rise with time."""
    happened = sorted(
        (seconds, order, number)
        for order, life in enumerate(told)
        for number, (_, _, seconds) in enumerate(life.fills)
    )
    reports = [make_report(one, "NEW", filled=0) for one in placements]
    filled = dict.fromkeys(range(len(told)), Decimal(0))
    for trade_id, (seconds, order, number) in enumerate(happened, start=8):
        quantity, price, _ = told[order].fills[number]
        filled[order] += quantity
        done = told[order].ending == "FILLED" and filled[order] == placements[order].quantity
        fill = make_fill(
            quantity,
            str(price),
            trade_id=str(trade_id),
            seconds=seconds,
            fee=quantity / 1000,
            fee_asset="USDT",
        )
        status = "FILLED" if done else "PARTIALLY_FILLED"
        reports.append(make_report(placements[order], status, fill, filled=filled[order]))
    for order, life in enumerate(told):
        if life.ending in ("CANCELED", "EXPIRED"):
            said = filled[order] if life.ending_counts else None
            reports.append(make_report(placements[order], life.ending, filled=said))
    return reports


def orders_for(told: Sequence[Life]) -> list[dict[str, Any]]:
    """Quantities that the fills make full exactly where the order ends filled, else leave a rest of."""
    found = []
    for life in told:
        total = sum((quantity for quantity, _, _ in life.fills), Decimal(0))
        rest = Decimal(0) if life.ending == "FILLED" and total else Decimal("0.5")
        found.append({"symbol": life.symbol, "side": life.side, "quantity": total + rest})
    return found


def told_to(follower: StrategyAccount, reports: Sequence[OrderReport]) -> None:
    applied = apply_reports(
        account_id=follower.account_id,
        market_type=FUTURES,
        reports=reports,
        source=EventSource.STREAM,
        now=LATER,
    )
    assert applied.unmatched == []


def text(value: Any) -> str:
    """PostgreSQL keeps the zeros behind a number, and how many there are depends on the way to it."""
    return plain(value) if isinstance(value, Decimal) else str(value)


def books(placements: Sequence[Placement]) -> dict[str, Any]:
    """Everything that must come out the same, by the orders' places and not by their row ids."""
    place = {one.intent_id: number for number, one in enumerate(placements)}

    def rows(model: Any, *names: str) -> list[tuple[Any, ...]]:
        found = model.objects.filter(intent_id__in=place).values_list("intent_id", *names)
        return sorted((place[row[0]], *map(text, row[1:])) for row in found)

    return {
        "executions": rows(
            TradeExecution,
            "trade_id", "quantity", "price", "realized_pnl",
            "position_quantity", "position_average_price", "position_realized_pnl",
        ),
        "trades": rows(
            Trade,
            "quantity", "notional", "average_price", "realized_pnl", "fees",
            "first_executed_at", "last_executed_at",
        ),
        "failed": rows(FailedOrder, "quantity", "status", "order_params"),
        "open": rows(OpenOrder, "status"),
        "intents": sorted(
            (place[pk], home, text(filled))
            for pk, home, filled in OrderIntent.objects.filter(pk__in=place).values_list(
                "pk", "home", "filled_quantity"
            )
        ),
        "positions": sorted(
            (symbol, quantity, average, realized)
            for symbol, quantity, average, realized in StrategyPosition.objects.values_list(
                "symbol", "quantity", "average_price", "realized_pnl"
            )
        ),
    }  # fmt: skip


class TestAnyOrderOfDelivery:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(told=st.lists(lives, min_size=1, max_size=4), data=st.data())
    def test_ends_as_if_everything_had_been_heard_in_time_and_once(
        self, told: list[Life], data: st.DataObject
    ) -> None:
        with undone():
            follower = make_follower()
            placements = make_placements(follower, orders_for(told))
            for report in story(placements, told):
                told_to(follower, [report])
            expected = books(placements)

        with undone():
            follower = make_follower()
            placements = make_placements(follower, orders_for(told))
            heard = story(placements, told)
            again = data.draw(st.lists(st.sampled_from(heard), max_size=6), label="heard twice")
            shuffled = data.draw(st.permutations([*heard, *again]), label="in this order")
            while shuffled:
                size = data.draw(st.integers(min_value=1, max_value=5), label="at once")
                bundle, shuffled = shuffled[:size], shuffled[size:]
                told_to(follower, bundle)

            assert books(placements) == expected

    def test_tells_of_a_story_that_has_everything(self) -> None:
        """The comparison above would also hold of empty books: here they are, worked out by hand."""
        told = [
            Life("BTC/USDT", "BUY", ((Decimal(1), Decimal(100), 0), (Decimal(1), Decimal(200), 1)), "FILLED"),
            Life("BTC/USDT", "SELL", ((Decimal(1), Decimal(250), 2),), "CANCELED"),
            Life("ETH/USDT", "SELL", (), "EXPIRED"),
        ]
        follower = make_follower()
        placements = make_placements(follower, orders_for(told))

        for report in reversed(story(placements, told)):
            told_to(follower, [report])

        found = books(placements)
        assert found["positions"] == [("BTC/USDT", Decimal(1), Decimal(150), Decimal(100))]
        assert [row[:5] for row in found["executions"]] == [
            (0, "8", "1", "100", "0"),
            (0, "9", "1", "200", "0"),
            (1, "10", "1", "250", "100"),
        ]
        assert [row[:3] for row in found["failed"]] == [(1, "0.5", "canceled"), (2, "0.5", "expired")]
        assert [home for _, home, _ in found["intents"]] == ["DONE", "FAILED", "FAILED"]
        assert found["open"] == []
