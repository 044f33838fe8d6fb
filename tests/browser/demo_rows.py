"""Believable rows for the live page, and steps that change them, written by a process of its own.

    python -m tests.browser.demo_rows fill          # a busy afternoon
    python -m tests.browser.demo_rows place | fill-part | fill-rest | fail | price 96000 | events 20

`place` prints the id of its order; the other steps work on the last one placed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from decimal import Decimal

import django

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.db import transaction  # noqa: E402
from django.utils import timezone  # noqa: E402

from exchanges import runtime  # noqa: E402
from exchanges.adapters.types import Credentials  # noqa: E402
from exchanges.models import Instrument  # noqa: E402
from orders.events import EventsLogged, publish, subscribe  # noqa: E402
from orders.models import (  # noqa: E402
    DeliveryState,
    EventSource,
    EventType,
    FailedOrder,
    FailedStatus,
    OpenOrder,
    OrderIntent,
    PendingOrder,
    Placement,
    StrategyAccount,
    StrategyPosition,
    Trade,
)
from orders.states import OrderStatus  # noqa: E402
from orders.tests.rows import (  # noqa: E402
    log_event,
    make_failed_order,
    make_instrument,
    make_open_order,
    make_pending_order,
    make_position,
    make_strategy_account,
    make_trade,
    set_price,
)
from tracking import bell  # noqa: E402
from tracking.models import OrderTrackingSession, SessionStatus  # noqa: E402

USERNAME, PASSWORD = "trader", "correct horse battery"  # noqa: S105  of a throw-away database
KEY, SECRET = "demo-key", "demo-secret"  # of a simulated exchange
NASTY = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def people() -> StrategyAccount:
    if not (user := User.objects.filter(username=USERNAME).first()):
        user = User.objects.create_user(USERNAME, password=PASSWORD)
    owner = make_strategy_account(user=user, group_name="btc-breakout", account_name="main")
    owner.account.credentials = Credentials(api_key=KEY, api_secret=SECRET)
    owner.account.save()
    return owner


def fill() -> None:
    """A busy afternoon: two accounts, a few coins, orders in every state."""
    owner, now = people(), timezone.now()
    second = make_strategy_account(user=owner.strategy.user, group_name="eth-grid", account_name="hedge")
    coins = {
        "BTC/USDT": ("0.10", "0.001", "95321.4"),
        "ETH/USDT": ("0.01", "0.001", "3412.57"),
        "SOL/USDT": ("0.010", "0.1", "187.43"),
        "DOGE/USDT": ("0.00001", "1", "0.31742"),
    }
    for symbol, (tick, step, price) in coins.items():
        make_instrument(symbol, tick_size=Decimal(tick), lot_step=Decimal(step))
        set_price(price, symbol=symbol, seen_at=now)
    for account, status, lease in ((owner, SessionStatus.CONNECTED, 3600), (second, SessionStatus.ERROR, -1)):
        OrderTrackingSession.objects.create(
            account=account.account,
            market_type="FUTURES",
            status=status,
            lease_expires_at=now + timedelta(seconds=lease),
            connected_at=now - timedelta(hours=3),
            disconnected_at=now - timedelta(minutes=4) if lease < 0 else None,
            last_error="Connection reset by peer" if lease < 0 else "",
        )
    make_position(
        owner,
        quantity=Decimal("0.750"),
        average_price=Decimal("94120.333333"),
        realized_pnl=Decimal("412.87"),
    )
    make_position(
        owner,
        symbol="SOL/USDT",
        quantity=Decimal("-120"),
        average_price=Decimal("185.212"),
        realized_pnl=Decimal("-63.1"),
    )
    make_position(
        second,
        symbol="ETH/USDT",
        quantity=Decimal("6.25"),
        average_price=Decimal("3398.114"),
        realized_pnl=Decimal("1204.5"),
    )
    make_position(
        second,
        symbol="DOGE/USDT",
        quantity=Decimal(0),
        average_price=None,
        realized_pnl=Decimal("38.02"),
        last_executed_at=now - timedelta(hours=2),
    )
    _orders(owner, second)
    _waiting(owner, second)
    _history(owner, second)
    _failed(owner, second)


def _orders(owner: StrategyAccount, second: StrategyAccount) -> None:
    now = timezone.now()
    for step in range(6):
        make_open_order(
            owner,
            price=Decimal(95000 - 250 * step),
            quantity=Decimal("0.120"),
            filled_quantity=Decimal("0.084") if step == 0 else Decimal(0),
            status=OrderStatus.PARTIALLY_FILLED if step == 0 else OrderStatus.NEW,
            submitted_at=now - timedelta(minutes=9 - step),
        )
    make_open_order(
        owner,
        side="SELL",
        order_type="STOP_MARKET",
        price=None,
        stop_price=Decimal("92000"),
        quantity=Decimal("0.750"),
        reduce_only=True,
        submitted_at=now - timedelta(minutes=2),
    )
    for step in range(4):
        make_open_order(
            second,
            symbol="ETH/USDT",
            side="SELL",
            price=Decimal("3450") + 15 * step,
            quantity=Decimal("1.5"),
            status=OrderStatus.CANCELING if step == 3 else OrderStatus.NEW,
            submitted_at=now - timedelta(seconds=50 - step),
        )
    make_open_order(
        second,
        symbol="ETH/USDT",
        order_type="STOP_LIMIT",
        price=Decimal("3300"),
        stop_price=Decimal("3305"),
        quantity=Decimal("2"),
        status=OrderStatus.SUBMITTING,
        submitted_at=now - timedelta(seconds=95),
    )


def _waiting(owner: StrategyAccount, second: StrategyAccount) -> None:
    """A ladder of limits on both sides, a stop that waits its turn, one that the exchange put off."""
    now = timezone.now()
    for step in range(5):
        make_pending_order(
            owner,
            price=Decimal(93250 - 250 * step),
            quantity=Decimal("0.120"),
            filled_quantity=Decimal("0.035") if step == 1 else Decimal(0),
            queued_at=now - timedelta(minutes=9 - step),
        )
    for step in range(3):
        make_pending_order(
            owner,
            side="SELL",
            price=Decimal(98250 + 250 * step),
            quantity=Decimal("0.060"),
            is_retry=step == 1,
            retry_count=1 if step == 1 else 0,
            queued_at=now - timedelta(minutes=3),
        )
    make_pending_order(
        second,
        symbol="ETH/USDT",
        side="SELL",
        order_type="STOP_MARKET",
        price=None,
        stop_price=Decimal("3210"),
        quantity=Decimal("6.25"),
        reduce_only=True,
        queued_at=now - timedelta(seconds=42),
    )
    make_pending_order(
        second,
        symbol="ETH/USDT",
        price=Decimal("3350"),
        quantity=Decimal("1.5"),
        retry_count=2,
        waits_until=now + timedelta(minutes=2),
        reason="Too many requests. (code -1003)",
        queued_at=now - timedelta(minutes=1),
    )


def _failed(owner: StrategyAccount, second: StrategyAccount) -> None:
    now = timezone.now()
    make_failed_order(
        owner,
        reason="The balance does not cover this order.",
        exchange_error="Margin is insufficient. (code -2019)",
        created_at=now - timedelta(minutes=11),
        retry_count=2,
    )
    make_failed_order(
        owner,
        symbol="SOL/USDT",
        price=Decimal("186.5"),
        quantity=Decimal("40"),
        reason="The exchange did not answer in time.",
        error_type="timeout",
        next_retry_at=now + timedelta(hours=25),  # its date is told, too
        created_at=now - timedelta(minutes=18),
        retry_count=1,
    )
    make_failed_order(
        second,
        symbol="ETH/USDT",
        side="SELL",
        price=Decimal("3600"),
        reason="Expired on the exchange",
        error_type="unknown",
        status="expired",
        created_at=now - timedelta(minutes=31),
    )
    make_failed_order(
        second,
        symbol="DOGE/USDT",
        price=Decimal("0.31"),
        quantity=Decimal("5000"),
        reason="The exchange takes no more orders here.",
        error_type="limit_exceeded",
        exchange_error="Reach max open order limit. (code -2025)",
        retry_count=5,
        created_at=now - timedelta(hours=5),
    )
    for day in range(1, 24):
        for number in range((day * 7) % 5):
            make_failed_order(
                second if number % 2 else owner,
                symbol=("BTC/USDT", "ETH/USDT", "SOL/USDT")[(day + number) % 3],
                reason=(
                    "The balance does not cover this order.",
                    "Too many requests",
                    "The quantity is below the smallest that is allowed.",
                )[(day * number) % 3],
                status="removed",
                created_at=now - timedelta(days=day, minutes=number),
            )


def _history(owner: StrategyAccount, second: StrategyAccount) -> None:
    now = timezone.now()
    for step in range(9):
        account, symbol, price, quantity = (
            (owner, "BTC/USDT", Decimal("94210.4"), Decimal("0.125"))
            if step % 3
            else (second, "ETH/USDT", Decimal("3391.27"), Decimal("1.25"))
        )
        make_trade(
            account,
            symbol=symbol,
            side="SELL" if step % 4 == 0 else "BUY",
            quantity=quantity,
            average_price=price + 7 * step,
            notional=(price + 7 * step) * quantity,
            realized_pnl=Decimal("31.44") * (step - 3) if step % 4 == 0 else Decimal(0),
            fees={"USDT": str(Decimal("1.87") + step)},
            last_executed_at=now - timedelta(minutes=7 * step + 1),
        )
    order = OpenOrder.objects.select_related("intent").filter(strategy_account=owner).order_by("pk").first()
    assert order is not None
    story = (
        (EventType.STREAM, EventSource.STREAM, None, ""),
        (EventType.SUBMITTING, EventSource.WEBHOOK, order.intent, ""),
        (EventType.ACCEPTED, EventSource.ANSWER, order.intent, ""),
        (EventType.PARTIALLY_FILLED, EventSource.STREAM, order.intent, ""),
        (EventType.FILLED, EventSource.STREAM, order.intent, ""),
        (EventType.REJECTED, EventSource.ANSWER, order.intent, "Margin is insufficient. (code -2019)"),
        (EventType.CANCELED, EventSource.RECONCILIATION, order.intent, ""),
        (EventType.UNKNOWN, EventSource.ANSWER, order.intent, "time-out after 10 s"),
    )
    for minute, (kind, source, intent, message) in enumerate(story):
        log_event(
            owner,
            type=kind,
            source=source,
            intent=intent,
            message=message,
            after=SessionStatus.CONNECTED if kind == EventType.STREAM else "",
            data={"filled_quantity": "0.084"} if kind == EventType.PARTIALLY_FILLED else {},
            created_at=now - timedelta(minutes=40 - 5 * minute),
        )


def place() -> None:
    owner = people()
    order = make_open_order(owner, quantity=Decimal("0.4"), submitted_at=timezone.now())
    _tell(order, EventType.ACCEPTED, EventSource.ANSWER)
    sys.stdout.write(f"{order.pk}\n")


def _last() -> OpenOrder:
    return OpenOrder.objects.select_related("intent", "strategy_account__strategy").latest("pk")


def fill_part() -> None:
    order = _last()
    order.intent.filled_quantity, order.status = Decimal("0.1"), OrderStatus.PARTIALLY_FILLED
    order.intent.save()
    order.save()
    make_position(
        order.strategy_account,
        quantity=Decimal("0.1"),
        average_price=Decimal(95000),
        last_executed_at=timezone.now(),
    )
    _tell(order, EventType.PARTIALLY_FILLED, EventSource.STREAM)


def fill_rest() -> None:
    order, now = _last(), timezone.now()
    order.intent.filled_quantity = order.intent.quantity
    order.intent.save()
    StrategyPosition.objects.update(quantity=Decimal("0.4"), last_executed_at=now)
    Trade.objects.create(
        intent=order.intent,
        strategy_account=order.strategy_account,
        market_type=order.intent.market_type,
        symbol=order.intent.symbol,
        side=order.intent.side,
        quantity=Decimal("0.4"),
        notional=Decimal(38000),
        average_price=Decimal(95000),
        fees={"USDT": "15.2"},
        first_executed_at=now,
        last_executed_at=now,
    )
    _tell(order, EventType.FILLED, EventSource.STREAM)
    OpenOrder.objects.filter(pk=order.pk).delete()


def fail() -> None:
    owner = people()
    failed = make_failed_order(owner, reason=NASTY[:100], exchange_error=NASTY, created_at=timezone.now())
    log_event(owner, type=EventType.FAILED, intent=failed.intent, message=NASTY, created_at=timezone.now())


def fail_clean(symbol: str = "BTC/USDT", retry_count: str = "0", error_type: str = "rate_limit") -> None:
    owner = people()
    if not Instrument.objects.filter(symbol=symbol).exists():
        make_instrument(symbol)
    failed = make_failed_order(
        owner,
        symbol=symbol,
        reason="Too many requests",
        error_type=error_type,
        retry_count=int(retry_count),
        created_at=timezone.now(),
    )
    failed.intent.retry_count, failed.intent.is_queued = failed.retry_count, True
    failed.intent.save()
    delivery = failed.intent.delivery
    delivery.state, delivery.answered_at = DeliveryState.ANSWERED, timezone.now()
    delivery.save()
    log_event(owner, type=EventType.FAILED, intent=failed.intent, created_at=timezone.now())
    sys.stdout.write(f"{failed.pk}\n")


def wait(price: str = "95000", side: str = "BUY") -> None:
    pending = make_pending_order(people(), price=Decimal(price), side=side, queued_at=timezone.now())
    _log(pending.intent, EventType.QUEUED, EventSource.QUEUE)
    sys.stdout.write(f"{pending.pk}\n")


def put_off(pk: str) -> None:
    pending = PendingOrder.objects.select_related("intent").get(pk=int(pk))
    pending.waits_until, pending.reason = timezone.now() + timedelta(minutes=5), NASTY[:200]
    pending.save()
    _log(pending.intent, EventType.QUEUED, EventSource.QUEUE)


def go(pk: str) -> None:
    """A waiting order gets a slot."""
    pending = PendingOrder.objects.select_related("intent").get(pk=int(pk))
    intent = pending.intent
    pending.delete()
    placement = Placement.objects.create(
        intent=intent,
        account=intent.strategy_account.account,
        client_order_id=f"th{intent.uid}0001",
        quantity=intent.quantity,
        send_by=timezone.now(),
        created_at=timezone.now(),
    )
    OpenOrder.objects.create(
        intent=intent,
        placement=placement,
        account=placement.account,
        strategy_account=intent.strategy_account,
        book=intent.book,
        status=OrderStatus.NEW,
        submitted_at=timezone.now(),
        updated_at=timezone.now(),
    )
    _log(intent, EventType.SUBMITTING, EventSource.QUEUE)


def remove_failed(pk: str) -> None:
    """Somebody else removes it, in another window."""
    failed = FailedOrder.objects.select_related("intent").get(pk=int(pk))
    failed.status = FailedStatus.REMOVED
    failed.save()
    _log(failed.intent, EventType.REMOVED, EventSource.OPERATOR)


def _log(intent: OrderIntent, kind: EventType, source: EventSource) -> None:
    log_event(intent.strategy_account, type=kind, source=source, intent=intent, created_at=timezone.now())


def price(text: str) -> None:
    set_price(text, seen_at=timezone.now())


def events(count: str) -> None:
    owner = people()
    for number in range(int(count)):
        log_event(owner, type=EventType.ACCEPTED, message=f"line {number + 1}", created_at=timezone.now())


def _tell(order: OpenOrder, kind: EventType, source: EventSource) -> None:
    log_event(
        order.strategy_account,
        type=kind,
        source=source,
        intent=order.intent,
        data={"filled_quantity": str(order.intent.filled_quantity)},
        created_at=timezone.now(),
    )


STEPS: dict[str, Callable[..., object]] = {
    "people": people,
    "fill": fill,
    "place": place,
    "fill-part": fill_part,
    "fill-rest": fill_rest,
    "fail": fail,
    "fail-clean": fail_clean,
    "wait": wait,
    "put-off": put_off,
    "go": go,
    "remove-failed": remove_failed,
    "price": price,
    "events": events,
}

if __name__ == "__main__":
    sounded: list[Future[None]] = []
    bell_of_ours = bell.Bell(lambda coroutine: sounded.append(runtime.spawn(coroutine)))
    subscribe(EventsLogged, lambda fact: bell_of_ours.ring())
    with transaction.atomic():
        STEPS[sys.argv[1]](*sys.argv[2:])
        publish(EventsLogged())
    for future in sounded:  # this process ends at once, the bell's loop with it
        future.result(5)
