"""The words that the live page shows for our stored values; a test asserts that none is missing."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from exchanges.adapters.breaker import BreakerState
from exchanges.adapters.exceptions import ErrorType
from exchanges.adapters.types import MarketType
from orders.listing import RESOLVING
from orders.models import EventSource, EventType, FailedStatus
from orders.models.intent import OrderTypeChoice, SideChoice
from orders.services.resolution import ResolutionCode
from orders.services.retries import Code
from orders.states import OrderStatus
from tracking.models import SessionStatus
from tracking.selectors import StreamState

SIDES: dict[str, Promise] = {SideChoice.BUY: _("Buy"), SideChoice.SELL: _("Sell")}

ORDER_TYPES: dict[str, Promise] = {
    OrderTypeChoice.MARKET: _("Market"),
    OrderTypeChoice.LIMIT: _("Limit"),
    OrderTypeChoice.STOP_MARKET: _("Stop market"),
    OrderTypeChoice.STOP_LIMIT: _("Stop limit"),
}

MARKETS: dict[str, Promise] = {
    MarketType.SPOT: _("Spot"),
    MarketType.FUTURES: _("Futures"),
    MarketType.DOMESTIC_STOCK: _("Domestic stock"),
    MarketType.OVERSEAS_STOCK: _("Overseas stock"),
    MarketType.DOMESTIC_FUTUREOPTION: _("Domestic derivatives"),
    MarketType.OVERSEAS_FUTUREOPTION: _("Overseas derivatives"),
}

ORDER_STATUSES: dict[str, Promise] = {
    OrderStatus.SUBMITTING: _("Submitting"),
    OrderStatus.NEW: pgettext_lazy("order status", "Open"),
    OrderStatus.PARTIALLY_FILLED: _("Part filled"),
    OrderStatus.CANCELING: _("Canceling"),
    OrderStatus.FILLED: _("Filled"),
    OrderStatus.CANCELED: _("Canceled"),
    OrderStatus.REJECTED: _("Rejected"),
    OrderStatus.EXPIRED: _("Expired"),
}

FAILED_STATUSES: dict[str, Promise] = {
    RESOLVING: _("Resolving"),
    FailedStatus.PENDING_RETRY: _("Failed"),
    FailedStatus.REMOVED: _("Removed"),
    FailedStatus.REJECTED: _("Rejected"),
    FailedStatus.EXPIRED: _("Expired"),
    FailedStatus.CANCELED: _("Canceled"),
}

ERROR_TYPES: dict[str, Promise] = {
    ErrorType.INSUFFICIENT_BALANCE: _("Not enough balance"),
    ErrorType.RATE_LIMIT: _("Rate limit"),
    ErrorType.INVALID_SYMBOL: _("Unknown symbol"),
    ErrorType.INVALID_QUANTITY: _("Quantity not allowed"),
    ErrorType.LIMIT_EXCEEDED: _("Limit exceeded"),
    ErrorType.NETWORK_ERROR: _("Network fault"),
    ErrorType.TIMEOUT: _("Timed out"),
    ErrorType.AUTHENTICATION: _("Credentials refused"),
    ErrorType.RISK_LIMIT: _("Risk limit"),
    ErrorType.UNKNOWN: _("Unknown cause"),
}

EVENTS: dict[str, Promise] = {
    EventType.QUEUED: _("Waiting in the queue"),
    EventType.SUBMITTING: _("Submitting"),
    EventType.ACCEPTED: _("Accepted"),
    EventType.UNKNOWN: _("Outcome unknown"),
    EventType.PARTIALLY_FILLED: _("Part filled"),
    EventType.FILLED: _("Filled"),
    EventType.TRIGGERED: _("Triggered"),
    EventType.CANCEL_REQUESTED: _("Cancel requested"),
    EventType.CANCELING: _("Canceling"),
    EventType.CANCELED: _("Canceled"),
    EventType.LIVE_AGAIN: _("Live again"),
    EventType.REJECTED: _("Rejected"),
    EventType.EXPIRED: _("Expired"),
    EventType.FAILED: _("Failed"),
    EventType.RETRY: _("Sent again"),
    EventType.REMOVED: _("Removed"),
    EventType.GUARD: _("Loss guard"),
    EventType.LATE_FILL: _("Fill after the end"),
    EventType.IMPOSSIBLE_REPORT: _("Impossible report"),
    EventType.EXTERNAL: _("Not our order"),
    EventType.STREAM: _("Stream"),
    EventType.BREAKER: _("Way to the exchange"),
    EventType.OPERATOR: _("Operator"),
}

SOURCES: dict[str, Promise] = {
    EventSource.WEBHOOK: _("by webhook"),
    EventSource.ANSWER: _("exchange's answer"),
    EventSource.STREAM: _("by stream"),
    EventSource.RECONCILIATION: _("by reconciliation"),
    EventSource.RESOLVER: _("by resolver"),
    EventSource.OPERATOR: _("by operator"),
    EventSource.QUEUE: _("by the queue"),
    EventSource.GUARD: _("by a guard"),
    EventSource.BREAKER: _("by the circuit breaker"),
}

SESSIONS: dict[str, Promise] = {
    SessionStatus.CONNECTING: _("connecting"),
    SessionStatus.CONNECTED: _("connected"),
    SessionStatus.DISCONNECTED: _("disconnected"),
    SessionStatus.ERROR: _("faulty"),
}

BREAKERS: dict[str, Promise] = {
    BreakerState.CLOSED: _("restored"),
    BreakerState.OPEN: _("interrupted"),
    BreakerState.HALF_OPEN: _("being tried"),
}

STREAMS: dict[str, Promise] = {
    StreamState.LIVE: _("live"),
    StreamState.RECONNECTING: _("reconnecting"),
    StreamState.DOWN: _("down"),
}

# What the page's script says when a person acts on failed orders. {count} and {what} are filled in there.
ACTING: dict[str, Promise] = {
    "selected": _("{count} selected"),
    "more": _("and {count} more"),
    "retry": _("Retry"),
    "retry_title": _("Send again?"),
    "retry_text": _("Each is sent as the order that was asked for: price and quantity stay as they are."),
    "left_out": _("{count} of the selected cannot be sent again and are left out."),
    "schedule": _("Schedule"),
    "schedule_title": _("Send again later?"),
    "schedule_text": _("Each is sent again by itself at that time."),
    "remove": _("Remove"),
    "remove_title": _("Remove from the list?"),
    "remove_text": _("They stay in the records, but cannot be sent again."),
    "decide": _("Decide"),
    "decide_title": _("What became of it?"),
    "decide_text": _(
        "Nobody answered when it was sent. Look for it at the exchange; a wrong answer may place it twice."
    ),
    "decided": _("Decided: {what}"),
    "which_missing": _("Say which."),
    "sent": _("Sent again: {what}"),
    "queued": _("Waiting in the queue: {what}"),
    "planned": _("Scheduled: {what}"),
    "unplanned": _("Schedule taken back: {what}"),
    "removed": _("Removed: {what}"),
    "done_of": _("{done} of {count} done"),
    "not_done": _("Nothing was done"),
    "no_answer": _("The server does not answer. Nothing may have been done: look before trying again."),
    "not_allowed": _("You are not logged in any more, or may not do this."),
    "when_missing": _("Say when."),
    "nothing_failed": _("No failed orders in this period."),
    "no_orders": _("No orders in this period."),
    "day": _("Day"),
    "reason": _("Reason"),
    "symbol": _("Symbol"),
    "strategy": _("Strategy"),
    "orders": _("Orders"),
    "succeeded": _("Succeeded"),
    "failed": _("Failed"),
    "rate": _("Success rate"),
    "share": _("Share"),
}

# Why nothing was done, for people; orders.services.retries and .resolution have the codes.
REFUSALS: dict[str, Promise] = {
    Code.NOT_FOUND: _("It is no failed order any more."),
    Code.REMOVED: _("It was removed."),
    Code.RETRIES_USED_UP: _("All retries are used up."),
    Code.CANCEL_REQUESTED: _("Its cancel was asked for."),
    Code.IN_PROGRESS: _("It is being sent already."),
    Code.OUTCOME_UNKNOWN: _("Its outcome is not known yet: sent again, it might be placed twice."),
    Code.NOTHING_LEFT: _("Nothing of it is left to send."),
    Code.POSITION_CHANGED: _("The position is smaller than what this order was to close."),
    Code.STOPPED: _("Trading is switched off here."),
    Code.GUARD: _("A guard forbids it."),
    Code.FAILED_AGAIN: _("It failed again."),
    Code.CANCELED: _("It was canceled before it was placed."),
    Code.INVALID_TIME: _("This time is not possible."),
    ResolutionCode.SETTLED: _("Its outcome is known by now."),
    ResolutionCode.TOO_SOON: _(
        "It is still being looked up, and its request may still arrive: wait a little."
    ),
    ResolutionCode.NOT_AT_EXCHANGE: _("The exchange does not know this order."),
    ResolutionCode.ANOTHER_ORDER: _("That is another order."),
    ResolutionCode.EXCHANGE_ERROR: _("The exchange could not be asked."),
}
