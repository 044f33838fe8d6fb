"""Binance spot: the whole dialect, mounted under `/binance-spot`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from exchanges.simulator.dialects.binance.base import Desk, Route, Router, Routes, Security
from exchanges.simulator.dialects.binance.spot_market import SpotMarket
from exchanges.simulator.dialects.binance.spot_orders import SpotOrders
from exchanges.simulator.dialects.binance.spot_stream import SpotStream
from exchanges.simulator.dialects.binance.usage import Limits, Usage
from exchanges.simulator.streams import Sockets
from exchanges.simulator.wire import Answer, Call, OrderMark, WireError

LIMITS = Limits(weight_per_minute=6000, orders={"10S": 100, "1D": 200_000})


class BinanceSpot:
    def __init__(self, desk: Desk, sockets: Sockets, limits: Limits) -> None:
        self.name = desk.venue.name
        self.limits = limits
        self._usage = Usage(limits)
        self._orders = SpotOrders(desk)
        self._stream = SpotStream(desk, sockets, limits, self._usage)
        routes = SpotMarket(desk, limits).routes | self._orders.routes | _gone()
        self._router = Router(desk, self._usage, routes)
        desk.venue.listener = self._stream.tell

    def admit(self, call: Call) -> Answer | None:
        return self._router.admit(call)

    def answer(self, call: Call) -> Answer:
        return self._router.handle(call)

    def orders_in(self, call: Call) -> list[OrderMark]:
        return self._orders.orders_in(call)

    def places_orders(self, call: Call) -> bool:
        return self._router.places_orders(call)

    def conditional_rows(self) -> list[dict[str, Any]]:
        return []  # stop orders are orders like any other here

    async def stream(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        return await self._stream.serve(request, path, query)

    def reset(self) -> None:
        self._usage.reset()


def _gone() -> Routes:
    """Return the listen key routes, which were removed on 2026-02-20 (fact sheet A7)."""

    def refuse(call: Call) -> dict[str, Any]:
        raise WireError(410, -1000, "This endpoint has been removed.")

    route = Route(refuse, Security.NONE)
    return {(method, "/api/v3/userDataStream"): route for method in ("POST", "PUT", "DELETE")}
