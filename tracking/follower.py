"""Following one account's user stream: hear, apply in order, reconcile after every connect."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import groupby
from typing import Any, ParamSpec, TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from exchanges import access, measures
from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import ExchangeError
from exchanges.adapters.types import (
    OrderRef,
    OrderReport,
    StreamEvent,
    StreamKind,
    StreamState,
    StreamStateChange,
    UnreadableMessage,
)
from exchanges.models import Account
from orders.connections import is_away
from orders.models import EventSource
from orders.services.applied import Applied
from orders.services.queue import errands_run
from tracking.applier import Applier
from tracking.differences import Disagreement
from tracking.fetching import Question, orders_fetch
from tracking.models import SessionStatus
from tracking.reconciliation import orders_look, reconcile_account
from tracking.sessions import session_release, state_change
from tracking.slots import FreedSlots
from tracking.threads import Threads
from tracking.unmatched import unmatched_retry
from tracking.unreadable import unreadable_keep
from tracking.watch import StreamKey

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger(__name__)

QUEUE_LENGTH = 5000  # then the socket waits: what TCP holds back is not lost
AT_ONCE = 500
MOVED_GRACE_SECONDS = 0.5
GAP_GRACE_SECONDS = 0.3  # the missing fill usually comes with the next message
# Within these the page shows what no stream has told …
RECONCILE_SECONDS = settings.RECONCILE_SECONDS
RECONCILE_DOWN_SECONDS = settings.RECONCILE_DOWN_SECONDS
RUN_SECONDS = 1.5  # … so the next run begins earlier by what a run takes
BUSY_AGAIN_SECONDS = 1.0
FAILED_AGAIN_SECONDS = 1.0  # doubled each time, until it comes to the pace of a stream that is down
RESTART_SECONDS = (0.5, 30.0)
DATABASE_AGAIN_SECONDS = (0.2, 5.0)
DRAIN_SECONDS = 2.0

_STATES = {
    StreamState.CONNECTING: SessionStatus.CONNECTING,
    StreamState.CONNECTED: SessionStatus.CONNECTED,
    StreamState.DISCONNECTED: SessionStatus.DISCONNECTED,
}


@dataclass(frozen=True, slots=True)
class _Broken:
    """The adapter gave up on the stream, or could not be had at all."""

    reason: str


class Follower:
    """One user stream of ours, from `start()` to `stop()`. Lives on the process's I/O loop.

    Reports are applied in the order in which they came, as many at once as have gathered while the
    last ones were written, so that a burst costs a few transactions. Nothing here needs the stream to
    be complete or in order: gaps are fetched, and after every connect the account is reconciled.
    """

    def __init__(
        self,
        key: StreamKey,
        *,
        owner: str,
        ledger: Threads,
        network: Threads,
        reconciling: Threads,
        applier: Applier,
        slots: FreedSlots,
    ) -> None:
        self.key = key
        self._applier = applier
        self._slots = slots
        self._owner = owner
        self._ledger = ledger
        self._network = network
        self._reconciling = reconciling
        self._exchange: Exchange | None = None
        self._queue: asyncio.Queue[StreamEvent | _Broken] = asyncio.Queue(QUEUE_LENGTH)
        self._gaps: dict[int, float] = {}  # placement id -> when its fills are fetched
        self._is_connected = False
        self._may_wait = True  # unmatched reports may be waiting in the database
        self._retrying = asyncio.Lock()
        self._reconcile_now = asyncio.Event()
        self._pace_changed = asyncio.Event()
        self._asked_at = float("-inf")  # when a reconciliation was last asked for out of turn
        self._asked_later = False
        self._again_after = 0.0  # what the exchange's budget asks for
        self._times_missed = 0  # how often something may have been missed …
        self._times_made_up = 0  # … and as of which of these times a reconciliation was clean
        self._failed_runs = 0  # since the last time
        self._applying: asyncio.Task[None] | None = None
        self._others: list[asyncio.Task[None]] = []
        self._errands: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        name = f"{self.key.account_id} {self.key.market_type}"
        self._applying = asyncio.create_task(self._apply(), name=f"apply {name}")
        self._others = [
            asyncio.create_task(self._read(), name=f"read {name}"),
            asyncio.create_task(self._reconcile(), name=f"reconcile {name}"),
        ]

    async def stop(self, *, reason: str, release: bool) -> None:
        """Stop listening, write down what was heard, and give the lease back if `release`."""
        await _cancelled(self._others)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._queue.join()
        await _cancelled([task for task in (self._applying, *self._errands) if task is not None])
        if release:
            await self._ledger.run(session_release, key=self.key, owner=self._owner, reason=reason)

    # --- hearing ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        shortest, longest = RESTART_SECONDS
        delay = shortest
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            reason = await self._listen()
            logger.warning("Stream of account %s %s broke: %s", *self.key, reason)
            await self._queue.put(_Broken(reason))
            delay = shortest if loop.time() - began > longest else min(delay * 2, longest)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))

    async def _listen(self) -> str:
        """Put what the stream says into the queue until it breaks; return why it did."""
        try:
            exchange = self._exchange = await self._surely(self._find_exchange)
            if exchange.capabilities.stream is StreamKind.NONE:
                await asyncio.Event().wait()  # nothing to hear: reconciling has to do
            async with aclosing(exchange.user_stream()) as events:
                async for event in events:
                    await self._queue.put(event)
        except ExchangeError as exc:
            return exc.message
        except Exception as exc:
            # Whatever an adapter trips over, this account has to be followed again.
            logger.exception("Stream of account %s %s failed", *self.key)
            return f"{type(exc).__name__}: {exc}"
        return "the stream ended"

    def _find_exchange(self) -> Exchange:
        return access.exchange_for(Account.objects.get(pk=self.key.account_id), self.key.market_type)

    # --- applying ---------------------------------------------------------------------------------

    async def _apply(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < AT_ONCE and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                for _, events in groupby(batch, key=type):
                    await self._handle(list(events))
            except Exception:
                logger.exception("Account %s %s: %s events were not applied", *self.key, len(batch))
                self._catch_up()
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def _handle(self, events: Sequence[StreamEvent | _Broken]) -> None:
        """Handle events of one kind that came one after the other."""
        reports = [event for event in events if isinstance(event, OrderReport)]
        if reports:
            await self._handle_reports(reports)
        for event in events:
            if isinstance(event, StreamStateChange):
                await self._handle_state(_STATES[event.state], event.reason)
            elif isinstance(event, _Broken):
                await self._handle_state(SessionStatus.ERROR, event.reason)
            elif isinstance(event, UnreadableMessage):
                await self._keep_unreadable(event)

    async def _handle_state(self, status: SessionStatus, reason: str) -> None:
        self._is_connected = status == SessionStatus.CONNECTED
        await self._surely(state_change, key=self.key, owner=self._owner, status=status, reason=reason)
        if self._is_connected:
            self._catch_up()  # what happened meanwhile was not heard
        self._pace_changed.set()  # the wait that is going on may be too long for a stream that is down

    async def _handle_reports(self, reports: Sequence[OrderReport]) -> None:
        if settings.TRACKING_VERIFY == "always":
            reports = await self._verified(reports)
        try:
            applied = await self._persist(lambda: self._applier.apply(self.key, reports))
        except Exception as exc:
            if len(reports) > 1:
                for report in reports:  # one of them is the trouble: the others must not suffer
                    await self._handle_reports([report])
                return
            logger.exception("Account %s %s: a report could not be applied", *self.key)
            error = f"{type(exc).__name__}: {exc}"
            await self._keep_unreadable(UnreadableMessage(f"{reports[0]!r} {reports[0].raw!r}", error))
        else:
            self._measure(reports, applied)
            self._follow_up(applied)

    def _measure(self, reports: Sequence[OrderReport], applied: Applied) -> None:
        if self._exchange is not None:
            strange = set(map(id, applied.unmatched))
            ours = [report for report in reports if id(report) not in strange]
            measures.ledger(self._exchange.venue, ours, exchange_now=self._exchange.time_there())

    async def _keep_unreadable(self, message: UnreadableMessage) -> None:
        await self._surely(unreadable_keep, key=self.key, message=message)
        self._reconcile_soon()  # it may have been about an order of ours

    async def _verified(self, reports: Sequence[OrderReport]) -> list[OrderReport]:
        """Return what REST says of the orders that these reports name; the report where it says nothing."""
        assert self._exchange is not None
        latest = {(report.symbol, report.exchange_order_id): report for report in reports}
        questions = [
            Question(
                OrderRef(
                    symbol=report.symbol,
                    client_order_id=report.client_order_id or None,
                    exchange_order_id=report.exchange_order_id or None,
                    conditional=report.conditional,
                    child_order_id=report.child_order_id or None,
                ),
                booked=Decimal(0),
            )
            for report in latest.values()
        ]
        verified: list[OrderReport] = []
        answers = await orders_fetch(self._exchange, questions)
        for name, answer in zip(latest, answers, strict=True):
            if isinstance(answer, OrderReport):
                verified.append(answer)
            else:
                logger.warning("Report of order %s not verified: %s", name[1], answer)
                verified.extend(one for one in reports if (one.symbol, one.exchange_order_id) == name)
        return verified

    # --- what follows -----------------------------------------------------------------------------

    def _follow_up(self, applied: Applied) -> None:
        loop = asyncio.get_running_loop()
        for placement_id in applied.placement_ids:
            if placement_id not in applied.gaps:
                self._gaps.pop(placement_id, None)
        if applied.gaps:
            for placement_id in applied.gaps:
                self._gaps.setdefault(placement_id, loop.time() + GAP_GRACE_SECONDS)
            loop.call_later(GAP_GRACE_SECONDS, self._fetch_due_gaps)
        at_once = replace(applied, gaps=[], freed_books=set(), settled_books=set(), moved_books=set())
        if at_once.leaves_errands:
            self._run_errands(replace(applied, gaps=[], moved_books=set()))
        elif applied.freed_books or applied.settled_books:
            books = Applied(freed_books=applied.freed_books, settled_books=applied.settled_books)
            self._slots.look(self.key.account_id, books, self._run_errands)
        if applied.moved_books:
            # Who sent the cancel gives the slot away when it is answered; this is for one that died.
            moved = Applied(moved_books=applied.moved_books)
            loop.call_later(MOVED_GRACE_SECONDS, self._run_errands, moved)
        if applied.doubted:
            self._errand(self._network.run(orders_look, key=self.key, placement_ids=applied.doubted))
        if applied.unmatched:
            self._may_wait = True
        if self._may_wait:
            self._errand(self._retry_unmatched())

    def _run_errands(self, applied: Applied) -> None:
        self._errand(self._network.run(errands_run, applied, source=EventSource.STREAM))

    def _fetch_due_gaps(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [placement_id for placement_id, at in self._gaps.items() if at <= now]
        for placement_id in due:
            del self._gaps[placement_id]
        if due:
            self._run_errands(Applied(gaps=due))

    @property
    def hears_symbols(self) -> bool:
        """Tell whether the exchange wants symbols to be subscribed, as far as it is known by now."""
        return self._exchange is not None and self._exchange.capabilities.stream is StreamKind.SYMBOLS

    def follow_symbols(self, symbols: Collection[str]) -> None:
        """Have exactly these symbols heard. Called every second."""
        self._errand(self._follow_symbols(symbols))

    async def _follow_symbols(self, symbols: Collection[str]) -> None:
        assert self._exchange is not None
        if await self._exchange.follow_symbols(symbols):
            self._catch_up()  # what happened to their orders before was not heard

    async def _retry_unmatched(self) -> None:
        if self._retrying.locked():
            return
        async with self._retrying:
            self._may_wait = False  # a report that comes from here on may be too late for this look
            try:
                retried = await self._ledger.run(unmatched_retry, key=self.key, source=EventSource.STREAM)
            except BaseException:
                self._may_wait = True
                raise
            self._may_wait = self._may_wait or retried.waiting > 0
            if retried.applied is not None:
                self._follow_up(retried.applied)
            if retried.waits_for_stop:
                self._reconcile_soon()

    def look_at_waiting(self) -> None:
        """Try again what no placement explained, if there is any. Called every second."""
        if self._may_wait:
            self._errand(self._retry_unmatched())

    async def _reconcile(self) -> None:
        """After every connect, and again and again: sooner while something may have been missed."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            early = random.uniform(0.9, 1.0)  # so that accounts do not stay in step
            while not self._reconcile_now.is_set():
                self._pace_changed.clear()
                hears_all = self._is_connected and self._is_caught_up
                within = RECONCILE_SECONDS if hears_all else RECONCILE_DOWN_SECONDS
                wait = max(within - RUN_SECONDS, within / 2, self._again_after)
                left = began + wait * early - loop.time()
                if left <= 0 or not await self._is_woken(left):
                    break
            self._reconcile_now.clear()
            began = loop.time()
            await self._guarded(self._reconcile_once())

    @property
    def _is_caught_up(self) -> bool:
        return self._times_made_up == self._times_missed

    def _catch_up(self) -> None:
        """Something may have been missed: reconcile now, and soon again until a run is clean."""
        self._times_missed += 1
        self._failed_runs = 0
        self._reconcile_now.set()

    def _catch_up_again(self) -> None:
        """A run was not clean: while what was missed is not known, begin the next one sooner than usual."""
        if self._is_caught_up or not self._is_connected:
            return
        wait = max(FAILED_AGAIN_SECONDS * 2**self._failed_runs, self._again_after)
        if wait < RECONCILE_DOWN_SECONDS - RUN_SECONDS:  # else the usual pace is no slower
            self._failed_runs += 1
            asyncio.get_running_loop().call_later(wait, self._reconcile_now.set)

    def _reconcile_soon(self) -> None:
        """Reconcile now, or when the last time that this was asked for is long enough ago."""
        loop = asyncio.get_running_loop()
        wait = self._asked_at + RECONCILE_DOWN_SECONDS - loop.time()
        if wait <= 0:
            self._asked_at, self._asked_later = loop.time(), False
            self._reconcile_now.set()
        elif not self._asked_later:
            self._asked_later = True
            loop.call_later(wait, self._reconcile_soon)

    async def _is_woken(self, seconds: float) -> bool:
        """Wait, but not longer than until a reconciliation is wanted or the stream's state changes."""
        woken = [asyncio.create_task(one.wait()) for one in (self._reconcile_now, self._pace_changed)]
        try:
            done, _ = await asyncio.wait(woken, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(woken)
        return bool(done)

    async def _reconcile_once(self) -> None:
        account_id, market_type = self.key
        missed = self._times_missed  # what is missed from here on may not be in the list
        try:
            result = await self._reconciling.run(
                reconcile_account, account_id=account_id, market_type=market_type
            )
        except Exception as exc:
            self._catch_up_again()
            if not isinstance(exc, ExchangeError | TimeoutError):
                raise
            logger.warning("Account %s %s could not be reconciled: %s", *self.key, exc)
            return
        if result.ran:
            self._again_after = result.again_after
            if result.errors:
                self._catch_up_again()
            else:
                self._times_made_up = missed
        else:
            wait = max(BUSY_AGAIN_SECONDS, result.again_after)
            asyncio.get_running_loop().call_later(wait, self._reconcile_now.set)
        if any(one.kind is Disagreement.EXTERNAL for one in result.differences):
            self._may_wait = True

    def _errand(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _guarded(self, work: Coroutine[Any, Any, object]) -> None:
        """Await something that may fail without harm: it is tried again by the next round."""
        try:
            await work
        except Exception as exc:
            if is_away(exc):
                logger.warning("Account %s %s: the database is away: %s", *self.key, exc)
            else:
                logger.exception("Account %s %s: a background step failed", *self.key)

    async def _surely(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a ledger thread until the database answers."""
        return await self._persist(lambda: self._ledger.run(function, *args, **kwargs))

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again until the database answers: nothing that was heard is dropped."""
        shortest, longest = DATABASE_AGAIN_SECONDS
        delay = shortest
        while True:
            try:
                return await attempt()
            except (DatabaseError, InterfaceError) as exc:
                if not is_away(exc):
                    raise
                logger.warning("Account %s %s waits for the database: %s", *self.key, exc)
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
