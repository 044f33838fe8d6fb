"""kill -9 and SIGSTOP at the worst moments: the signal is carried out, and each order exists once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.processes import Answer, Process, Site, post_webhook, wait_until
from tests.services.conftest import Gate

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]
both_modes = pytest.mark.parametrize("mode", ["QUEUED", "IMMEDIATE"])

Read = Callable[..., list[dict[str, Any]]]

LADDER = [
    {"order_type": "LIMIT", "side": "buy", "price": str(90000 + n), "quantity": "0.01"} for n in range(7)
]
SIGNAL: dict[str, Any] = {"token": "token-two", "symbol": "BTC/USDT", "webhook_id": "w1", "orders": LADDER}


def post_in_background(web: Process, payload: dict[str, Any]) -> tuple[threading.Thread, list[Answer]]:
    answers: list[Answer] = []

    def post() -> None:
        try:
            answers.append(post_webhook(web, payload))
        except OSError:
            pass  # the process was killed under it, as the test wants

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    return thread, answers


def answered(rows: Read) -> Callable[[], dict[str, Any] | None]:
    def look() -> dict[str, Any] | None:
        found = rows("SELECT * FROM orders_webhookdelivery WHERE webhook_id = 'w1' AND state = 'ANSWERED'")
        return found[0] if found else None

    return look


def assert_each_exists_once(site: Site, rows: Read, *, orders: int) -> None:
    """At the exchange: no client id twice, no intent with two orders. Here: each intent rests once."""
    ledger = site.simulator.orders()
    client_ids = Counter(row["client_order_id"] for row in ledger)
    intents = Counter(client_id[:28] for client_id in client_ids)
    assert max(client_ids.values()) == 1
    assert max(intents.values()) == 1
    assert len(intents) == orders
    resting = rows("SELECT status FROM orders_openorder")
    assert [row["status"] for row in resting] == ["NEW"] * orders
    assert rows("SELECT 1 FROM orders_failedorder") == []


class TestKilledBetweenCommitAndSend:
    def test_another_process_sends_what_never_left(self, site: Site, rows: Read, gate: Gate) -> None:
        market = {"order_type": "MARKET", "side": "buy", "quantity": "0.01"}
        web = site.start_web()
        post_in_background(web, SIGNAL | {"orders": [*LADDER, market]})
        wait_until(gate.waiting, what="the process to stand between commit and send")
        web.kill()
        gate.drop_who_waits()
        gate.open()
        assert len(rows("SELECT 1 FROM orders_orderintent")) == 16
        assert site.simulator.orders() == []

        site.start_streams()

        delivery = wait_until(answered(rows), what="another process to carry the signal out", seconds=30)
        assert delivery["response_status"] == 200
        assert delivery["response"]["summary"]["successful_orders"] == 16
        ledger = site.simulator.orders()
        assert Counter(row["client_order_id"][:28] for row in ledger).most_common(1)[0][1] == 1
        assert len(ledger) == 16
        wait_until(
            lambda: len(rows("SELECT 1 FROM orders_strategyposition WHERE quantity = 0.01")) == 2,
            what="both market orders to become positions",
        )

    def test_the_senders_repeat_carries_it_out_too(self, site: Site, rows: Read, gate: Gate) -> None:
        web = site.start_web()
        post_in_background(web, SIGNAL)
        wait_until(gate.waiting, what="the process to stand between commit and send")
        web.kill()
        gate.drop_who_waits()
        gate.open()
        other = site.start_web()
        assert post_webhook(other, SIGNAL)[0] in (200, 409)  # 409 while the dead process's lease still runs

        status, body = wait_until(
            lambda: next((a for a in [post_webhook(other, SIGNAL)] if a[0] != 409), None),
            what="the lease to end",
        )

        assert (status, body["duplicate"], body["summary"]["successful_orders"]) == (200, True, 14)
        assert_each_exists_once(site, rows, orders=14)


@both_modes
class TestKilledWhileTheRequestIsOnItsWay:
    def test_limits_that_never_arrived_are_placed_anew_and_a_market_order_is_not(
        self, site: Site, rows: Read
    ) -> None:
        market = {"order_type": "MARKET", "side": "buy", "quantity": "0.01"}
        site.simulator.add_fault("delay_before", match={"method": "POST"}, seconds=30, times=None)
        web = site.start_web()
        limit_on_main = SIGNAL | {"token": "token-one", "orders": LADDER[:3]}
        post_in_background(web, limit_on_main)
        wait_until(lambda: started(rows), what="the request to leave")
        web.kill()
        web = site.start_web()
        post_in_background(web, {"token": "token-two", "symbol": "BTC/USDT", "webhook_id": "w2", **market})
        wait_until(lambda: len(started(rows)) == 2, what="the market order's request to leave")
        web.kill()
        site.simulator.clear_faults()
        assert site.simulator.orders() == []

        site.start_streams()

        delivery = wait_until(
            answered(rows), what="the proof of absence and the second placement", seconds=60
        )
        assert delivery["response"]["summary"]["successful_orders"] == 3
        assert sorted(row["client_order_id"][-4:] for row in site.simulator.orders()) == ["0002"] * 3
        failed = wait_until(
            lambda: rows("SELECT * FROM orders_failedorder"), what="the market orders to fail"
        )
        wait_until(lambda: len(rows("SELECT 1 FROM orders_failedorder")) == 2, what="both accounts' to fail")
        assert {row["order_type"] for row in failed} == {"MARKET"}
        assert failed[0]["reason"] == "Never placed on the exchange"


class TestKilledBetweenAcceptAndRecord:
    def test_the_orders_are_adopted(self, site: Site, rows: Read) -> None:
        batches = {"method": "POST", "path": "/fapi/v1/batchOrders"}
        site.simulator.add_fault("delay_after", match=batches, seconds=30, times=None)
        web = site.start_web()
        post_in_background(web, SIGNAL)
        wait_until(lambda: len(site.simulator.orders()) == 14, what="the exchange to accept everything")
        web.kill()
        site.simulator.clear_faults()
        assert {row["status"] for row in rows("SELECT status FROM orders_openorder")} == {"SUBMITTING"}

        site.start_streams()

        delivery = wait_until(answered(rows), what="the orders to be found", seconds=60)
        assert delivery["response"]["summary"]["exchange_submitted"] == 14
        assert_each_exists_once(site, rows, orders=14)


class TestLostAnswer:
    def test_the_orders_stay_submitting_and_are_found(self, site: Site, rows: Read) -> None:
        site.simulator.add_fault("drop_answer", match={"method": "POST"}, times=None)
        web = site.start_web()

        status, body = post_webhook(web, SIGNAL)

        assert status == 200
        assert all(result["resolving"] for result in body["results"])
        site.simulator.clear_faults()
        site.start_streams()
        wait_until(
            lambda: not rows("SELECT 1 FROM orders_openorder WHERE status = 'SUBMITTING'"),
            what="the resolver to find the orders",
        )
        assert_each_exists_once(site, rows, orders=14)


class TestFrozenBeforeSending:
    @both_modes
    def test_a_thawed_process_sends_nothing_that_was_settled(
        self, site: Site, rows: Read, gate: Gate
    ) -> None:
        web = site.start_web()
        _, answers = post_in_background(web, SIGNAL)
        wait_until(gate.waiting, what="the process to stand between commit and send")
        web.freeze()
        gate.open()  # the mark is written; the process does not get to hear of it
        site.start_streams()
        delivery = wait_until(answered(rows), what="the others to settle it", seconds=60)
        assert delivery["response"]["summary"]["exchange_submitted"] == 14
        before = {row["client_order_id"] for row in site.simulator.orders()}

        web.thaw()

        wait_until(lambda: answers, what="the thawed process to answer", seconds=30)
        assert {row["client_order_id"] for row in site.simulator.orders()} == before
        assert {client_id[-4:] for client_id in before} == {"0002"}
        assert_each_exists_once(site, rows, orders=14)

    def test_a_process_that_lost_its_lease_sends_nothing(self, site: Site, rows: Read, gate: Gate) -> None:
        web = site.start_web()
        _, answers = post_in_background(web, SIGNAL)
        wait_until(gate.waiting, what="the process to stand between commit and send")
        web.freeze()
        gate.drop_who_waits()  # its statement is gone, nothing is marked
        gate.open()
        site.start_streams()
        wait_until(answered(rows), what="the others to carry it out", seconds=60)

        web.thaw()

        wait_until(lambda: answers, what="the thawed process to answer", seconds=30)
        assert {row["client_order_id"][-4:] for row in site.simulator.orders()} == {"0001"}
        assert_each_exists_once(site, rows, orders=14)


def started(rows: Read) -> list[dict[str, Any]]:
    return rows("SELECT 1 FROM orders_webhookdelivery WHERE started_at IS NOT NULL")
