from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from exchanges import measures
from exchanges.adapters.departure import departures
from exchanges.adapters.exceptions import (
    CircuitOpen,
    DuplicateClientOrderId,
    ExchangeError,
    InsufficientFunds,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    TooManyOpenOrders,
)
from exchanges.adapters.hosts import Hosts, RoundTrip
from exchanges.adapters.types import MarketType, OrderReport, VenueOrderStatus
from exchanges.tests.scripted import Reply, ScriptedServer
from exchanges.tests.test_http import ORDER, make_client, make_order
from exchanges.windows import merged

NOON = datetime(2026, 7, 21, 12, tzinfo=UTC)


def sample(name: str, **labels: str) -> float:
    return measures.REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture(autouse=True)
def nothing_recent() -> Iterator[None]:
    measures.recent.forget()
    yield
    measures.recent.forget()


def recent_count(name: str) -> int:
    return merged([measures.recent.windows()], now=time.time()).get(name, {}).total()  # type: ignore[union-attr]


def make_report(status: VenueOrderStatus = VenueOrderStatus.NEW, **fields: Any) -> OrderReport:
    return OrderReport(
        MarketType.FUTURES, "BTC/USDT", "1", "th1", status, filled_quantity=Decimal(0), **fields
    )


@pytest.fixture
async def trips(hosts: Hosts) -> list[RoundTrip]:
    heard: list[RoundTrip] = []
    hosts.on_round_trip = heard.append
    return heard


class TestRoundTrip:
    async def test_is_told_with_its_time_from_the_first_byte_to_the_answer(
        self, server: ScriptedServer, hosts: Hosts, trips: list[RoundTrip]
    ) -> None:
        server.script["POST", ORDER] = Reply({"orderId": 7})
        began = time.monotonic()
        await make_client(server.url, hosts).send(make_order())

        (trip,) = trips
        assert (trip.venue, trip.method, trip.path, trip.error) == ("binance", "POST", ORDER, None)
        assert 0 < trip.seconds < time.monotonic() - began

    async def test_is_told_of_refusals_and_of_answers_that_never_came(
        self, server: ScriptedServer, hosts: Hosts, trips: list[RoundTrip]
    ) -> None:
        refusal = {"code": -2019, "msg": "Margin is insufficient."}
        server.script["POST", ORDER] = [Reply(refusal, status=400), Reply(then="drop")]
        client = make_client(server.url, hosts)
        for _ in range(2):
            with pytest.raises(ExchangeError):
                await client.send(make_order())

        assert [measures.outcome_of(trip.error) for trip in trips] == ["refused", "unknown"]

    async def test_is_not_told_of_what_never_left(
        self, server: ScriptedServer, hosts: Hosts, trips: list[RoundTrip]
    ) -> None:
        with pytest.raises(NotSent):
            await make_client(server.url, hosts).send(make_order(send_by=time.monotonic() - 1))

        assert trips == []

    def test_is_counted_by_exchange_endpoint_and_outcome(self) -> None:
        endpoint = "POST /fapi/v1/order"
        labels = {"exchange": "binance", "endpoint": endpoint}
        before = sample("tradehub_exchange_request_seconds_count", **labels)
        lost = sample("tradehub_exchange_requests_total", outcome="unknown", **labels)

        measures.round_trip(RoundTrip("binance", "POST", ORDER, 0.02, None))
        measures.round_trip(RoundTrip("binance", "POST", ORDER, 10.0, OutcomeUnknown("lost")))

        # Waiting in vain is no round trip: it would say nothing of the exchange's speed.
        assert sample("tradehub_exchange_request_seconds_count", **labels) == before + 1
        assert sample("tradehub_exchange_requests_total", outcome="unknown", **labels) == lost + 1
        assert recent_count("exchange_request:binance") == 1


class TestDepartures:
    async def test_hear_orders_and_cancels_and_nothing_else(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        heard: list[float] = []
        server.script["POST", ORDER] = Reply({"orderId": 7})
        server.script["GET", ORDER] = Reply({"orderId": 7})
        client = make_client(server.url, hosts)
        token = departures.set(heard.append)
        try:
            await client.send(make_order(method="GET", changes=False))
            await client.send(make_order(urgent=False))
            assert heard == []
            before = time.monotonic()
            await client.send(make_order())
        finally:
            departures.reset(token)

        assert len(heard) == 1
        assert before < heard[0] < time.monotonic()


class TestOutcomeOf:
    @pytest.mark.parametrize(
        ("answer", "word"),
        [
            (None, "accepted"),
            (make_report(), "accepted"),
            (make_report(VenueOrderStatus.REJECTED), "refused"),
            (InsufficientFunds("no"), "refused"),
            (NotSent("no"), "not_sent"),
            (CircuitOpen("no"), "not_sent"),
            (TooManyOpenOrders("no"), "full"),
            (RateLimited("no"), "put_off"),
            (DuplicateClientOrderId("no"), "duplicate"),
            (OutcomeUnknown("no"), "unknown"),
        ],
    )
    def test_is_one_word_per_class(self, answer: OrderReport | ExchangeError | None, word: str) -> None:
        assert measures.outcome_of(answer) == word


class TestLedger:
    def test_counts_by_the_clock_of_the_exchange(self) -> None:
        before = sample("tradehub_exchange_to_ledger_seconds_sum", exchange="binance")
        count = sample("tradehub_exchange_to_ledger_seconds_count", exchange="binance")
        reports = [
            make_report(updated_at=NOON),
            make_report(updated_at=NOON + timedelta(seconds=9)),  # ahead of what we know of its clock
            make_report(),  # without a time there is nothing to measure
        ]

        measures.ledger("binance", reports, exchange_now=NOON.timestamp() + 2)

        assert sample("tradehub_exchange_to_ledger_seconds_count", exchange="binance") == count + 2
        assert sample("tradehub_exchange_to_ledger_seconds_sum", exchange="binance") == before + 2


class TestEndpointLabel:
    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measures, "_endpoints", {})

    def test_strikes_out_ids(self) -> None:
        assert measures.endpoint_label("GET", "/v1/orders/123456/fills") == "GET /v1/orders/:id/fills"
        key = "pqia91ma19a5s61cv6a81va65sdf19v8a65a1a5s61cv6a81"
        assert measures.endpoint_label("PUT", f"/ws/{key}") == "PUT /ws/:id"

    def test_keeps_what_has_a_name(self) -> None:
        for path in ("/fapi/v1/order", "/uapi/domestic-stock/v1/trading/order-cash", "/api/v3/openOrders"):
            assert measures.endpoint_label("POST", path) == f"POST {path}"

    def test_has_an_end(self) -> None:
        labels = {measures.endpoint_label("GET", f"/{'x' * number}") for number in range(1, 33)}
        labels |= {
            measures.endpoint_label("GET", f"/{'y' * number}/{'z' * other}")
            for number in range(1, 33)
            for other in range(1, 33)
        }

        assert len(labels) == measures._ENDPOINTS_KEPT + 1
        assert "other" in labels


class TestCost:
    def test_is_far_below_a_tenth_of_a_millisecond_per_webhook(self) -> None:
        trip = RoundTrip("binance", "POST", ORDER, 0.02, None)

        def once() -> float:
            began = time.perf_counter()
            measures.round_trip(trip)
            measures.submissions("binance", [make_report()])
            measures.webhook(status=200, seconds=0.02)
            return time.perf_counter() - began

        taken = sorted(once() for _ in range(1000))
        assert taken[500] < 0.0001
