"""Reports that name no placement of ours: kept, tried again, and called external only when they must be.

A notice can be faster than the answer to the request that caused it, and the order that a triggered
stop became can be heard of before anybody says whose child it is. So a report waits while its book has
an order that it might belong to. The rest was placed by hand or by somebody else: shown, never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from exchanges.adapters.types import STOP_TYPES, OrderReport
from orders.clock import database_now
from orders.models import EventSource, OpenOrder, Placement
from orders.services.applied import Applied
from orders.services.settlement import apply_reports
from orders.states import OrderStatus
from tracking.external_orders import externals_make, externals_update, slots_count
from tracking.models import UnmatchedReport
from tracking.stored_reports import from_json, has_our_shape, to_json
from tracking.watch import StreamKey

State = UnmatchedReport.State
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of waiting reports. `waits_for_stop`: reconciling would tell whose child they are."""

    applied: Applied | None = None
    external: int = 0
    waiting: int = 0
    waits_for_stop: bool = False


def unmatched_keep(*, key: StreamKey, reports: Sequence[OrderReport], source: str) -> None:
    """Keep reports that named no placement. Known external orders are brought up to date at once.

    One that says nothing new writes nothing: reconciliation brings the same list every time.
    """
    if not reports:
        return
    now = database_now()
    names = {report.exchange_order_id for report in reports}
    rows = UnmatchedReport.objects.filter(
        account_id=key.account_id,
        market_type=key.market_type,
        state__in=[State.WAITING, State.EXTERNAL],
        exchange_order_id__in=names,
    )
    external: set[tuple[str, str]] = set()
    waiting: set[OrderReport] = set()
    for row in rows:
        if row.state == State.EXTERNAL:
            external.add((row.symbol, row.exchange_order_id))
        else:
            waiting.add(from_json(row.report))
    known: list[OrderReport] = []
    unknown: dict[OrderReport, None] = {}  # each once, in the order in which they came
    for report in reports:
        if (report.symbol, report.exchange_order_id) in external:
            known.append(report)
        elif report not in waiting:
            unknown[report] = None
    UnmatchedReport.objects.bulk_create([_row(key, report, now) for report in unknown])
    externals_update(key, known, source, now)


def unmatched_retry(*, key: StreamKey, source: str, settled_before: datetime | None = None) -> Retried:
    """Try waiting reports again, and let those go that can be nobody's but somebody else's.

    They are applied as what they are, messages that may be old, whoever asks; `source` brings the events of
    those that are not ours.
    `settled_before`: at that time (database clock) a complete reconciliation of this account began, so
    that a report from before it is no child of a stop that still rests.
    """
    rows = list(
        UnmatchedReport.objects.filter(
            account_id=key.account_id, market_type=key.market_type, state=State.WAITING
        ).order_by("pk")[:_AT_ONCE]
    )
    if not rows:
        return Retried()
    now = database_now()
    # First what might explain them, then whether it does: the other way round an answer that is
    # recorded in between would make its own order an external one.
    submitting, stops = _unexplained(key, {row.symbol for row in rows})
    applied, rows = _apply_matching(key, rows, now=now)
    foreign, waits_for_stop = [], False
    for row in rows:
        if has_our_shape(row):
            foreign.append(row)
        elif row.symbol in submitting:
            continue
        elif row.symbol in stops and (settled_before is None or row.received_at >= settled_before):
            waits_for_stop = True
        else:
            foreign.append(row)
    if foreign:
        externals_make(key, foreign, source, now)
        slots_count(key, {row.symbol for row in foreign})
    return Retried(applied, len(foreign), len(rows) - len(foreign), waits_for_stop)


def _row(key: StreamKey, report: OrderReport, now: datetime) -> UnmatchedReport:
    return UnmatchedReport(
        account_id=key.account_id,
        market_type=key.market_type,
        symbol=report.symbol[:48],
        client_order_id=report.client_order_id[:64],
        exchange_order_id=report.exchange_order_id[:64],
        report=to_json(report),
        received_at=now,
    )


def _unexplained(key: StreamKey, symbols: set[str]) -> tuple[set[str], set[str]]:
    """Return the symbols with an order whose id is not known, and those with a stop whose child is not."""
    orders = OpenOrder.objects.filter(
        account_id=key.account_id, book__market_type=key.market_type, book__symbol__in=symbols
    ).values_list("book__symbol", "status", "intent__order_type", "placement__child_order_id")
    submitting, stops = set(), set()
    for symbol, status, order_type, child in orders:
        if status == OrderStatus.SUBMITTING:
            submitting.add(symbol)
        if order_type in STOP_TYPES and not child:
            stops.add(symbol)
    return submitting, stops


def _apply_matching(
    key: StreamKey, rows: list[UnmatchedReport], *, now: datetime
) -> tuple[Applied | None, list[UnmatchedReport]]:
    """Apply those that a placement explains by now; return what was done and the rows that are left."""
    clients = {row.client_order_id for row in rows} - {""}
    names = {row.exchange_order_id for row in rows} - {""}
    known = (
        Placement.objects.filter(account_id=key.account_id)
        .filter(
            Q(client_order_id__in=clients)
            | (Q(exchange_order_id__in=names) & ~Q(exchange_order_id=""))
            | (Q(child_order_id__in=names) & ~Q(child_order_id=""))
        )
        .exists()
    )
    if not known:
        return None, rows
    reports = {row.pk: from_json(row.report) for row in rows}
    applied = apply_reports(
        account_id=key.account_id,
        market_type=key.market_type,
        reports=list(reports.values()),
        source=EventSource.STREAM,
        now=now,
    )
    still_unknown = set(applied.unmatched)
    left = [row for row in rows if reports[row.pk] in still_unknown]
    matched = reports.keys() - {row.pk for row in left}
    UnmatchedReport.objects.filter(pk__in=matched).update(state=State.MATCHED)
    return applied, left
