"""Binance's user streams: what happened to our orders, as it happens.

Spot:    the WebSocket API, one signed subscription on the socket (listen keys ended on 2026-02-20).
Futures: a listen key in the stream's URL, renewed at half its life of 60 minutes.

Source: web-socket-api.md "Subscribe to User Data Stream through signature", user-data-stream.md;
        USDⓈ-M "User Data Streams" (Event: Order Update, Algo Order Update), read 2026-11.
"""

from __future__ import annotations

import asyncio
import json
import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal

import aiohttp

from exchanges.adapters.binance.auth import Signer
from exchanges.adapters.binance.errors import CLOCK_CODES, LISTEN_KEY_GONE, error_from
from exchanges.adapters.binance.words import (
    ALGO_STATUS,
    FUTURES_TYPE,
    ORDER_STATUS,
    SPOT_CONDITIONAL,
    SPOT_TYPE,
    Row,
    identifier,
    moment,
    number,
)
from exchanges.adapters.departure import Call
from exchanges.adapters.exceptions import ExchangeError, OutcomeUnknown
from exchanges.adapters.hosts import Hosts
from exchanges.adapters.http import CONNECT_SECONDS, REQUEST_SECONDS, RestClient
from exchanges.adapters.secrets import Masker
from exchanges.adapters.streaming import MAX_MESSAGE_BYTES, PING_SECONDS, AccountStream, OrderlyEnd
from exchanges.adapters.types import (
    VENUE_CLOSED,
    Fill,
    Liquidity,
    MarketType,
    OrderReport,
    Side,
    StreamEvent,
    VenueOrderStatus,
)

logger = logging.getLogger(__name__)

RENEW_SECONDS = 30 * 60.0  # half a listen key's life
_RENEW_AGAIN_SECONDS = 60.0
_CLOSE_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=2.0)
_LISTEN_KEY = "/fapi/v1/listenKey"
_SUBSCRIBE = "userDataStream.subscribe.signature"
_decode = json.JSONDecoder(parse_float=Decimal).decode  # made once: `json.loads` makes one for each message
_COIN_MARGINED = 2  # of `st`, while accounts of both markets share a stream

# Messages that say nothing about an order of ours. Whatever is in neither list is unreadable.
_SPOT_SILENT = frozenset({"outboundAccountPosition", "balanceUpdate", "listStatus", "externalLockUpdate"})
_FUTURES_SILENT = frozenset(
    {
        "ACCOUNT_UPDATE",
        "ACCOUNT_CONFIG_UPDATE",
        "MARGIN_CALL",
        "TRADE_LITE",  # faster, but without the fee: the order update books the fill
        "STRATEGY_UPDATE",
        "GRID_UPDATE",
        "CONDITIONAL_ORDER_TRIGGER_REJECT",
    }
)


