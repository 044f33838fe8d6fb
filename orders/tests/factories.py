"""What the tests of the order path are made of: strategies that trade, their exchanges, orders on their way.

follower = make_follower()                        # one user, one account, one FUTURES strategy
answer = post({"symbol": "BTC/USDT", …})          # the webhook, from its bytes to its record
placement = make_placement(follower, quantity=1)  # one order, written down and not sent
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from exchanges.adapters.testing import BTC_USDT, FakeExchange
from exchanges.adapters.types import (
    Credentials,
    Fill,
    InstrumentSpec,
    MarketType,
    OrderReport,
    Side,
    VenueOrderStatus,
)
from exchanges.models import Account, Environment, Instrument
from orders.clock import database_now
from orders.models import (
    Book,
    DeliveryState,
    ExecutionMode,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    Placement,
    Strategy,
    StrategyAccount,
    StrategyPosition,
    WebhookDelivery,
)
from orders.services import intake, submission
from orders.services.intake import Incoming, webhook_receive
from orders.webhook.answers import WebhookAnswer

FUTURES, SPOT = MarketType.FUTURES.value, MarketType.SPOT.value
NOON = datetime(2026, 7, 21, 12, tzinfo=UTC)
TOKEN = "a-token-that-nobody-guesses"
ADDRESS = "203.0.113.7"
GRID = tuple(name for name in InstrumentSpec.__dataclass_fields__ if name != "market_type")
ETH_USDT = replace(
    BTC_USDT, symbol="ETH/USDT", venue_symbol="ETHUSDT", base_asset="ETH", tick_size=Decimal("0.01")
)
_serial = itertools.count(1)
T = TypeVar("T")


# --- who trades -----------------------------------------------------------------------------------


def make_user(username: str = "trader", **fields: Any) -> User:
    return User.objects.get_or_create(username=username, defaults=fields)[0]


def make_account(name: str = "main", *, user: User | None = None, **fields: Any) -> Account:
    account = Account(user=user or make_user(), name=name, exchange="binance")
    account.credentials = Credentials(f"key-of-{name}", f"secret-of-{name}")
    for field, value in ({"environment": Environment.SIMULATOR} | fields).items():
        setattr(account, field, value)
    account.save()
    return account


def make_strategy(
    group_name: str = "test1", *, user: User | None = None, token: str = TOKEN, **fields: Any
) -> Strategy:
    strategy = Strategy(
        user=user or make_user(), group_name=group_name, **({"market_type": FUTURES} | fields)
    )
    strategy.set_token(token)
    strategy.save()
    return strategy


def pass_the_queue_by() -> None:
    """Let every strategy send at once: what is refused is failed, nothing waits."""
    Strategy.objects.update(execution_mode=ExecutionMode.IMMEDIATE)


def make_follower(
    strategy: Strategy | None = None, account: Account | None = None, **fields: Any
) -> StrategyAccount:
    """An account that follows a strategy with 10,000 USDT, and instruments to trade."""
    make_instruments()
    row: StrategyAccount = StrategyAccount.objects.create(
        strategy=strategy or make_strategy(),
        account=account or make_account(),
        **({"allocated_capital": Decimal(10_000)} | fields),
    )
    return row


def make_instruments(
    specs: Iterable[InstrumentSpec] = (BTC_USDT, ETH_USDT), markets: Iterable[str] = (FUTURES, SPOT)
) -> None:
    for spec in specs:
        for market in markets:
            make_instrument(spec, market)


def make_instrument(spec: InstrumentSpec = BTC_USDT, market: str = FUTURES, **fields: Any) -> Instrument:
    grid = {name: getattr(spec, name) for name in GRID} | fields
    key = {"exchange": "binance", "environment": Environment.SIMULATOR, "market_type": market}
    made: Instrument = Instrument.objects.get_or_create(**key, symbol=grid.pop("symbol"), defaults=grid)[0]
    return made


class Exchanges:
    """The exchanges of a test, one FakeExchange per account and market, in place of the adapters."""

    def __init__(self) -> None:
        self._fakes: dict[tuple[int, str], FakeExchange] = {}

    def __call__(self, account: Account, market_type: str) -> FakeExchange:
        key = account.pk, str(market_type)
        if key not in self._fakes:
            self._fakes[key] = FakeExchange(
                market_type=MarketType(market_type),
                instruments=[BTC_USDT, ETH_USDT],
                prices={"BTC/USDT": Decimal(95_000), "ETH/USDT": Decimal(3_000)},
            )
        return self._fakes[key]

    def of(self, follower: StrategyAccount | Account, market_type: str = FUTURES) -> FakeExchange:
        return self(follower if isinstance(follower, Account) else follower.account, market_type)

    def all_calls(self) -> int:
        """How often any exchange was asked to place or to cancel."""
        return sum(len(fake.place_calls) + len(fake.cancel_calls) for fake in self._fakes.values())


# --- the webhook ----------------------------------------------------------------------------------

LIMIT: dict[str, Any] = {
    "symbol": "BTC/USDT", "side": "buy", "order_type": "LIMIT", "price": "90000", "quantity": "0.01",
}  # fmt: skip
MARKET: dict[str, Any] = {
    "symbol": "BTC/USDT", "side": "buy", "order_type": "MARKET", "quantity": "0.01",
}  # fmt: skip
CLOSE: dict[str, Any] = {"symbol": "BTC/USDT", "order_type": "MARKET", "qty_per": -100}


def limit(price: int | str = 90_000, **fields: Any) -> dict[str, Any]:
    return LIMIT | {"price": str(price)} | fields


def incoming(payload: dict[str, Any] | bytes, **request: Any) -> Incoming:
    """A request with the strategy's name and token, unless the payload says otherwise."""
    if isinstance(payload, dict):
        named = {"group_name": "test1", "token": TOKEN} | payload
        payload = json.dumps(named).encode()
    return Incoming(body=payload, **({"address": ADDRESS} | request))


