"""The streams process: follow every account that has to be followed, and settle what is unknown.

Several may run. An account is followed by the one that holds its lease; they share the accounts out
evenly, and one that finds a lease expired takes it. What else it does (resolver, take-over of deliveries,
prices) any number of processes may do at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError

from exchanges import runtime
from exchanges.access import login_fingerprint
from exchanges.models import Account, ConfigVersion
from orders.names import new_owner
from orders.services.queue import due_books, rebalance
from tracking.applier import Applier
from tracking.follower import Follower
from tracking.leases import lease_acquire, lease_release
from tracking.resolver import cancels_sweep, gaps_sweep, resolve
from tracking.sessions import (
    RENEW_SECONDS,
    session_release,
    sessions_claim,
    sessions_renew,
    sessions_unwatched,
)
from tracking.sharing import (
    KEPT_SECONDS,
    LEFT_OVER_SECONDS,
    fair_share,
    presence_end,
    presence_renew,
    processes_alive,
    to_hand_over,
)
from tracking.slots import FreedSlots
from tracking.tasks import deliveries_take_over, instruments_load
from tracking.threads import Threads
from tracking.tickers import tickers_refresh
from tracking.watch import Source, StreamKey, streams_wanted, symbols_in_use

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
SETTLE_SECONDS = settings.RESOLVE_AGAIN_SECONDS
DUE_SECONDS = 0.5
SWEEP_SECONDS = settings.SWEEP_SECONDS
INSTRUMENTS_SECONDS = 30.0
TICKER_LEASE = "tickers"
TICKER_LEASE_SECONDS = 10.0
LEDGER_THREADS = 4
# Apart by purpose: what waits for a slow exchange in one of these holds up nothing in the others.
NETWORK_THREADS = 16
RECONCILE_THREADS = 8
SETTLE_THREADS = 8
ROUNDS_AT_ONCE = 3  # an account that does not answer is asked again after its claim, in a round of its own
ROUND_SECONDS = 2.0
LAST_ERRANDS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look at the database found: the streams to follow, and what each account logs in with."""

    version: int
    wanted: frozenset[StreamKey]
    logins: dict[int, str]


