"""Reading Binance request parameters, with Binance's own complaints."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation

from exchanges.simulator.types import Side
from exchanges.simulator.wire import OrderMark, Params, WireError


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


def span(params: Params, *, default_limit: int) -> tuple[int, int, int]:
    """Return first time, last time and the number of rows that a listing wants."""
    start = integer(params, "startTime") or 0
    end = integer(params, "endTime") or 10**15
    return start, end, min(integer(params, "limit") or default_limit, 1000)


def order_mark(params: Params) -> OrderMark:
    """Return which order a request is about, for matching faults."""
    for name in ("newClientOrderId", "origClientOrderId", "clientAlgoId", "clientalgoid"):
        if value := params.get(name):
            return OrderMark(params.get("symbol", ""), value)
    return OrderMark(params.get("symbol", ""), "")
