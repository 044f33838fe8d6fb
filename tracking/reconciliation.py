"""Making the exchange's open orders and ours agree, one account and market at a time.

What differs is found by `comparing.py`. The network is asked outside transactions, so both sides may move
meanwhile: whatever changed here between the moments before and after the list was fetched is left for
the next run, and each difference is fetched once more before it is believed. A stale list opens and
closes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from exchanges import access, measures, runtime
from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import ExchangeError, InvalidSymbol, OrderNotFound
from exchanges.adapters.types import Fill, MarketType, OrderReport, VenueOrderStatus
from exchanges.models import Account
from orders.clock import database_now
from orders.models import Book, EventSource, OpenOrder, PendingOrder
from orders.services.applied import FORGOTTEN
from orders.services.externals import externals_count
from orders.services.queue import errands_run, rebalance
from orders.states import OrderStatus
from tracking.applying import answers_apply
from tracking.comparing import PositionDifference, Row, account_compare, ended_rows, positions_compare
from tracking.differences import Difference, Disagreement
from tracking.external_orders import by_lane, externals_gone
from tracking.fetching import Question, fills_fetch, orders_fetch
from tracking.leases import lease_acquire, lease_is_held, leased
from tracking.pacing import Pace, pacer
from tracking.run_notes import reason_of, run_clean, run_failed
from tracking.unmatched import unmatched_keep, unmatched_retry
from tracking.unreadable import unreadable_orders_keep
from tracking.watch import StreamKey

logger = logging.getLogger(__name__)

FETCH_SECONDS = 60.0
ANSWER_SECONDS = 50.0  # what is answered by then counts, whatever is not
# Short, so that a run that was killed is not in the way of the process that takes its account over. A
# run that an exchange holds up for longer finds its lease gone and ends; two at once would do no harm.
LEASE_SECONDS = settings.STREAM_LEASE_SECONDS * 1.5
FETCHED_AT_ONCE = 20
LOOP_SECONDS = 5.0
# An exchange forgets orders that ended without a fill after some days (Binance: three). One that is neither
# listed nor found has ended, if it is older than this and if it is said twice, so far apart.
FORGOTTEN_AFTER = timedelta(days=1)
NOT_FOUND_APART = timedelta(minutes=1)


@dataclass(slots=True)
class Reconciled:
    """What a run found. `ran` is False when another process was at it, or when the weight budget is short.

    `again_after`: so many seconds at least should pass before the next run, for the budget's sake.
    """

    ran: bool = True
    again_after: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    positions: list[PositionDifference] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.differences or self.positions or self.errors)


def reconcile_account(
    *, account_id: int, market_type: str, check_only: bool = False, on_demand: bool = False
) -> Reconciled:
    """Compare one account's open orders with the exchange's and settle what differs.

    Without differences this costs one list of the exchange and a constant number of queries, however many
    orders rest. Where request weight is short it is put off, or asks only for the symbols that matter; see
    `tracking.pacing`. `on_demand`: a person waits for it, so neither.
    `check_only` changes nothing, and compares positions as well. Any other run that could not compare
    everything is noted in the account's session, whoever asked for it.

    Raises ExchangeError when the exchange cannot be asked for its list, TimeoutError after 30 s.
    """
    key = StreamKey(account_id, market_type)
    account = Account.objects.get(pk=account_id)
    if check_only:
        exchange = access.exchange_for(account, market_type)
        compared = account_compare(key, exchange, None)
        return Reconciled(
            differences=compared.differences,
            positions=positions_compare(key, exchange),
            errors=[
                f"{compared.rows[pk].order.client_order_id}: listed there in a row that cannot be read"
                for pk in compared.unread
            ],
        )
    try:
        result = _run(key, account, on_demand=on_demand)
    except CancelledError:  # this process ends: that tells nothing of the account
        raise
    except Exception as exc:
        run_failed(key=key, account=account, reason=reason_of(exc))
        raise
    if result.errors:
        run_failed(key=key, account=account, reason="; ".join(result.errors))
    return result


def _run(key: StreamKey, account: Account, *, on_demand: bool) -> Reconciled:
    exchange = access.exchange_for(account, key.market_type)
    pace = Pace(None, 0.0)
    if not on_demand:
        if wait := runtime.run(exchange.background_wait(), timeout=LOOP_SECONDS):
            return Reconciled(ran=False, again_after=wait)
        pace = pacer.pace(key, account, exchange.list_cost(), lambda: _symbols_that_matter(key))
    with leased(_lease_name(key), seconds=LEASE_SECONDS) as owner:
        if owner is None:
            return Reconciled(ran=False)
        return _reconcile(key, exchange, owner, pace)


def is_running(key: StreamKey) -> bool:
    """Tell whether somebody is comparing this account just now."""
    return lease_is_held(_lease_name(key))


def _lease_name(key: StreamKey) -> str:
    return f"reconcile:{key.account_id}:{key.market_type}"


def _reconcile(key: StreamKey, exchange: Exchange, owner: str, pace: Pace) -> Reconciled:
    began = database_now()
    compared = account_compare(key, exchange, pace.symbols)
    found, symbols = compared.differences, compared.symbols
    if symbols is None:
        pacer.fetched_whole(key)
    result = Reconciled(differences=found, again_after=pace.seconds, errors=list(compared.errors))
    for one in found:
        measures.difference(one.kind)
    unreadable_orders_keep(key=key, listed=compared.unreadable)
    differing = [one.ours.placement_id for one in found if one.ours is not None]
    doubtful = [compared.rows[pk] for pk in dict.fromkeys([*differing, *compared.unread])]
    _found_again([row for pk, row in compared.rows.items() if pk not in compared.absent])
    for start in range(0, len(doubtful), FETCHED_AT_ONCE):
        if not lease_acquire(name=_lease_name(key), owner=owner, seconds=LEASE_SECONDS):
            result.errors.append("the run took too long, and another process took over")
            return result
        _ask(key, exchange, doubtful[start : start + FETCHED_AT_ONCE], result, absent=compared.absent)
    external = [one.theirs for one in found if one.kind is Disagreement.EXTERNAL and one.theirs is not None]
    _count_external(key, external, symbols)
    unmatched_keep(key=key, reports=external, source=EventSource.RECONCILIATION)
    externals_gone(key=key, listed=external, symbols=symbols, before=began, unreadable=compared.unreadable)
    retried = unmatched_retry(
        key=key,
        source=EventSource.RECONCILIATION,
        settled_before=None if result.errors else began,
    )
    if retried.applied is not None:
        errands_run(retried.applied, source=EventSource.RECONCILIATION)
        _ask(key, exchange, ended_rows(key, retried.applied.doubted), result)
    if not result.errors:
        run_clean(key=key, began=began)
    for error in result.errors:
        logger.warning("Reconciling account %s %s: %s", *key, error)
    return result


def _symbols_that_matter(key: StreamKey) -> set[str]:
    """Return where the account has orders that rest or wait, or where others' orders take up slots."""
    books = Book.objects.filter(account_id=key.account_id, market_type=key.market_type)
    resting = Exists(OpenOrder.objects.filter(book=OuterRef("pk")))
    waiting = Exists(PendingOrder.objects.filter(book=OuterRef("pk")))
    others = Q(external_limit_orders__gt=0) | Q(external_stop_orders__gt=0)
    return set(books.filter(resting | waiting | others).values_list("symbol", flat=True))