def post(payload: dict[str, Any] | bytes, **request: Any) -> WebhookAnswer:
    return webhook_receive(incoming(payload, **request))


# --- orders on their way --------------------------------------------------------------------------


def make_delivery(strategy: Strategy, **fields: Any) -> WebhookDelivery:
    defaults = {
        "webhook_id": f"w{next(_serial)}",
        "received_at": NOON,
        "started_at": NOON,
        "state": DeliveryState.ANSWERED,
    }
    return WebhookDelivery.objects.create(strategy=strategy, **(defaults | fields))


def make_placements(
    follower: StrategyAccount,
    orders: Sequence[dict[str, Any]],
    *,
    delivery: WebhookDelivery | None = None,
    now: datetime | None = None,
) -> list[Placement]:
    """LIMIT buys of 1 BTC at 90,000 unless told otherwise: committed as SUBMITTING, not sent."""
    now = now or database_now()
    delivery = delivery or make_delivery(follower.strategy)
    placements = []
    for index, overrides in enumerate(orders):
        fields: dict[str, Any] = {
            "symbol": "BTC/USDT", "market_type": FUTURES, "side": "BUY", "order_type": "LIMIT",
            "price": Decimal(90_000), "quantity": Decimal(1), "home": Home.EXCHANGE,
        } | overrides  # fmt: skip
        book, _ = Book.objects.get_or_create(
            account=follower.account, market_type=fields["market_type"], symbol=fields["symbol"]
        )
        number = next(_serial)
        intent = OrderIntent.objects.create(
            uid=f"{number:026d}",
            delivery=delivery,
            order_index=index,
            user_id=follower.strategy.user_id,
            strategy_account=follower,
            book=book,
            created_at=now,
            updated_at=now,
            **fields,
        )
        placement = submission.placement_for(intent, account_id=follower.account_id, number=1, now=now)
        placement.save()
        submission.open_order_for(placement, now=now).save()
        placements.append(placement)
    return placements


def make_placement(follower: StrategyAccount, **fields: Any) -> Placement:
    return make_placements(follower, [fields])[0]


def make_position(
    follower: StrategyAccount, quantity: str | Decimal, *, average: str = "90000", **fields: Any
) -> StrategyPosition:
    return StrategyPosition.objects.create(
        strategy_account=follower,
        account=follower.account,
        quantity=Decimal(quantity),
        average_price=Decimal(average) if Decimal(quantity) else None,
        **({"market_type": FUTURES, "symbol": "BTC/USDT"} | fields),
    )


