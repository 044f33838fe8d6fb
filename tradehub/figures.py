"""What the whole installation is doing, in figures: for `/admin/api/metrics`, the front page, `/metrics`.

What stands is counted in the tables; what happened lately and how long it took is added up from what
every process reports (tradehub.processes). A constant number of queries, whatever there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Min, Q
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from exchanges.breakers import breaker_states
from exchanges.models import Account
from exchanges.windows import MINUTES, merged, percentile
from orders.clock import database_now
from orders.models import FailedOrder, FailedStatus, Home, KillSwitch, OpenOrder, OrderIntent, PendingOrder
from orders.states import OrderStatus
from tracking.models import OrderTrackingSession, SessionStatus, UnmatchedReport
from tracking.sessions import sessions_wanted
from tracking.websocket_stats import websocket_stats
from tradehub.models import Process, ProcessKind
from tradehub.processes import SEEN_WITHIN, WORKER_SEEN_WITHIN, Totals, added

UNKNOWN_AFTER = timedelta(seconds=5)  # an answer that takes longer than this has most likely been lost
SUCCESS_OVER = timedelta(hours=24)
ERRORS_SHOWN = 6
UNREADABLE_OVER = timedelta(hours=24)
OUTCOMES = ("accepted", "refused", "put_off", "full", "not_sent", "duplicate", "unknown")
LATENCIES = ("webhook", "webhook_to_exchange", "exchange_to_ledger", "rebalance")
_REQUEST = "exchange_request:"


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands in the tables now."""

    waiting: int
    backing_off: int
    books_waiting: int
    oldest_waiting_seconds: float | None
    open_by_status: dict[str, int]
    unknown: int
    failed: int
    kill_switch_on: bool


def standing(now: datetime) -> Standing:
    waiting = PendingOrder.objects.aggregate(
        all=Count("pk"),
        backing_off=Count("pk", filter=Q(waits_until__isnull=False)),
        books=Count("book", distinct=True),
        oldest=Min("queued_at"),
    )
    by_status = dict.fromkeys(OrderStatus.values, 0)
    is_unknown = Q(status=OrderStatus.SUBMITTING, submitted_at__lt=now - UNKNOWN_AFTER)
    unknown = 0
    rows = OpenOrder.objects.order_by().values("status")
    for row in rows.annotate(count=Count("pk"), unknown=Count("pk", filter=is_unknown)):
        by_status[row["status"]] = row["count"]
        unknown += row["unknown"]
    return Standing(
        waiting=waiting["all"],
        backing_off=waiting["backing_off"],
        books_waiting=waiting["books"],
        oldest_waiting_seconds=_ago(now, waiting["oldest"]),
        open_by_status=by_status,
        unknown=unknown,
        failed=FailedOrder.objects.exclude(status=FailedStatus.REMOVED).count(),
        kill_switch_on=KillSwitch.objects.filter(engaged=True).exists(),
    )


@dataclass(frozen=True, slots=True)
class Reported:
    """What the processes tell: who lives, and what they have counted."""

    alive: dict[str, int]  # by kind
    last_seen_seconds: dict[str, float | None]
    recent: dict[str, Counter[int]]
    totals: Totals


def reported(now: datetime) -> Reported:
    rows = list(Process.objects.all())
    kinds = [kind for kind in ProcessKind if kind is not ProcessKind.PAST]
    within = {kind: WORKER_SEEN_WITHIN if kind is ProcessKind.WORKER else SEEN_WITHIN for kind in kinds}
    seen = {kind: [now - row.seen_at for row in rows if row.kind == kind] for kind in kinds}
    return Reported(
        alive={kind.value: sum(ago <= within[kind] for ago in seen[kind]) for kind in kinds},
        last_seen_seconds={
            kind.value: round(min(seen[kind]).total_seconds(), 1) if seen[kind] else None for kind in kinds
        },
        recent=merged((row.recent for row in rows), now=now.timestamp()),
        totals=added(row.totals for row in rows),
    )


def figures() -> dict[str, Any]:
    """Return everything, as `GET /admin/api/metrics` answers it. Milliseconds where a name says so."""
    now = database_now()
    stands, told = standing(now), reported(now)
    recent = told.recent
    submissions = {outcome: recent.get(f"submission:{outcome}", Counter()).total() for outcome in OUTCOMES}
    return {
        "at": now,
        "window_seconds": MINUTES * 60,
        "websocket_stats": websocket_stats(),
        "accounts": _accounts(),
        "kill_switch": stands.kill_switch_on,
        "breakers": [
            {name: one[name] for name in ("exchange", "market_types", "node", "state", "retry_at", "reason")}
            for one in breaker_states()
        ],
        "queue": {
            "waiting": stands.waiting,
            "backing_off": stands.backing_off,
            "books": stands.books_waiting,
            "oldest_seconds": stands.oldest_waiting_seconds,
            "rebalances": recent.get("rebalance", Counter()).total(),
        },
        "orders": {
            "open": sum(stands.open_by_status.values()),
            "by_status": stands.open_by_status,
            "unknown": stands.unknown,
            "failed": stands.failed,
        },
        "submissions": submissions | {"total": sum(submissions.values())},
        "success": _success(now),
        "latency_ms": {name: in_milliseconds(recent.get(name, Counter())) for name in LATENCIES}
        | {
            "exchange_request": {
                name.removeprefix(_REQUEST): in_milliseconds(counts)
                for name, counts in sorted(recent.items())
                if name.startswith(_REQUEST)
            }
        },
        "processes": {
            kind: {"alive": count, "last_seen_seconds": told.last_seen_seconds[kind]}
            for kind, count in told.alive.items()
        },
        "errors": last_errors(),
    }


