"""What all streams processes together are doing, in figures: `websocket_stats` of `/admin/api/metrics`.

Times in seconds by the database's clock. Four figures tell trouble: `unwatched` (nobody follows what is to
be followed), `oldest_last_ping_seconds` (a process that has stopped renewing), `oldest_reconciled_seconds`
(an account that cannot be compared with its exchange), and `lag_seconds`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from orders.clock import database_now
from orders.models import EventSource, OrderEvent
from tracking.models import OrderTrackingSession, SessionStatus
from tracking.watch import StreamKey, streams_wanted

LAG_OVER = timedelta(minutes=5)
LAG_EVENTS = 1000  # the latest of these minutes are enough


def websocket_stats() -> dict[str, Any]:
    """Return streams by status and by process, reconnects, the oldest ping and the lag of the ledger.

    `by_status` counts what is in effect: a stream whose lease ran out is heard by nobody, whatever its
    row says. `lag_seconds`: from the exchange's own time of a report to its line in our log, the last five
    minutes; the two clocks differ by what they differ. `oldest_reconciled_seconds`: since the last clean
    run began, or since the account was made if there was none. Times are None where there is nothing to
    measure.
    """
    now = database_now()
    wanted = streams_wanted()
    rows = [
        row
        for row in OrderTrackingSession.objects.filter(
            account_id__in={key.account_id for key in wanted}
        ).select_related("account")
        if StreamKey(row.account_id, row.market_type) in wanted
    ]
    watched = [row for row in rows if row.owner and row.lease_expires_at and row.lease_expires_at > now]
    by_status = Counter(row.status for row in watched)
    by_status[SessionStatus.DISCONNECTED] += len(wanted) - len(watched)
    pings = [row.last_ping for row in watched if row.status == SessionStatus.CONNECTED and row.last_ping]
    reconciled = [row.last_reconciled_at or row.account.created_at for row in rows]
    return {
        "streams": len(wanted),
        "by_status": {status.value: by_status[status] for status in SessionStatus},
        "unwatched": len(wanted) - len(watched),
        "processes": _processes(watched),
        "reconnects": sum(row.reconnect_count for row in rows),
        "oldest_last_ping_seconds": _seconds(now - min(pings)) if pings else None,
        "oldest_reconciled_seconds": _seconds(now - min(reconciled)) if reconciled else None,
        "lag_seconds": _lag(now),
    }


def _processes(watched: Sequence[OrderTrackingSession]) -> list[dict[str, Any]]:
    streams = Counter(row.owner for row in watched)
    connected = Counter(row.owner for row in watched if row.status == SessionStatus.CONNECTED)
    return [
        {"process": owner, "streams": count, "connected": connected[owner]}
        for owner, count in sorted(streams.items())
    ]


def _lag(now: datetime) -> dict[str, Any]:
    """How long after the exchange's time its reports stood in our log, of the latest stream events."""
    events = OrderEvent.objects.filter(
        created_at__gt=now - LAG_OVER, source=EventSource.STREAM, occurred_at__isnull=False
    ).order_by("-created_at")
    pairs = events.values_list("occurred_at", "created_at")[:LAG_EVENTS]
    lags = sorted(_seconds(created_at - occurred_at) for occurred_at, created_at in pairs if occurred_at)
    return {
        "count": len(lags),
        "p50": _nearest_rank(lags, 50),
        "p99": _nearest_rank(lags, 99),
        "max": lags[-1] if lags else None,
    }


def _nearest_rank(ordered: Sequence[float], percent: int) -> float | None:
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1] if ordered else None


def _seconds(span: timedelta) -> float:
    return round(span.total_seconds(), 3)
