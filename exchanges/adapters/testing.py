"""FakeExchange: an exchange in memory that a test can script. It passes the adapters' contract suite.

    exchange = FakeExchange(fails_with=OutcomeUnknown("read timed out", venue="fake"))
    exchange.fail("th-7", InsufficientFunds("no money", venue="fake"))   # this order only
    exchange.fill("th-8", quantity=Decimal("0.4"), price=Decimal("95000"))  # and tells the stream

Any thread may call the scripting methods; the coroutines may run on any loop.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import (
    DuplicateClientOrderId,
    ExchangeError,
    NotSent,
    OrderNotFound,
    RequestRefused,
    UnsupportedOrder,
)
from exchanges.adapters.subscriptions import Subscriptions
from exchanges.adapters.types import (
    STOP_TYPES,
    VENUE_CLOSED,
    Balance,
    Capabilities,
    Fill,
    InstrumentSpec,
    Liquidity,
    ListedOrder,
    MarketType,
    OrderRef,
    OrderReport,
    OrderRequest,
    OrderType,
    Side,
    StreamEvent,
    StreamKind,
    StreamState,
    StreamStateChange,
    UnreadableOrder,
    VenueOrderStatus,
    VenuePosition,
)

FAKE_CAPABILITIES = Capabilities(
    market_types=frozenset({MarketType.FUTURES}),
    order_types=frozenset(OrderType),
    place_batch_size=5,
    cancel_batch_size=10,
    leverage=True,
    reduce_only=True,
    remembers_seconds=71 * 3600.0,
)
BTC_USDT = InstrumentSpec(
    market_type=MarketType.FUTURES,
    symbol="BTC/USDT",
    venue_symbol="BTCUSDT",
    base_asset="BTC",
    quote_asset="USDT",
    tick_size=Decimal("0.10"),
    lot_step=Decimal("0.001"),
    min_quantity=Decimal("0.001"),
    max_quantity=Decimal(1000),
    min_notional=Decimal(5),
    max_open_orders=200,
    max_conditional_orders=200,
)


class FakeExchange(Exchange):
    """Remembers what it was asked and answers what it was told to.

    `submitted` and `cancelled` hold every request and ref in order of arrival, `place_calls` and
    `cancel_calls` the same call by call, also those that were scripted to fail. `fails_with` fails
    everything; `fail()` one order. `lose_answer()` takes the order and answers OutcomeUnknown's way.
    `before_placing` and `before_cancelling` are awaited before anything happens: to hold a call up,
    or to look at the world while it is on its way.
    """

    venue = "fake"

    def __init__(
        self,
        *,
        market_type: MarketType = MarketType.FUTURES,
        capabilities: Capabilities | None = None,
        fails_with: ExchangeError | None = None,
        instruments: Iterable[InstrumentSpec] = (BTC_USDT,),
        prices: dict[str, Decimal] | None = None,
        fills_market_orders: bool = True,
    ) -> None:
        self.market_type = market_type
        self.capabilities = capabilities or replace(FAKE_CAPABILITIES, market_types=frozenset({market_type}))
        self.fails_with = fails_with
        self.instruments = [replace(spec, market_type=market_type) for spec in instruments]
        self.prices = dict(prices or {"BTC/USDT": Decimal(95000)})
        self.fills_market_orders = fills_market_orders
        self.balances = [Balance("USDT", Decimal(10000))]
        self.positions: list[VenuePosition] = []
        self.leverage: dict[str, int] = {}
        self.submitted: list[OrderRequest] = []
        self.cancelled: list[OrderRef] = []
        self.place_calls: list[tuple[OrderRequest, ...]] = []
        self.cancel_calls: list[tuple[OrderRef, ...]] = []
        self.orders: dict[str, OrderReport] = {}  # by exchange order id
        self.executions: dict[str, list[Fill]] = {}  # by exchange order id
        self.unreadable: list[UnreadableOrder] = []  # what its lists hold besides
        self.account_fault: ExchangeError | None = None
        self.is_warm = False
        self.before_placing: Callable[[Sequence[OrderRequest]], Awaitable[None]] | None = None
        self.before_cancelling: Callable[[Sequence[OrderRef]], Awaitable[None]] | None = None
        self._failures: dict[str, ExchangeError] = {}
        self._cancel_failures: dict[str, ExchangeError] = {}
        self._lost: dict[str, ExchangeError] = {}
        self._serial = itertools.count(1)
        self._lock = threading.RLock()
        # Where symbols are to be subscribed: what the stream was told, and what it refuses.
        self.subscribed: list[tuple[str, str]] = []  # ("subscribe" or "unsubscribe", symbol)
        self.refused_symbols: set[str] = set()
        self._subscriptions = Subscriptions()
        self._listeners: list[tuple[asyncio.AbstractEventLoop, asyncio.Queue[StreamEvent]]] = []

    # What a test says.

    def fail(self, client_order_id: str, error: ExchangeError) -> None:
        """Refuse this order with `error`, each time it is placed."""
        self._failures[client_order_id] = error

    def fail_cancel(self, client_order_id: str, error: ExchangeError) -> None:
        self._cancel_failures[client_order_id] = error

    def lose_answer(self, client_order_id: str, error: ExchangeError) -> None:
        """Take this order, but answer `error` (an OutcomeUnknown, usually)."""
        self._lost[client_order_id] = error

    def fill(
        self,
        client_order_id: str,
        *,
        quantity: Decimal | None = None,
        price: Decimal | None = None,
        fee: Decimal = Decimal(0),
        fee_asset: str = "USDT",
        announce: bool = True,
    ) -> OrderReport:
        """Fill an order, all that is left of it by default, and tell the stream unless asked not to."""
        with self._lock:
            order = self._latest(client_order_id)
            left = (order.quantity or Decimal(0)) - (order.filled_quantity or Decimal(0))
            amount = left if quantity is None else quantity
            at = price or order.price or order.stop_price or self.prices[order.symbol]
            fill = Fill(
                trade_id=str(next(self._serial)),
                price=at,
                quantity=amount,
                executed_at=datetime.now(UTC),
                fee=fee,
                fee_asset=fee_asset,
                liquidity=Liquidity.TAKER if order.order_type == OrderType.MARKET else Liquidity.MAKER,
                exchange_order_id=order.exchange_order_id,
            )
            fills = self.executions.setdefault(order.exchange_order_id, [])
            fills.append(fill)
            total = sum((one.quantity for one in fills), Decimal(0))
            cost = sum((one.quantity * one.price for one in fills), Decimal(0))
            is_done = order.quantity is not None and total >= order.quantity
            return self._keep(
                replace(
                    order,
                    status=VenueOrderStatus.FILLED if is_done else VenueOrderStatus.PARTIALLY_FILLED,
                    filled_quantity=total,
                    average_price=cost / total,
                    fills=(fill,),
                ),
                announce=announce,
            )

    def end(
        self, client_order_id: str, status: VenueOrderStatus, *, reason: str = "", announce: bool = True
    ) -> OrderReport:
        """End an order without our asking: cancelled by hand, expired, rejected."""
        with self._lock:
            order = self._latest(client_order_id)
            return self._keep(replace(order, status=status, reason=reason, fills=()), announce=announce)

    def trigger(self, client_order_id: str, *, announce: bool = True) -> OrderReport:
        """Let the stop price of a conditional order be reached: a child order takes its place."""
        with self._lock:
            order = self._latest(client_order_id)
            return self._keep(
                replace(order, triggered=True, child_order_id=str(next(self._serial)), fills=()),
                announce=announce,
            )

    def push(self, event: StreamEvent) -> None:
        """Put anything into every open user stream that hears it."""
        symbols = self.capabilities.stream is StreamKind.SYMBOLS
        if symbols and isinstance(event, OrderReport) and event.symbol not in self._subscriptions.told:
            return
        with self._lock:
            for loop, queue in self._listeners:
                loop.call_soon_threadsafe(queue.put_nowait, event)

    # What the house asks.

    async def load_instruments(self) -> list[InstrumentSpec]:
        self._maybe_fail()
        return list(self.instruments)

    async def place_orders(self, requests: Sequence[OrderRequest]) -> list[OrderReport | ExchangeError]:
        if self.before_placing is not None:
            await self.before_placing(requests)
        with self._lock:
            self.place_calls.append(tuple(requests))
            return [self._place(request) for request in requests]

    async def cancel_orders(self, refs: Sequence[OrderRef]) -> list[OrderReport | ExchangeError]:
        if self.before_cancelling is not None:
            await self.before_cancelling(refs)
        with self._lock:
            self.cancel_calls.append(tuple(refs))
            return [self._cancel(ref) for ref in refs]

    async def fetch_order(self, ref: OrderRef) -> OrderReport:
        self._maybe_fail()
        return replace(self._find(ref), fills=())

    async def fetch_open_orders(self, symbol: str | None = None) -> list[ListedOrder]:
        self._maybe_fail()
        listed = [
            replace(order, fills=())
            for order in self.orders.values()
            if order.status not in VENUE_CLOSED and symbol in (None, order.symbol)
        ]
        return [*listed, *self.unreadable]

    async def fetch_executions(self, ref: OrderRef) -> list[Fill]:
        self._maybe_fail()
        return list(self.executions.get(self._find(ref).exchange_order_id, ()))

    async def fetch_recent_orders(self, symbol: str, *, since_ms: int) -> list[ListedOrder]:
        self._maybe_fail()
        since = datetime.fromtimestamp(since_ms / 1000, UTC)
        return [
            replace(order, fills=())
            for order in self.orders.values()
            if order.symbol == symbol and order.updated_at is not None and order.updated_at >= since
        ]

    async def fetch_balances(self) -> list[Balance]:
        self._maybe_fail()
        return list(self.balances)

    async def fetch_positions(self) -> list[VenuePosition]:
        self._maybe_fail()
        return list(self.positions)

    async def fetch_tickers(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        self._maybe_fail()
        return {symbol: self.prices[symbol] for symbol in symbols if symbol in self.prices}

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        self._maybe_fail()
        self.leverage[symbol] = leverage

    async def check_account(self) -> None:
        self._maybe_fail()
        if self.account_fault is not None:
            raise self.account_fault

    async def warm_up(self) -> None:
        self._maybe_fail()
        self.is_warm = True

    async def user_stream(self) -> AsyncGenerator[StreamEvent, None]:
        queue: asyncio.Queue[StreamEvent] = asyncio.Queue()
        listener = (asyncio.get_running_loop(), queue)
        yield StreamStateChange(StreamState.CONNECTING)
        with self._lock:
            self._listeners.append(listener)
        try:
            await self._subscriptions.attach(
                subscribe=partial(self._tell, "subscribe"), unsubscribe=partial(self._tell, "unsubscribe")
            )
            yield StreamStateChange(StreamState.CONNECTED)
            while True:
                yield await queue.get()
        finally:
            self._subscriptions.detach()
            with self._lock:
                self._listeners.remove(listener)

    async def follow_symbols(self, symbols: Collection[str]) -> set[str]:
        return await self._subscriptions.want(symbols)

    async def _tell(self, word: str, symbol: str) -> None:
        self.subscribed.append((word, symbol))
        if symbol in self.refused_symbols:
            raise RequestRefused(f"no subscription of {symbol}", venue=self.venue)

    # How it keeps its books.

    def _maybe_fail(self) -> None:
        if self.fails_with is not None:
            raise self.fails_with

    def _latest(self, client_order_id: str) -> OrderReport:
        return self._find(OrderRef(symbol="", client_order_id=client_order_id))

    def _find(self, ref: OrderRef) -> OrderReport:
        for order in reversed(self.orders.values()):
            if ref.symbol not in ("", order.symbol):
                continue
            if ref.exchange_order_id and order.exchange_order_id == ref.exchange_order_id:
                return order
            if not ref.exchange_order_id and ref.client_order_id == order.client_order_id:
                return order
        raise OrderNotFound("Order does not exist.", venue=self.venue, venue_code="-2013")

    def _is_open(self, order: OrderReport, client_order_id: str) -> bool:
        return order.client_order_id == client_order_id and order.status not in VENUE_CLOSED

    def _keep(self, order: OrderReport, *, announce: bool) -> OrderReport:
        order = replace(order, updated_at=datetime.now(UTC))
        self.orders[order.exchange_order_id] = order
        if announce:
            self.push(order)
        return order

    def _place(self, request: OrderRequest) -> OrderReport | ExchangeError:
        if request.send_by_monotonic is not None and time.monotonic() > request.send_by_monotonic:
            return NotSent("the deadline had passed before the order could leave", venue=self.venue)
        try:
            self.check(request)
        except UnsupportedOrder as exc:
            return exc
        self.submitted.append(request)
        failure = self._failures.get(request.client_order_id, self.fails_with)
        if failure is not None:
            return failure
        if any(self._is_open(order, request.client_order_id) for order in self.orders.values()):
            return DuplicateClientOrderId("Duplicate order sent.", venue=self.venue, venue_code="-2010")
        order = self._keep(
            OrderReport(
                market_type=self.market_type,
                symbol=request.symbol,
                exchange_order_id=str(next(self._serial)),
                client_order_id=request.client_order_id,
                status=VenueOrderStatus.NEW,
                side=request.side,
                order_type=request.order_type,
                quantity=request.quantity,
                price=request.price,
                stop_price=request.stop_price,
                filled_quantity=Decimal(0),
                conditional=request.order_type in STOP_TYPES,
                reduce_only=request.reduce_only,
            ),
            announce=True,
        )
        if request.order_type == OrderType.MARKET and self.fills_market_orders:
            order = self.fill(request.client_order_id)
        return self._lost.get(request.client_order_id, order)

    def _cancel(self, ref: OrderRef) -> OrderReport | ExchangeError:
        if ref.send_by_monotonic is not None and time.monotonic() > ref.send_by_monotonic:
            return NotSent("the deadline had passed before the cancel could leave", venue=self.venue)
        self.cancelled.append(ref)
        failure = self._cancel_failures.get(ref.client_order_id or "", self.fails_with)
        if failure is not None:
            return failure
        try:
            order = self._find(ref)
        except OrderNotFound as exc:
            return exc
        if order.status in VENUE_CLOSED:
            return OrderNotFound("Unknown order sent.", venue=self.venue, venue_code="-2011")
        return self._keep(replace(order, status=VenueOrderStatus.CANCELED, fills=()), announce=True)


def make_request(client_order_id: str, **overrides: object) -> OrderRequest:
    """A LIMIT buy of 0.01 BTC at 90,000 unless told otherwise."""
    fields: dict[str, object] = {
        "client_order_id": client_order_id,
        "symbol": "BTC/USDT",
        "side": Side.BUY,
        "order_type": OrderType.LIMIT,
        "quantity": Decimal("0.01"),
        "price": Decimal(90000),
    }
    return OrderRequest(**(fields | overrides))  # type: ignore[arg-type]  # a test's own overrides
