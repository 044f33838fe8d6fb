"""What a Binance reply proves, by HTTP status, code and beginning of the message.

The code alone is not enough: -2010 is "insufficient balance" (nothing exists) and "Duplicate order
sent." (something does). What is not listed here proves nothing and is OutcomeUnknown.

Source: [S] binance/binance-spot-api-docs errors.md and filters.md; [F] USDⓈ-M Futures "Error Code" and
        "General Info" (HTTP 503); [C] "New Algo Order", change log of 2025-12-09. Read 2026-11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from exchanges.adapters.exceptions import (
    AuthenticationFailed,
    DuplicateClientOrderId,
    ErrorType,
    ExchangeBusy,
    ExchangeError,
    InsufficientFunds,
    InvalidOrder,
    InvalidSymbol,
    OrderNotFound,
    OutcomeUnknown,
    RateLimited,
    RefusedForGood,
    RefusedForNow,
    TooManyOpenOrders,
)
from exchanges.adapters.secrets import Masker
from exchanges.adapters.types import MarketType

VENUE = "binance"
CLOCK_CODES = frozenset({"-1021"})
HEDGE_MODE = (
    "This Binance account is in hedge mode, which tradehub cannot trade in: switch it to one-way mode "
    "(Binance Futures, Preferences, Position Mode, One-way Mode) after closing its positions and orders."
)
ACCOUNT_LIMIT_CODES = frozenset({"-1015"})  # the account's order rate, not the address's weight
LISTEN_KEY_GONE = "-1125"


class Meaning(NamedTuple):
    error: type[ExchangeError]
    label: ErrorType | None = None
    account_wide: bool = False  # TooManyOpenOrders only
    sentence: str = ""  # in place of the exchange's, where theirs does not say what to do


_QUANTITY = Meaning(InvalidOrder, ErrorType.INVALID_QUANTITY)
_INVALID = Meaning(InvalidOrder, ErrorType.UNKNOWN)
_FORBIDDEN = Meaning(RefusedForGood, ErrorType.AUTHENTICATION)
_OVER_LIMIT = Meaning(RefusedForGood, ErrorType.LIMIT_EXCEEDED)
_FULL = Meaning(TooManyOpenOrders)
_FULL_ACCOUNT = Meaning(TooManyOpenOrders, account_wide=True)
_NO_FUNDS = Meaning(InsufficientFunds)
_BUSY = Meaning(ExchangeBusy)
_KEY = Meaning(AuthenticationFailed)
_NOT_FOUND = Meaning(OrderNotFound, ErrorType.UNKNOWN)
_UNKNOWN = Meaning(OutcomeUnknown)

# [S] "Messages for -1010, -2010 and -2011". The engine's own words: the first that fits decides.
_ENGINE_MESSAGES: tuple[tuple[str, Meaning], ...] = (
    ("Unknown order sent.", _NOT_FOUND),
    ("Duplicate order sent.", Meaning(DuplicateClientOrderId, ErrorType.UNKNOWN)),
    ("Account has insufficient balance for requested action.", _NO_FUNDS),
    ("Market is closed.", Meaning(RefusedForGood, ErrorType.UNKNOWN)),
    ("Order would trigger immediately.", _INVALID),
    ("Order would immediately match and take.", _INVALID),
    ("Price * QTY is zero or less.", _QUANTITY),
    ("IcebergQty exceeds QTY.", _QUANTITY),
    ("Unsupported order combination", _INVALID),
    ("Market orders are not supported for this symbol.", _INVALID),
    ("Stop loss orders are not supported for this symbol.", _INVALID),
    ("Stop loss limit orders are not supported for this symbol.", _INVALID),
    ("Take profit orders are not supported for this symbol.", _INVALID),
    ("Take profit limit orders are not supported for this symbol.", _INVALID),
    ("Cancel order is invalid. Check origClOrdId and orderId.", _INVALID),
    ("Order was not canceled due to cancel restrictions.", Meaning(RefusedForGood, ErrorType.UNKNOWN)),
    ("Order book liquidity is less than", _INVALID),
    ("This action is disabled on this account.", _FORBIDDEN),
    ("This account may not place or cancel orders.", _FORBIDDEN),
    ("This symbol is not permitted for this account.", _FORBIDDEN),
    ("This symbol is restricted for this account.", _FORBIDDEN),
    ("Rest API trading is not enabled.", _FORBIDDEN),
)

# [S] -1013 INVALID_MESSAGE: "The request didn't reach the Matching Engine", so all of it is refused.
_FILTERS: tuple[tuple[str, Meaning], ...] = (
    ("Filter failure: MAX_NUM_ORDERS", _FULL),
    ("Filter failure: MAX_NUM_ALGO_ORDERS", _FULL),
    ("Filter failure: MAX_NUM_ICEBERG_ORDERS", _FULL),
    ("Filter failure: EXCHANGE_MAX_NUM_", _FULL_ACCOUNT),
    ("Filter failure: MAX_POSITION", _OVER_LIMIT),
    ("Filter failure: MAX_ASSET", _OVER_LIMIT),
    ("Filter failure: LOT_SIZE", _QUANTITY),
    ("Filter failure: MARKET_LOT_SIZE", _QUANTITY),
    ("Filter failure: NOTIONAL", _QUANTITY),
    ("Filter failure: MIN_NOTIONAL", _QUANTITY),
    ("", _INVALID),
)


def _always(meaning: Meaning) -> tuple[tuple[str, Meaning], ...]:
    return (("", meaning),)


_BOTH: dict[int, tuple[tuple[str, Meaning], ...]] = {
    -1000: _always(_UNKNOWN),  # "An unknown error occurred while processing the request."
    -1002: _always(_KEY),
    -1003: _always(Meaning(RateLimited)),
    -1006: _always(_UNKNOWN),  # "Execution status unknown."
    -1007: _always(_UNKNOWN),  # "Send status unknown; execution status unknown."
    -1008: _always(_BUSY),  # throttled, not executed
    -1010: _ENGINE_MESSAGES,
    -1013: _FILTERS,
    -1014: _always(_INVALID),
    -1015: _always(Meaning(RateLimited)),
    -1016: _always(_BUSY),  # "This service is no longer available."
    -1020: _always(_INVALID),
    -1021: _always(Meaning(RefusedForNow, ErrorType.TIMEOUT)),
    -1022: _always(_KEY),
    -1111: _always(_QUANTITY),  # too many decimals
    -1121: _always(Meaning(InvalidSymbol)),
    -1122: _always(Meaning(InvalidSymbol)),
    -2010: _ENGINE_MESSAGES,
    -2011: _ENGINE_MESSAGES,
    -2013: _always(_NOT_FOUND),  # "Order does not exist."
    -2014: _always(_KEY),
    -2015: _always(_KEY),  # also when the address is not on the key's allow-list
    -2026: _always(_NOT_FOUND),  # archived: ended without a fill more than 90 days ago
}
_FUTURES: dict[int, tuple[tuple[str, Meaning], ...]] = {
    -1001: (("Internal error; unable to process your request", _BUSY),),  # [F] 503, second meaning
    -2018: _always(_NO_FUNDS),
    -2019: _always(_NO_FUNDS),
    -2020: _always(_INVALID),  # unable to fill
    -2021: _always(_INVALID),  # would trigger immediately
    -2022: _always(_INVALID),  # reduce-only rejected
    -2023: _always(_FORBIDDEN),  # user in liquidation mode
    -2024: _always(_INVALID),  # position not sufficient
    -2025: _always(_FULL),
    -2027: _always(_OVER_LIMIT),  # leverage bracket
    -2028: _always(_NO_FUNDS),  # leverage too small for the margin
    -4003: _always(_QUANTITY),
    -4004: _always(_QUANTITY),
    -4005: _always(_QUANTITY),
    -4023: _always(_QUANTITY),
    -4045: _always(_FULL_ACCOUNT),  # [C] conditional orders: 200 over all symbols of the account
    # "Order's position side does not match user's setting.": ours is always BOTH, that of one-way mode.
    -4061: _always(Meaning(RefusedForGood, ErrorType.UNKNOWN, sentence=HEDGE_MODE)),
    -4116: _always(Meaning(DuplicateClientOrderId, ErrorType.UNKNOWN)),
    -4140: _always(Meaning(InvalidSymbol)),  # symbol status does not allow it
    -4141: _always(Meaning(InvalidSymbol)),  # symbol is closed
    -4164: _always(_QUANTITY),  # min notional
    -4400: _always(_OVER_LIMIT),  # quantitative rules: reduce-only allowed
    -5000: _always(Meaning(RefusedForGood, ErrorType.NETWORK_ERROR)),  # no such path
    -5021: _always(_INVALID),  # FOK
    -5022: _always(_INVALID),  # post-only
    -5028: _always(Meaning(RefusedForNow, ErrorType.TIMEOUT)),  # late at the engine
}
_TABLES = {MarketType.SPOT: _BOTH, MarketType.FUTURES: _BOTH | _FUTURES}
# Families whose every member is a failed validation, before the engine: [S] [F] "11xx - Request issues",
# [F] "40xx - Filters and other issues".
_FAMILIES: dict[MarketType, tuple[range, ...]] = {
    MarketType.SPOT: (range(-1199, -1099),),
    MarketType.FUTURES: (range(-1199, -1099), range(-4499, -3999)),
}
# HTTP 5xx says "unknown" by itself. These replies are the exceptions, and only on futures. [F]
_PROVEN_5XX_CODES = frozenset({-1008})
_PROVEN_503_TEXTS = ("Service Unavailable", "Internal error; unable to process your request")


def meaning_of(market: MarketType, status: int, code: int | None, message: str) -> Meaning:
    """Return what a reply proves. `status` is 200 for an element of a batch's answer."""
    if status in (418, 429):
        return Meaning(RateLimited)
    if status >= 500 and code not in _PROVEN_5XX_CODES:
        if market is MarketType.FUTURES and status == 503 and message.startswith(_PROVEN_503_TEXTS):
            return _BUSY
        return _UNKNOWN
    if code is None:
        return _BY_STATUS.get(status, _UNKNOWN)
    for beginning, meaning in _TABLES[market].get(code, ()):
        if message.startswith(beginning):
            return meaning
    if any(code in family for family in _FAMILIES[market]) and code not in _TABLES[market]:
        return _INVALID
    return _UNKNOWN


