"""Reports that name no placement of ours: kept, tried again, and called external only when they must be.

A notice can be faster than the answer to the request that caused it, and the order that a triggered
stop became can be heard of before anybody says whose child it is. So a report waits while its book has
an order that it might belong to. The rest was placed by hand or by somebody else: shown, never touched.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q
from pydantic import TypeAdapter

from exchanges import measures
from exchanges.adapters.secrets import Masker
from exchanges.adapters.types import (
    STOP_TYPES,
    VENUE_CLOSED,
    OrderReport,
    UnreadableMessage,
    UnreadableOrder,
)
from exchanges.credentials import masker_for
from exchanges.fields import plain
from exchanges.models import Account
from orders.clock import database_now
from orders.events import EventsLogged, publish
from orders.models import EventSource, EventType, OpenOrder, OrderEvent, Placement
from orders.services.applied import Applied
from orders.services.externals import External, externals_count
from orders.services.settlement import apply_reports
from orders.states import OrderStatus
from tracking.events import StrangersFound
from tracking.models import OrderTrackingSession, UnmatchedReport
from tracking.sessions import sessions_ensure
from tracking.watch import StreamKey

logger = logging.getLogger(__name__)

State = UnmatchedReport.State
OUR_SHAPE = re.compile(r"th[0-9A-Z]{26}[0-9]{4}")  # `orders.models.intent.client_order_id`
_REPORTS = TypeAdapter(OrderReport)
_TEXT_LENGTH = 20_000
UNREADABLE_KEPT = 1000  # per account
_AT_ONCE = 500


def to_json(report: OrderReport) -> dict[str, Any]:
    """Write a report as JSON: decimals as text, times as ISO 8601."""
    written: dict[str, Any] = _REPORTS.dump_python(report, mode="json")
    return written


def from_json(written: dict[str, Any]) -> OrderReport:
    return _REPORTS.validate_python(written)


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of waiting reports. `waits_for_stop`: reconciling would tell whose child they are."""

    applied: Applied | None = None
    external: int = 0
    waiting: int = 0
    waits_for_stop: bool = False


def unreadable_keep(*, key: StreamKey, message: UnreadableMessage) -> None:
    """Store what nobody could read or apply, as it came; nothing is guessed from it.

    Without the account's secrets, cut to a length, and the latest only: an exchange that begins to say
    something new says it all day.
    """
    account = Account.objects.get(pk=key.account_id)
    row = _unreadable(key, message.text, message.error, database_now(), mask=masker_for(account))
    logger.error("A stream message of account %s %s could not be used (%s); kept as it came", *key, row.error)
    _unreadable_store(account, [row])


def unreadable_orders_keep(*, key: StreamKey, listed: Sequence[UnreadableOrder]) -> None:
    """Store rows of a list that nobody could read, as they came; what is stored already says nothing new.

    Reconciliation brings the same list every time.
    """
    if not listed:
        return
    now = database_now()
    names = {one.names[0][:64] for one in listed}
    stored = UnmatchedReport.objects.filter(
        account_id=key.account_id,
        market_type=key.market_type,
        state=State.UNREADABLE,
        exchange_order_id__in=names,
    )
    texts = {report["text"] for report in stored.values_list("report", flat=True)}
    account = Account.objects.get(pk=key.account_id)
    mask = masker_for(account)
    fresh = []
    for one in listed:
        row = _unreadable(key, one.text, one.error, now, mask=mask)
        row.symbol, row.exchange_order_id = one.symbol[:48], one.names[0][:64]
        if row.report["text"] not in texts:
            logger.error(
                "Account %s %s lists an order that cannot be read (%s); kept as it came", *key, row.error
            )
            fresh.append(row)
    if fresh:
        _unreadable_store(account, fresh)


def _unreadable(key: StreamKey, text: str, error: str, now: datetime, *, mask: Masker) -> UnmatchedReport:
    text = mask(text[: 2 * _TEXT_LENGTH], limit=2 * _TEXT_LENGTH)[:_TEXT_LENGTH]
    return UnmatchedReport(
        account_id=key.account_id,
        market_type=key.market_type,
        state=State.UNREADABLE,
        report={"text": text.replace("\0", "\ufffd")},  # PostgreSQL keeps no NUL
        error=mask(error).replace("\0", "\ufffd")[:500],
        received_at=now,
    )


def _unreadable_store(account: Account, rows: list[UnmatchedReport]) -> None:
    UnmatchedReport.objects.bulk_create(rows)
    measures.unreadable(account.exchange, len(rows))
    kept = UnmatchedReport.objects.filter(account=account, state=State.UNREADABLE)
    old = list(kept.order_by("-pk").values_list("pk", flat=True)[UNREADABLE_KEPT : UNREADABLE_KEPT + 1])
    if old:
        kept.filter(pk__lte=old[0]).delete()


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
    _externals_update(key, known, source, now)


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
        if _is_foreign_for_sure(row):
            foreign.append(row)
        elif row.symbol in submitting:
            continue
        elif row.symbol in stops and (settled_before is None or row.received_at >= settled_before):
            waits_for_stop = True
        else:
            foreign.append(row)
    if foreign:
        _externals_make(key, foreign, source, now)
        _slots_count(key, {row.symbol for row in foreign})
    return Retried(applied, len(foreign), len(rows) - len(foreign), waits_for_stop)


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


def _is_foreign_for_sure(row: UnmatchedReport) -> bool:
    # Ours are written down before they are sent: an id of our shape without a row was made elsewhere.
    return OUR_SHAPE.fullmatch(row.client_order_id) is not None


def _externals_make(key: StreamKey, rows: list[UnmatchedReport], source: str, now: datetime) -> None:
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
                row.state, row.wants_alert = State.EXTERNAL, _is_foreign_for_sure(row)
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


def _externals_update(key: StreamKey, reports: list[OrderReport], source: str, now: datetime) -> None:
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


def _slots_count(key: StreamKey, symbols: Collection[str]) -> None:
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
