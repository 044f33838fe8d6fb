"""One request and one answer, as the server hands them to a dialect."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_plus

from aiohttp import web

Params = dict[str, str]
# The C encoder, without spaces and without escapes for what is not ASCII.
encode: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class WireError(Exception):
    """An error answer in a dialect's own words."""

    def __init__(self, status: int, code: int, message: str, *, headers: Params | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


class OrderMark(NamedTuple):
    """What faults are matched against: one order that a request or an event is about."""

    symbol: str
    client_order_id: str


@dataclass(slots=True)
class Call:
    """One HTTP request: `path` is what follows the dialect's mount point.

    `query` and `body` are verbatim, because signatures are made over what was sent.
    `received_ns` is when its first byte was handled, by this machine's clock.
    """

    exchange: str
    method: str
    path: str
    query: str
    body: str
    headers: Mapping[str, str]
    received_ns: int
    params: Params = field(init=False)
    api_key: str = ""
    is_late_check: bool = False  # the request waited: time is checked a second time

    def __post_init__(self) -> None:
        self.params = parse_form(self.query)
        if self.body:
            self.params.update(parse_form(self.body))


@dataclass(slots=True)
class Answer:
    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


class Dialect(Protocol):
    """The wire of one exchange's market, mounted under `name`."""

    name: str

    def admit(self, call: Call) -> Answer | None:
        """Check credentials and time of a request that will wait; return an error or None."""

    def answer(self, call: Call) -> Answer:
        """Handle a request in one go; nothing else happens on the exchange meanwhile."""

    def orders_in(self, call: Call) -> list[OrderMark]:
        """Return the orders that a request names, for matching faults."""

    async def stream(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        """Serve a WebSocket."""

    def places_orders(self, call: Call) -> bool:
        """Tell whether a request places orders, each of which may be refused on its own."""

    def conditional_rows(self) -> list[dict[str, Any]]:
        """Return the ledger rows of orders that the engine does not know until they trigger."""

    def reset(self) -> None:
        """Forget what the dialect keeps beside its venue, which was reset."""


def parse_form(text: str) -> Params:
    """Split a query string or form body; the last of repeated names wins."""
    params: Params = {}
    for part in text.split("&"):
        name, _, value = part.partition("=")
        if not name:
            continue
        if "%" in value or "+" in value:
            value = unquote_plus(value)
        params[name] = value
    return params