# Without a code the request did not get past the gateway, or nobody knows.
_BY_STATUS = {
    401: _KEY,
    403: Meaning(RefusedForNow, ErrorType.RATE_LIMIT),  # [S] web application firewall
    404: Meaning(RefusedForGood, ErrorType.NETWORK_ERROR),  # nothing lives at this URL
    451: _FORBIDDEN,  # not served in this region
}


def judge_for(
    market: MarketType, mask: Masker
) -> Callable[[int, Any, str, Mapping[str, str]], ExchangeError | None]:
    """Return the judge of RestClient for one market."""

    def judge(status: int, body: Any, text: str, headers: Mapping[str, str]) -> ExchangeError | None:
        return error_from(market, mask, status, body, text, headers)

    return judge


def error_from(
    market: MarketType,
    mask: Masker,
    status: int,
    body: Any,
    text: str = "",
    headers: Mapping[str, str] | None = None,
) -> ExchangeError | None:
    """Return the error that a reply (or one element of a batch's reply) stands for; None if it is none."""
    code, message = _code_and_message(body, text)
    if status < 300 and code in (None, 200):
        return None
    meaning = meaning_of(market, status, code, message)
    shown = meaning.sentence or mask(message) or f"HTTP {status}"
    retry_after = (headers or {}).get("Retry-After", "")
    return _build(
        meaning,
        shown if status < 300 or code is not None else f"HTTP {status}: {shown}",
        venue_code=str(status if code is None else code),
        retry_after=float(retry_after) if retry_after.isdigit() else None,
    )


def _code_and_message(body: Any, text: str) -> tuple[int | None, str]:
    if not isinstance(body, dict):
        return None, text
    message = str(body.get("msg", text))
    try:
        return int(body["code"]), message
    except (KeyError, TypeError, ValueError):
        return None, message


def _build(meaning: Meaning, message: str, *, venue_code: str, retry_after: float | None) -> ExchangeError:
    error = meaning.error
    if issubclass(error, RefusedForNow):
        return error(
            message, venue=VENUE, venue_code=venue_code, error_type=meaning.label, retry_after=retry_after
        )
    if issubclass(error, TooManyOpenOrders):
        return error(
            message,
            venue=VENUE,
            venue_code=venue_code,
            error_type=meaning.label,
            account_wide=meaning.account_wide,
        )
    return error(message, venue=VENUE, venue_code=venue_code, error_type=meaning.label)
