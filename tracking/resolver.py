"""Asking what became of orders whose state nobody knows: SUBMITTING too long, CANCELING too long.

An order that is found is adopted. One that is not found may still be on its way, so "not found" counts
only once the request can be accepted no more, by the database's clock, and only when it is said twice,
by the query, the open orders, the recent orders and the fills alike, and only while the exchange would
still know an order that ended. Any number of processes may run this: a row is claimed before the exchange
is asked, by moving its `ask_at` on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q, QuerySet

from exchanges import access, runtime
from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import ExchangeError, OrderNotFound, OutcomeUnknown
from exchanges.adapters.types import VENUE_CLOSED, ListedOrder, OrderRef, OrderReport, UnreadableOrder
from exchanges.models import Account
from orders.bulk import bulk_save
from orders.clock import database_now
from orders.models import EventSource, OpenOrder, Placement, PlacementOutcome
from orders.services.cancellation import cancels_send
from orders.services.gaps import fill_gaps
from orders.services.queue import errands_run
from orders.services.settled_rows import ASK_SOON
from orders.services.settlement import never_placed
from orders.side_by_side import side_by_side
from orders.states import RESTING, OrderStatus
from tracking.applying import answers_apply
from tracking.fetching import Question, not_in_time, orders_fetch, with_fills
from tracking.watch import StreamKey

logger = logging.getLogger(__name__)

AT_ONCE = 200
CLAIM = timedelta(seconds=settings.RESOLVE_CLAIM_SECONDS)  # if the claimer dies, another asks after this
# Of one account; less than CLAIM, so that nobody else asks the same meanwhile.
ASK_SECONDS = settings.RESOLVE_CLAIM_SECONDS * 2 / 3
LOOP_SECONDS = ASK_SECONDS + 5  # the I/O loop itself does not answer
SOONEST_AGAIN = timedelta(seconds=settings.RESOLVE_AGAIN_SECONDS)
SETTLED_AT_ONCE = 8  # accounts
LATEST_AGAIN = timedelta(seconds=30)
BEFORE_PLACING = timedelta(minutes=1)  # how far clocks may differ when the exchange's history is read
TIMES_NOT_FOUND = 2
ABSENT_REASON = "The exchange does not know it: no such order, open or ended, and no fill"


class Absent:
    """The exchange was asked in every way that it has, and knows nothing of the order."""


Answer = OrderReport | ExchangeError | Absent


@dataclass(frozen=True, slots=True)
class _Case:
    """One order to ask about."""

    open_order: OpenOrder
    placement: Placement
    ref: OrderRef
    claimed: datetime

    @property
    def question(self) -> Question:
        return Question(self.ref, self.placement.filled_quantity)

    @property
    def is_settled(self) -> bool:
        """It is proven never to have been placed, and whoever proved it died before acting on it."""
        return self.placement.outcome == PlacementOutcome.NEVER_PLACED


def resolve(*, limit: int = AT_ONCE, account_id: int | None = None) -> int:
    """Ask about every order that is due and settle what can be settled; return how many were asked for.

    `account_id`: of this account alone. One account's trouble is logged and stops no other account.
    """
    cases = _claim(limit, account_id)
    if not cases:
        return 0
    asked = 0
    with ThreadPoolExecutor(SETTLED_AT_ONCE, thread_name_prefix="settle") as settling:
        for key, answers in _answers(_exchanges(cases), cases):
            asked += len(answers)
            # What follows may ask this account's exchange again: the others are not to wait for that.
            if len(cases) > 1 and not connection.in_atomic_block:
                settling.submit(_settle_in_thread, key, cases[key], answers)
            else:
                _settle_surely(key, cases[key], answers)
    return asked


def gaps_sweep(*, limit: int = AT_ONCE) -> int:
    """Fetch the fills of orders, ended ones too, of which the exchange counts more than we booked.

    Streams and reconciliation close gaps at once; this is for those whose process died in between. Chance
    picks among many: those that no exchange tells of must not keep the others from their turn.
    """
    unequal = Placement.objects.exclude(exchange_filled_quantity=F("filled_quantity")).order_by("?")[:limit]
    gaps: dict[int, list[int]] = defaultdict(list)
    for placement in unequal:
        if placement.has_gap:
            gaps[placement.account_id].append(placement.pk)
    side_by_side(_gaps_close_surely, gaps.values())
    return sum(map(len, gaps.values()))


def _gaps_close_surely(placement_ids: Sequence[int]) -> None:
    try:
        applied = fill_gaps(placement_ids=placement_ids, source=EventSource.RESOLVER, now=database_now())
        applied.gaps = []  # what is not there yet is asked for in the next round
        errands_run(applied, source=EventSource.RESOLVER)
    except Exception:  # noqa: BLE001  # one account's trouble is not the others'
        logger.exception("Fills of placements %s could not be booked", placement_ids)


def cancels_sweep(*, limit: int = AT_ONCE) -> int:
    """Cancel what rests although its cancel was asked for: whoever was to send it has died."""
    rows = OpenOrder.objects.filter(status__in=RESTING, intent__cancel_requested=True)
    left = list(rows.order_by("pk").values_list("pk", flat=True)[:limit])
    if left:
        logger.warning("%s orders rest although their cancel was asked for: canceling them", len(left))
        applied = cancels_send(intent_ids=left, source=EventSource.RESOLVER, now=database_now())
        errands_run(applied, source=EventSource.RESOLVER)
    return len(left)


def counts_from(placement: Placement, validity_seconds: float) -> datetime:
    """Return from when on "not found" means something: no request that left in time is valid any more."""
    wait = settings.EXCHANGE_TIMEOUT_SECONDS + validity_seconds + settings.RESOLVE_MARGIN_SECONDS
    return placement.send_by + timedelta(seconds=wait)


def _settle_surely(key: StreamKey, cases: Sequence[_Case], answers: Sequence[Answer]) -> None:
    try:
        _settle(key, cases, answers)
    except Exception:  # noqa: BLE001  # guards the other accounts; the rows are asked about after CLAIM
        logger.exception("Could not settle what was asked for account %s %s", *key)


def _settle_in_thread(key: StreamKey, cases: Sequence[_Case], answers: Sequence[Answer]) -> None:
    try:
        _settle_surely(key, cases, answers)
    finally:
        connection.close()


def _claim(limit: int, account_id: int | None) -> dict[StreamKey, list[_Case]]:
    """Take the orders that are due, by moving their `ask_at` on; nobody else asks about them meanwhile."""
    now = database_now()
    rows = OpenOrder.objects.filter(ask_at__lte=now)
    if account_id is not None:
        rows = rows.filter(account_id=account_id)
    if not rows.exists():
        return {}  # the usual case: no transaction, and on SQLite no write lock, for nothing
    with transaction.atomic():
        # Rows that somebody works on right now are skipped, not waited for: no order of locks to keep.
        due = list(
            rows.select_for_update(skip_locked=True, of=("self",))
            .select_related("placement__intent", "book")
            .order_by("ask_at")[:limit]
        )
        for order in due:
            order.ask_at = now + CLAIM
        bulk_save(due, fields=("ask_at",))
    cases: dict[StreamKey, list[_Case]] = defaultdict(list)
    for order in due:
        key = StreamKey(order.account_id, order.book.market_type)
        cases[key].append(_Case(order, order.placement, order.placement.to_ref(), now + CLAIM))
    return cases


def _exchanges(keys: Iterable[StreamKey]) -> dict[StreamKey, Exchange]:
    wanted = list(keys)
    accounts = Account.objects.in_bulk({key.account_id for key in wanted})
    found = {}
    for key in wanted:
        try:
            found[key] = access.exchange_for(accounts[key.account_id], key.market_type)
        except Exception:  # noqa: BLE001  # keys that cannot be decrypted are one account's trouble
            logger.exception("No way to the exchange for account %s %s", *key)
    return found


def _answers(
    exchanges: dict[StreamKey, Exchange], cases: dict[StreamKey, list[_Case]]
) -> Iterator[tuple[StreamKey, list[Answer]]]:
    """Ask all accounts side by side; yield each one's answers when they are there: no other delays them."""
    asked_at = database_now()
    asking = {runtime.spawn(_ask(exchanges[key], cases[key], asked_at)): key for key in exchanges}
    waiting = set(asking)
    while waiting:
        runtime.wait_without_connection(waiting)
        done, waiting = wait(waiting, timeout=LOOP_SECONDS, return_when=FIRST_COMPLETED)
        if not done:
            logger.error("The I/O loop does not answer: %s accounts were not asked", len(waiting))
            for future in waiting:
                future.cancel()
            return
        for future in done:
            if future.exception() is None:  # spawn() has logged it; the rows are asked about after CLAIM
                yield asking[future], future.result()


