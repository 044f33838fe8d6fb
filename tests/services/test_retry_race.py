"""Two people press retry at the same moment, each at a web process of their own: one order is placed."""

from __future__ import annotations

import http.cookiejar
import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.processes import Answer, Process, Site, post_webhook

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]

Read = Callable[..., list[dict[str, Any]]]
ROUNDS = 50
PASSWORD = "a-long-enough-password-1"


class Person:
    """A browser that is logged in: its cookies, and the token that every form needs."""

    def __init__(self, web: Process) -> None:
        self._web, self._jar = web, http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self._jar)
        )
        self._open("/login/")
        form = f"username=trader&password={PASSWORD}&csrfmiddlewaretoken={self._token}"
        self._open("/login/", form.encode(), "application/x-www-form-urlencoded")

    @property
    def _token(self) -> str:
        return next(str(cookie.value) for cookie in self._jar if cookie.name == "csrftoken")

    def _open(self, path: str, body: bytes | None = None, kind: str = "") -> Answer:
        request = urllib.request.Request(self._web.url + path, data=body, method="POST" if kind else "GET")
        if kind:
            request.add_header("Content-Type", kind)
            request.add_header("X-CSRFToken", self._token)
            request.add_header("Referer", self._web.url + path)
        try:
            with self._opener.open(request, timeout=30) as response:
                text = response.read()
                return response.status, json.loads(text) if text.startswith(b"{") else {}
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)

    def post(self, path: str, body: Any = None) -> Answer:
        return self._open(path, json.dumps(body or {}).encode(), "application/json")


def at_once(*calls: Callable[[], Answer]) -> list[Answer]:
    barrier = threading.Barrier(len(calls))
    answers: list[Answer | None] = [None] * len(calls)

    def run(number: int) -> None:
        barrier.wait(10)
        answers[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert None not in answers, answers
    return [answer for answer in answers if answer is not None]


def fail_orders(site: Site, web: Process, rows: Read, order: dict[str, Any]) -> list[int]:
    """Have the exchange refuse fifty orders; return their failed orders' ids."""
    site.simulator.add_fault("reject", status=400, code=-2019, msg="Margin is insufficient.", times=None)
    for number in range(2):
        payload = {
            "group_name": "one",
            "token": "token-one",
            "symbol": "BTC/USDT",
            "webhook_id": f"w{number}",
            "orders": [order] * (ROUNDS // 2),
        }
        assert post_webhook(web, payload)[0] == 400
    site.simulator.clear_faults()
    assert site.simulator.orders() == []
    ids = [row["id"] for row in rows("SELECT id FROM orders_failedorder ORDER BY id")]
    assert len(ids) == ROUNDS
    return ids


class TestTwoPeoplePressRetry:
    @pytest.mark.parametrize("mode", ["IMMEDIATE", "QUEUED"])
    def test_one_order_is_placed_and_the_other_is_told(self, site: Site, rows: Read, mode: str) -> None:
        rows("UPDATE orders_strategy SET execution_mode = %s RETURNING id", mode)
        webs = site.start_web(), site.start_web()
        limit = {"order_type": "LIMIT", "side": "buy", "price": "90000", "quantity": "0.01"}
        failed = fail_orders(site, webs[0], rows, limit)
        ann, bob = Person(webs[0]), Person(webs[1])

        for pk in failed:
            path = f"/api/failed-orders/{pk}/retry"
            answers = at_once(lambda path=path: ann.post(path), lambda path=path: bob.post(path))  # type: ignore[misc]  # a default binds the loop's value

            good = [body for status, body in answers if status == 200]
            assert len(good) == 1, answers
            assert good[0].get("order_id") or good[0].get("queued"), answers
            (status, body) = next(answer for answer in answers if answer[0] != 200)
            assert (status, body["success"], body["code"]) == (404, False, "not_found")
            assert body["error"]

        ledger = Counter(row["client_order_id"] for row in site.simulator.orders())
        assert len(ledger) == (ROUNDS if mode == "IMMEDIATE" else 20)  # the cap of the book
        assert set(ledger.values()) == {1}
        assert {client_id[-4:] for client_id in ledger} == {"0002"}
        again = rows("SELECT intent_id FROM orders_placement WHERE is_retry")
        assert len(again) == len({row["intent_id"] for row in again}) == len(ledger)
        assert len(rows("SELECT 1 FROM orders_openorder WHERE status = 'NEW'")) == len(ledger)
        assert len(rows("SELECT 1 FROM orders_pendingorder")) == ROUNDS - len(ledger)
        assert rows("SELECT 1 FROM orders_failedorder") == []

    def test_whoever_presses_for_all_of_them_places_each_once(self, site: Site, rows: Read) -> None:
        webs = site.start_web(), site.start_web()
        market = {"order_type": "MARKET", "side": "buy", "quantity": "0.01"}
        failed = fail_orders(site, webs[0], rows, market)
        ann, bob = Person(webs[0]), Person(webs[1])
        body = {"action": "retry", "ids": failed}
        turned = {"action": "retry", "ids": failed[::-1]}  # the locks are taken in one order all the same

        answers = at_once(
            lambda: ann.post("/api/failed-orders/bulk", body),
            lambda: bob.post("/api/failed-orders/bulk", turned),
        )

        assert [status for status, _ in answers] == [200, 200]
        done = [one["id"] for _, answer in answers for one in answer["results"] if one["success"]]
        assert sorted(done) == failed
        assert len(site.simulator.orders()) == ROUNDS
        (position,) = rows("SELECT quantity FROM orders_strategyposition")
        assert position["quantity"] == ROUNDS * Decimal("0.01")
