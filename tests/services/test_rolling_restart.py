"""An upgrade as docs/operations.md tells it: each process is restarted while webhooks come."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.processes import HOST, Answer, Process, Site, post_webhook, wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
Read = Callable[..., list[dict[str, Any]]]

SIZE = "0.001"
KINDS: list[dict[str, Any]] = [
    {"order_type": "MARKET", "side": "buy", "quantity": SIZE},
    {"order_type": "LIMIT", "side": "buy", "price": "90000", "quantity": SIZE},
]


@pytest.fixture
def mode() -> str:
    return "IMMEDIATE"


class Sender:
    """Sends signals one after the other, through a proxy that knows two web processes.

    A process that takes no connection is passed over, as a proxy does. Where a connection breaks under a
    signal the sender sends it again a little later, as TradingView does on the proxy's 502. Every third
    signal has no name: sent again, it would be another one if the first had been taken.
    """

    def __init__(self, webs: list[Process]) -> None:
        self.webs = webs
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self.broken: list[str] = []
        self.slowest = 0.0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def go_on(self, signals: int) -> None:
        """Wait until so many more were answered."""
        goal = sum(self.statuses.values()) + signals
        wait_until(lambda: sum(self.statuses.values()) >= goal, what="signals to be answered", seconds=60)

    def _run(self) -> None:
        while not self._ending.wait(0.1):
            self.sent += 1
            name = f"w{self.sent}"
            payload = KINDS[self.sent % 2] | {"token": "token-one", "symbol": "BTC/USDT"}
            if self.sent % 3:
                payload["webhook_id"] = name
            began = time.monotonic()
            self.statuses[self._deliver(name, payload)] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)

    def _deliver(self, name: str, payload: dict[str, Any]) -> int:
        number = self.sent
        while True:
            web = self.webs[number % len(self.webs)]
            number += 1
            try:
                status, _ = post_webhook(web, payload)
            except ConnectionRefusedError:
                continue
            except OSError as exc:
                if not isinstance(getattr(exc, "reason", exc), ConnectionRefusedError):
                    self.broken.append(name)
                    self._ending.wait(0.5)
                continue
            if status not in (409, 502, 503):
                return status
            self._ending.wait(0.2)


class TestRollingRestart:
    def test_loses_no_order_and_places_none_twice(self, site: Site, rows: Read) -> None:
        webs = [site.start_web(), site.start_web()]
        worker = site.start_worker()
        streams = [site.start_streams(), site.start_streams()]
        sender = Sender(webs)
        sender.start()
        sender.go_on(10)
        took: dict[str, float] = {}

        def stopped(name: str, process: Process) -> None:
            began = time.monotonic()
            process.stop()
            took[name] = time.monotonic() - began

        for number in range(len(webs)):
            stopped(f"web {number}", webs[number])
            sender.go_on(3)  # by the other one
            webs[number] = site.start_web(port=webs[number].port)
            sender.go_on(5)
        stopped("worker", worker)
        sender.go_on(5)
        site.start_worker()
        for number in range(len(streams)):
            stopped(f"streams {number}", streams[number])
            sender.go_on(5)
            streams[number] = site.start_streams()
            sender.go_on(5)
        sender.stop()

        print(f"{sender.sent} signals, answers {dict(sender.statuses)}, cut off {sender.broken}")  # noqa: T201
        print(f"slowest answer {sender.slowest:.2f} s, stopping took {took}")  # noqa: T201
        assert set(sender.statuses) == {200}
        assert max(took.values()) < 10
        at_the_exchange = Counter(row["client_order_id"][:28] for row in site.simulator.orders())
        assert len(at_the_exchange) == sender.sent
        assert set(at_the_exchange.values()) == {1}
        bought = sum(number % 2 == 0 for number in range(1, sender.sent + 1))
        wait_until(
            lambda: rows("SELECT 1 FROM orders_strategyposition WHERE quantity::numeric = %s", bought / 1000),
            what=lambda: f"a position of {bought}: {rows('SELECT quantity FROM orders_strategyposition')}",
            seconds=30,
        )
        (resting,) = rows("SELECT count(*) AS n FROM orders_openorder WHERE status = 'NEW'")
        assert resting["n"] == sender.sent - bought
        assert rows("SELECT 1 FROM orders_failedorder") == []

    def test_answers_what_a_web_process_has_begun_when_it_is_stopped(self, site: Site, rows: Read) -> None:
        site.simulator.set_latency(1500)
        web = site.start_web()
        answers: list[Answer] = []
        payload = KINDS[1] | {"token": "token-one", "symbol": "BTC/USDT"}
        thread = threading.Thread(target=lambda: answers.append(post_webhook(web, payload)), daemon=True)
        with socket.create_connection((HOST, web.port)):  # somebody who says nothing is not waited for
            thread.start()
            wait_until(lambda: rows("SELECT 1 FROM orders_openorder"), what="the order to be on its way")

            web.stop()
            thread.join(20)

        ((status, body),) = answers
        assert (status, body["success"]) == (200, True)
        (delivery,) = rows("SELECT state, response_status FROM orders_webhookdelivery")
        assert delivery == {"state": "ANSWERED", "response_status": 200}
        assert len(site.simulator.orders()) == 1
