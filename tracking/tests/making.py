"""Rows and orders for the tests of this room, made the way the house makes them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib.auth import get_user_model
from ulid import ULID

from exchanges.adapters.testing import BTC_USDT
from exchanges.adapters.types import Credentials, MarketType, OrderReport, Side, VenueOrderStatus
from exchanges.models import Account
from orders.clock import DatabaseClock, database_now
from orders.models import (
    Book,
    DeliveryState,
    Home,
    OpenOrder,
    OrderIntent,
    Placement,
    Strategy,
    StrategyAccount,
    WebhookDelivery,
)
from orders.services import submission
from tracking.watch import StreamKey

_serial = itertools.count(1)
FUTURES = MarketType.FUTURES.value
SYMBOL = BTC_USDT.symbol


def make_account(*, market_type: str = FUTURES, **overrides: Any) -> Account:
    """An account whose owner's strategy trades `market_type`."""
    number = next(_serial)
    user = get_user_model().objects.create_user(f"trader{number}")
    account = Account(user=user, name=f"account{number}", exchange="binance", environment="SIMULATOR")
    account.credentials = Credentials(f"key{number}", f"secret{number}")
    for name, value in overrides.items():
        setattr(account, name, value)
    account.save()
    strategy = Strategy(user=user, group_name=f"group{number}", market_type=market_type)
    strategy.set_token(f"token{number}")
    strategy.save()
    StrategyAccount.objects.create(strategy=strategy, account=account, allocated_capital=Decimal(10000))
    return account


def key_of(account: Account, market_type: str = FUTURES) -> StreamKey:
    return StreamKey(account.pk, market_type)


def make_order(account: Account, *, planned_at: datetime | None = None, **overrides: Any) -> Placement:
    """A LIMIT buy of 1 BTC at 90,000, written down as SUBMITTING and not sent."""
    return make_orders(account, [overrides], planned_at=planned_at)[0]


def make_orders(
    account: Account,
    orders: Iterable[dict[str, Any]],
    *,
    planned_at: datetime | None = None,
    market_type: str = FUTURES,
    delivery_state: str = DeliveryState.ANSWERED,
) -> list[Placement]:
    now = planned_at or database_now()
    follows = StrategyAccount.objects.select_related("strategy").get(account=account)
    delivery = WebhookDelivery.objects.create(
        strategy=follows.strategy,
        webhook_id=f"w{next(_serial)}",
        received_at=now,
        state=delivery_state,
        started_at=now,
    )
    placements = []
    for index, overrides in enumerate(orders):
        symbol = overrides.get("symbol", SYMBOL)
        book, _ = Book.objects.get_or_create(account=account, market_type=market_type, symbol=symbol)
        fields = {
            "side": "BUY",
            "order_type": "LIMIT",
            "price": Decimal(90000),
            "quantity": Decimal(1),
        } | overrides
        intent = OrderIntent.objects.create(
            uid=str(ULID()),
            delivery=delivery,
            order_index=index,
            user_id=account.user_id,
            strategy_account=follows,
            book=book,
            market_type=market_type,
            home=Home.EXCHANGE,
            created_at=now,
            updated_at=now,
            **({"symbol": symbol} | fields),
        )
        placement = submission.placement_for(intent, account_id=account.pk, number=1, now=now)
        placement.save()
        submission.open_order_for(placement, now=now).save()
        placements.append(placement)
    return placements


def send(account: Account, placements: Iterable[Placement]) -> None:
    """Send orders that are written down, and record the answers."""
    work = submission.Dispatch(
        list(placements), {account.pk: account}, time.monotonic(), DatabaseClock(database_now())
    )
    submission.dispatch(work)


def make_resting(account: Account, **overrides: Any) -> Placement:
    """An order that the exchange has accepted."""
    placement = make_order(account, **overrides)
    send(account, [placement])
    placement.refresh_from_db()
    return placement


def open_order(placement: Placement) -> OpenOrder | None:
    return OpenOrder.objects.filter(intent=placement.intent).first()


def long_ago(**ago: float) -> datetime:
    return datetime.now(UTC) - timedelta(**ago)


def report(**overrides: Any) -> OrderReport:
    fields: dict[str, Any] = {
        "market_type": MarketType.FUTURES,
        "symbol": SYMBOL,
        "exchange_order_id": "900",
        "client_order_id": "by-hand",
        "status": VenueOrderStatus.NEW,
        "side": Side.BUY,
        "quantity": Decimal(1),
        "price": Decimal(80000),
        "filled_quantity": Decimal(0),
    }
    return OrderReport(**(fields | overrides))


def wait_until(condition: Callable[[], Any], *, seconds: float = 10.0) -> Any:
    """Return what `condition` gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
    return result
