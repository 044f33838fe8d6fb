from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.module_loading import import_string
from django_q.brokers import Broker, get_broker
from django_q.models import Schedule
from django_q.signing import SignedPackage
from pytest_django.fixtures import Settings

from notifications import listeners
from notifications.listeners import Bundler
from notifications.schedules import schedule_register
from notifications.tests.bot_api import BotApi
from notifications.tests.conftest import Bell
from notifications.tests.making import fail_orders, wait_until
from orders.events import OrderFailed
from orders.models import FailedOrder, StrategyAccount


@pytest.fixture
def broker(transactional_db: None) -> Iterator[Broker]:
    made = get_broker()
    made.purge_queue()
    yield made
    made.purge_queue()


@pytest.fixture
def quick(bot_api: BotApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thread, in a hurry."""
    monkeypatch.setattr(listeners, "_bundler", Bundler(listeners._enqueue, seconds=0.5))


def work_off(broker: Broker) -> int:
    """Run what is queued, as the worker does; return how many jobs that were."""
    done = 0
    while broker.queue_size():
        for ack_id, package in broker.dequeue() or []:
            task = SignedPackage.loads(package)
            import_string(task["func"])(*task["args"], **task["kwargs"])
            broker.acknowledge(ack_id)
            done += 1
    return done


class TestOrderFailed:
    def test_becomes_one_job_and_one_message_for_a_burst(
        self, bot_api: BotApi, broker: Broker, quick: None, owner: StrategyAccount
    ) -> None:
        for _ in range(3):
            fail_orders(owner, 10)
        wait_until(broker.queue_size)

        assert work_off(broker) == 1
        assert [message.text.splitlines()[0] for message in bot_api.messages] == ["⚠️ 30 orders failed"]

    def test_hears_the_next_burst_too(
        self, bot_api: BotApi, broker: Broker, quick: None, owner: StrategyAccount
    ) -> None:
        for name in ("w1", "w2"):
            fail_orders(owner, webhook_id=name)
            wait_until(broker.queue_size)
            work_off(broker)

        assert len(bot_api.messages) == 2

    @pytest.mark.parametrize("configured", [True, False])
    def test_costs_the_thread_that_commits_no_query(
        self, bot_api: BotApi, bell: Bell, owner: StrategyAccount, settings: Settings, configured: bool
    ) -> None:
        if not configured:
            settings.TELEGRAM_BOT_TOKEN = ""
        (failed,) = fail_orders(owner)
        rings = bell.rings

        with CaptureQueriesContext(connection) as queries:
            listeners.order_failed(OrderFailed(failed.pk, failed.webhook_id))

        assert len(queries) == 0
        assert bell.rings - rings == configured
        assert failed.alert_sent is configured

    def test_starts_no_thread_when_telegram_is_not_configured(
        self, owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundler = Bundler(lambda: None, seconds=0.0)
        monkeypatch.setattr(listeners, "_bundler", bundler)

        fail_orders(owner)

        assert bundler._thread is None

    def test_leaves_the_order_alone_when_the_queue_is_down(
        self,
        bot_api: BotApi,
        owner: StrategyAccount,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def unreachable(*args: object, **kwargs: object) -> None:
            raise ConnectionRefusedError("queue")

        monkeypatch.setattr(listeners, "async_task", unreachable)
        monkeypatch.setattr(listeners, "_bundler", Bundler(listeners._enqueue, seconds=0.0))

        fail_orders(owner)
        wait_until(lambda: "was not told of an alert" in caplog.text)

        assert FailedOrder.objects.get().alert_sent is True
        import_string("notifications.tasks.alerts_deliver")()  # what the worker does every minute
        assert len(bot_api.messages) == 1


class TestBundler:
    def test_never_makes_the_caller_wait(self) -> None:
        release, called = threading.Event(), threading.Event()

        def slow() -> None:
            called.set()
            release.wait(10)

        bundler = Bundler(slow, seconds=0.0)
        bundler.ring()
        assert called.wait(5)

        began = time.monotonic()
        for _ in range(1000):
            bundler.ring()

        assert time.monotonic() - began < 0.5
        release.set()

    def test_works_in_a_forked_child(self) -> None:
        calls: list[int] = []
        bundler = Bundler(lambda: calls.append(1), seconds=0.0)
        bundler.ring()
        wait_until(lambda: calls)
        child = os.fork()
        if child == 0:
            bundler.ring()
            deadline = time.monotonic() + 5
            while len(calls) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            os._exit(0 if len(calls) == 2 else 1)

        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.django_db
class TestScheduleRegister:
    def test_has_the_worker_look_every_minute(self) -> None:
        schedule_register()
        schedule_register()

        job = Schedule.objects.get(func__startswith="notifications.")
        assert (job.minutes, job.schedule_type, job.repeats) == (1, "I", -1)
        assert callable(import_string(job.func))
