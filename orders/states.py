"""The states of an open order and the one table of what may follow what."""

from __future__ import annotations

from django.db import models


class OrderStatus(models.TextChoices):
    SUBMITTING = "SUBMITTING", "Submitting"  # row committed; the exchange not yet heard from
    NEW = "NEW", "New"
    PARTIALLY_FILLED = "PARTIALLY_FILLED", "Partially filled"
    CANCELING = "CANCELING", "Canceling"  # a cancel is on its way
    FILLED = "FILLED", "Filled"
    CANCELED = "CANCELED", "Canceled"
    REJECTED = "REJECTED", "Rejected"
    EXPIRED = "EXPIRED", "Expired"


RESTING = frozenset({OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED})
LIVE = RESTING | {OrderStatus.CANCELING}
CLOSED = frozenset({OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.REJECTED, OrderStatus.EXPIRED})

ALLOWED_TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    # Rejected covers "never placed": refused, or proven absent.
    OrderStatus.SUBMITTING: LIVE | CLOSED,
    # Rejected after New: where the first answer was only an acknowledgement.
    OrderStatus.NEW: LIVE | CLOSED,
    OrderStatus.PARTIALLY_FILLED: (LIVE - {OrderStatus.NEW}) | CLOSED,  # a late New is stale
    OrderStatus.CANCELING: LIVE | CLOSED,  # live again: the cancel was refused or lost
    # The end. A fill that comes after it is booked; it re-opens nothing.
    OrderStatus.FILLED: frozenset(),
    OrderStatus.CANCELED: frozenset(),
    OrderStatus.REJECTED: frozenset(),
    OrderStatus.EXPIRED: frozenset(),
}


def may_follow(before: str, after: str) -> bool:
    """Tell whether an order may go from one status to another."""
    return OrderStatus(after) in ALLOWED_TRANSITIONS[OrderStatus(before)]
