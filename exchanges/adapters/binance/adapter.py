"""What Binance Spot and USDⓈ-M futures have in common: sending, symbols, reading orders.

Units:  quantity in base asset, price in quote asset, both Decimal; wire times are ms since the epoch.
Source: Binance spot API docs rest-api.md; USDⓈ-M Futures "New Order", "User Trades", read 2026-11.
"""

from __future__ import annotations

import asyncio
import json
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

from exchanges.adapters.base import Exchange, ListCost
from exchanges.adapters.binance.auth import Signer, encode_query, plain
from exchanges.adapters.binance.errors import ACCOUNT_LIMIT_CODES, CLOCK_CODES, VENUE, judge_for
from exchanges.adapters.binance.instruments import published_limits
from exchanges.adapters.binance.words import UNREADABLE, Row, identifier, moment
from exchanges.adapters.departure import Call
from exchanges.adapters.exceptions import (
    ErrorType,
    ExchangeError,
    InvalidOrderQuantity,
    InvalidSymbol,
    NotSent,
    OutcomeUnknown,
    UnsupportedOrder,
)
from exchanges.adapters.hosts import Hosts
from exchanges.adapters.http import CONNECT_SECONDS, REQUEST_SECONDS, RestClient
from exchanges.adapters.limits import RateRules
from exchanges.adapters.secrets import Masker
from exchanges.adapters.streaming import AccountStream
from exchanges.adapters.symbols import SymbolTable
from exchanges.adapters.types import (
    STOP_TYPES,
    Credentials,
    Endpoints,
    Fill,
    InstrumentSpec,
    Liquidity,
    ListedOrder,
    MarketType,
    OrderRef,
    OrderReport,
    OrderRequest,
    OrderType,
    StreamEvent,
    UnreadableOrder,
)

T = TypeVar("T")
Params = list[tuple[str, str]]
Result = OrderReport | ExchangeError

VALIDITY_SECONDS = 5.0  # recvWindow: later than this the exchange refuses a signed request
# Futures forget an order that ended without a fill after three days, Spot after 90.
# The shorter time for both, and a little less, because their count may begin before ours.
REMEMBERS_SECONDS = 71 * 3600.0
PAGE = 1000
_SYMBOL_REFRESH_SECONDS = 60.0
# Everything that a row may call an order, theirs first. Plain orders and algo orders have different words.
_ID_FIELDS = ("orderId", "algoId", "actualOrderId", "origClientOrderId", "clientOrderId", "clientAlgoId")
_RAW_LENGTH = 20_000


