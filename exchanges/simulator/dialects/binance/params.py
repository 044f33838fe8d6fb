"""Reading Binance request parameters, with Binance's own complaints."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from exchanges.simulator.types import Side
from exchanges.simulator.wire import OrderMark, Params, WireError

Row = dict[str, Any]


def required(params: Params, name: str) -> str:
    value = params.get(name)
    if not value:
        raise missing(name)
    return value


def missing(name: str) -> WireError:
    return WireError(400, -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def decimal(params: Params, name: str) -> Decimal | None:
    """Return a plain decimal number, or None when it was not sent."""
    value = params.get(name)
    if value is None or value == "":
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        number = None
    # `1e400`, `NaN` and `Infinity` are decimals for Python, not for the exchange.
    if number is None or not number.is_finite() or len(value) > 20 or "e" in value.lower():
        raise WireError(
            400,
            -1100,
            f"Illegal characters found in parameter '{name}'; "
            "legal range is '^([0-9]{1,20})(\\.[0-9]{1,20})?$'.",
        )
    return number


def required_decimal(params: Params, name: str) -> Decimal:
    number = decimal(params, name)
    if number is None:
        raise missing(name)
    return number


def integer(params: Params, name: str) -> int | None:
    value = params.get(name)
    if value is None or value == "":
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise WireError(
            400,
            -1100,
            f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.",
        )
    return int(value)


def flag(params: Params, name: str) -> bool:
    value = params.get(name, "false").lower()
    if value not in ("true", "false"):
        raise WireError(400, -1130, f"Data sent for parameter '{name}' is not valid.")
    return value == "true"


def side(params: Params) -> Side:
    value = required(params, "side")
    if value not in ("BUY", "SELL"):
        raise WireError(400, -1117, "Invalid side.")
    return Side(value)


def json_list(params: Params, *names: str) -> list[object] | None:
    """Return a parameter that is a JSON array, by any of its names; None when not sent."""
    for name in names:
        if text := params.get(name):
            try:
                value = json.loads(text)
            except ValueError:
                value = None
            if not isinstance(value, list):
                raise WireError(400, -1130, f"Data sent for parameter '{name}' is not valid.")
            return value
    return None


def as_text(value: object) -> str:
    """Return a JSON value as it would stand in a query string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


class Span(NamedTuple):
    """Which part of a history is wanted, and how many rows of it at most."""

    start_ms: int
    end_ms: int
    limit: int
    is_forward: bool  # from where it begins, else the latest rows

    def holds(self, at_ms: int) -> bool:
        return self.start_ms <= at_ms <= self.end_ms

    def cut(self, rows: list[Row]) -> list[Row]:
        """Return the wanted rows of those that match, which come oldest first."""
        return rows[: self.limit] if self.is_forward else rows[-self.limit :]


def span(params: Params, *, first_id: int | None, longest_hours: int) -> Span:
    """Read `startTime`, `endTime` and `limit`; raises -1127 if the time between is too long."""
    start, end = integer(params, "startTime"), integer(params, "endTime")
    if start is not None and end is not None and end - start > longest_hours * 3_600_000:
        raise WireError(
            400,
            -1127,
            f"Lookup interval is too big; More than {longest_hours} hours between startTime and endTime.",
        )
    return Span(
        start_ms=start or 0,
        end_ms=end or 10**15,
        limit=min(integer(params, "limit") or 500, 1000),
        is_forward=first_id is not None or start is not None,
    )


def order_mark(params: Params) -> OrderMark:
    """Return which order a request is about, for matching faults."""
    for name in ("newClientOrderId", "origClientOrderId", "clientAlgoId", "clientalgoid"):
        if value := params.get(name):
            return OrderMark(params.get("symbol", ""), value)
    return OrderMark(params.get("symbol", ""), "")