def _count_external(key: StreamKey, reports: Sequence[OrderReport], symbols: Collection[str] | None) -> None:
    """Say how many slots of each book others take; where one of theirs has gone, ours move up.

    `symbols`: those that were listed; None: all.
    """
    freed = externals_count(
        account_id=key.account_id, market_type=key.market_type, by_symbol=by_lane(reports), only=symbols
    )
    if freed:
        rebalance(book_ids=freed, freed=freed)


def orders_look(*, key: StreamKey, placement_ids: Collection[int]) -> Reconciled:
    """Ask what became of orders that ended here and live by what a message says; apply what is answered.

    Raises ExchangeError when the exchange cannot be had at all, TimeoutError after a minute.
    """
    result = Reconciled()
    if rows := ended_rows(key, placement_ids):
        account = Account.objects.get(pk=key.account_id)
        _ask(key, access.exchange_for(account, key.market_type), rows, result)
    for error in result.errors:
        logger.warning("Looking at ended orders of account %s %s: %s", *key, error)
    return result


def _ask(
    key: StreamKey,
    exchange: Exchange,
    asked: Sequence[Row],
    result: Reconciled,
    *,
    absent: Collection[int] = (),
) -> None:
    """Ask for orders one by one, and apply the answers; what could not be had stands in `result.errors`.

    `absent`: placements that the exchange's list does not name; of these "not found" may mean something.
    """
    if not asked:
        return
    asked_at = database_now()
    questions = [Question(row.ref, row.order.booked) for row in asked]
    answering = orders_fetch(exchange, questions, seconds=ANSWER_SECONDS)
    answers = runtime.run(answering, timeout=FETCH_SECONDS)
    reports: list[OrderReport] = []
    found, missing, forgotten = [], [], []
    for row, answer in zip(asked, answers, strict=True):
        if isinstance(answer, OrderReport):
            reports.append(answer)
            found.append(row)
            continue
        # A symbol that is traded no more has no orders either.
        is_missing = isinstance(answer, OrderNotFound | InvalidSymbol) and row.order.placement_id in absent
        if is_missing and _is_forgotten(row, asked_at):
            forgotten.append(row)
        else:
            if is_missing:
                missing.append(row)
            result.errors.append(f"{row.order.client_order_id}: {answer}")
    for row, traded in zip(forgotten, _traded(exchange, forgotten), strict=True):
        if isinstance(traded, ExchangeError):
            result.errors.append(f"{row.order.client_order_id}: {traded}")
        else:
            reports.append(_ended_unheard(key, row, traded))
    _found_again(found)
    _not_found(missing, asked_at)
    applied, errors = answers_apply(
        key=key, reports=reports, source=EventSource.RECONCILIATION, asked_at=asked_at
    )
    result.errors += [f"an answer could not be applied: {error}" for error in errors]
    errands_run(applied, source=EventSource.RECONCILIATION)


