"""What both Binance dialects share: routes, credentials, weights, error bodies."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from exchanges.simulator.dialects.binance import auth
from exchanges.simulator.dialects.binance.usage import Usage
from exchanges.simulator.engine import Venue
from exchanges.simulator.faults import Faults
from exchanges.simulator.streams import Hub
from exchanges.simulator.types import Instrument
from exchanges.simulator.wire import Answer, Call, Params, WireError, encode

Payload = dict[str, Any] | list[Any]
Handler = Callable[[Call], Payload]


class Security(Enum):
    NONE = "none"
    KEY = "key"
    SIGNED = "signed"


class Route(NamedTuple):
    handler: Handler
    security: Security = Security.SIGNED
    weight: int = 1
    weight_of_all: int = 0  # when no symbol is given, if that costs more
    counts_orders: bool = False


Routes = dict[tuple[str, str], Route]


class Desk:
    """What every part of a dialect works with."""

    def __init__(self, venue: Venue, secrets: dict[str, str], faults: Faults, hub: Hub) -> None:
        self.venue = venue
        self.secrets = secrets
        self.faults = faults
        self.hub = hub
        self.symbols = {symbol_of(instrument): instrument for instrument in venue.instruments.values()}

    def now_ms(self) -> int:
        return self.venue.clock.now_ms()

    def instrument(self, symbol: str) -> Instrument:
        """Return the instrument of `BTCUSDT`; raises -1121."""
        found = self.symbols.get(symbol)
        if found is None:
            raise WireError(400, -1121, "Invalid symbol.")
        return found

    def secret(self, api_key: str) -> str:
        """Return the secret of a known key; raises -2014 or -2015."""
        if not api_key:
            raise WireError(401, -2014, "API-key format invalid.")
        if api_key not in self.secrets:
            raise WireError(401, -2015, "Invalid API-key, IP, or permissions for action.")
        return self.secrets[api_key]


def symbol_of(instrument: Instrument) -> str:
    return instrument.base + instrument.quote


class Router:
    """Finds the handler of a request, checks who asks, and frames the answer.

    `late` is the code and text that the engine's second look at the time gives.
    """

    def __init__(
        self, desk: Desk, usage: Usage, routes: Routes, *, late: tuple[int, str] | None = None
    ) -> None:
        self._desk = desk
        self._usage = usage
        self._routes = routes
        self._late = late

    def admit(self, call: Call) -> Answer | None:
        """Check a request that will wait before it is handled; `handle` checks it again."""
        try:
            self._check(self._route(call), call)
        except WireError as error:
            return error_answer(error, {})
        call.is_late_check = True
        return None

    def handle(self, call: Call) -> Answer:
        headers: dict[str, str] = {}
        try:
            route = self._route(call)
            self._check(route, call)
            now_ms = self._desk.now_ms()
            weight = route.weight if call.params.get("symbol") else route.weight_of_all or route.weight
            used = {"X-MBX-USED-WEIGHT-1M": str(self._usage.add_weight(weight, now_ms))}
            if route.counts_orders:
                number = call.params.get("batchOrders", "").count('"symbol"') or 1
                used |= self._usage.add_orders(call.api_key, number, now_ms)
            headers = used if self._usage.limits.tell else {}
            return Answer(200, encode(route.handler(call)), headers)
        except WireError as error:
            return error_answer(error, headers)

    def places_orders(self, call: Call) -> bool:
        route = self._routes.get((call.method, call.path))
        return route is not None and route.counts_orders

    def _route(self, call: Call) -> Route:
        route = self._routes.get((call.method, call.path))
        if route is None:
            raise WireError(404, -5000, f"Path {call.path}, Method {call.method} is invalid")
        return route

    def _check(self, route: Route, call: Call) -> None:
        if route.security is Security.NONE:
            return
        call.api_key = call.headers.get("X-MBX-APIKEY", "")
        secret = self._desk.secret(call.api_key)
        if route.security is Security.KEY:
            return
        for name in ("signature", "timestamp"):
            if not call.params.get(name):
                raise WireError(
                    400,
                    -1102,
                    f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.",
                )
        auth.check_signature(secret, auth.signed_text(call.query, call.body), call.params["signature"])
        late = self._late if call.is_late_check else None
        auth.check_time(call.params, self._desk.now_ms(), late=late)


def error_answer(error: WireError, headers: Params) -> Answer:
    body = encode({"code": error.code, "msg": error.message})
    return Answer(error.status, body, headers | error.headers)
