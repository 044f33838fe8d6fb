"""Sending placements that stand in the database, and recording what became of each.

One way out for a single order and for many, for a webhook, a take-over and a retry. The rows are
committed before anything is sent; no transaction is open while the exchange is answering.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction

from exchanges import access, measures, runtime
from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import ErrorType, ExchangeError, NotSent, OutcomeUnknown
from exchanges.adapters.types import MarketType, OrderReport, OrderRequest, OrderType
from exchanges.models import Account
from orders import locks
from orders.bulk import bulk_insert
from orders.clock import DatabaseClock
from orders.models import (
    Book,
    EventSource,
    EventType,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    Placement,
    PlacementOutcome,
    StrategyAccount,
)
from orders.models.intent import client_order_id
from orders.services.applied import Applied, Outcome, Stopped
from orders.services.settlement import outcomes_apply
from orders.services.switches import stop_reasons
from orders.states import OrderStatus

logger = logging.getLogger(__name__)

KEEP_CONNECTION_SECONDS = 0.25
TOGETHER_SECONDS = 0.003

Answers = list[OrderReport | ExchangeError]


@dataclass(slots=True)
class Dispatch:
    """Placements to be sent, with what sending them needs. Built inside the planning transaction.

    `planned_at_monotonic`: what the placements' own `send_by` is counted from, on this process's clock.
    """

    placements: Sequence[Placement]  # each with its intent
    accounts: dict[int, Account]
    planned_at_monotonic: float
    clock: DatabaseClock
    leverage: dict[int, int] = field(default_factory=dict)  # book id -> what the exchange is to be told


def deadlines(now: datetime) -> tuple[datetime, datetime]:
    """Return (`send_by`, when the resolver may ask) for placements planned at `now`, database clock."""
    send_by = now + timedelta(seconds=settings.SUBMIT_WITHIN_SECONDS)
    return send_by, send_by + timedelta(seconds=settings.EXCHANGE_TIMEOUT_SECONDS)


def placement_for(
    intent: OrderIntent, *, account_id: int, number: int, now: datetime, is_retry: bool = False
) -> Placement:
    """Return the next attempt of an intent, not yet saved."""
    return Placement(
        intent=intent,
        account_id=account_id,
        number=number,
        client_order_id=client_order_id(intent.uid, number),
        quantity=intent.remaining_quantity,
        send_by=deadlines(now)[0],
        is_retry=is_retry,
        created_at=now,
    )


def open_order_for(placement: Placement, *, now: datetime) -> OpenOrder:
    """Return the SUBMITTING row of a placement, not yet saved."""
    intent = placement.intent
    return OpenOrder(
        intent=intent,
        placement=placement,
        account_id=placement.account_id,
        strategy_account_id=intent.strategy_account_id,
        book_id=intent.book_id,
        status=OrderStatus.SUBMITTING,
        ask_at=deadlines(now)[1],
        submitted_at=now,
        updated_at=now,
    )


def submitting_event(placement: Placement, *, source: str, now: datetime) -> OrderEvent:
    intent = placement.intent
    return OrderEvent(
        type=EventType.SUBMITTING,
        source=source,
        user_id=intent.user_id,
        account_id=placement.account_id,
        strategy_account_id=intent.strategy_account_id,
        intent_id=intent.pk,
        symbol=intent.symbol,
        after=OrderStatus.SUBMITTING,
        data={"client_order_id": placement.client_order_id},
        created_at=now,
    )


def dispatch(work: Dispatch, *, on_answer: Callable[[float], None] | None = None) -> Applied:
    """Send placements and record their outcomes; MARKET orders go before the rest of their account.

    All accounts and markets side by side; one account's slowness never holds up another's.
    Returns everything that was applied; `on_answer` hears the monotonic time of the last answer.
    """
    lanes = [_Lane(work, group) for group in _groups(work.placements)]
    waiting: dict[Future[Answers], _Lane] = {}
    for lane in lanes:
        lane.start_next(waiting)
    in_memory = {placement.pk: placement for placement in work.placements}
    applied = Applied()
    while waiting:
        done = _first_done(waiting)
        outcomes: list[Outcome] = []
        for future in done:
            lane = waiting.pop(future)
            outcomes += lane.collect(future)
            lane.start_next(waiting)  # the account's next step leaves before we write anything down
        if on_answer is not None:
            on_answer(time.monotonic())
        applied.merge(
            outcomes_apply(outcomes, source=EventSource.ANSWER, now=work.clock.now(), in_memory=in_memory)
        )
    _remember_leverage(lanes)
    return applied


def _first_done(waiting: Collection[Future[Answers]]) -> set[Future[Answers]]:
    """Wait for an answer; give the database connection back when it takes long.

    A slow exchange then holds threads, not the connections that everybody else needs.
    """
    done, _ = wait(waiting, timeout=KEEP_CONNECTION_SECONDS, return_when=FIRST_COMPLETED)
    if not done:
        if not connection.in_atomic_block:
            connection.close()
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    if len(done) < len(waiting):
        # Accounts of one exchange answer within moments of each other: write their outcomes down together.
        done, _ = wait(waiting, timeout=TOGETHER_SECONDS)
    return done


def _groups(placements: Iterable[Placement]) -> list[list[Placement]]:
    groups: dict[tuple[int, str], list[Placement]] = defaultdict(list)
    for placement in placements:
        groups[placement.account_id, placement.intent.market_type].append(placement)
    return list(groups.values())


class _Lane:
    """One account and market: its MARKET orders first, then the rest."""

    def __init__(self, work: Dispatch, placements: Sequence[Placement]) -> None:
        first = placements[0]
        self._exchange: Exchange | None = None
        self._failure: ExchangeError | None = None
        try:
            self._exchange = access.exchange_for(work.accounts[first.account_id], first.intent.market_type)
        except ExchangeError as exc:
            self._failure = exc
        except Exception as exc:  # one account's trouble must not stop the others; nothing was sent
            logger.exception("No adapter for account %s", first.account_id)
            self._failure = NotSent(
                f"the account cannot be used: {type(exc).__name__}", error_type=ErrorType.UNKNOWN
            )
        self._venue = work.accounts[first.account_id].exchange
        self._planned_at = work.planned_at_monotonic
        market = [p for p in placements if p.intent.order_type == OrderType.MARKET]
        rest = [p for p in placements if p.intent.order_type != OrderType.MARKET]
        self._steps = [step for step in (market, rest) if step]
        self._current: list[Placement] = []
        wanted = {p.intent.symbol: (p.intent.book_id, work.leverage[p.intent.book_id])
                  for p in placements if p.intent.book_id in work.leverage}  # fmt: skip
        self._leverage: dict[str, tuple[int, int]] = wanted
        self.leverage_set: dict[int, int] = {}

    def start_next(self, waiting: dict[Future[Answers], _Lane]) -> None:
        if not self._steps:
            return
        self._current = self._steps.pop(0)
        send_by = self._planned_at + settings.SUBMIT_WITHIN_SECONDS
        requests = [
            p.to_request(planned_at_monotonic=self._planned_at, send_by_monotonic=send_by)
            for p in self._current
        ]
        waiting[runtime.spawn(self._send(requests))] = self

    async def _send(self, requests: Sequence[OrderRequest]) -> Answers:
        if self._exchange is None:
            assert self._failure is not None
            return [self._failure for _ in requests]
        for symbol, (book_id, leverage) in self._leverage.items():
            try:
                await self._exchange.set_leverage(symbol, leverage)
            except ExchangeError as exc:
                # The order goes all the same: the exchange judges its margin by the leverage it has.
                logger.warning("Leverage of %s not set to %s: %s", symbol, leverage, exc.message)
            else:
                self.leverage_set[book_id] = leverage
        self._leverage = {}
        return await self._exchange.place_orders(requests)

    def collect(self, future: Future[Answers]) -> list[Outcome]:
        try:
            answers = future.result()
        except ExchangeError as exc:
            answers = [exc for _ in self._current]
        except Exception:
            # A fault of our own while bytes may have been on their way: nobody knows, the resolver asks.
            logger.exception("Placing %s orders broke", len(self._current))
            answers = [OutcomeUnknown("internal fault while sending") for _ in self._current]
        measures.submissions(self._venue, answers)
        return [Outcome(p.pk, answer) for p, answer in zip(self._current, answers, strict=True)]


def leverage_needed(placements: Iterable[Placement]) -> dict[int, int]:
    """Return what the exchange has still to be told, by book: for placements read from the database."""
    intents = [p.intent for p in placements if p.intent.market_type == MarketType.FUTURES]
    told = dict(Book.objects.filter(pk__in={i.book_id for i in intents}).values_list("pk", "leverage"))
    wanted = StrategyAccount.objects.filter(pk__in={i.strategy_account_id for i in intents})
    leverage = dict(wanted.values_list("pk", "leverage"))
    needed: dict[int, int] = {}
    for intent in intents:
        most = max(leverage[intent.strategy_account_id], needed.get(intent.book_id, 0))
        if most > (told[intent.book_id] or 0):
            needed[intent.book_id] = most
    return needed


def _remember_leverage(lanes: Iterable[_Lane]) -> None:
    for lane in lanes:
        for book_id, leverage in lane.leverage_set.items():
            Book.objects.filter(pk=book_id).update(leverage=leverage)


def send_written(placements: Sequence[Placement], *, clock: DatabaseClock) -> Applied:
    """Send placements that stand in the database since `clock` was read, and record what became of them."""
    if not placements:
        return Applied()
    accounts = Account.objects.in_bulk({placement.account_id for placement in placements})
    return dispatch(Dispatch(placements, accounts, clock.at, clock, leverage_needed(placements)))


def place_anew(*, intent_ids: Iterable[int], source: str) -> Applied:
    """Place intents again whose last placement is proven never to have been placed.

    Safe to repeat and to race: under the intent's lock, only an open order whose placement is
    NEVER_PLACED gets a new one.
    """
    clock = DatabaseClock.ask()
    now = clock.read
    with transaction.atomic():
        intents = list(locks.intents_for_update(pk__in=list(intent_ids), home=Home.EXCHANGE))
        orders = OpenOrder.objects.filter(intent__in=intents).select_related("placement")
        by_intent = {order.intent_id: order for order in orders}
        stops = stop_reasons({intent.strategy_account_id for intent in intents})
        stopped: list[Outcome] = []
        placements: list[Placement] = []
        for intent in intents:
            order = by_intent.get(intent.pk)
            if order is None or order.placement.outcome != PlacementOutcome.NEVER_PLACED:
                continue
            if intent.cancel_requested or intent.strategy_account_id in stops:
                reason = stops.get(intent.strategy_account_id, "canceled before it was placed again")
                stopped.append(Outcome(order.placement_id, Stopped(reason)))
                continue
            number = order.placement.number + 1
            placement = placement_for(
                intent,
                account_id=order.account_id,
                number=number,
                now=now,
                is_retry=order.placement.is_retry,
            )
            placement.save()
            order.placement, order.ask_at, order.not_found_count = placement, deadlines(now)[1], 0
            order.save(update_fields=["placement", "ask_at", "not_found_count"])
            placements.append(placement)
        bulk_insert(submitting_event(p, source=source, now=now) for p in placements)
    applied = outcomes_apply(stopped, source=source, now=now)
    applied.merge(send_written(placements, clock=clock))
    return applied
