"""Failed orders: what a person is told when an order could not do its job."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from exchanges.adapters.exceptions import ErrorType, ExchangeError, NotSent
from exchanges.adapters.types import OrderType
from exchanges.fields import plain
from orders.events import alerts_enabled
from orders.models import DeliveryState, FailedOrder, FailedStatus, OrderIntent

REASONS: dict[ErrorType, str] = {
    ErrorType.INSUFFICIENT_BALANCE: "Insufficient balance",
    ErrorType.RATE_LIMIT: "The exchange's rate limit is reached",
    ErrorType.INVALID_SYMBOL: "The exchange does not know this symbol",
    ErrorType.INVALID_QUANTITY: "Quantity or price does not fit the exchange's rules",
    ErrorType.LIMIT_EXCEEDED: "A limit of the exchange is reached",
    ErrorType.NETWORK_ERROR: "The exchange could not be reached",
    ErrorType.TIMEOUT: "Execution timeout",
    ErrorType.AUTHENTICATION: "The exchange refused the account's credentials",
    ErrorType.RISK_LIMIT: "A risk limit stopped the order",
    ErrorType.UNKNOWN: "The exchange refused the order",
}
ENDED_REASONS = {
    FailedStatus.REJECTED: "Rejected by the exchange",
    FailedStatus.EXPIRED: "Expired on the exchange",
    FailedStatus.CANCELED: "Canceled on the exchange, not by us",
}
TRIGGERED_MEANWHILE = "Its stop had triggered while it was being moved back to the queue"


def from_error(intent: OrderIntent, error: ExchangeError, *, now: datetime) -> FailedOrder:
    """The order was denied here or refused there; nothing exists."""
    reason = REASONS[error.error_type]
    if isinstance(error, NotSent) and error.error_type == ErrorType.TIMEOUT:
        reason = error.message[:100]
    return _failed(intent, reason=reason, error_type=error.error_type, words=error.message, now=now)


def never_placed(intent: OrderIntent, words: str, *, now: datetime) -> FailedOrder:
    return _failed(
        intent, reason="Never placed on the exchange", error_type=ErrorType.TIMEOUT, words=words, now=now
    )


def ended_there(intent: OrderIntent, status: FailedStatus, words: str, *, now: datetime) -> FailedOrder:
    """The exchange ended the order without being asked; what is left unfilled has failed."""
    return _failed(
        intent,
        reason=ENDED_REASONS[status],
        error_type=ErrorType.UNKNOWN,
        words=words,
        status=status,
        now=now,
    )


def denied_here(intent: OrderIntent, words: str, error_type: ErrorType, *, now: datetime) -> FailedOrder:
    """We did not send it: it cannot be sized, is not for this account, or a switch was off."""
    return _failed(intent, reason=_first(words), error_type=error_type, words="", now=now)


def may_place_anew(intent: OrderIntent) -> bool:
    """Tell whether a placement that never happened is placed again without asking a person.

    Only while the webhook is unanswered, which means that its process died: the signal is then still to
    be carried out. Never a MARKET order: its moment has passed.
    """
    return intent.order_type != OrderType.MARKET and intent.delivery.state == DeliveryState.WORKING


def shrink(failure: FailedOrder, intent: OrderIntent) -> None:
    """Less is left unfilled than was thought; not saved here."""
    failure.quantity = intent.remaining_quantity
    failure.order_params = order_params(intent)


def _first(words: str) -> str:
    text = words[:1].upper() + words[1:]
    return text if len(text) <= 100 else text[:99] + "…"


def _failed(
    intent: OrderIntent,
    *,
    reason: str,
    error_type: ErrorType,
    words: str,
    now: datetime,
    status: FailedStatus = FailedStatus.PENDING_RETRY,
) -> FailedOrder:
    return FailedOrder(
        intent=intent,
        strategy_account_id=intent.strategy_account_id,
        symbol=intent.symbol,
        market_type=intent.market_type,
        side=intent.side,
        order_type=intent.order_type,
        quantity=intent.remaining_quantity,
        price=intent.price,
        stop_price=intent.stop_price,
        reason=reason[:100],
        error_type=error_type.value,
        exchange_error=words[:500],
        order_params=order_params(intent),
        status=status,
        retry_count=intent.retry_count,
        uid=intent.uid,
        webhook_id=intent.delivery.webhook_id,
        alert_sent=alerts_enabled(),
        created_at=now,
    )


def order_params(intent: OrderIntent) -> dict[str, Any]:
    """Everything that a retry needs, decimals as text."""
    decimals = {"quantity": intent.remaining_quantity, "price": intent.price, "stop_price": intent.stop_price}
    return {
        "symbol": intent.symbol,
        "market_type": intent.market_type,
        "side": intent.side,
        "order_type": intent.order_type,
        "reduce_only": intent.reduce_only,
        **{name: plain(value) for name, value in decimals.items() if value is not None},
    }
