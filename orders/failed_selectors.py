"""Reads of failed orders for the API, the CSV and the statistics: a constant number of queries each.

Orders whose outcome is unknown are listed before them as `resolving`: they have no failed order's id.
Quantities in base asset or contracts, prices in quote asset, all Decimal; times aware UTC.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Count, F, Q, QuerySet
from django.db.models.functions import TruncDate

from orders.listing import RESOLVING
from orders.models import FailedOrder, FailedStatus, Home, OpenOrder, OrderIntent
from orders.selectors import RESOLVING_AFTER, Visible
from orders.states import OrderStatus

Told = QuerySet[Any, Any]  # of dictionaries
CHUNK = 500
REASONS_SHOWN = 50  # some of them quote numbers: there may be as many as orders

_SHARED = ("strategy_account_id", "symbol", "market_type", "side", "order_type", "price", "stop_price")
_WHOSE = {
    "strategy": F("strategy_account__strategy__group_name"),
    "account_name": F("strategy_account__account__name"),
}


@dataclass(frozen=True, slots=True)
class FailedFilter:
    """Which failed orders are asked for; None: any. Removed ones come only when they are asked for."""

    strategy_account_id: int | None = None
    symbol: str | None = None
    status: str | None = None
    error_type: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


def failed_count(visible: Visible, wanted: FailedFilter, *, now: datetime) -> int:
    return matching_resolving(visible, wanted, now=now).count() + matching_failed(visible, wanted).count()


def failed_page(
    visible: Visible, wanted: FailedFilter, *, now: datetime, start: int, size: int
) -> tuple[list[dict[str, Any]], int]:
    """Return rows `start` to `start + size` and how many there are: the resolving first, then the latest."""
    resolving, failed = matching_resolving(visible, wanted, now=now), matching_failed(visible, wanted)
    unknown = resolving.count()
    total = unknown + failed.count()
    rows = (
        [_row(told) for told in _told_resolving(resolving)[start : start + size]] if start < unknown else []
    )
    if (room := size - len(rows)) and start + size > unknown:
        first = max(start - unknown, 0)
        rows += [_row(told) for told in _told_failed(failed)[first : first + room]]
    return rows, total


def failed_stream(
    visible: Visible, wanted: FailedFilter, *, now: datetime
) -> Generator[dict[str, Any], None, None]:
    """Read them all, a chunk at a time, in the list's order."""
    resolving = _told_resolving(matching_resolving(visible, wanted, now=now))
    failed = _told_failed(matching_failed(visible, wanted))
    for rows in (resolving, failed):
        for told in rows.iterator(CHUNK):
            yield _row(told)


def matching_failed(visible: Visible, wanted: FailedFilter) -> QuerySet[FailedOrder]:
    if wanted.status == RESOLVING:
        return FailedOrder.objects.none()
    rows = FailedOrder.objects.filter(visible.rows())
    if wanted.status is None:
        rows = rows.exclude(status=FailedStatus.REMOVED)
    conditions = {
        "strategy_account_id": wanted.strategy_account_id,
        "symbol": wanted.symbol,
        "status": wanted.status,
        "error_type": wanted.error_type,
        "created_at__gte": wanted.created_after,
        "created_at__lt": wanted.created_before,
    }
    return rows.filter(**{name: value for name, value in conditions.items() if value is not None})


def matching_resolving(visible: Visible, wanted: FailedFilter, *, now: datetime) -> QuerySet[OpenOrder]:
    if wanted.status not in (None, RESOLVING) or wanted.error_type is not None:
        return OpenOrder.objects.none()
    rows = OpenOrder.objects.filter(
        visible.rows(), status=OrderStatus.SUBMITTING, submitted_at__lt=now - RESOLVING_AFTER
    )
    conditions = {
        "strategy_account_id": wanted.strategy_account_id,
        "intent__symbol": wanted.symbol,
        "submitted_at__gte": wanted.created_after,
        "submitted_at__lt": wanted.created_before,
    }
    return rows.filter(**{name: value for name, value in conditions.items() if value is not None})


