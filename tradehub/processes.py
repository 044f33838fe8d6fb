"""Telling the others: this process lives, and this is what it has measured.

Every process writes one row of its own (`tradehub.models.Process`), web and streams processes every five
seconds, a worker after jobs. Any web process can then answer for the whole installation, whichever
machines it runs on, and one that is gone takes no count with it: see docs/decisions/0019.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections, transaction
from django_q.signals import post_execute_in_worker, post_spawn

from exchanges import measures
from orders.clock import database_now, sql_now
from orders.names import new_owner
from tradehub.models import Process, ProcessKind

logger = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
# A worker is seen when it has carried out a job. There are some every ten seconds, and it may be busy.
WORKER_SEEN_WITHIN = timedelta(seconds=90)
SEEN_WITHIN = timedelta(seconds=30)
ENDED_AFTER = timedelta(minutes=10)
PAST = "past"

Key = tuple[str, tuple[tuple[str, str], ...]]  # name of a sample, its labels
Totals = dict[Key, float]


def totals_now() -> Totals:
    """Return what this process has counted since it began, without the times when it began to."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in measures.REGISTRY.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


def as_json(totals: Totals) -> list[Any]:
    return [[name, dict(labels), value] for (name, labels), value in totals.items() if value]


def added(rows: Iterable[Iterable[Any]]) -> Totals:
    """Add up what several rows hold."""
    total: Totals = {}
    for row in rows:
        for name, labels, value in row:
            key = name, tuple(sorted(labels.items()))
            total[key] = total.get(key, 0) + value
    return total


class Reporter:
    """Writes one process's row. Safe to repeat; not to be shared between threads."""

    def __init__(self, kind: ProcessKind) -> None:
        self.kind = kind
        self.name = new_owner()
        self._before = totals_now()  # a forked child inherits what its parent counted
        self._written: Totals = dict(self._before)
        self._wrote_at = float("-inf")

    def report(self) -> None:
        """Write the row; make it anew where it was added to the ended ones while we slept."""
        totals = totals_now()
        if not self._update(totals):
            self._before = self._written
            now = database_now()
            Process.objects.create(name=self.name, kind=self.kind, started_at=now, **self._row(totals, now))
        self._written, self._wrote_at = totals, time.monotonic()

    def report_if_due(self) -> None:
        if time.monotonic() - self._wrote_at >= EVERY_SECONDS:
            self.report()

    def _update(self, totals: Totals) -> bool:
        return Process.objects.filter(name=self.name).update(**self._row(totals, sql_now())) > 0

    def _row(self, totals: Totals, now: Any) -> dict[str, Any]:
        grown = {key: value - self._before.get(key, 0) for key, value in totals.items()}
        return {"seen_at": now, "totals": as_json(grown), "recent": measures.recent.windows()}


def ended_fold() -> int:
    """Add the rows of processes that are gone to the row of the ended ones; return how many."""
    gone_by = database_now() - ENDED_AFTER
    gone = Process.objects.filter(seen_at__lt=gone_by).exclude(kind=ProcessKind.PAST)
    if not gone.exists():
        return 0
    Process.objects.bulk_create([_past(gone_by)], ignore_conflicts=True)
    with transaction.atomic():
        past = Process.objects.select_for_update().get(name=PAST)
        rows = list(gone.select_for_update(skip_locked=True).order_by("pk"))
        past.totals = as_json(added([past.totals, *(row.totals for row in rows)]))
        past.save(update_fields=["totals"])
        Process.objects.filter(pk__in=[row.pk for row in rows]).delete()
    return len(rows)


def _past(now: datetime) -> Process:
    return Process(name=PAST, kind=ProcessKind.PAST, started_at=now, seen_at=now)


# --- who reports when ---------------------------------------------------------------------------------


def start(kind: ProcessKind) -> None:
    """Report from a thread of its own as long as this process lives, and once more at its end."""
    if settings.TESTING:
        return
    reporter = Reporter(kind)
    ending = threading.Event()
    thread = threading.Thread(target=_keep_reporting, args=(reporter, ending), name="report", daemon=True)
    thread.start()

    def end() -> None:
        ending.set()
        thread.join(EVERY_SECONDS)

    atexit.register(end)


def _keep_reporting(reporter: Reporter, ending: threading.Event) -> None:
    while True:
        is_over = ending.is_set()
        safely(reporter.report, ended_fold)
        if is_over:
            return
        ending.wait(EVERY_SECONDS)


def safely(*steps: Any) -> None:
    """Do what reporting takes; whatever keeps it from the database must never be in the way of an order."""
    try:
        for step in steps:
            step()
    except (DatabaseError, InterfaceError) as exc:
        logger.info("This process could not be reported: %s", exc)
    except Exception:
        logger.exception("This process could not be reported")
    finally:
        close_old_connections()


_in_worker: Reporter | None = None


def listen_in_worker() -> None:
    """Have each of django-q2's worker processes report when it begins and after its jobs."""
    post_spawn.connect(_spawned, dispatch_uid="tradehub.processes")
    post_execute_in_worker.connect(_executed, dispatch_uid="tradehub.processes")


def _spawned(**kwargs: Any) -> None:
    global _in_worker  # noqa: PLW0603  one per process
    _in_worker = Reporter(ProcessKind.WORKER)
    safely(_in_worker.report)


def _executed(**kwargs: Any) -> None:
    if _in_worker is not None:
        safely(_in_worker.report_if_due)