def in_milliseconds(counts: Mapping[int, int]) -> dict[str, float | int | None]:
    """Return how many there were and their percentiles, at most five percent too high."""
    found: dict[str, float | int | None] = {"count": sum(counts.values())}
    for percent in (50, 95, 99):
        value = percentile(counts, percent)
        found[f"p{percent}"] = None if value is None else round(value * 1000, 2)
    return found


def _accounts() -> dict[str, int]:
    found = Account.objects.aggregate(all=Count("pk"), active=Count("pk", filter=Q(is_active=True)))
    return {"total": found["all"], "active": found["active"], "paused": found["all"] - found["active"]}


def _success(now: datetime) -> dict[str, Any]:
    """How the orders of the last day went: they rest, filled or were canceled as asked, or they failed."""
    resting = Q(home=Home.EXCHANGE) & ~Q(open_order__status=OrderStatus.SUBMITTING)
    # By the delivery's time, which is indexed: the table of orders only grows.
    intents = OrderIntent.objects.filter(delivery__received_at__gte=now - SUCCESS_OVER)
    counted = intents.aggregate(
        succeeded=Count("pk", filter=Q(home=Home.DONE) | resting),
        failed=Count("pk", filter=Q(home=Home.FAILED)),
    )
    known = counted["succeeded"] + counted["failed"]
    rate = round(counted["succeeded"] * 100 / known, 2) if known else None
    return counted | {"percent": rate, "over_seconds": int(SUCCESS_OVER.total_seconds())}


def last_errors() -> list[dict[str, Any]]:
    """Return the latest failed orders and what troubles accounts, the newest first.

    Texts are masked already.
    """
    failed = FailedOrder.objects.exclude(status=FailedStatus.REMOVED).order_by("-created_at", "-pk")
    orders: list[dict[str, Any]] = [
        {
            "at": row["created_at"],
            "kind": "failed_order",
            "account": row["strategy_account__account__name"],
            "symbol": row["symbol"],
            "text": row["reason"],
            "exchange_error": row["exchange_error"],
        }
        for row in failed.values(
            "created_at", "symbol", "reason", "exchange_error", "strategy_account__account__name"
        )[:ERRORS_SHOWN]
    ]
    broken = OrderTrackingSession.objects.exclude(last_error="").exclude(status=SessionStatus.CONNECTED)
    streams: list[dict[str, Any]] = [
        {
            "at": row.updated_at,
            "kind": "stream",
            "account": row.account.name,
            "symbol": row.market_type,
            "text": row.last_error,
            "exchange_error": "",
        }
        for row in sessions_wanted(broken.select_related("account").order_by("-updated_at"))[:ERRORS_SHOWN]
    ]
    found = [*orders, *streams, *_not_reconciled(), *_unreadable()]
    return sorted(found, key=lambda one: one["at"], reverse=True)[:ERRORS_SHOWN]


def _not_reconciled() -> list[dict[str, Any]]:
    """Accounts whose last run could not compare everything, those that began to fail last first."""
    rows = OrderTrackingSession.objects.exclude(reconcile_error="").order_by("-reconcile_failed_at")
    return [
        {
            "at": row.reconcile_failed_at,
            "kind": "reconcile",
            "account": row.account.name,
            "symbol": row.market_type,
            "text": _("Cannot be compared with its exchange."),
            "exchange_error": row.reconcile_error,
        }
        for row in sessions_wanted(rows.select_related("account"))[
            :ERRORS_SHOWN
        ]  # of others there is no next run
    ]


def _unreadable() -> list[dict[str, Any]]:
    """What nobody could read lately: the newest of each account and market, so that none hides another."""
    rows = UnmatchedReport.objects.filter(
        state=UnmatchedReport.State.UNREADABLE, received_at__gte=Now() - UNREADABLE_OVER
    )
    newest = rows.order_by().values("account_id", "market_type").annotate(pk_of=Max("pk")).values("pk_of")
    return [
        {
            "at": row["received_at"],
            "kind": "unreadable",
            "account": row["account__name"],
            "symbol": row["symbol"] or row["market_type"],
            "text": _("What the exchange said could not be read; it is kept as it came."),
            "exchange_error": row["error"],
        }
        for row in rows.filter(pk__in=newest)
        .order_by("-pk")
        .values("received_at", "account__name", "symbol", "market_type", "error")[:ERRORS_SHOWN]
    ]


def _ago(now: datetime, moment: datetime | None) -> float | None:
    return None if moment is None else round(max((now - moment).total_seconds(), 0.0), 1)