def _told_failed(rows: QuerySet[FailedOrder]) -> Told:
    fields = (
        *_SHARED, "id", "uid", "quantity", "reason", "error_type", "exchange_error", "status", "retry_count",
        "next_retry_at", "webhook_id", "created_at", "updated_at",
    )  # fmt: skip
    told: Told = rows.order_by("-pk").values(*fields, reduce_only=F("intent__reduce_only"), **_WHOSE)
    return told


def _told_resolving(rows: QuerySet[OpenOrder]) -> Told:
    named = {name: F(f"intent__{name}") for name in _SHARED if name != "strategy_account_id"}
    return rows.order_by("-pk").values(
        "strategy_account_id",
        "updated_at",
        **named,
        uid=F("intent__uid"),
        asked=F("intent__quantity"),
        filled=F("intent__filled_quantity"),
        exchange_error=F("placement__exchange_words"),
        retry_count=F("intent__retry_count"),
        webhook_id=F("intent__delivery__webhook_id"),
        reduce_only=F("intent__reduce_only"),
        created_at=F("submitted_at"),
        **_WHOSE,
    )


def _row(told: dict[str, Any]) -> dict[str, Any]:
    told["account"] = told.pop("account_name")
    if "id" in told:
        return told
    left = max(told.pop("asked") - told.pop("filled"), Decimal(0))
    unknown = {"id": None, "status": RESOLVING, "reason": "", "error_type": "", "next_retry_at": None}
    return told | unknown | {"quantity": left}


# --- statistics -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StrategyRate:
    """How a strategy's orders went: `succeeded` rest, filled, or were canceled as asked."""

    strategy: str
    orders: int
    succeeded: int
    failed: int

    @property
    def success_rate(self) -> Decimal | None:
        """Percent of those whose fate is known, to two digits; None where there are none."""
        known = self.succeeded + self.failed
        return (Decimal(self.succeeded) * 100 / known).quantize(Decimal("0.01")) if known else None


@dataclass(frozen=True, slots=True)
class FailedStats:
    total: int
    by_reason: dict[str, int]  # the most frequent ones
    by_error_type: dict[str, int]
    by_symbol: dict[str, int]
    by_day: dict[str, int]  # every day of the period, UTC, the oldest first
    strategies: list[StrategyRate]


def failed_stats(visible: Visible, *, now: datetime, days: int) -> FailedStats:
    """Count the failed orders there are, removed ones too, and how orders went, today and `days` - 1 before.

    What was retried or filled after all is no failed order any more.
    """
    today = now.astimezone(UTC).date()
    first = today - timedelta(days=days - 1)
    since = datetime(first.year, first.month, first.day, tzinfo=UTC)
    rows = FailedOrder.objects.filter(visible.rows(), created_at__gte=since)
    counted = _counts(rows.annotate(day=TruncDate("created_at", tzinfo=UTC)), "day", limit=days)
    all_days = [first + timedelta(days=number) for number in range(days)]
    return FailedStats(
        total=sum(counted.values()),
        by_reason=_counts(rows, "reason", limit=REASONS_SHOWN),
        by_error_type=_counts(rows, "error_type", limit=REASONS_SHOWN),
        by_symbol=_counts(rows, "symbol", limit=REASONS_SHOWN),
        by_day={day.isoformat(): counted.get(day, 0) for day in all_days},
        strategies=_rates(visible, since),
    )


def _counts(rows: QuerySet[FailedOrder], name: str, *, limit: int) -> dict[Any, int]:
    grouped = rows.order_by().values(name).annotate(count=Count("pk")).order_by("-count", name)
    return {row[name]: row["count"] for row in grouped[:limit]}


def _rates(visible: Visible, since: datetime) -> list[StrategyRate]:
    resting = Q(home=Home.EXCHANGE) & ~Q(open_order__status=OrderStatus.SUBMITTING)
    # By the delivery's time, which is indexed: the table of orders only grows.
    intents = OrderIntent.objects.filter(visible.rows(), delivery__received_at__gte=since)
    grouped = intents.values(strategy=F("strategy_account__strategy__group_name")).annotate(
        orders=Count("pk"),
        succeeded=Count("pk", filter=Q(home=Home.DONE) | resting),
        failed=Count("pk", filter=Q(home=Home.FAILED)),
    )
    return [StrategyRate(**row) for row in grouped.order_by("strategy")]