async def _ask(exchange: Exchange, cases: Sequence[_Case], asked_at: datetime) -> list[Answer]:
    """Return an answer per case, in order, after ASK_SECONDS at the latest."""
    until = asyncio.get_running_loop().time() + ASK_SECONDS
    asked = [case for case in cases if not case.is_settled]
    queried = await orders_fetch(exchange, [case.question for case in asked], seconds=ASK_SECONDS)
    by_case = dict(zip((case.open_order.pk for case in asked), queried, strict=True))
    lists = _Lists(exchange)
    answers: list[Answer] = []
    for case in cases:
        answer: Answer = by_case.get(case.open_order.pk, Absent())
        if isinstance(answer, OrderNotFound) and _may_count(exchange, case, asked_at):
            try:
                async with asyncio.timeout_at(until):
                    answer = await _look_everywhere(exchange, lists, case)
            except TimeoutError:
                answer = not_in_time(exchange)
            except ExchangeError as exc:
                answer = exc
        answers.append(answer)
    return answers


def _may_count(exchange: Exchange, case: _Case, asked_at: datetime) -> bool:
    """Tell whether "not found" proves anything: not too early, not too late, and not where it never does."""
    window = exchange.capabilities.validity_window_seconds
    remembers = exchange.capabilities.remembers_seconds
    if case.open_order.status != OrderStatus.SUBMITTING:
        return False
    if window is None:
        return _left_to_a_person(exchange, case, "where requests never expire")
    if remembers is not None and asked_at >= case.placement.created_at + timedelta(seconds=remembers):
        return _left_to_a_person(exchange, case, "which may have forgotten it by now")
    validity = max(window, settings.EXCHANGE_VALIDITY_SECONDS)
    return asked_at >= counts_from(case.placement, validity)