def _is_forgotten(row: Row, now: datetime) -> bool:
    """Tell whether an order that is not found now was not found long enough ago too, and is old enough."""
    return (
        row.submitted_at < now - FORGOTTEN_AFTER
        and row.not_found_count > 0
        and row.updated_at is not None
        and row.updated_at <= now - NOT_FOUND_APART
    )


def _not_found(rows: Sequence[Row], now: datetime) -> None:
    """Note of orders that rest, as far as we know, that they were not found, and when.

    `updated_at` tells when: whatever happens to the order makes it later, and puts its end off.
    """
    first = [
        row.order.placement_id
        for row in rows
        if row.not_found_count == 0 and row.submitted_at < now - FORGOTTEN_AFTER
    ]
    if first:
        unchanged = OpenOrder.objects.filter(placement_id__in=first, not_found_count=0, updated_at__lt=now)
        unchanged.exclude(status=OrderStatus.SUBMITTING).update(not_found_count=1, updated_at=now)


def _found_again(rows: Sequence[Row]) -> None:
    """Forget that orders were not found: what was said before is no proof any more."""
    seen = [
        row.order.placement_id
        for row in rows
        if row.not_found_count > 0 and row.order.status != OrderStatus.SUBMITTING
    ]
    if seen:  # of what is submitting the resolver counts
        sent = OpenOrder.objects.filter(placement_id__in=seen).exclude(status=OrderStatus.SUBMITTING)
        sent.update(not_found_count=0)


def _traded(exchange: Exchange, rows: Sequence[Row]) -> list[list[Fill] | ExchangeError]:
    """Ask what was traded by orders that are not found: trades are remembered longer."""
    if not rows:
        return []
    asking = fills_fetch(exchange, [row.ref for row in rows], seconds=ANSWER_SECONDS)
    return runtime.run(asking, timeout=FETCH_SECONDS)


def _ended_unheard(key: StreamKey, row: Row, traded: Sequence[Fill]) -> OrderReport:
    return OrderReport(
        market_type=MarketType(key.market_type),
        symbol=row.order.symbol,
        exchange_order_id=row.order.exchange_order_id,
        client_order_id=row.order.client_order_id,
        status=VenueOrderStatus.CANCELED,
        filled_quantity=max(row.order.booked, sum((fill.quantity for fill in traded), Decimal(0))),
        fills=tuple(traded),
        reason=FORGOTTEN,
    )