class BinanceExchange(Exchange):
    """The part of both markets that is the same; `account` names the budget of orders to draw on."""

    venue = VENUE
    market_type: MarketType
    rules: RateRules
    clock_path: str
    exchange_info: Call
    ticker_path: str
    list_weights: tuple[int, int]  # of all open orders, and of one symbol's
    warm_connections = 6  # 30 orders in batches of five

    def __init__(
        self,
        credentials: Credentials,
        endpoints: Endpoints,
        *,
        hosts: Callable[[], Hosts],
        account: str = "",
        rules: RateRules | None = None,
        symbols: SymbolTable | None = None,
        timeout_seconds: float = REQUEST_SECONDS,
        connect_timeout_seconds: float = CONNECT_SECONDS,
        validity_seconds: float = VALIDITY_SECONDS,
    ) -> None:
        self.capabilities = replace(
            self.capabilities,
            validity_window_seconds=validity_seconds,
            request_timeout_seconds=timeout_seconds,
        )
        self._endpoints = endpoints
        self._hosts = hosts
        self._mask = Masker(credentials.api_key, credentials.api_secret)
        self._signer = Signer(credentials, recv_window_ms=int(validity_seconds * 1000))
        self._rest = RestClient(
            venue=self.venue,
            base_url=endpoints.rest,
            hosts=hosts,
            rules=rules or self.rules,
            account=account,
            sign=self._signer.query,
            judge=judge_for(self.market_type, self._mask),
            mask=self._mask,
            clock_path=self.clock_path,
            clock_codes=CLOCK_CODES,
            account_limit_codes=ACCOUNT_LIMIT_CODES,
            seconds=timeout_seconds,
            connect_seconds=connect_timeout_seconds,
        )
        self._symbols = SymbolTable() if symbols is None else symbols
        self._next_symbol_refresh = 0.0

    def list_cost(self) -> ListCost:
        whole, symbol = self.list_weights
        return ListCost(whole, symbol, self.rules.weight_per_minute)

    async def background_wait(self) -> float:
        return self._rest.host.limits.background_wait

    def check(self, request: OrderRequest) -> None:
        super().check(request)
        for name in ("quantity", "price", "stop_price"):
            number = getattr(request, name)
            if number is not None and not (number.is_finite() and number > 0):
                raise InvalidOrderQuantity(
                    f"{name} must be a positive number, not {number}", venue=self.venue
                )
        if request.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) and request.price is None:
            raise UnsupportedOrder(f"a {request.order_type} order needs a price", venue=self.venue)
        if request.order_type in STOP_TYPES and request.stop_price is None:
            raise UnsupportedOrder(f"a {request.order_type} order needs a stop price", venue=self.venue)

    # Placing and cancelling: one path for one order and for many.

    async def place_orders(self, requests: Sequence[OrderRequest]) -> list[Result]:
        results: dict[int, Result] = {}
        sendable = []
        for index, request in enumerate(requests):
            try:
                self.check(request)
            except ExchangeError as exc:
                results[index] = exc
            else:
                sendable.append(index)
        chunks = self._place_chunks([(index, requests[index]) for index in sendable])
        await self._side_by_side(chunks, self._place, results)
        return [results[index] for index in range(len(requests))]

    async def cancel_orders(self, refs: Sequence[OrderRef]) -> list[Result]:
        results: dict[int, Result] = {}
        await self._side_by_side(self._cancel_chunks(list(enumerate(refs))), self._cancel, results)
        return [results[index] for index in range(len(refs))]

    def _place_chunks(self, items: list[tuple[int, OrderRequest]]) -> list[list[tuple[int, OrderRequest]]]:
        """Split into what one request can carry; each chunk keeps the order of `items`."""
        return [[item] for item in items]

    def _cancel_chunks(self, items: list[tuple[int, OrderRef]]) -> list[list[tuple[int, OrderRef]]]:
        return [[item] for item in items]

    async def _side_by_side(
        self,
        chunks: list[list[tuple[int, T]]],
        send: Callable[[list[T]], Awaitable[list[Result]]],
        results: dict[int, Result],
    ) -> None:
        async def one(chunk: list[tuple[int, T]]) -> None:
            # Encoded only when its turn comes: the first is on the wire before the last is JSON.
            try:
                answers: Sequence[Result] = await send([item for _, item in chunk])
            except ExchangeError as exc:
                answers = [exc] * len(chunk)
            results.update(zip((index for index, _ in chunk), answers, strict=True))

        if len(chunks) == 1:
            await one(chunks[0])
        else:
            await asyncio.gather(*map(one, chunks))

    @abstractmethod
    async def _place(self, requests: list[OrderRequest]) -> list[Result]:
        """Send one chunk; raises what is true for all of it."""

    @abstractmethod
    async def _cancel(self, refs: list[OrderRef]) -> list[Result]: ...

    # Sending.

    async def _get(self, path: str, params: Params, *, weight: int, signed: bool = True) -> Any:
        return await self._rest.send(Call("GET", path, encode_query(params), signed=signed, weight=weight))

    @contextmanager
    def _reading(self, body: object) -> Iterator[None]:
        """Read an answer that has arrived; if that cannot be done, nothing is known."""
        try:
            yield
        except UNREADABLE as exc:
            text = self._mask(f"cannot read the answer ({exc!r}): {body!r}")
            raise OutcomeUnknown(text, venue=self.venue, error_type=ErrorType.UNKNOWN) from None

    # Symbols.

    def venue_symbol(self, symbol: str) -> str:
        """BTC/USDT as Binance writes it: as exchangeInfo spelled it, or base and quote in one word."""
        return self._symbols.theirs(symbol) or symbol.replace("/", "", 1).replace("-", "_")

    async def our_symbol(self, venue_symbol: str) -> str:
        """BTCUSDT as BASE/QUOTE, looked up (never split by guessing); exchangeInfo is read if it is new."""
        ours = self._symbols.ours(venue_symbol)
        if ours is None and time.monotonic() >= self._next_symbol_refresh:
            self._next_symbol_refresh = time.monotonic() + _SYMBOL_REFRESH_SECONDS
            await self.load_instruments()
            ours = self._symbols.ours(venue_symbol)
        if ours is None:
            raise InvalidSymbol(f"{venue_symbol} is not among the instruments", venue=self.venue)
        return ours

    def learn_instruments(self, specs: Sequence[InstrumentSpec]) -> None:
        self._symbols.learn(specs)

    @abstractmethod
    def _instruments(self, body: Row) -> list[InstrumentSpec]: ...

    async def load_instruments(self) -> list[InstrumentSpec]:
        body = await self._rest.send(self.exchange_info)
        with self._reading("exchangeInfo"):
            specs = self._instruments(body)
            published = published_limits(body)
        self._rest.host.limits.correct(weight_per_minute=published.weight_per_minute, orders=published.orders)
        self.learn_instruments(specs)
        return specs

    async def fetch_tickers(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        wanted = {self.venue_symbol(symbol): symbol for symbol in symbols}
        params = [("symbol", next(iter(wanted)))] if len(wanted) == 1 else []
        try:
            body = await self._get(self.ticker_path, params, weight=4 if len(wanted) > 1 else 2, signed=False)
        except InvalidSymbol:
            return {}
        rows = body if isinstance(body, list) else [body]
        with self._reading(body):
            return {wanted[row["symbol"]]: Decimal(row["price"]) for row in rows if row["symbol"] in wanted}

    def time_there(self) -> float:
        return self._rest.host.clock.now_ms() / 1000

    async def warm_up(self) -> None:
        await self._rest.warm_up(self.warm_connections)
        if not len(self._symbols):
            await self.load_instruments()

    # Orders, as queries and answers describe them.

    async def _listed(self, rows: list[Row]) -> list[ListedOrder]:
        """Read a list row by row: an order placed by hand, strange to us, must not hide the others."""
        with self._reading(rows):
            named = [(row, _names_in(row)) for row in rows]
        return [await self._listed_row(row, names) for row, names in named]

    async def _listed_row(self, row: Row, names: tuple[str, ...]) -> ListedOrder:
        symbol = ""
        try:
            symbol = await self.our_symbol(row["symbol"])
            return self._report(row, symbol)
        except (InvalidSymbol, *UNREADABLE) as exc:
            text = self._mask(json.dumps(dict(row), default=str), limit=_RAW_LENGTH)
            return UnreadableOrder(names, text, self._mask(repr(exc)), symbol)

    @abstractmethod
    def _report(self, row: Row, symbol: str) -> OrderReport: ...

    def _fill(self, row: Row, *, is_maker: bool) -> Fill:
        return Fill(
            trade_id=identifier(row["id"]),
            price=Decimal(row["price"]),
            quantity=Decimal(row["qty"]),
            executed_at=moment(row["time"]),
            fee=Decimal(row["commission"]),
            fee_asset=row["commissionAsset"],
            liquidity=Liquidity.MAKER if is_maker else Liquidity.TAKER,
            realized_pnl=Decimal(row["realizedPnl"]) if "realizedPnl" in row else None,
            exchange_order_id=identifier(row["orderId"]),
        )

    async def _fills(
        self,
        path: str,
        symbol: str,
        order_id: str,
        *,
        weight: int,
        maker_field: str,
        span_ms: tuple[int, int] | None = None,
    ) -> list[Fill]:
        """Read every fill of one order, page by page, oldest first; `span_ms`: only those between."""
        rows: dict[int, Row] = {}
        params: Params = [("symbol", symbol), ("orderId", order_id), ("limit", str(PAGE))]
        if span_ms is not None:
            params += [("startTime", str(span_ms[0])), ("endTime", str(span_ms[1]))]
        while True:
            page = await self._get(path, params, weight=weight)
            with self._reading(page):
                rows.update({row["id"]: row for row in page if str(row["orderId"]) == order_id})
                if len(page) < PAGE:
                    return [
                        self._fill(rows[key], is_maker=bool(rows[key][maker_field])) for key in sorted(rows)
                    ]
                # Futures cannot page by orderId: from the second page on we sort out ourselves.
                next_id = max(row["id"] for row in page) + 1
            params = [("symbol", symbol), ("fromId", str(next_id)), ("limit", str(PAGE))]

    # The user stream.

    @abstractmethod
    def _account_stream(self) -> AccountStream: ...

    async def user_stream(self) -> AsyncGenerator[StreamEvent, None]:
        async with aclosing(self._account_stream().follow()) as events:
            async for event in events:
                yield event


def _names_in(row: Row) -> tuple[str, ...]:
    """Return every id in a row. One without any may be about any order: then the list says nothing."""
    names = tuple(str(row[field]) for field in _ID_FIELDS if row.get(field))
    if not names:
        raise ValueError(f"a row that names no order: {row!r}")
    return names


def order_name(ref: OrderRef, *, id_field: str, client_field: str) -> tuple[str, str]:
    """Name an order by their id where we know it, else by ours."""
    if ref.exchange_order_id:
        return id_field, ref.exchange_order_id
    if ref.client_order_id:
        return client_field, ref.client_order_id
    raise NotSent("an order needs an id to be asked for", venue=VENUE)


def order_numbers(request: OrderRequest, *, stop_field: str) -> Params:
    """The params of an order that mean the same on every Binance endpoint."""
    params = [("quantity", plain(request.quantity))]
    if request.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT):
        assert request.price is not None  # check() saw to it
        params += [("price", plain(request.price)), ("timeInForce", request.time_in_force.value)]
    if request.order_type in STOP_TYPES:
        assert request.stop_price is not None
        params.append((stop_field, plain(request.stop_price)))
    return params


def earliest(sent: Sequence[OrderRequest | OrderRef]) -> float | None:
    deadlines = [one.send_by_monotonic for one in sent if one.send_by_monotonic is not None]
    return min(deadlines, default=None)
