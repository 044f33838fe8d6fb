"""Orders that are not ours: one row each, shown and counted against the caps, never touched.

An account's are made, changed and let go by one process at a time, so that each is told of once.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction

from exchanges.adapters.types import VENUE_CLOSED, OrderReport, UnreadableOrder
from exchanges.fields import plain
from exchanges.models import Account
from orders.clock import database_now
from orders.events import EventsLogged, publish
from orders.models import EventSource, EventType, OrderEvent
from orders.services.externals import External, externals_count
from tracking.events import StrangersFound
from tracking.models import OrderTrackingSession, UnmatchedReport
from tracking.sessions import sessions_ensure
from tracking.stored_reports import from_json, has_our_shape, to_json
from tracking.watch import StreamKey

logger = logging.getLogger(__name__)

State = UnmatchedReport.State


def externals_gone(
    *,
    key: StreamKey,
    listed: Sequence[OrderReport],
    symbols: Collection[str] | None,
    before: datetime,
    unreadable: Sequence[UnreadableOrder] = (),
) -> int:
    """Let external orders go that the exchange does not list any more; return how many.

    `symbols`: those that were listed, None: all. What was heard of since `before`, when the list was asked
    for, is left alone, and what one of the `unreadable` rows may be about.
    """
    rows = UnmatchedReport.objects.filter(
        account_id=key.account_id, market_type=key.market_type, is_open=True, received_at__lt=before
    )
    if symbols is not None:
        rows = rows.filter(symbol__in=symbols)
    names = {(report.symbol, report.exchange_order_id) for report in listed}
    gone = [
        row
        for row in rows
        if (row.symbol, row.exchange_order_id) not in names
        and not any(one.is_about(row.symbol, row.exchange_order_id) for one in unreadable)
    ]
    if not gone:
        return 0
    now, user_id = database_now(), _user_id(key)
    with transaction.atomic():
        _lock_account(key)
        still = UnmatchedReport.objects.filter(pk__in=[row.pk for row in gone], is_open=True)
        left = set(still.values_list("pk", flat=True))
        still.update(is_open=False)
        log = []
        for row in gone:
            if row.pk in left:
                event = _event(key, user_id, from_json(row.report), EventSource.RECONCILIATION, now)
                event.before, event.after = event.after, ""
                event.message = "An order that is not ours has ended; how, nobody told us"
                log.append(event)
        _log(log)
    return len(left)


def externals_make(key: StreamKey, rows: list[UnmatchedReport], source: str, now: datetime) -> None:
    """Turn waiting rows into one external row per order, with one event per order and fill."""
    with transaction.atomic():
        _lock_account(key)
        rows = list(
            UnmatchedReport.objects.filter(pk__in=[row.pk for row in rows], state=State.WAITING).order_by(
                "pk"
            )
        )
        names = {row.exchange_order_id for row in rows}
        known = _externals(key, names)
        log: list[OrderEvent] = []
        user_id = _user_id(key)
        strangers = False
        for row in rows:
            report = from_json(row.report)
            kept = known.get((row.symbol, row.exchange_order_id))
            if kept is None:
                known[row.symbol, row.exchange_order_id] = kept = row
                row.state, row.wants_alert = State.EXTERNAL, has_our_shape(row)
                strangers = strangers or row.wants_alert
                log.append(_event(key, user_id, report, source, now, alert=row.wants_alert))
            else:
                row.state = State.MATCHED  # its order is known by now, and shown by that row
            log.extend(_new_fills(key, user_id, kept, report, source, now))
            newest = _newer(from_json(kept.report), report)
            kept.report, kept.is_open = to_json(newest), newest.status not in VENUE_CLOSED
        UnmatchedReport.objects.bulk_update(
            {row.pk: row for row in (*rows, *known.values())}.values(),
            ["state", "report", "trade_ids", "is_open", "wants_alert"],
        )
        _log(log)
        if strangers:
            publish(StrangersFound())


def externals_update(key: StreamKey, reports: list[OrderReport], source: str, now: datetime) -> None:
    """Bring external orders up to date; events only for fills and ends that were not told yet."""
    if not reports:
        return
    known = _externals(key, {report.exchange_order_id for report in reports})
    if not any(_says_more(known.get((one.symbol, one.exchange_order_id)), one) for one in reports):
        return
    with transaction.atomic():
        _lock_account(key)
        known = _externals(key, {report.exchange_order_id for report in reports})
        log: list[OrderEvent] = []
        user_id = _user_id(key)
        changed = {}
        for report in reports:
            row = known.get((report.symbol, report.exchange_order_id))
            if row is None or not _says_more(row, report):
                continue
            changed[row.pk] = row
            before = from_json(row.report)
            log.extend(_new_fills(key, user_id, row, report, source, now))
            newer = _newer(before, report)
            if newer.status != before.status and newer.status in VENUE_CLOSED:
                log.append(_event(key, user_id, newer, source, now))
            row.report, row.is_open = to_json(newer), newer.status not in VENUE_CLOSED
        UnmatchedReport.objects.bulk_update(changed.values(), ["report", "trade_ids", "is_open"])
        _log(log)


def slots_count(key: StreamKey, symbols: Collection[str]) -> None:
    """Count them against the caps at once; a slot that one of them gives back is found by reconciling."""
    rows = UnmatchedReport.objects.filter(
        account_id=key.account_id, market_type=key.market_type, is_open=True, symbol__in=symbols
    )
    by_symbol = by_lane([from_json(row.report) for row in rows])
    externals_count(account_id=key.account_id, market_type=key.market_type, by_symbol=by_symbol, only=symbols)


def by_lane(reports: Iterable[OrderReport]) -> dict[str, External]:
    """Count orders of others by symbol; a stop that has triggered is a plain order by now."""
    counts: dict[str, list[int]] = {}
    for report in reports:
        is_stop = report.conditional and not report.child_order_id
        counts.setdefault(report.symbol, [0, 0])[is_stop] += 1
    return {symbol: External(limit, stop) for symbol, (limit, stop) in counts.items()}


def _externals(key: StreamKey, names: Iterable[str]) -> dict[tuple[str, str], UnmatchedReport]:
    rows = UnmatchedReport.objects.filter(
        account_id=key.account_id,
        market_type=key.market_type,
        state=State.EXTERNAL,
        exchange_order_id__in=names,
    )
    return {(row.symbol, row.exchange_order_id): row for row in rows}


def _says_more(row: UnmatchedReport | None, report: OrderReport) -> bool:
    if row is None:
        return False
    before = from_json(row.report)
    if not row.is_open and before.status not in VENUE_CLOSED and report.status not in VENUE_CLOSED:
        return True  # it is back in the list
    if any(fill.trade_id not in row.trade_ids for fill in report.fills):
        return True
    return _newer(before, report) is report and (before.status, before.filled_quantity) != (
        report.status,
        report.filled_quantity,
    )


def _newer(before: OrderReport, after: OrderReport) -> OrderReport:
    """Pick the later of two states of one external order, whichever came first."""
    if before.status in VENUE_CLOSED:
        return before
    if after.status in VENUE_CLOSED:
        return after
    return after if (after.filled_quantity or 0) >= (before.filled_quantity or 0) else before


def _new_fills(
    key: StreamKey,
    user_id: int,
    row: UnmatchedReport,
    report: OrderReport,
    source: str,
    now: datetime,
) -> list[OrderEvent]:
    fresh = [fill for fill in report.fills if fill.trade_id not in row.trade_ids]
    row.trade_ids = [*row.trade_ids, *(fill.trade_id for fill in fresh)]
    events = []
    for fill in fresh:
        event = _event(key, user_id, report, source, now)
        event.message = f"An order that is not ours filled {plain(fill.quantity)} at {plain(fill.price)}"
        event.data |= {
            "trade_id": fill.trade_id,
            "fill_quantity": plain(fill.quantity),
            "fill_price": plain(fill.price),
        }
        event.occurred_at = fill.executed_at
        events.append(event)
    return events


def _event(
    key: StreamKey, user_id: int, report: OrderReport, source: str, now: datetime, *, alert: bool = False
) -> OrderEvent:
    message = "An order that is not ours"
    if alert:
        message = "An order with an id of our shape that this installation never made"
        logger.error(
            "Account %s %s has an order %s of our shape that we do not know: "
            "another installation, or a restored backup?",
            *key,
            report.client_order_id,
        )
    data: dict[str, Any] = {
        "market_type": key.market_type,
        "exchange_order_id": report.exchange_order_id,
        "client_order_id": report.client_order_id,
        "side": report.side,
        "order_type": report.order_type,
        "quantity": None if report.quantity is None else plain(report.quantity),
        "price": None if report.price is None else plain(report.price),
        "filled_quantity": plain(report.filled_quantity) if report.filled_quantity is not None else None,
    }
    return OrderEvent(
        type=EventType.EXTERNAL,
        source=source,
        user_id=user_id,
        account_id=key.account_id,
        symbol=report.symbol[:48],
        after=report.status,
        message=message,
        data=data | {"alert": True} if alert else data,
        occurred_at=report.updated_at,
        created_at=now,
    )


def _log(events: list[OrderEvent]) -> None:
    if events:
        OrderEvent.objects.bulk_create(events)
        publish(EventsLogged())


def _lock_account(key: StreamKey) -> None:
    """One process at a time makes an account's orders external: each is told once."""
    session = OrderTrackingSession.objects.filter(account_id=key.account_id, market_type=key.market_type)
    lock = session.select_for_update(of=("self",)).values_list("pk", flat=True)
    if not list(lock):
        sessions_ensure([key])
        list(lock.all())


def _user_id(key: StreamKey) -> int:
    return Account.objects.values_list("user_id", flat=True).get(pk=key.account_id)
