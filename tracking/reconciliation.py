"""Making the exchange's open orders and ours agree, one account and market at a time.

The comparison is `differences.py`. The network is asked outside transactions, so both sides may move
meanwhile: whatever changed here between the moments before and after the list was fetched is left for
the next run, and each difference is fetched once more before it is believed. A stale list opens and
closes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
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
from exchanges.adapters.types import (
    Fill,
    ListedOrder,
    MarketType,
    OrderRef,
    OrderReport,
    UnreadableOrder,
    VenueOrderStatus,
)
from exchanges.fields import plain
from exchanges.models import Account
from orders.clock import database_now
from orders.models import Book, EventSource, OpenOrder, PendingOrder, Placement, StrategyPosition
from orders.services.applied import FORGOTTEN
from orders.services.externals import externals_count
from orders.services.queue import errands_run, rebalance
from orders.states import OrderStatus
from tracking.applying import answers_apply
from tracking.differences import Difference, Disagreement, OurOrder, differences
from tracking.fetching import Question, fills_fetch, orders_fetch
from tracking.leases import lease_acquire, lease_is_held, leased
from tracking.pacing import Pace, pacer
from tracking.run_notes import reason_of, run_clean, run_failed
from tracking.unmatched import (
    by_lane,
    externals_gone,
    unmatched_keep,
    unmatched_retry,
    unreadable_orders_keep,
)
from tracking.watch import StreamKey

logger = logging.getLogger(__name__)

LIST_SECONDS = 30.0
FETCH_SECONDS = 60.0
ANSWER_SECONDS = 50.0  # what is answered by then counts, whatever is not
# Short, so that a run that was killed is not in the way of the process that takes its account over. A
# run that an exchange holds up for longer finds its lease gone and ends; two at once would do no harm.
LEASE_SECONDS = settings.STREAM_LEASE_SECONDS * 1.5
FETCHED_AT_ONCE = 20
SYMBOLS_AT_ONCE = 5
LOOP_SECONDS = 5.0
# An exchange forgets orders that ended without a fill after some days (Binance: three). One that is neither
# listed nor found has ended, if it is older than this and if it is said twice, so far apart.
FORGOTTEN_AFTER = timedelta(days=1)
NOT_FOUND_APART = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class PositionDifference:
    symbol: str
    here: Decimal
    there: Decimal

    def __str__(self) -> str:
        return f"{self.symbol}: position {plain(self.here)} here, {plain(self.there)} there"


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


@dataclass(frozen=True, slots=True)
class _Row:
    """One of our placements as it stood at one moment; equal rows mean that nothing happened to it."""

    order: OurOrder
    ref: OrderRef
    counted: Decimal
    submitted_at: datetime
    updated_at: datetime | None = None
    not_found_count: int = 0

    def may_be(self, listed: UnreadableOrder) -> bool:
        ours = self.order
        return listed.is_about(ours.symbol, ours.client_order_id, ours.exchange_order_id, ours.child_order_id)


@dataclass(frozen=True, slots=True)
class _Compared:
    """`unread`: our open placements that the list names in a row that nobody could read.

    `absent`: those that are open here, sent for sure, and not in the list at all.
    `symbols`: those that were listed, None: all; `errors`: why others could not be.
    """

    differences: list[Difference]
    rows: dict[int, _Row]
    unreadable: list[UnreadableOrder]
    unread: set[int]
    absent: set[int]
    symbols: Collection[str] | None = None
    errors: list[str] = field(default_factory=list)


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
        compared = _compare(key, exchange, None)
        return Reconciled(
            differences=compared.differences,
            positions=_position_differences(key, exchange),
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
    compared = _compare(key, exchange, pace.symbols)
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
        _ask(key, exchange, _ended_rows(key, retried.applied.doubted), result)
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


def _compare(key: StreamKey, exchange: Exchange, symbols: Collection[str] | None) -> _Compared:
    """Return what differs, without what changed here while the list was on its way, and our rows.

    `symbols`: to be asked for one by one; None: everything at once.
    """
    before = _open_here(key)
    listed, unasked = runtime.run(_lists(exchange, symbols), timeout=LIST_SECONDS)
    if symbols is not None:
        symbols = set(symbols) - unasked.keys()
    theirs = [one for one in listed if isinstance(one, OrderReport)]
    unreadable = [one for one in listed if isinstance(one, UnreadableOrder)]
    rows = _open_here(key)
    unread = {
        pk for pk, row in rows.items() if before.get(pk) == row and any(row.may_be(one) for one in unreadable)
    }
    ended = _named_by(key, theirs, rows)
    found = differences(theirs, [row.order for row in (rows | ended).values()])
    absent = {
        one.ours.placement_id
        for one in found
        if one.ours is not None and one.kind is Disagreement.NOT_OPEN_THERE
    } - unread

    def is_settled(difference: Difference) -> bool:
        ours = difference.ours
        if ours is None:
            return True
        if symbols is not None and ours.symbol not in symbols:
            return False  # not listed, or its book has come to matter since
        if difference.kind is Disagreement.NOT_OPEN_THERE and ours.placement_id not in absent:
            return False  # it is there: how it stands, only the order itself can tell
        return before.get(ours.placement_id) == rows.get(ours.placement_id)

    settled = [one for one in found if is_settled(one)]
    # What is traded no more is no fault: whole lists show what is left of it.
    errors = [f"{symbol}: {exc}" for symbol, exc in unasked.items() if not isinstance(exc, InvalidSymbol)]
    return _Compared(settled, rows | ended, unreadable, unread, absent, symbols, errors)


async def _lists(
    exchange: Exchange, symbols: Collection[str] | None
) -> tuple[list[ListedOrder], dict[str, ExchangeError]]:
    """Return what is listed, and for which symbols nobody could tell. Raises ExchangeError if for none."""
    if symbols is None:
        return await exchange.fetch_open_orders(), {}
    gate = asyncio.Semaphore(SYMBOLS_AT_ONCE)
    unasked: dict[str, ExchangeError] = {}

    async def one(symbol: str) -> list[ListedOrder]:
        async with gate:
            try:
                return await exchange.fetch_open_orders(symbol)
            except ExchangeError as exc:
                unasked[symbol] = exc
                return []

    lists = await asyncio.gather(*map(one, symbols))
    refused = [error for error in unasked.values() if not isinstance(error, InvalidSymbol)]
    if refused and len(refused) == len(symbols):
        raise refused[0]
    return [report for listed in lists for report in listed], unasked


def orders_look(*, key: StreamKey, placement_ids: Collection[int]) -> Reconciled:
    """Ask what became of orders that ended here and live by what a message says; apply what is answered.

    Raises ExchangeError when the exchange cannot be had at all, TimeoutError after a minute.
    """
    result = Reconciled()
    if rows := _ended_rows(key, placement_ids):
        account = Account.objects.get(pk=key.account_id)
        _ask(key, access.exchange_for(account, key.market_type), rows, result)
    for error in result.errors:
        logger.warning("Looking at ended orders of account %s %s: %s", *key, error)
    return result


def _ended_rows(key: StreamKey, placement_ids: Collection[int]) -> list[_Row]:
    if not placement_ids:
        return []
    placements = Placement.objects.filter(pk__in=placement_ids, account_id=key.account_id)
    return [
        _row(placement, status=placement.exchange_status)
        for placement in placements.select_related("intent", "account")
    ]


def _ask(
    key: StreamKey,
    exchange: Exchange,
    asked: Sequence[_Row],
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
    applied, errors = answers_apply(key=key, reports=reports, source=EventSource.RECONCILIATION)
    result.errors += [f"an answer could not be applied: {error}" for error in errors]
    errands_run(applied, source=EventSource.RECONCILIATION)


def _is_forgotten(row: _Row, now: datetime) -> bool:
    """Tell whether an order that is not found now was not found long enough ago too, and is old enough."""
    return (
        row.submitted_at < now - FORGOTTEN_AFTER
        and row.not_found_count > 0
        and row.updated_at is not None
        and row.updated_at <= now - NOT_FOUND_APART
    )


def _not_found(rows: Sequence[_Row], now: datetime) -> None:
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


def _found_again(rows: Sequence[_Row]) -> None:
    """Forget that orders were not found: what was said before is no proof any more."""
    seen = [
        row.order.placement_id
        for row in rows
        if row.not_found_count > 0 and row.order.status != OrderStatus.SUBMITTING
    ]
    if seen:  # of what is submitting the resolver counts
        sent = OpenOrder.objects.filter(placement_id__in=seen).exclude(status=OrderStatus.SUBMITTING)
        sent.update(not_found_count=0)


def _traded(exchange: Exchange, rows: Sequence[_Row]) -> list[list[Fill] | ExchangeError]:
    """Ask what was traded by orders that are not found: trades are remembered longer."""
    if not rows:
        return []
    asking = fills_fetch(exchange, [row.ref for row in rows], seconds=ANSWER_SECONDS)
    return runtime.run(asking, timeout=FETCH_SECONDS)


def _ended_unheard(key: StreamKey, row: _Row, traded: Sequence[Fill]) -> OrderReport:
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


def _open_here(key: StreamKey) -> dict[int, _Row]:
    orders = OpenOrder.objects.filter(
        account_id=key.account_id, book__market_type=key.market_type
    ).select_related("placement__intent")
    return {order.placement_id: _row(order.placement, status=order.status, order=order) for order in orders}


def _named_by(key: StreamKey, theirs: Sequence[OrderReport], rows: dict[int, _Row]) -> dict[int, _Row]:
    """Return our placements that their list names although they are not open here."""
    open_here = {row.order.client_order_id for row in rows.values()}
    strange = [report for report in theirs if report.client_order_id not in open_here]
    if not strange:
        return {}
    clients = {report.client_order_id for report in strange} - {""}
    names = {report.exchange_order_id for report in strange} - {""}
    ended = (
        Placement.objects.filter(account_id=key.account_id, intent__market_type=key.market_type)
        .filter(
            Q(client_order_id__in=clients)
            | (Q(exchange_order_id__in=names) & ~Q(exchange_order_id=""))
            | (Q(child_order_id__in=names) & ~Q(child_order_id=""))
        )
        .exclude(pk__in=rows)
        .select_related("intent")
    )
    return {placement.pk: _row(placement, status=placement.exchange_status) for placement in ended}


def _row(placement: Placement, *, status: str, order: OpenOrder | None = None) -> _Row:
    return _Row(
        order=OurOrder(
            placement_id=placement.pk,
            symbol=placement.intent.symbol,
            client_order_id=placement.client_order_id,
            exchange_order_id=placement.exchange_order_id,
            child_order_id=placement.child_order_id,
            status=status,
            booked=placement.filled_quantity,
            is_open=order is not None,
            is_conditional=placement.intent.is_stop,
        ),
        ref=placement.to_ref(),
        counted=placement.exchange_filled_quantity,
        submitted_at=placement.created_at,
        updated_at=None if order is None else order.updated_at,
        not_found_count=0 if order is None else order.not_found_count,
    )


def _position_differences(key: StreamKey, exchange: Exchange) -> list[PositionDifference]:
    """Compare the sum of our strategies' positions with the account's, where a market has positions."""
    if not exchange.capabilities.leverage:
        return []  # a spot balance is no position: deposits and other coins are in it
    theirs: dict[str, Decimal] = defaultdict(Decimal)
    for position in runtime.run(exchange.fetch_positions(), timeout=LIST_SECONDS):
        theirs[position.symbol] += position.quantity
    ours: dict[str, Decimal] = defaultdict(Decimal)
    mine = StrategyPosition.objects.filter(account_id=key.account_id, market_type=key.market_type)
    for symbol, quantity in mine.values_list("symbol", "quantity"):
        ours[symbol] += quantity
    return [
        PositionDifference(symbol, ours[symbol], theirs[symbol])
        for symbol in sorted({*ours, *theirs})
        if ours[symbol] != theirs[symbol]
    ]