class Streams:
    """One streams process. `run()` returns after `stop()`, or a signal."""

    def __init__(self) -> None:
        self.owner = new_owner()
        self.followers: dict[StreamKey, Follower] = {}
        self._ledger = Threads("ledger", LEDGER_THREADS)
        self._network = Threads("network", NETWORK_THREADS)
        self._reconciling = Threads("reconcile", RECONCILE_THREADS)
        self._settling = Threads("settle", SETTLE_THREADS)
        self._applier = Applier(self._ledger)
        self._slots = FreedSlots(self._ledger)
        self._stopping = asyncio.Event()
        self._seen = _Seen(-1, frozenset(), {})
        self._renewed_at = float("-inf")
        self._kept_until = float("-inf")
        self._left_over: dict[StreamKey, float] = {}  # free, but beyond our share -> since when
        self._due: dict[int, set[int]] = {}  # by account: books with orders whose back-off has ended
        self._rounds: set[asyncio.Task[int]] = set()
        self._sending: dict[int, asyncio.Task[None]] = {}  # by account
        self._loaded: set[Source] = set()  # whose instruments this process has seen fresh

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Follow accounts until stopped; then write down what was heard and give the leases back."""
        runtime.adopt(asyncio.get_running_loop())
        logger.info("Streams process %s starts", self.owner)
        steps: list[tuple[float, Callable[[], Awaitable[object]]]] = [
            (LOOK_SECONDS, self._tend),
            (LOOK_SECONDS, self._look_at_waiting),
            (LOOK_SECONDS, self._follow_symbols),
            (SETTLE_SECONDS, self._in_rounds(deliveries_take_over)),
            (SETTLE_SECONDS, self._in_rounds(resolve)),
            (DUE_SECONDS, self._send_due),
            (SWEEP_SECONDS, lambda: self._settling.run(gaps_sweep)),
            (SWEEP_SECONDS, lambda: self._settling.run(cancels_sweep)),
            (INSTRUMENTS_SECONDS, self._load_instruments),
            (settings.TICKER_SECONDS, lambda: self._network.run(_tickers, self.owner)),
        ]
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._every(seconds, step)) for seconds, step in steps
        ]
        await self._stopping.wait()
        logger.info("Streams process %s stops", self.owner)
        tasks += [*self._sending.values(), *self._rounds]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(OperationalError, InterfaceError):
            await self._ledger.run(presence_end, owner=self.owner)
        await self._stop_followers(set(self.followers), release=True, reason="The process stopped")
        with suppress(OperationalError, InterfaceError):
            await self._ledger.run(lease_release, name=TICKER_LEASE, owner=self.owner)
        with suppress(TimeoutError):
            # The loop goes on meanwhile: these threads may be waiting for an exchange.
            async with asyncio.timeout(LAST_ERRANDS_SECONDS):
                for threads in (self._network, self._reconciling, self._settling):
                    await asyncio.to_thread(threads.close)
        await runtime.close()
        await asyncio.to_thread(self._ledger.close)

    async def _every(self, seconds: float, step: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await step()
            except (OperationalError, InterfaceError) as exc:
                logger.warning("The database is away: %s", exc)
            except Exception:
                logger.exception("A step of the streams process failed; it is tried again")
            await asyncio.sleep(seconds)

    def _in_rounds(self, work: Callable[[], int]) -> Callable[[], Awaitable[None]]:
        """Return a step that begins a round although the last ones still wait for a slow exchange.

        Each round claims what it works on, so that rounds do not meet: only what is new waits for nobody.
        """
        running: set[asyncio.Task[int]] = set()

        def ended(task: asyncio.Task[int]) -> None:
            running.discard(task)
            self._rounds.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.warning("A round of %s failed; it is tried again: %s", work.__name__, error)

        async def step() -> None:
            if len(running) >= ROUNDS_AT_ONCE:
                return
            task = asyncio.create_task(self._settling.run(work), name=work.__name__)
            running.add(task)
            self._rounds.add(task)
            task.add_done_callback(ended)
            await asyncio.wait({task}, timeout=ROUND_SECONDS)

        return step

    async def _send_due(self) -> None:
        """Send orders whose back-off has ended. An account that does not answer holds up no other's."""
        for account_id, books in (await self._network.run(due_books)).items():
            self._due.setdefault(account_id, set()).update(books)
            if account_id not in self._sending:
                self._sending[account_id] = asyncio.create_task(self._send_for(account_id))

    async def _send_for(self, account_id: int) -> None:
        try:
            while books := self._due.pop(account_id, None):
                await self._network.run(rebalance, book_ids=books)
        except (OperationalError, InterfaceError) as exc:
            logger.warning("The database is away: %s", exc)  # the sweep over all books sends them
        except Exception:
            logger.exception("Due orders of account %s were not sent", account_id)
        finally:
            del self._sending[account_id]

    async def _tend(self) -> None:
        """Follow what is to be followed and ours, and nothing else."""
        before, self._seen = self._seen, await self._ledger.run(_look, self._seen)
        wanted = self._seen.wanted
        held = await self._renewed()
        for key in held - self.followers.keys():
            # A step failed half-way: nobody would follow it, or reconcile it, as long as we renew its lease.
            await self._ledger.run(
                session_release, key=key, owner=self.owner, reason="It was ours, and not followed"
            )
        lost = self.followers.keys() - held
        if lost:
            logger.warning("Streams %s are followed by another process now", sorted(lost))
        await self._stop_followers(lost, release=False, reason="Another process took over")
        await self._stop_followers(
            self.followers.keys() - wanted, release=True, reason="There is nothing to follow any more"
        )
        was, now = before.logins, self._seen.logins
        renamed = {key for key in self.followers if was.get(key.account_id) != now.get(key.account_id)}
        await self._stop_followers(renamed, release=False, reason="The account's credentials changed")
        for key in renamed | await self._claimed(wanted - self.followers.keys() - renamed, len(renamed)):
            follower = Follower(
                key,
                owner=self.owner,
                ledger=self._ledger,
                network=self._network,
                reconciling=self._reconciling,
                applier=self._applier,
                slots=self._slots,
            )
            self.followers[key] = follower
            follower.start()

    async def _claimed(self, missing: frozenset[StreamKey], more: int) -> set[StreamKey]:
        """Take our share of the streams that nobody follows, and hand over what is beyond it.

        `more`: streams of ours that are not followed right now.
        """
        share = fair_share(len(self._seen.wanted), await self._ledger.run(processes_alive))
        may_hand_over = asyncio.get_running_loop().time() >= self._kept_until
        beyond = to_hand_over(self.followers.keys(), share) if may_hand_over else set()
        await self._stop_followers(beyond, release=True, reason="Another process has room for it")
        if not missing:
            self._left_over = {}
            return set()
        room = max(share - len(self.followers) - more, 0)
        claimed: set[StreamKey] = set()
        if room:
            claimed = await self._ledger.run(sessions_claim, keys=missing, owner=self.owner, at_most=room)
        if len(claimed) == room:
            claimed |= await self._left_overs(missing - claimed - beyond)
        return claimed

    async def _left_overs(self, missing: frozenset[StreamKey]) -> set[StreamKey]:
        """Take streams that nobody has taken for a while: better unevenly than not at all."""
        now = asyncio.get_running_loop().time()
        free = await self._ledger.run(sessions_unwatched, missing)
        self._left_over = {key: self._left_over.get(key, now) for key in free}
        long = {key for key, since in self._left_over.items() if since < now - LEFT_OVER_SECONDS}
        if not long:
            return set()
        self._kept_until = now + KEPT_SECONDS  # else they would be handed over again at once
        return await self._ledger.run(sessions_claim, keys=long, owner=self.owner)

    async def _look_at_waiting(self) -> None:
        for follower in self.followers.values():
            follower.look_at_waiting()

    async def _follow_symbols(self) -> None:
        """Subscribe symbols where an exchange wants that: those that any unfinished order is on."""
        keys = [key for key, follower in self.followers.items() if follower.hears_symbols]
        for key, counts in (await self._ledger.run(symbols_in_use, keys)).items() if keys else ():
            if (follower := self.followers.get(key)) is not None:
                follower.follow_symbols(counts.keys())

    async def _renewed(self) -> set[StreamKey]:
        """Renew the leases at half their life; return the streams that are still ours."""
        now = asyncio.get_running_loop().time()
        if now - self._renewed_at < RENEW_SECONDS:
            return set(self.followers)
        await self._ledger.run(presence_renew, owner=self.owner)
        held = await self._ledger.run(sessions_renew, owner=self.owner)
        self._renewed_at = now
        return held

    async def _load_instruments(self) -> None:
        """Load what trades where this process has not done so yet; what failed is tried again."""
        self._loaded |= await self._network.run(instruments_load, frozenset(self._loaded))

    async def _stop_followers(self, keys: set[StreamKey], *, release: bool, reason: str) -> None:
        followers = [self.followers.pop(key) for key in keys]
        stops = (follower.stop(reason=reason, release=release) for follower in followers)
        for result in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(result, BaseException):
                logger.warning("A stream was not ended cleanly: %s", result)


def _look(seen: _Seen) -> _Seen:
    version = ConfigVersion.current()
    wanted = frozenset(streams_wanted())
    if (version, wanted) == (seen.version, seen.wanted):
        return seen
    accounts = Account.objects.filter(pk__in={key.account_id for key in wanted})
    return _Seen(version, wanted, {account.pk: login_fingerprint(account) for account in accounts})


def _tickers(owner: str) -> int:
    """Refresh prices, unless another streams process does already."""
    if not lease_acquire(name=TICKER_LEASE, owner=owner, seconds=TICKER_LEASE_SECONDS):
        return 0
    return tickers_refresh()


async def serve() -> None:
    """Run one streams process until SIGTERM or SIGINT."""
    streams = Streams()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, streams.stop)
    await streams.run()
