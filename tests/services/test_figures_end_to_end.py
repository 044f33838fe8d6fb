"""Figures of real processes: what one process counted, another tells, and both latencies are measured."""

from __future__ import annotations

import http.client
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import HOST, Process, Site, post_webhook, wait_until

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]
TOKEN = "a-token-of-a-scraper"


def get(web: Process, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, web.port, timeout=10)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def samples(web: Process) -> dict[tuple[str, frozenset[Any]], float]:
    status, text = get(web, "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(web: Process, name: str, **labels: str) -> float:
    return samples(web).get((name, frozenset(labels.items())), 0.0)


class TestFiguresOfRealProcesses:
    def test_are_told_by_a_process_that_did_not_count_them(self, site: Site) -> None:
        site.environment["METRICS_TOKEN"] = TOKEN
        site.simulator.call("POST", "/clock", {"offset_ms": 45_000})  # its clock is not ours
        first = site.start_web()
        second = site.start_web()
        site.start_streams()
        site.start_worker()
        wait_until(lambda: get(second, "/readyz")[0] == 200, what="everybody to be seen", seconds=60)

        for number in range(5):
            order = {"order_type": "MARKET", "side": "buy", "quantity": "0.01", "symbol": "BTC/USDT"}
            assert post_webhook(first, order | {"token": "token-one", "webhook_id": f"w{number}"})[0] == 200

        def told(name: str, **labels: str) -> float:
            return value(second, name, **labels)

        heard = "tradehub_exchange_to_ledger_seconds"
        wait_until(
            lambda: told(f"{heard}_count", exchange="binance") >= 5, what="the fills to be told", seconds=40
        )
        wait_until(lambda: told("tradehub_webhook_seconds_count", status="200") == 5, what="the webhooks")
        assert told("tradehub_webhook_to_exchange_seconds_count") == 5
        assert told("tradehub_submissions_total", exchange="binance", outcome="accepted") == 5
        path = "POST /fapi/v1/order"
        assert told("tradehub_exchange_request_seconds_count", exchange="binance", endpoint=path) == 5
        assert told("tradehub_processes", kind="web") == 2
        assert told("tradehub_streams", status="connected") >= 1
        # By the exchange's own clock: 45 s of difference are not in it.
        average = told(f"{heard}_sum", exchange="binance") / told(f"{heard}_count", exchange="binance")
        assert 0 < average < 10
        # A process that ends takes nothing with it.
        first.stop()
        assert told("tradehub_webhook_seconds_count", status="200") == 5
