from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import OperationalError
from django_q.signals import post_execute_in_worker, post_spawn
from prometheus_client import CollectorRegistry, Counter

from exchanges import measures
from orders.clock import database_now
from tradehub import processes
from tradehub.models import Process, ProcessKind
from tradehub.processes import PAST, Reporter, added, ended_fold, safely

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def orders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """A registry of our own with one counter, as a process that has just begun has it."""
    registry = CollectorRegistry()
    monkeypatch.setattr(measures, "REGISTRY", registry)
    measures.recent.forget()
    yield Counter("orders", "Orders", ["outcome"], registry=registry)
    measures.recent.forget()


def total(outcome: str = "good") -> float:
    """What a scrape would find."""
    sums = added(Process.objects.values_list("totals", flat=True))
    return sums.get(("orders_total", (("outcome", outcome),)), 0)


def let_time_pass(**span: float) -> None:
    for row in Process.objects.all():
        row.seen_at -= timedelta(**span)
        row.save()


class TestReporter:
    def test_writes_who_it_is_and_what_it_counted(self, orders: Counter) -> None:
        reporter = Reporter(ProcessKind.WEB)
        orders.labels("good").inc(3)
        measures.recent.add("rebalance", 0.5)

        reporter.report()

        row = Process.objects.get()
        assert (row.name, row.kind) == (reporter.name, "web")
        assert row.totals == [["orders_total", {"outcome": "good"}, 3]]
        assert [sum(minute.values()) for minute in row.recent["rebalance"].values()] == [1]
        assert database_now() - row.seen_at < timedelta(seconds=5)

    def test_writes_the_same_row_again(self, orders: Counter) -> None:
        reporter = Reporter(ProcessKind.WEB)
        for _ in range(3):
            orders.labels("good").inc()
            reporter.report()

        assert (Process.objects.count(), total()) == (1, 3)

    def test_leaves_to_a_forks_parent_what_the_parent_counted(self, orders: Counter) -> None:
        orders.labels("good").inc(5)
        child = Reporter(ProcessKind.WORKER)
        orders.labels("good").inc(2)

        child.report()

        assert total() == 2

    def test_adds_up_with_others(self, orders: Counter) -> None:
        first, second = Reporter(ProcessKind.WEB), Reporter(ProcessKind.STREAMS)
        orders.labels("good").inc()
        orders.labels("bad").inc(4)
        first.report()
        second.report()

        assert (total("good"), total("bad")) == (2, 8)

    def test_writes_once_in_five_seconds_after_jobs(self, orders: Counter) -> None:
        reporter = Reporter(ProcessKind.WORKER)
        reporter.report_if_due()
        orders.labels("good").inc()
        reporter.report_if_due()
        assert total() == 0

        reporter._wrote_at -= processes.EVERY_SECONDS
        reporter.report_if_due()
        assert total() == 1


class TestEndedFold:
    def test_keeps_what_ended_processes_counted(self, orders: Counter) -> None:
        reporter = Reporter(ProcessKind.WEB)
        orders.labels("good").inc(3)
        reporter.report()
        let_time_pass(minutes=11)

        assert ended_fold() == 1
        assert ended_fold() == 0

        assert list(Process.objects.values_list("name", "kind")) == [(PAST, "past")]
        assert total() == 3

    def test_leaves_the_living_alone(self, orders: Counter) -> None:
        Reporter(ProcessKind.WEB).report()
        let_time_pass(minutes=9)

        assert ended_fold() == 0
        assert Process.objects.get().kind == "web"

    def test_counts_nothing_twice_of_a_process_that_only_slept(self, orders: Counter) -> None:
        reporter = Reporter(ProcessKind.WEB)
        orders.labels("good").inc(3)
        reporter.report()
        let_time_pass(hours=1)
        ended_fold()

        orders.labels("good").inc(2)
        reporter.report()
        reporter.report()

        assert total() == 5
        assert Process.objects.get(name=reporter.name).totals == [["orders_total", {"outcome": "good"}, 2]]

    def test_never_lets_a_sum_shrink(self, orders: Counter) -> None:
        seen = []
        for _ in range(4):
            reporter = Reporter(ProcessKind.WEB)
            orders.labels("good").inc()
            reporter.report()
            seen.append(total())
            let_time_pass(minutes=6)
            ended_fold()
            seen.append(total())

        assert seen == sorted(seen)
        assert seen[-1] == 4


class TestSafely:
    def test_lets_nothing_out(self, caplog: pytest.LogCaptureFixture) -> None:
        def away() -> None:
            raise OperationalError("the database is away")

        def broken() -> None:
            raise KeyError("no")

        safely(away)
        safely(broken)

        assert "the database is away" in caplog.text


@pytest.mark.django_db(transaction=True)
class TestInAWorker:
    def test_is_reported_when_it_begins_and_after_jobs(
        self, orders: Counter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "_in_worker", None)
        processes.listen_in_worker()
        try:
            post_spawn.send(sender="django_q", proc_name="Process-1:1")
            assert [row.kind for row in Process.objects.all()] == ["worker"]
            let_time_pass(minutes=5)
            monkeypatch.setattr(processes, "EVERY_SECONDS", 0.0)

            post_execute_in_worker.send(sender="django_q", func=time.time, task={})
        finally:
            post_spawn.disconnect(dispatch_uid="tradehub.processes")
            post_execute_in_worker.disconnect(dispatch_uid="tradehub.processes")

        assert database_now() - Process.objects.get().seen_at < timedelta(seconds=5)
