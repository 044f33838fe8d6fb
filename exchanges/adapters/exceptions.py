"""What can go wrong between us and an exchange, sorted by "could an order exist there now?"

ExchangeError
├── OrderDenied                 no: we refused it ourselves, nothing was sent
│   ├── UnsupportedOrder
│   ├── InvalidOrderQuantity
│   ├── NotSent                 the deadline passed, or no connection could be made
│   └── CircuitOpen
├── RequestRefused              no: the exchange's reply proves that it did nothing
│   ├── RefusedForGood          asking again would be refused again
│   │   ├── InsufficientFunds
│   │   ├── InvalidOrder
│   │   ├── InvalidSymbol
│   │   └── AuthenticationFailed
│   ├── RefusedForNow           carries retry_after, in seconds
│   │   ├── RateLimited
│   │   └── ExchangeBusy
│   ├── TooManyOpenOrders       full: the symbol's or the account's cap
│   └── OrderNotFound           a query or a cancel met no such order
├── DuplicateClientOrderId      our id exists there, or was burnt: ask
└── OutcomeUnknown              perhaps: time-out, disconnect, 5xx, unreadable reply
"""

from __future__ import annotations

from enum import StrEnum


class ErrorType(StrEnum):
    """A label for people and statistics; it decides nothing."""

    INSUFFICIENT_BALANCE = "insufficient_balance"
    RATE_LIMIT = "rate_limit"
    INVALID_SYMBOL = "invalid_symbol"
    INVALID_QUANTITY = "invalid_quantity"
    LIMIT_EXCEEDED = "limit_exceeded"
    NETWORK_ERROR = "network_error"
    TIMEOUT = "timeout"
    AUTHENTICATION = "authentication"
    RISK_LIMIT = "risk_limit"
    UNKNOWN = "unknown"


_WORDS = (
    (ErrorType.INSUFFICIENT_BALANCE, ("balance", "insufficient", "funds", "margin is")),
    (ErrorType.RATE_LIMIT, ("rate limit", "too many", "throttle")),
    (ErrorType.INVALID_SYMBOL, ("invalid symbol", "unknown symbol")),
    (ErrorType.LIMIT_EXCEEDED, ("exceeds", "limit")),
    (ErrorType.TIMEOUT, ("timeout", "timed out")),
    (ErrorType.NETWORK_ERROR, ("network", "connection")),
)


def error_type_from_text(text: str) -> ErrorType:
    """Return the label that the words of a message suggest, where no code is known."""
    lowered = text.lower()
    for label, words in _WORDS:
        if any(word in lowered for word in words):
            return label
    return ErrorType.UNKNOWN


class ExchangeError(Exception):
    """Something went wrong; the class says what we may conclude.

    `code` is our stable word, `message` the masked text for people, `venue_code` the exchange's
    own code, verbatim. `request_sent` tells whether bytes may have left.
    """

    code = "exchange_error"
    default_error_type: ErrorType | None = None

    def __init__(
        self,
        message: str,
        *,
        venue: str = "",
        venue_code: str = "",
        error_type: ErrorType | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.venue = venue
        self.venue_code = venue_code
        self.error_type = error_type or self.default_error_type or error_type_from_text(message)


class OrderDenied(ExchangeError):
    code = "denied"


class UnsupportedOrder(OrderDenied):
    code = "unsupported_order"


class InvalidOrderQuantity(OrderDenied):
    """Under the exchange's minimum, over its maximum, or nothing left after rounding."""

    code = "invalid_quantity"
    default_error_type = ErrorType.INVALID_QUANTITY


class NotSent(OrderDenied):
    """Nothing was written to a socket: the deadline passed, or the connection was not made."""

    code = "not_sent"
    default_error_type = ErrorType.TIMEOUT


class CircuitOpen(OrderDenied):
    """The exchange cannot be reached. `retry_after`: seconds until the next try, 0 while one is going on."""

    code = "circuit_open"
    default_error_type = ErrorType.NETWORK_ERROR

    def __init__(self, message: str, *, venue: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, venue=venue)
        self.retry_after = retry_after


class RequestRefused(ExchangeError):
    code = "refused"


class RefusedForGood(RequestRefused):
    code = "refused_for_good"


class InsufficientFunds(RefusedForGood):
    code = "insufficient_funds"
    default_error_type = ErrorType.INSUFFICIENT_BALANCE


class InvalidOrder(RefusedForGood):
    code = "invalid_order"


class InvalidSymbol(RefusedForGood):
    code = "invalid_symbol"
    default_error_type = ErrorType.INVALID_SYMBOL


class AuthenticationFailed(RefusedForGood):
    code = "authentication_failed"
    default_error_type = ErrorType.AUTHENTICATION


class RefusedForNow(RequestRefused):
    """Worth another try later. `retry_after` in seconds, None where the exchange does not say."""

    code = "refused_for_now"

    def __init__(
        self,
        message: str,
        *,
        venue: str = "",
        venue_code: str = "",
        error_type: ErrorType | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, venue=venue, venue_code=venue_code, error_type=error_type)
        self.retry_after = retry_after


class RateLimited(RefusedForNow):
    code = "rate_limited"
    default_error_type = ErrorType.RATE_LIMIT


class ExchangeBusy(RefusedForNow):
    code = "exchange_busy"
    default_error_type = ErrorType.NETWORK_ERROR


class TooManyOpenOrders(RequestRefused):
    """The cap on resting orders is reached. `account_wide`: the cap counts every symbol."""

    code = "too_many_open_orders"
    default_error_type = ErrorType.LIMIT_EXCEEDED

    def __init__(
        self,
        message: str,
        *,
        venue: str = "",
        venue_code: str = "",
        error_type: ErrorType | None = None,
        account_wide: bool = False,
    ) -> None:
        super().__init__(message, venue=venue, venue_code=venue_code, error_type=error_type)
        self.account_wide = account_wide


class OrderNotFound(RequestRefused):
    code = "order_not_found"


class DuplicateClientOrderId(ExchangeError):
    code = "duplicate_client_order_id"


class OutcomeUnknown(ExchangeError):
    code = "outcome_unknown"
    default_error_type = ErrorType.TIMEOUT
