"""Writing down what all streams of a process hear: reports that gather become one transaction.

A transaction of its own for each account and report would keep a processor busy with two hundred accounts.
So a stream hands over its reports and waits for the answer before it hands over more: the order within an
account is kept, and a stream that hears more than can be written down is held back, as before. One account
must not hold up the others: what cannot be written down together is tried account by account, and an account
that fails alone stays by itself for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from exchanges.adapters.types import OrderReport
from orders.connections import is_away
from orders.models import EventSource
from orders.services.applied import Applied
from tracking.applying import batches_apply, reports_apply
from tracking.threads import Threads
from tracking.watch import StreamKey

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.05  # between the beginnings of two transactions; a lone report is not held back
AT_ONCE = 1000  # reports
LOCK_SECONDS = 1.0  # an order that somebody holds for longer: its account waits for it alone
APART_SECONDS = 30.0
APART_AT_ONCE = 2  # of the ledger's threads: the others are for those that get on
# PostgreSQL's words for trouble with rows: a lock not had in time, a deadlock, a conflict, a canceled query.
OF_ONE_ACCOUNT = frozenset({"55P03", "40P01", "40001", "57014"})


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    key: StreamKey
    reports: Sequence[OrderReport]
    done: asyncio.Future[Applied]


class Applier:
    """One per process. Lives on the process's I/O loop."""

    def __init__(self, ledger: Threads) -> None:
        self._ledger = ledger
        self._waiting: list[_Job] = []
        self._writing: asyncio.Task[None] | None = None
        self._began_at = float("-inf")
        self._apart_until: dict[StreamKey, float] = {}
        self._apart = asyncio.Semaphore(APART_AT_ONCE)

    async def apply(self, key: StreamKey, reports: Sequence[OrderReport]) -> Applied:
        """Apply reports of one stream, in the order given. Raises what applying them raised.

        The stream asks again only when this has returned. A caller that is cancelled stops waiting; its
        reports are written down all the same.
        """
        if self._is_apart(key):
            return await self._alone(key, reports)
        job = _Job(key, reports, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="applier")
        return await job.done

    def _is_apart(self, key: StreamKey) -> bool:
        until = self._apart_until.get(key)
        if until is not None and until < asyncio.get_running_loop().time():
            del self._apart_until[key]
            until = None
        return until is not None

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            if (wait := self._began_at + GATHER_SECONDS - loop.time()) > 0:
                await asyncio.sleep(wait)
            self._began_at = loop.time()
            jobs = self._take()
            results = await self._write_down(jobs)
            for job, result in zip(jobs, results, strict=True):
                if job.done.done():
                    continue  # nobody waits for it any more
                if isinstance(result, BaseException):
                    job.done.set_exception(result)
                else:
                    job.done.set_result(result)

    def _take(self) -> list[_Job]:
        count = length = 0
        for job in self._waiting:
            if count and length + len(job.reports) > AT_ONCE:
                break
            count, length = count + 1, length + len(job.reports)
        jobs, self._waiting = self._waiting[:count], self._waiting[count:]
        return jobs

    async def _write_down(self, jobs: Sequence[_Job]) -> Sequence[Applied | BaseException]:
        if len(jobs) > 1:
            try:
                return await self._ledger.run(
                    batches_apply,
                    [(job.key, job.reports) for job in jobs],
                    source=EventSource.STREAM,
                    wait_seconds=LOCK_SECONDS,
                )
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is found out one by one
                if _is_away(exc):
                    return [exc] * len(jobs)  # the same for all: they come again
                logger.warning("Reports of %s streams are applied one by one: %s", len(jobs), exc)
        alone = (self._alone(job.key, job.reports) for job in jobs)
        results = await asyncio.gather(*alone, return_exceptions=True)
        if len(jobs) > 1:
            until = asyncio.get_running_loop().time() + APART_SECONDS
            failed = (job.key for job, result in zip(jobs, results, strict=True) if not _is_done(result))
            self._apart_until |= dict.fromkeys(failed, until)
        return results

    async def _alone(self, key: StreamKey, reports: Sequence[OrderReport]) -> Applied:
        async with self._apart:
            return await self._ledger.run(
                reports_apply, key=key, reports=reports, source=EventSource.STREAM, wait_seconds=LOCK_SECONDS
            )


def _is_done(result: Applied | BaseException) -> bool:
    return isinstance(result, Applied)


def _is_away(exc: Exception) -> bool:
    """Tell whether it is the database that fails, and not what was to be written."""
    return is_away(exc) and getattr(exc.__cause__, "sqlstate", None) not in OF_ONE_ACCOUNT
