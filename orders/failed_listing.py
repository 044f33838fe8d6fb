"""The failed orders of the live page: those whose outcome is unknown, then the latest failed ones.

Two queries. Units: quantities in base asset or contracts, prices in quote asset; all Decimal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from orders.failed_selectors import FailedFilter, matching_failed, matching_resolving
from orders.listing import RESOLVING, FailedRow
from orders.selectors import PRICE_FRESH_FOR, Visible, last_price_of, read, what, whose

FAILED_SHOWN = 100  # as many as one call may act on
UNKNOWN_FOR = timedelta(minutes=1)  # before that the resolver is nearly always faster than a person
EVERY_FAILED_ORDER = FailedFilter()


def failed_orders(
    visible: Visible, *, now: datetime, only: FailedFilter = EVERY_FAILED_ORDER
) -> list[FailedRow]:
    """Orders whose outcome is unknown for longer than it should be, then the latest failed ones."""
    return [*_resolving_orders(visible, only, now=now), *_failed_orders(visible, only, now=now)]


def _resolving_orders(visible: Visible, only: FailedFilter, *, now: datetime) -> list[FailedRow]:
    rows = matching_resolving(visible, only, now=now)
    told = read(
        rows.order_by("-intent_id"),
        limit=FAILED_SHOWN,
        pk="intent_id",
        uid="intent__uid",
        quantity="intent__quantity",
        filled="intent__filled_quantity",
        exchange_error="placement__exchange_words",
        retry_count="intent__retry_count",
        created_at="submitted_at",
        last_price=last_price_of("price", "intent__"),
        seen_at=last_price_of("seen_at", "intent__"),
        **what("intent__"),
        **whose("intent__"),
    )
    for row in told:
        row["quantity"] = max(row["quantity"] - row.pop("filled"), Decimal(0))
        row |= {"status": RESOLVING, "reason": "", "error_type": "", "next_retry_at": None}
        row["needs_decision"] = row["created_at"] <= now - UNKNOWN_FOR
    return [_failed_row("resolving", row, now=now) for row in told]


def _failed_orders(visible: Visible, only: FailedFilter, *, now: datetime) -> list[FailedRow]:
    told = read(
        matching_failed(visible, only).order_by("-pk"),
        limit=FAILED_SHOWN,
        pk="pk",
        uid="uid",
        quantity="quantity",
        status="status",
        reason="reason",
        exchange_error="exchange_error",
        error_type="error_type",
        retry_count="retry_count",
        next_retry_at="next_retry_at",
        created_at="created_at",
        last_price=last_price_of("price"),
        seen_at=last_price_of("seen_at"),
        **what(),
        **whose(),
    )
    return [_failed_row("failed", row, now=now) for row in told]


def _failed_row(kind: str, told: dict[str, Any], *, now: datetime) -> FailedRow:
    pk, seen_at = told.pop("pk"), told.pop("seen_at")
    return FailedRow(
        key=f"{kind}-{pk}",
        id=pk,
        last_price_is_stale=seen_at is not None and seen_at < now - PRICE_FRESH_FOR,
        **told,
    )


def failed_count(rows: Sequence[FailedRow]) -> str:
    """How many failed orders are shown, "+" where there may be more than are read."""
    failed = sum(not row.is_resolving for row in rows)
    return f"{len(rows)}+" if failed == FAILED_SHOWN else str(len(rows))
