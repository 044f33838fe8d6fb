"""Rows for tests, each with what it needs around it. Times are given, never taken from the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from django.contrib.auth.models import User

from exchanges.models import Account, Environment, Instrument, LastPrice, Market
from orders.models import (
    Book,
    EventSource,
    EventType,
    FailedOrder,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Placement,
    Strategy,
    StrategyAccount,
    StrategyPosition,
    Trade,
    WebhookDelivery,
)
from orders.services.waiting import pending_for
from orders.states import OrderStatus

NOON = datetime(2026, 7, 21, 12, 0, tzinfo=UTC)


def make_user(username: str = "trader", **fields: Any) -> User:
    user, _ = User.objects.get_or_create(username=username, defaults=fields)
    return user


def make_strategy_account(
    *, user: User | None = None, group_name: str = "test1", account_name: str = "main"
) -> StrategyAccount:
    """An account of `user` that follows a strategy of theirs."""
    user = user or make_user()
    account = Account.objects.filter(user=user, name=account_name).first()
    if account is None:
        account = Account(user=user, name=account_name, exchange="binance", environment=Environment.SIMULATOR)
        account.save()
    strategy = Strategy.objects.filter(group_name=group_name).first()
    if strategy is None:
        strategy = Strategy(user=user, group_name=group_name, market_type=Market.FUTURES)
        strategy.set_token(f"token-of-{group_name}")
        strategy.save()
    followed, _ = StrategyAccount.objects.get_or_create(
        strategy=strategy, account=account, defaults={"allocated_capital": Decimal(10_000)}
    )
    return followed


def make_instrument(symbol: str = "BTC/USDT", **fields: Any) -> Instrument:
    base, _, quote = symbol.partition("/")
    defaults: dict[str, Any] = {
        "venue_symbol": base + quote,
        "base_asset": base,
        "quote_asset": quote,
        "tick_size": Decimal("0.10"),
        "lot_step": Decimal("0.001"),
        "min_quantity": Decimal("0.001"),
    }
    made: Instrument = Instrument.objects.create(
        exchange="binance",
        environment=Environment.SIMULATOR,
        market_type=Market.FUTURES,
        symbol=symbol,
        **defaults | fields,
    )
    return made


def set_price(price: Decimal | str, *, symbol: str = "BTC/USDT", seen_at: datetime = NOON) -> None:
    LastPrice.objects.update_or_create(
        exchange="binance",
        environment=Environment.SIMULATOR,
        market_type=Market.FUTURES,
        symbol=symbol,
        defaults={"price": Decimal(price), "seen_at": seen_at},
    )


def make_intent(owner: StrategyAccount, **fields: Any) -> OrderIntent:
    symbol = fields.get("symbol", "BTC/USDT")
    book, _ = Book.objects.get_or_create(account=owner.account, market_type=Market.FUTURES, symbol=symbol)
    at = fields.pop("created_at", NOON)
    delivery = WebhookDelivery.objects.create(
        strategy=owner.strategy,
        webhook_id=uuid4().hex,
        received_at=at,
    )
    defaults: dict[str, Any] = {
        "symbol": symbol,
        "side": "BUY",
        "order_type": "LIMIT",
        "price": Decimal("95000.0"),
        "quantity": Decimal("0.5"),
        "home": Home.EXCHANGE,
    }
    return OrderIntent.objects.create(
        uid=f"{delivery.pk:026d}",
        delivery=delivery,
        order_index=0,
        user=owner.strategy.user,
        strategy_account=owner,
        book=book,
        market_type=Market.FUTURES,
        created_at=at,
        updated_at=at,
        **defaults | fields,
    )


def make_open_order(
    owner: StrategyAccount,
    *,
    status: OrderStatus = OrderStatus.NEW,
    submitted_at: datetime = NOON,
    **intent: Any,
) -> OpenOrder:
    asked = make_intent(owner, created_at=submitted_at, **intent)
    placement = Placement.objects.create(
        intent=asked,
        account=owner.account,
        client_order_id=f"th{asked.uid}0001",
        quantity=asked.quantity,
        send_by=submitted_at,
        created_at=submitted_at,
    )
    return OpenOrder.objects.create(
        intent=asked,
        placement=placement,
        account=owner.account,
        strategy_account=owner,
        book=asked.book,
        status=status,
        submitted_at=submitted_at,
        updated_at=submitted_at,
    )


def make_pending_order(
    owner: StrategyAccount,
    *,
    queued_at: datetime = NOON,
    waits_until: datetime | None = None,
    reason: str = "",
    is_retry: bool = False,
    **intent: Any,
) -> PendingOrder:
    asked = make_intent(owner, created_at=queued_at, is_queued=True, **{"home": Home.QUEUE} | intent)
    pending = pending_for(
        asked,
        account_id=owner.account_id,
        now=queued_at,
        waits_until=waits_until,
        reason=reason,
        is_retry=is_retry,
    )
    pending.save()
    return pending


def make_position(owner: StrategyAccount, **fields: Any) -> StrategyPosition:
    defaults: dict[str, Any] = {
        "market_type": Market.FUTURES,
        "symbol": "BTC/USDT",
        "quantity": Decimal("0.5"),
        "average_price": Decimal("94000"),
        "last_executed_at": NOON,
    }
    return StrategyPosition.objects.create(strategy_account=owner, account=owner.account, **defaults | fields)


def make_trade(owner: StrategyAccount, **fields: Any) -> Trade:
    intent = make_intent(
        owner, symbol=fields.get("symbol", "BTC/USDT"), side=fields.get("side", "BUY"), home=Home.DONE
    )
    defaults: dict[str, Any] = {
        "symbol": intent.symbol,
        "side": intent.side,
        "quantity": Decimal("0.5"),
        "average_price": Decimal("94000"),
        "notional": Decimal("47000"),
        "fees": {"USDT": "18.8"},
        "first_executed_at": NOON,
        "last_executed_at": NOON,
    }
    return Trade.objects.create(
        intent=intent, strategy_account=owner, market_type=Market.FUTURES, **defaults | fields
    )


def make_failed_order(owner: StrategyAccount, **fields: Any) -> FailedOrder:
    symbol, created_at = fields.get("symbol", "BTC/USDT"), fields.get("created_at", NOON)
    intent = make_intent(owner, symbol=symbol, created_at=created_at, home=Home.FAILED)
    defaults: dict[str, Any] = {
        "symbol": intent.symbol,
        "side": intent.side,
        "order_type": intent.order_type,
        "quantity": intent.quantity,
        "price": intent.price,
        "reason": "The balance does not cover this order.",
        "error_type": "insufficient_balance",
        "created_at": NOON,
    }
    return FailedOrder.objects.create(
        intent=intent,
        strategy_account=owner,
        market_type=Market.FUTURES,
        uid=intent.uid,
        **defaults | fields,
    )


def log_event(owner: StrategyAccount, *, intent: OrderIntent | None = None, **fields: Any) -> OrderEvent:
    defaults: dict[str, Any] = {
        "type": EventType.ACCEPTED,
        "source": EventSource.ANSWER,
        "user_id": owner.strategy.user_id,
        "account": owner.account,
        "strategy_account": owner,
        "intent": intent,
        "symbol": intent.symbol if intent else "",
        "created_at": NOON,
    }
    return OrderEvent.objects.create(**defaults | fields)
