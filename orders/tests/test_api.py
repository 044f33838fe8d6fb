from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client

from orders.models import DeliveryState, StrategyAccount, WebhookDelivery
from orders.tests.factories import (
    LIMIT,
    MARKET,
    NOON,
    Exchanges,
    accepted_only,
    limit,
    make_account,
    make_delivery,
    make_follower,
    make_strategy,
    make_user,
    post,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


@pytest.fixture
def owner(client: Client, follower: StrategyAccount) -> Client:
    client.force_login(follower.strategy.user)
    return client


def get(client: Client, webhook_id: str, **query: str) -> tuple[int, Any]:
    response = client.get(f"/api/webhooks/{webhook_id}", query)
    return response.status_code, response.json()


class TestWebhookDetail:
    def test_gives_the_owner_the_final_answer_and_the_times(self, owner: Client) -> None:
        answer = post({"webhook_id": "w1", "orders": [limit(), MARKET]})

        status, body = get(owner, "w1")

        delivery = WebhookDelivery.objects.get()
        assert status == 200
        assert body == {
            "webhook_id": "w1",
            "strategy": "test1",
            "state": "ANSWERED",
            "status": 200,
            "answer": answer.body,
            "timed_out": False,
            "received_at": _iso(delivery.received_at),
            "started_at": _iso(delivery.started_at),
            "answered_at": _iso(delivery.answered_at),
            "timings": answer.body["timing"],
        }

    def test_says_that_it_is_still_being_worked(self, owner: Client) -> None:
        accepted_only(LIMIT | {"webhook_id": "w1"})

        status, body = get(owner, "w1")

        assert (status, body["state"], body["status"], body["answer"]) == (200, "WORKING", None, None)
        assert (body["started_at"], body["answered_at"]) == (None, None)

    def test_shows_a_refusal(self, owner: Client) -> None:
        post(LIMIT | {"webhook_id": "w1", "price": "NaN"})

        _, body = get(owner, "w1")

        assert (body["status"], body["answer"]["code"]) == (400, "invalid_payload")

    @pytest.mark.parametrize("webhook_id", ["a/b", "with space", "ünïcode", "x" * 128, "a?b#c"])
    def test_takes_any_id_that_a_sender_may_give(self, owner: Client, webhook_id: str) -> None:
        post(LIMIT | {"webhook_id": webhook_id})

        for slash in ("", "/"):
            assert get(owner, quote(webhook_id) + slash)[1]["webhook_id"] == webhook_id

    def test_is_404_for_what_nobody_sent(self, owner: Client) -> None:
        assert get(owner, "nothing")[0] == 404

    def test_is_404_for_what_is_somebody_elses(self, owner: Client, follower: StrategyAccount) -> None:
        theirs = make_strategy("theirs", user=make_user("somebody-else"), token="x-token")
        make_delivery(theirs, webhook_id="w1")

        assert get(owner, "w1") == (404, {"detail": "Not found."})

    def test_is_404_for_what_no_strategy_owns(self, owner: Client) -> None:
        post(LIMIT | {"token": "wrong", "webhook_id": "w1"})
        unowned = WebhookDelivery.objects.get()

        assert unowned.strategy is None
        assert get(owner, unowned.webhook_id)[0] == 404

    def test_shows_everything_to_staff(self, client: Client, follower: StrategyAccount) -> None:
        client.force_login(make_user("operator", is_staff=True))
        post(LIMIT | {"webhook_id": "w1"})
        post(LIMIT | {"token": "wrong"})
        unowned = WebhookDelivery.objects.get(strategy=None)

        assert get(client, "w1")[1]["strategy"] == "test1"
        assert get(client, unowned.webhook_id)[1]["strategy"] is None

    def test_is_403_without_a_login(self, client: Client, follower: StrategyAccount) -> None:
        post(LIMIT | {"webhook_id": "w1"})

        status, body = get(client, "w1")

        assert status == 403
        assert "answer" not in body

    @pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
    def test_only_reads(self, owner: Client, method: str) -> None:
        post(LIMIT | {"webhook_id": "w1"})

        assert getattr(owner, method)("/api/webhooks/w1").status_code == 405
        assert WebhookDelivery.objects.get().state == DeliveryState.ANSWERED

    def test_gives_the_latest_where_several_strategies_used_an_id_unless_told_which(
        self, owner: Client, follower: StrategyAccount
    ) -> None:
        second = make_follower(make_strategy("test2", token="token-of-test2"), make_account("second"))
        make_delivery(follower.strategy, webhook_id="w1", received_at=NOON)
        make_delivery(second.strategy, webhook_id="w1", received_at=NOON + timedelta(seconds=1))

        assert get(owner, "w1")[1]["strategy"] == "test2"
        assert get(owner, "w1", strategy="test1")[1]["strategy"] == "test1"
        assert get(owner, "w1", strategy="test3")[0] == 404


def _iso(moment: Any) -> str:
    return str(moment.isoformat().replace("+00:00", "Z"))
