"""What goes back to the queue instead of failing, and how long it waits there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from exchanges.adapters.exceptions import (
    CircuitOpen,
    ErrorType,
    ExchangeError,
    NotSent,
    RefusedForNow,
    TooManyOpenOrders,
)

MOST_TRIES = 5
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
UNREACHABLE_WAIT_SECONDS = 5.0
MOST_ATTEMPTS = 9999  # an order has no more ids (`client_order_id`): after days of an exchange that is away


@dataclass(frozen=True, slots=True)
class PutOff:
    """`wait`: none, where nothing but a slot is missing. `counts`: the exchange answered, it was a try."""

    reason: str
    wait: timedelta | None = None
    counts: bool = False
    is_full: bool = False
    is_account_full: bool = False


def put_off(error: ExchangeError, *, tries: int, jitter: float, attempts: int = 1) -> PutOff | None:
    """Say how a queued order goes back after a submission that surely did nothing; None: it has failed.

    `tries`: how often the exchange has put it off before. `jitter`: 0 to 1, drawn by the caller. Waits
    double from one second to a minute, half of each by chance so that thirty orders do not come back as
    one; what the exchange itself asks for is the least. Where nothing was sent no try is counted: a queue
    outlives an exchange that is away, as long as an order has an id left. `attempts`: its placements so far.
    """
    words = error.message[:200]
    if attempts >= MOST_ATTEMPTS:
        return None
    match error:
        case TooManyOpenOrders():
            return PutOff(words, is_full=True, is_account_full=error.account_wide)
        case RefusedForNow() if tries + 1 < MOST_TRIES:
            most = min(FIRST_WAIT_SECONDS * 2**tries, LONGEST_WAIT_SECONDS)
            seconds = max(most, error.retry_after or 0.0) + jitter * most / 2
            return PutOff(words, wait=timedelta(seconds=seconds), counts=True)
        case NotSent(error_type=ErrorType.TIMEOUT):
            return PutOff(words, wait=timedelta(seconds=FIRST_WAIT_SECONDS * (0.5 + jitter / 2)))
        case NotSent() | CircuitOpen():
            # Before the breaker's next try it would only be written down, refused and written back.
            known = error.retry_after if isinstance(error, CircuitOpen) else 0.0
            seconds = known + UNREACHABLE_WAIT_SECONDS * (0.5 + jitter / 2)
            return PutOff(words, wait=timedelta(seconds=seconds))
    return None
