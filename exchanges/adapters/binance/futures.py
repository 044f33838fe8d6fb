"""Binance USDⓈ-M futures: plain orders in native batches, conditional orders through the algo API.

A conditional order has two lives. Waiting, it is an algo order with an algo id; once triggered, a
child order with an id of its own does the trading. A report says it all under the algo order's name:
`exchange_order_id` is the algo id, `conditional` is true, `child_order_id` the child's. Only what the
user stream says of a child comes under the child's id, because the message names nothing else; our
client order id, which the child inherits, is how it is matched. Fills always carry the child's id.

Units:  quantity in base asset, price in quote asset, both Decimal; wire times are ms.
Source: Binance Open Platform "USDⓈ-M Futures", Trade; "New Algo Order" (required since 2025-12-09).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from exchanges.adapters.binance.adapter import (
    PAGE,
    REMEMBERS_SECONDS,
    BinanceExchange,
    Params,
    Result,
    earliest,
    order_name,
    order_numbers,
)
from exchanges.adapters.binance.auth import compact_json, encode_query
from exchanges.adapters.binance.errors import HEDGE_MODE, error_from
from exchanges.adapters.binance.futures_rows import (
    as_parent,
    balance,
    canceled_algo_report,
    lists_merged,
    merged,
    position,
    report_of,
)
from exchanges.adapters.binance.instruments import FUTURES_CONDITIONAL_CAP, futures_instruments
from exchanges.adapters.binance.stream import FuturesStream
from exchanges.adapters.binance.words import Row
from exchanges.adapters.departure import Call
from exchanges.adapters.exceptions import OrderNotFound, OutcomeUnknown, RefusedForGood
from exchanges.adapters.http import BULK_SECONDS
from exchanges.adapters.limits import OrderWindow, RateRules
from exchanges.adapters.types import (
    STOP_TYPES,
    Balance,
    Capabilities,
    Credentials,
    Endpoints,
    Fill,
    InstrumentSpec,
    ListedOrder,
    MarketType,
    OrderRef,
    OrderReport,
    OrderRequest,
    OrderType,
    VenuePosition,
)

T = TypeVar("T")
PLACE_BATCH = 5
CANCEL_BATCH = 10
_ORDER = "/fapi/v1/order"
_BATCH = "/fapi/v1/batchOrders"
_ALGO = "/fapi/v1/algoOrder"
_DAY_MS = 24 * 3600 * 1000
_TRADES_SPAN_MS = 7 * _DAY_MS
_TRADES_KEPT_MS = 89 * _DAY_MS  # three months at least
_CLOCKS_DIFFER_MS = 60 * 1000
# Ours -> theirs.
_WIRE_TYPE = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.STOP_MARKET: "STOP_MARKET",
    OrderType.STOP_LIMIT: "STOP",
}


class BinanceFutures(BinanceExchange):
    market_type = MarketType.FUTURES
    capabilities = Capabilities(
        market_types=frozenset({MarketType.FUTURES}),
        order_types=frozenset(_WIRE_TYPE),
        place_batch_size=PLACE_BATCH,
        cancel_batch_size=CANCEL_BATCH,
        max_open_orders=200,
        remembers_seconds=REMEMBERS_SECONDS,
        max_conditional_orders=FUTURES_CONDITIONAL_CAP,
        conditional_orders_per_account=True,
        leverage=True,
        reduce_only=True,
    )
    rules = RateRules(
        weight_per_minute=2400,
        weight_header="X-MBX-USED-WEIGHT-1M",
        order_windows=(
            OrderWindow(300, 10, "X-MBX-ORDER-COUNT-10S"),
            OrderWindow(1200, 60, "X-MBX-ORDER-COUNT-1M"),
        ),
    )
    list_weights = 80, 2  # two lists: plain and algo orders
    clock_path = "/fapi/v1/time"
    ticker_path = "/fapi/v1/ticker/price"
    exchange_info = Call("GET", "/fapi/v1/exchangeInfo", weight=1, seconds=BULK_SECONDS)

    def __init__(self, credentials: Credentials, endpoints: Endpoints, **options: Any) -> None:
        super().__init__(credentials, endpoints, **options)
        self._leverage: dict[str, int] = {}  # as we have set it

    def _instruments(self, body: Row) -> list[InstrumentSpec]:
        return futures_instruments(body)

    # Placing.

    def _place_chunks(self, items: list[tuple[int, OrderRequest]]) -> list[list[tuple[int, OrderRequest]]]:
        plain = [item for item in items if item[1].order_type not in STOP_TYPES]
        conditional = [item for item in items if item[1].order_type in STOP_TYPES]  # no batches there
        return [*_in_chunks(plain, PLACE_BATCH), *_in_chunks(conditional, 1)]

    async def _place(self, requests: list[OrderRequest]) -> list[Result]:
        is_conditional = requests[0].order_type in STOP_TYPES
        orders = [self._encode(request) for request in requests]
        if len(orders) == 1:
            # A batch of one costs as much of the account's budget as one of five.
            path, params, cost = (_ALGO if is_conditional else _ORDER), orders[0], (1, 1)
        else:
            batch = compact_json([dict(one) for one in orders])
            path, params, cost = _BATCH, [("batchOrders", batch)], (5, 1)
        body = await self._rest.send(
            Call(
                "POST",
                path,
                encode_query(params),
                signed=True,
                weight=0 if len(orders) == 1 else 5,
                orders=cost,
                urgent=True,
                changes=True,
                send_by=earliest(requests),
                planned_at=min(request.planned_at_monotonic for request in requests),
            )
        )
        return self._results(body, [(request.symbol, request.client_order_id) for request in requests])

    def _encode(self, request: OrderRequest) -> Params:
        params: Params = [
            ("symbol", self.venue_symbol(request.symbol)),
            ("side", request.side.value),
            ("type", _WIRE_TYPE[request.order_type]),
            *order_numbers(request, stop_field="triggerPrice"),
        ]
        if request.reduce_only:
            params.append(("reduceOnly", "true"))
        # RESULT: a MARKET order is answered with what it filled; the default says nothing of it.
        params.append(("newOrderRespType", "RESULT"))
        if request.order_type in STOP_TYPES:
            return [("algoType", "CONDITIONAL"), *params, ("clientAlgoId", request.client_order_id)]
        return [*params, ("newClientOrderId", request.client_order_id)]

    def _results(self, body: Any, asked: list[tuple[str, str]]) -> list[Result]:
        """Read an answer, each element on its own: 4 good and 1 bad stay 4 good and 1 bad.

        `asked` holds (symbol, our or their id) in order; an element is taken for an order only when it
        bears that order's id.
        """
        rows = body if isinstance(body, list) else [body]
        if len(rows) != len(asked):
            raise OutcomeUnknown(
                self._mask(f"{len(asked)} orders were sent and {len(rows)} answered: {body!r}"),
                venue=self.venue,
            )
        return [self._result(row, symbol, name) for row, (symbol, name) in zip(rows, asked, strict=True)]

    def _result(self, row: Row, symbol: str, name: str) -> Result:
        error = error_from(self.market_type, self._mask, 200, row)
        if error is not None:
            return error
        try:
            with self._reading(row):
                report = self._report(row, symbol)
        except OutcomeUnknown as exc:
            return exc
        if name not in (report.client_order_id, report.exchange_order_id):
            return OutcomeUnknown(
                f"the answer is about another order: {report.client_order_id}", venue=self.venue
            )
        return report

    # Cancelling.

    def _cancel_chunks(self, items: list[tuple[int, OrderRef]]) -> list[list[tuple[int, OrderRef]]]:
        chunks: list[list[tuple[int, OrderRef]]] = []
        groups: dict[tuple[str, bool, float | None], list[tuple[int, OrderRef]]] = {}
        for item in items:
            ref = item[1]
            if ref.conditional:
                chunks.append([item])
            else:
                # What must leave, however late, does not share a request with what must not.
                key = ref.symbol, bool(ref.client_order_id), ref.send_by_monotonic
                groups.setdefault(key, []).append(item)
        for group in groups.values():
            chunks += _in_chunks(group, CANCEL_BATCH)
        return chunks

    async def _cancel(self, refs: list[OrderRef]) -> list[Result]:
        if refs[0].conditional:
            return [await self._cancel_conditional(refs[0])]
        return await self._cancel_plain(refs)

    async def _cancel_plain(self, refs: list[OrderRef]) -> list[Result]:
        names = [order_name(ref, id_field="orderId", client_field="origClientOrderId") for ref in refs]
        if refs[0].client_order_id:
            names = [("origClientOrderId", ref.client_order_id or "") for ref in refs]
        field = names[0][0]
        ids = [value for _, value in names]
        if len(refs) == 1:
            path, named = _ORDER, names
        else:
            values: list[object] = list(ids) if field == "origClientOrderId" else [int(one) for one in ids]
            path, named = _BATCH, [(f"{field}List", compact_json(values))]
        params = [("symbol", self.venue_symbol(refs[0].symbol)), *named]
        body = await self._rest.send(_cancel_call(path, params, refs))
        return self._results(body, [(ref.symbol, name) for ref, name in zip(refs, ids, strict=True)])

    async def _cancel_conditional(self, ref: OrderRef) -> Result:
        if not ref.child_order_id:
            try:
                body = await self._rest.send(_cancel_call(_ALGO, [_algo_name(ref)], [ref]))
                with self._reading(body):
                    return canceled_algo_report(body, ref)
            except OrderNotFound as gone:
                # It may have been triggered: then it is the child that lives.
                waiting = await self._fetch_algo(ref)
                if not waiting.child_order_id:
                    return gone
                ref = replace(
                    ref, exchange_order_id=waiting.exchange_order_id, child_order_id=waiting.child_order_id
                )
        if ref.only_waiting:
            return await self.fetch_order(ref)
        child = replace(ref, exchange_order_id=ref.child_order_id, client_order_id=None, conditional=False)
        (result,) = await self._cancel_plain([child])
        return as_parent(result, ref) if isinstance(result, OrderReport) else result

    # Asking.

    async def fetch_order(self, ref: OrderRef) -> OrderReport:
        if not ref.conditional:
            name = order_name(ref, id_field="orderId", client_field="origClientOrderId")
            body = await self._get(_ORDER, [("symbol", self.venue_symbol(ref.symbol)), name], weight=1)
            with self._reading(body):
                return self._report(body, ref.symbol)
        try:
            parent = await self._fetch_algo(ref)
        except OrderNotFound:
            if not (ref.child_order_id or ref.client_order_id):
                raise
            # The order that it became may be known longer; it has our client id.
            named = replace(ref, exchange_order_id=ref.child_order_id, conditional=False)
            return as_parent(await self.fetch_order(named), ref)
        child_id = ref.child_order_id or parent.child_order_id
        if not child_id and not parent.triggered:
            return parent
        # A triggered order that does not name its child yet: the child has our client id.
        named = OrderRef(ref.symbol, exchange_order_id=child_id, client_order_id=parent.client_order_id)
        try:
            return merged(parent, await self.fetch_order(named))
        except OrderNotFound:
            if child_id:
                raise
            return parent

    async def _fetch_algo(self, ref: OrderRef) -> OrderReport:
        body = await self._get(_ALGO, [_algo_name(ref)], weight=1)
        with self._reading(body):
            return self._report(body, ref.symbol)

    async def fetch_open_orders(self, symbol: str | None = None) -> list[ListedOrder]:
        params = [("symbol", self.venue_symbol(symbol))] if symbol else []
        weight = 1 if symbol else 40
        bodies = await asyncio.gather(
            self._get("/fapi/v1/openOrders", params, weight=weight),
            self._get("/fapi/v1/openAlgoOrders", params, weight=weight),
        )
        plain, algo = [await self._listed(body) for body in bodies]
        return lists_merged(plain, algo)

    async def fetch_recent_orders(self, symbol: str, *, since_ms: int) -> list[ListedOrder]:
        params = [("symbol", self.venue_symbol(symbol))]
        since = ("startTime", str(since_ms))
        plain: list[Row] = []
        page: list[Row] = await self._get(
            "/fapi/v1/allOrders", [*params, since, ("limit", str(PAGE))], weight=5
        )
        plain += page
        while len(page) == PAGE:
            with self._reading(page):
                after = ("orderId", str(max(row["orderId"] for row in page) + 1))
            page = await self._get("/fapi/v1/allOrders", [*params, after, ("limit", str(PAGE))], weight=5)
            plain += page
        algo = await self._get("/fapi/v1/allAlgoOrders", [*params, since, ("limit", str(PAGE))], weight=5)
        return lists_merged(await self._listed(plain), await self._listed(algo))

    async def fetch_executions(self, ref: OrderRef) -> list[Fill]:
        order_id = ref.exchange_order_id
        if ref.conditional:
            order_id = ref.child_order_id or (await self.fetch_order(ref)).child_order_id
            if not order_id:
                return []  # still waiting for its price
        elif not order_id:
            order_id = (await self.fetch_order(ref)).exchange_order_id
        symbol = self.venue_symbol(ref.symbol)

        async def within(span_ms: tuple[int, int] | None) -> list[Fill]:
            return await self._fills(
                "/fapi/v1/userTrades", symbol, order_id, weight=5, maker_field="maker", span_ms=span_ms
            )

        spans = _trade_spans(ref.placed_at, now_ms=int(self.time_there() * 1000))
        found = await asyncio.gather(*map(within, spans))
        return list({fill.trade_id: fill for fills in found for fill in fills}.values())

    async def fetch_balances(self) -> list[Balance]:
        body = await self._get("/fapi/v3/balance", [], weight=5)
        with self._reading(body):
            return [balance(row) for row in body]

    async def fetch_positions(self) -> list[VenuePosition]:
        body = await self._get("/fapi/v3/positionRisk", [], weight=5)
        positions = []
        with self._reading(body):
            for row in body:
                if Decimal(row["positionAmt"]):
                    positions.append(position(row, await self.our_symbol(row["symbol"])))
        return positions

    # The account.

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """Set it once and remember; setting what is set already is no error there."""
        if self._leverage.get(symbol) == leverage:
            return
        params = [("symbol", self.venue_symbol(symbol)), ("leverage", str(leverage))]
        await self._rest.send(
            Call(
                "POST",
                "/fapi/v1/leverage",
                encode_query(params),
                signed=True,
                weight=1,
                urgent=True,
                changes=True,
            )
        )
        self._leverage[symbol] = leverage

    async def check_account(self) -> None:
        body = await self._get("/fapi/v1/positionSide/dual", [], weight=30)
        with self._reading(body):
            is_hedged = body["dualSidePosition"] in (True, "true")
        if is_hedged:
            raise RefusedForGood(HEDGE_MODE, venue=self.venue, venue_code="dualSidePosition")

    # Reading.

    def _report(self, row: Row, symbol: str) -> OrderReport:
        return report_of(row, symbol)

    def _account_stream(self) -> FuturesStream:
        return FuturesStream(
            url=self._endpoints.ws,
            hosts=self._hosts,
            rest=self._rest,
            signer=self._signer,
            mask=self._mask,
            our_symbol=self.our_symbol,
        )


def _trade_spans(placed_at: datetime | None, *, now_ms: int) -> Sequence[tuple[int, int] | None]:
    """Split the life of an order into spans that userTrades answers; one None where it need not be told any.

    Without times it answers for the last seven days. No span is longer, and nothing is kept for ever.
    """
    if placed_at is None:
        return [None]
    since_ms = int(placed_at.timestamp() * 1000) - _CLOCKS_DIFFER_MS
    if now_ms - since_ms < _TRADES_SPAN_MS:
        return [None]
    first = max(since_ms, now_ms - _TRADES_KEPT_MS)
    return [(start, start + _TRADES_SPAN_MS - 1) for start in range(first, now_ms, _TRADES_SPAN_MS)]


def _cancel_call(path: str, params: Params, refs: Sequence[OrderRef]) -> Call:
    return Call(
        "DELETE",
        path,
        encode_query(params),
        signed=True,
        weight=1,
        urgent=True,
        changes=True,
        always=True,
        send_by=earliest(refs),
        planned_at=min(ref.planned_at_monotonic for ref in refs),
    )


def _algo_name(ref: OrderRef) -> tuple[str, str]:
    # Ours first: what we know as theirs may be the child's id, when the child was heard of first.
    if ref.client_order_id:
        return "clientAlgoId", ref.client_order_id
    return order_name(ref, id_field="algoId", client_field="clientAlgoId")


def _in_chunks(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