def _left_to_a_person(exchange: Exchange, case: _Case, why: str) -> bool:
    """Say loudly that nobody can tell here; see `orders.services.resolution`."""
    name = case.placement.client_order_id
    logger.error("%s is unknown to %s, %s: a person has to decide", name, exchange.venue, why)
    return False


async def _look_everywhere(exchange: Exchange, lists: _Lists, case: _Case) -> Answer:
    since = case.placement.created_at - BEFORE_PLACING
    listed = (*await lists.open_orders(case.ref.symbol), *await lists.recent(case.ref.symbol, since))
    for one in listed:
        if isinstance(one, OrderReport) and one.client_order_id == case.placement.client_order_id:
            return await with_fills(exchange, one, case.question)
    ids = case.placement.client_order_id, case.placement.exchange_order_id
    if any(isinstance(one, UnreadableOrder) and one.is_about(case.ref.symbol, *ids) for one in listed):
        return OutcomeUnknown(
            "it is in the exchange's list, and its row cannot be read", venue=exchange.venue
        )
    try:
        fills = await exchange.fetch_executions(case.ref)
    except OrderNotFound:
        return Absent()
    if fills:
        return OutcomeUnknown("it has fills, but the exchange shows no order", venue=exchange.venue)
    return Absent()


class _Lists:
    """An exchange's lists, fetched once per symbol however many orders are looked for."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._open: dict[str, list[ListedOrder]] = {}
        self._recent: dict[tuple[str, datetime], list[ListedOrder]] = {}

    async def open_orders(self, symbol: str) -> list[ListedOrder]:
        if symbol not in self._open:
            self._open[symbol] = await self._exchange.fetch_open_orders(symbol)
        return self._open[symbol]

    async def recent(self, symbol: str, since: datetime) -> list[ListedOrder]:
        hour = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        if (symbol, hour) not in self._recent:
            since_ms = int(hour.timestamp() * 1000)
            self._recent[symbol, hour] = await self._exchange.fetch_recent_orders(symbol, since_ms=since_ms)
        return self._recent[symbol, hour]


def _settle(key: StreamKey, cases: Sequence[_Case], answers: Sequence[Answer]) -> None:
    reports = [answer for answer in answers if isinstance(answer, OrderReport)]
    if reports:
        asked_at = min(case.claimed for case in cases) - CLAIM
        applied, _ = answers_apply(key=key, reports=reports, source=EventSource.RESOLVER, asked_at=asked_at)
        errands_run(applied, source=EventSource.RESOLVER)
    absent = [case for case, answer in zip(cases, answers, strict=True) if isinstance(answer, Absent)]
    proven = [
        case.placement.pk for case in absent if case.is_settled or _not_found_again(case) >= TIMES_NOT_FOUND
    ]
    if proven:
        logger.warning("Account %s %s: %s orders were never placed", *key, len(proven))
        applied = never_placed(
            placement_ids=proven, source=EventSource.RESOLVER, now=database_now(), reason=ABSENT_REASON
        )
        errands_run(applied, source=EventSource.RESOLVER)
    for case, answer in zip(cases, answers, strict=True):
        _ask_later(case, answer)


def _still_claimed(case: _Case) -> QuerySet[OpenOrder]:
    """The row, unless something happened to it since it was claimed."""
    return OpenOrder.objects.filter(pk=case.open_order.pk, placement=case.placement, ask_at=case.claimed)


def _asked_at_once(case: _Case, now: datetime) -> QuerySet[OpenOrder]:
    """The row, unless something happened to it that says better than a settlement when to ask again."""
    rows = OpenOrder.objects.filter(pk=case.open_order.pk, placement=case.placement)
    return rows.filter(Q(ask_at=case.claimed) | Q(ask_at__lte=now + ASK_SOON))


def _not_found_again(case: _Case) -> int:
    """Count one more time that an order was not found; return how often that makes."""
    mine = _still_claimed(case).filter(status=OrderStatus.SUBMITTING)
    if not mine.update(not_found_count=F("not_found_count") + 1):
        return 0
    return mine.values_list("not_found_count", flat=True).first() or 0


def _ask_later(case: _Case, answer: Answer) -> None:
    """Say when to ask again, unless something happened meanwhile that says it better."""
    now = database_now()
    is_live = isinstance(answer, OrderReport) and answer.status not in VENUE_CLOSED
    if is_live and _still_claimed(case).filter(status__in=RESTING).update(ask_at=None):
        return
    if isinstance(answer, ExchangeError) and not isinstance(answer, OrderNotFound):
        logger.warning("No answer about %s: %s", case.placement.client_order_id, answer)
    mine, unknown_since = _still_claimed(case), case.placement.send_by
    if isinstance(answer, OrderReport) and answer.status in VENUE_CLOSED:
        # It has ended there, and stands here because fills of it are missing. Settling asks for them at once;
        # what is not there soon after the end may never come.
        mine = _asked_at_once(case, now)
        unknown_since = answer.updated_at or unknown_since
    unknown_for = now - unknown_since
    wait = (
        SOONEST_AGAIN
        if isinstance(answer, Absent)
        else min(max(unknown_for / 2, SOONEST_AGAIN), LATEST_AGAIN)
    )
    again = now + wait
    counting = counts_from(case.placement, settings.EXCHANGE_VALIDITY_SECONDS)
    if now + SOONEST_AGAIN < counting < again:
        again = counting
    mine.update(ask_at=again)