def make_fill(
    quantity: str | int | Decimal,
    price: str | int = 90_000,
    *,
    trade_id: str = "",
    seconds: float = 0,
    **fields: Any,
) -> Fill:
    """A fill `seconds` after noon."""
    return Fill(
        trade_id=trade_id or str(next(_serial)),
        price=Decimal(price),
        quantity=Decimal(quantity),
        executed_at=NOON + timedelta(seconds=seconds),
        **fields,
    )


def make_report(
    placement: Placement, status: str, *fills: Fill, filled: str | int | Decimal | None = None, **fields: Any
) -> OrderReport:
    """What the exchange says of a placement; its order id is our id with an x in front."""
    defaults: dict[str, Any] = {
        "market_type": MarketType(placement.intent.market_type),
        "symbol": placement.intent.symbol,
        "exchange_order_id": f"x{placement.pk}",
        "client_order_id": placement.client_order_id,
        "side": Side(placement.intent.side),
        "quantity": placement.quantity,
        "fills": fills,
        "filled_quantity": None if filled is None else Decimal(filled),
        "conditional": placement.intent.is_stop,
    }
    return OrderReport(status=VenueOrderStatus(status), **(defaults | fields))


# --- looking at what became of it -----------------------------------------------------------------


def open_order(placement: Placement) -> OpenOrder | None:
    return OpenOrder.objects.filter(intent_id=placement.intent_id).first()


def events_of(placement: Placement) -> list[str]:
    """The types of everything that was logged about an order, oldest first."""
    return list(
        OrderEvent.objects.filter(intent_id=placement.intent_id).order_by("pk").values_list("type", flat=True)
    )


def wait_until(condition: Callable[[], Any], *, seconds: float = 10.0) -> Any:
    """Return what `condition` gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return result


class Queries:
    """Counts this thread's database statements; transactions and savepoints are not counted."""

    def __enter__(self) -> Queries:
        self._captured = CaptureQueriesContext(connection)
        self._captured.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._captured.__exit__(*exc)  # type: ignore[arg-type]  # whatever was raised, handed on

    @property
    def statements(self) -> list[str]:
        words = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "ROLLBACK")
        return [
            query["sql"] for query in self._captured.captured_queries if not query["sql"].startswith(words)
        ]

    @property
    def count(self) -> int:
        return len(self.statements)


def cost_on_postgresql(counts: dict[int, int], statements: int) -> bool:
    """Tell whether `counts`, by number of orders, are all `statements`; on SQLite: all the same.

    PostgreSQL gets a transaction's writes in one round trip. SQLite is no round trip away.
    """
    wanted = {statements} if connection.vendor == "postgresql" else set(list(counts.values())[:1])
    return set(counts.values()) == wanted


# --- processes that die, and others beside them ---------------------------------------------------


def accepted_only(payload: dict[str, Any], **request: Any) -> WebhookDelivery:
    """A webhook whose process died right after its commit: nothing was sent, its lease goes on."""
    webhook = incoming(payload, **request)
    intake._Intake(webhook).accept()
    delivery = WebhookDelivery.objects.get(webhook_id=webhook.webhook_id)
    WebhookDelivery.objects.filter(pk=delivery.pk).update(lease_owner="a process that died")
    return delivery


def let_lease_end(delivery: WebhookDelivery, *, seconds_ago: float = 1) -> None:
    ended = database_now() - timedelta(seconds=seconds_ago)
    WebhookDelivery.objects.filter(pk=delivery.pk).update(lease_expires_at=ended)


async def elsewhere(call: Callable[[], T]) -> T:
    """Do something in another thread while a coroutine waits: a thread's connection must not outlive it."""
    return await asyncio.to_thread(_and_disconnect, call)


def _and_disconnect(call: Callable[[], T]) -> T:
    try:
        return call()
    finally:
        connection.close()


class SideBySide:
    """Runs calls in threads of their own, each with its own database connection."""

    def __enter__(self) -> SideBySide:
        self._pool = ThreadPoolExecutor(16)
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown()

    def start(self, call: Callable[[], T]) -> Future[T]:
        return self._pool.submit(_and_disconnect, call)


class Gate:
    """Holds an exchange's calls until it is opened: `fake.before_placing = gate`."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    async def __call__(self, _: Any) -> None:
        self.reached.set()
        await asyncio.to_thread(self._open.wait, 20)

    def open(self) -> None:
        self._open.set()
