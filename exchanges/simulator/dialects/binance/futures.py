"""Binance USDⓈ-M futures: the whole dialect, mounted under `/binance-futures`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from exchanges.simulator.dialects.binance.base import Desk, Router
from exchanges.simulator.dialects.binance.futures_account import FuturesAccount
from exchanges.simulator.dialects.binance.futures_algo import AlgoOrders
from exchanges.simulator.dialects.binance.futures_market import FuturesMarket
from exchanges.simulator.dialects.binance.futures_orders import FuturesOrders
from exchanges.simulator.dialects.binance.futures_stream import FuturesStream, ListenKeys
from exchanges.simulator.dialects.binance.usage import Limits, Usage
from exchanges.simulator.streams import Sockets
from exchanges.simulator.types import Change, Fill, Order
from exchanges.simulator.wire import Answer, Call, OrderMark

LIMITS = Limits(weight_per_minute=2400, orders={"10S": 300, "1M": 1200})
# The engine's second look at the time of a request that was held up.
LATE = (-5028, "Timestamp for this request is outside of the ME recvWindow.")


class BinanceFutures:
    def __init__(self, desk: Desk, sockets: Sockets, limits: Limits) -> None:
        self.name = desk.venue.name
        self.limits = limits
        self.listen_keys = ListenKeys(desk)
        self._orders = FuturesOrders(desk)
        self._algo_orders = AlgoOrders(desk, self._orders)
        self._stream = FuturesStream(desk, self.listen_keys, sockets)
        routes = (
            FuturesMarket(desk, limits).routes
            | self._orders.routes
            | self._algo_orders.routes
            | FuturesAccount(desk).routes
            | self.listen_keys.routes
        )
        self._usage = Usage(limits)
        self._router = Router(desk, self._usage, routes, late=LATE)
        desk.venue.listener = self._tell

    def admit(self, call: Call) -> Answer | None:
        return self._router.admit(call)

    def answer(self, call: Call) -> Answer:
        return self._router.handle(call)

    def orders_in(self, call: Call) -> list[OrderMark]:
        return self._orders.orders_in(call)

    async def stream(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        return await self._stream.serve(request, path, query)

    def places_orders(self, call: Call) -> bool:
        return self._router.places_orders(call)

    def conditional_rows(self) -> list[dict[str, Any]]:
        return self._algo_orders.ledger_rows()

    def expire_listen_key(self, api_key: str) -> bool:
        return self.listen_keys.expire(api_key)

    def reset(self) -> None:
        self._usage.reset()
        self.listen_keys.clear()
        self._algo_orders.clear()

    def _tell(self, order: Order, change: Change, fill: Fill | None) -> None:
        self._stream.tell(order, change, fill)
        self._algo_orders.on_order(order)
