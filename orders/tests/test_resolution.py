"""A person's decision about an order whose outcome is unknown."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from exchanges import runtime
from exchanges.adapters.exceptions import AuthenticationFailed, OutcomeUnknown
from exchanges.adapters.testing import make_request
from exchanges.adapters.types import OrderReport
from orders.clock import database_now
from orders.models import FailedOrder, Home, OpenOrder, OrderEvent, OrderIntent, Placement, StrategyAccount
from orders.tests.factories import Exchanges, make_follower, make_placements, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


@pytest.fixture
def owner(client: Client, follower: StrategyAccount) -> Client:
    client.force_login(follower.strategy.user)
    return client


def unknown(follower: StrategyAccount, *, minutes: float = 5, **fields: Any) -> Placement:
    return make_placements(follower, [fields], now=database_now() - timedelta(minutes=minutes))[0]


def at_exchange(exchanges: Exchanges, follower: StrategyAccount, client_order_id: str, **fields: Any) -> str:
    request = make_request(client_order_id, **({"quantity": Decimal(1)} | fields))
    (report,) = runtime.run(exchanges.of(follower).place_orders([request]), 5)
    assert isinstance(report, OrderReport)
    return report.exchange_order_id


def resolve(client: Client, placement: Placement, **body: Any) -> tuple[int, Any]:
    uid = placement.intent.uid
    response = client.post(f"/api/orders/{uid}/resolve", body, content_type="application/json")
    return response.status_code, response.json()


class TestResolve:
    def test_adopts_the_order_that_a_person_found(
        self, owner: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = unknown(follower)
        order_id = at_exchange(exchanges, follower, placement.client_order_id)

        status, body = resolve(owner, placement, exchange_order_id=order_id)

        assert (status, body["home"], body["status"]) == (200, "EXCHANGE", "NEW")
        placement.refresh_from_db()
        assert (placement.exchange_order_id, placement.outcome) == (order_id, "PLACED")
        assert OrderEvent.objects.get(type="OPERATOR").data["by"] == "trader"

    def test_makes_a_failed_order_of_what_was_never_placed(
        self, owner: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = unknown(follower, order_type="MARKET", price=None)

        status, body = resolve(owner, placement, never_placed=True)

        failed = FailedOrder.objects.get()
        assert (status, body["home"], body["failed_order_id"]) == (200, "FAILED", failed.pk)
        assert "trader decided" in failed.exchange_error
        assert exchanges.all_calls() == 0

    def test_finds_out_that_it_was_placed_all_the_same(
        self, owner: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = unknown(follower)
        order_id = at_exchange(exchanges, follower, placement.client_order_id)
        calls = exchanges.all_calls()

        status, body = resolve(owner, placement, never_placed=True)

        assert (status, body["code"]) == (400, "settled")
        assert order_id in body["error"]
        assert (OpenOrder.objects.get().status, exchanges.all_calls()) == ("NEW", calls)
        assert not OrderEvent.objects.filter(type="OPERATOR").exists()

    def test_decides_nothing_while_the_exchange_does_not_answer(
        self, owner: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = unknown(follower)
        exchanges.of(follower).fails_with = OutcomeUnknown("read timed out")
        assert resolve(owner, placement, never_placed=True)[1]["code"] == "exchange_error"
        assert OpenOrder.objects.get().status == "SUBMITTING"

        exchanges.of(follower).fails_with = AuthenticationFailed("the key was deleted")
        assert resolve(owner, placement, never_placed=True)[0] == 200

    def test_refuses_another_order(
        self, owner: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = unknown(follower)
        by_hand = at_exchange(exchanges, follower, "web_1234")

        status, body = resolve(owner, placement, exchange_order_id=by_hand)

        assert (status, body["code"]) == (400, "another_order")
        assert OpenOrder.objects.get().status == "SUBMITTING"

    def test_refuses_what_the_exchange_does_not_know(
        self, owner: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        assert resolve(owner, unknown(follower), exchange_order_id="77")[1]["code"] == "not_at_exchange"
        exchanges.of(follower).fails_with = OutcomeUnknown("read timed out")
        assert resolve(owner, unknown(follower), exchange_order_id="77")[1]["code"] == "exchange_error"

    @pytest.mark.parametrize("minutes", [0, 0.9])
    def test_is_too_soon_while_it_is_being_looked_up(
        self, owner: Client, follower: StrategyAccount, minutes: float
    ) -> None:
        placement = unknown(follower, minutes=minutes)
        assert resolve(owner, placement, never_placed=True)[1]["code"] == "too_soon"
        assert OrderIntent.objects.get().home == Home.EXCHANGE

    def test_is_refused_once_it_is_known(self, owner: Client, follower: StrategyAccount) -> None:
        placement = unknown(follower)
        OpenOrder.objects.update(status="NEW")
        assert resolve(owner, placement, never_placed=True)[1]["code"] == "settled"

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"never_placed": False},
            {"never_placed": "yes"},
            {"never_placed": 1},
            {"exchange_order_id": "1", "never_placed": True},
            {"exchange_order_id": "a b"},
            {"never_placed": True, "sure": 1},
        ],
    )
    def test_wants_one_clear_decision(
        self, owner: Client, follower: StrategyAccount, body: dict[str, Any]
    ) -> None:
        status, answer = resolve(owner, unknown(follower), **body)
        assert (status, answer["code"]) == (400, "invalid_request")
        assert OpenOrder.objects.get().status == "SUBMITTING"

    def test_is_404_for_somebody_else(self, client: Client, follower: StrategyAccount) -> None:
        placement = unknown(follower)
        client.force_login(make_user("them"))
        assert resolve(client, placement, never_placed=True)[0] == 404
        body = {"never_placed": True}
        answer = client.post("/api/orders/NOSUCHUID/resolve", body, content_type="application/json")
        assert answer.status_code == 404

    def test_needs_a_login_and_its_token(self, client: Client, follower: StrategyAccount) -> None:
        placement = unknown(follower)
        assert resolve(client, placement, never_placed=True)[0] == 403
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(follower.strategy.user)
        assert "CSRF" in resolve(strict, placement, never_placed=True)[1]["error"]