class BinanceStream(AccountStream):
    """What both streams need: a socket on the host's one session, keys, and the symbols."""

    def __init__(
        self,
        *,
        url: str,
        hosts: Callable[[], Hosts],
        rest: RestClient,
        signer: Signer,
        mask: Masker,
        our_symbol: Callable[[str], Awaitable[str]],
    ) -> None:
        self.mask = mask
        self._url = url
        self._hosts = hosts
        self._rest = rest
        self._signer = signer
        self._our_symbol = our_symbol

    @asynccontextmanager
    async def _socket(self, url: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        session = self._hosts().session(url)
        async with asyncio.timeout(CONNECT_SECONDS + REQUEST_SECONDS):
            socket = await session.ws_connect(
                url, heartbeat=PING_SECONDS, autoping=True, max_msg_size=MAX_MESSAGE_BYTES
            )
        try:
            yield socket
        finally:
            await socket.close()

    async def read(self, text: str) -> list[StreamEvent]:
        message = _decode(text)
        report = await self._read_event(self._unwrap(message))
        return [] if report is None else [report]

    @abstractmethod
    def _unwrap(self, message: Row) -> Row: ...

    @abstractmethod
    async def _read_event(self, event: Row) -> OrderReport | None: ...


class SpotStream(BinanceStream):
    @asynccontextmanager
    async def connect(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        await self._rest.read_clock()
        async with self._socket(self._url) as socket:
            await self._subscribe(socket)
            yield socket

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        # On a fresh socket nothing but the answer can come before the subscription stands.
        params = self._signer.websocket_params({}, self._rest.host.clock.now_ms())
        await socket.send_json({"id": "subscribe", "method": _SUBSCRIBE, "params": params})
        async with asyncio.timeout(REQUEST_SECONDS):
            message = await socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise OutcomeUnknown(
                "the socket was closed before the subscription was answered", venue="binance"
            )
        answer = json.loads(message.data)
        status = int(answer["status"])
        if status != 200:
            error = error_from(MarketType.SPOT, self.mask, status, answer.get("error"), message.data)
            if error is not None and error.venue_code in CLOCK_CODES:
                await self._rest.read_clock(not_before=asyncio.get_running_loop().time())
            raise error or OutcomeUnknown(self.mask(message.data), venue="binance")

    def _unwrap(self, message: Row) -> Row:
        event: Row = message["event"]
        return event

    async def _read_event(self, event: Row) -> OrderReport | None:
        match event["e"]:
            case "executionReport":
                return execution_report(event, await self._our_symbol(event["s"]))
            case "serverShutdown" | "eventStreamTerminated" as word:
                raise OrderlyEnd(word)
            case word if word in _SPOT_SILENT:
                return None
            case word:
                raise ValueError(f"unknown event {word}")


class FuturesStream(BinanceStream):
    renew_seconds = RENEW_SECONDS

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        await self._rest.read_clock()  # for the orders that this process sends, which are signed
        listen_key = (await self._listen_key("POST"))["listenKey"]
        self.mask.add(listen_key)
        async with self._socket(f"{self._url}/private/ws/{listen_key}") as socket:
            renewal = asyncio.create_task(self._keep_key(socket))
            try:
                yield socket
            finally:
                renewal.cancel()

    async def _listen_key(self, method: str) -> Row:
        answer: Row = await self._rest.send(Call(method, _LISTEN_KEY, headers=self._signer.headers, weight=1))
        return answer

    async def _keep_key(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        delay = self.renew_seconds
        while True:
            await asyncio.sleep(delay)
            delay = self.renew_seconds
            try:
                await self._listen_key("PUT")
            except ExchangeError as exc:
                if exc.venue_code == LISTEN_KEY_GONE:
                    await socket.close()  # the reader sees the end and connects with a new key
                    return
                logger.warning("Could not renew a listen key, trying again: %s", exc)
                delay = min(_RENEW_AGAIN_SECONDS, self.renew_seconds)

    def _unwrap(self, message: Row) -> Row:
        # Several keys on one socket come wrapped; one alone comes bare.
        event: Row = message["data"] if "stream" in message else message
        return event

    async def _read_event(self, event: Row) -> OrderReport | None:
        match event["e"]:
            case "ORDER_TRADE_UPDATE" | "ALGO_UPDATE" as word:
                order: Row = event["o"]
                if _COIN_MARGINED in (event.get("st"), order.get("st")):
                    return None
                symbol = await self._our_symbol(order["s"])
                read = order_trade_update if word == "ORDER_TRADE_UPDATE" else algo_update
                return read(event, symbol)
            case "listenKeyExpired":
                raise OrderlyEnd("the listen key expired")
            case word if word in _FUTURES_SILENT:
                return None
            case word:
                raise ValueError(f"unknown event {word}")


# Single messages.


def execution_report(event: Row, symbol: str) -> OrderReport:
    """Spot's executionReport. On a cancel `c` names the cancel request, and `C` the order."""
    filled, cost = Decimal(event["z"]), Decimal(event["Z"])
    is_conditional = event["o"] in SPOT_CONDITIONAL
    is_triggered = is_conditional and (bool(event["w"]) or filled > 0)
    status = ORDER_STATUS[event["X"]]
    is_told = not is_conditional or is_triggered or status not in VENUE_CLOSED  # "w": on the book now
    return OrderReport(
        market_type=MarketType.SPOT,
        symbol=symbol,
        exchange_order_id=identifier(event["i"]),
        client_order_id=event["C"] or event["c"],
        status=status,
        side=Side(event["S"]),
        order_type=SPOT_TYPE.get(event["o"]),
        quantity=Decimal(event["q"]),
        price=number(event["p"]),
        stop_price=number(event["P"]),
        filled_quantity=filled,
        average_price=cost / filled if filled and cost > 0 else None,
        fills=(_spot_fill(event),) if event["x"] == "TRADE" else (),
        conditional=is_conditional,
        triggered=is_triggered if is_told else None,
        child_order_id=identifier(event["i"]) if is_triggered else "",
        reason=_reason(event.get("r"), event.get("eR")),
        updated_at=moment(event["T"]),
        raw=dict(event),
    )


def _spot_fill(event: Row) -> Fill:
    return Fill(
        trade_id=identifier(event["t"]),
        price=Decimal(event["L"]),
        quantity=Decimal(event["l"]),
        executed_at=moment(event["T"]),
        fee=Decimal(event["n"]),
        fee_asset=event["N"] or "",
        liquidity=Liquidity.MAKER if event["m"] else Liquidity.TAKER,
        exchange_order_id=identifier(event["i"]),
    )


def order_trade_update(event: Row, symbol: str) -> OrderReport:
    """Futures' ORDER_TRADE_UPDATE; a triggered order's child comes under its own id and our client id."""
    order: Row = event["o"]
    return OrderReport(
        market_type=MarketType.FUTURES,
        symbol=symbol,
        exchange_order_id=identifier(order["i"]),
        client_order_id=order["c"],
        status=ORDER_STATUS[order["X"]],
        side=Side(order["S"]),
        order_type=FUTURES_TYPE.get(order["o"]),
        quantity=Decimal(order["q"]),
        price=number(order["p"]),
        stop_price=number(order.get("sp") or 0),
        filled_quantity=Decimal(order["z"]),
        average_price=number(order["ap"]),
        fills=(_futures_fill(order),)
        if Decimal(order["l"]) != 0
        else (),  # TRADE, and CALCULATED: liquidated
        reduce_only=bool(order.get("R", False)),
        reason=_reason(order.get("er")),
        updated_at=moment(order["T"]),
        raw=dict(event),
    )


def _futures_fill(order: Row) -> Fill:
    return Fill(
        trade_id=identifier(order["t"]),
        price=Decimal(order["L"]),
        quantity=Decimal(order["l"]),
        executed_at=moment(order["T"]),
        fee=Decimal(order.get("n") or 0),
        fee_asset=order.get("N") or "",
        liquidity=Liquidity.MAKER if order["m"] else Liquidity.TAKER,
        realized_pnl=Decimal(order["rp"]),
        exchange_order_id=identifier(order["i"]),
    )


def algo_update(event: Row, symbol: str) -> OrderReport:
    """Futures' ALGO_UPDATE: the life of a conditional order until its child takes over.

    A triggered one reads NEW with `triggered` and the child's id, and no filled quantity: that is news
    about the trigger only and may come after the child's fills.
    """
    order: Row = event["o"]
    status, is_triggered = ALGO_STATUS[order["X"]]
    child_id = identifier(order["ai"]) if order["ai"] else ""
    if order["X"] == "FINISHED" and not child_id:
        raise ValueError("a FINISHED algo order that names no child")
    is_over = status is not VenueOrderStatus.NEW
    filled = Decimal(order["aq"]) if is_over and child_id else Decimal(0)
    return OrderReport(
        market_type=MarketType.FUTURES,
        symbol=symbol,
        exchange_order_id=identifier(order["aid"]),
        client_order_id=order["caid"],
        status=status,
        side=Side(order["S"]),
        order_type=FUTURES_TYPE.get(order["o"]),
        quantity=number(order["q"]),
        price=number(order["p"]),
        stop_price=number(order["tp"]),
        filled_quantity=None if is_triggered else filled,
        conditional=True,
        triggered=is_triggered or bool(child_id),
        child_order_id=child_id,
        reduce_only=bool(order.get("R", False)),
        reason=str(order.get("rm") or ""),
        updated_at=moment(event["T"]),
        raw=dict(event),
    )


def _reason(*words: object) -> str:
    return " ".join(str(word) for word in words if word not in (None, "", "NONE", 0, "0"))
