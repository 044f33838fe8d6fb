"""The operators' page for an order that nobody knows about: what is known, and a decision."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client

from orders.models import FailedOrder, Home, OpenOrder, OrderEvent, OrderIntent, StrategyAccount
from orders.tests.conftest import exchanges
from orders.tests.factories import Exchanges, make_follower, make_user
from orders.tests.test_resolution import at_exchange, unknown
from tests.test_admin import operator, url

__all__ = ["exchanges", "operator"]

pytestmark = pytest.mark.django_db
LIST = url(OpenOrder, "changelist")


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:  # noqa: F811  the fixture
    return make_follower()


def resolve(client: Client, *orders: int, **fields: str) -> str:
    chosen = {"action": "resolve", "_selected_action": list(orders)} | fields
    return client.post(LIST, chosen, follow=True).content.decode()


def decide(client: Client, order: int, **fields: str) -> str:
    return resolve(client, order, confirmed="yes", **fields)


@pytest.mark.usefixtures("operator")
class TestResolve:
    def test_shows_what_is_known_before_it_asks(self, client: Client, follower: StrategyAccount) -> None:
        placement = unknown(follower)
        OpenOrder.objects.update(not_found_count=1)

        page = resolve(client, placement.intent_id)

        assert placement.client_order_id in page
        assert "main (binance FUTURES)" in page
        assert "BUY 1 BTC/USDT LIMIT" in page
        assert "1 times" in page
        assert "can be decided from" in page
        assert OpenOrder.objects.get().status == "SUBMITTING"

    def test_adopts_the_order_that_was_found_there(
        self,
        client: Client,
        follower: StrategyAccount,
        exchanges: Exchanges,  # noqa: F811  the fixture
    ) -> None:
        placement = unknown(follower)
        order_id = at_exchange(exchanges, follower, placement.client_order_id)

        page = decide(
            client, placement.intent_id, decision="is", exchange_order_id=order_id, reason="I saw it"
        )

        assert f"it is order {order_id}" in page
        assert OpenOrder.objects.get().status == "NEW"
        event = OrderEvent.objects.get(type="OPERATOR")
        assert (event.data["by"], event.data["reason"]) == ("operator", "I saw it")
        assert "I saw it" in LogEntry.objects.get().change_message

    def test_makes_a_failed_order_of_what_was_never_placed(
        self,
        client: Client,
        follower: StrategyAccount,
        exchanges: Exchanges,  # noqa: F811  the fixture
    ) -> None:
        placement = unknown(follower, order_type="MARKET", price=None)
        assert "never placed; it is FAILED now" in decide(
            client, placement.intent_id, decision="never_placed"
        )
        assert "operator decided" in FailedOrder.objects.get().exchange_error
        assert exchanges.all_calls() == 0

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({}, "Say which it is"),
            ({"decision": "is"}, "Say which order it is, by the exchange&#x27;s id"),
            ({"decision": "is", "exchange_order_id": "a b"}, "letters, digits"),
            ({"decision": "never_placed", "exchange_order_id": "7"}, "has no id there"),
            ({"decision": "is", "exchange_order_id": "77"}, "The exchange has no such order"),
        ],
    )
    def test_wants_one_clear_decision(
        self, client: Client, follower: StrategyAccount, fields: dict[str, str], words: str
    ) -> None:
        placement = unknown(follower)
        assert words in decide(client, placement.intent_id, **fields)
        assert OpenOrder.objects.get().status == "SUBMITTING"
        assert LogEntry.objects.exists() is False

    def test_is_too_soon_while_it_is_being_looked_up(self, client: Client, follower: StrategyAccount) -> None:
        placement = unknown(follower, minutes=0)
        assert "Wait: it is still being looked up" in decide(
            client, placement.intent_id, decision="never_placed"
        )
        assert OrderIntent.objects.get().home == Home.EXCHANGE

    def test_is_for_one_unknown_order(self, client: Client, follower: StrategyAccount) -> None:
        first, second = unknown(follower), unknown(follower)
        assert "Choose one order" in resolve(client, first.intent_id, second.intent_id)
        OpenOrder.objects.update(status="NEW")
        assert "What became of this order is known already" in resolve(client, first.intent_id)


class TestPermission:
    def test_is_asked_for(self, client: Client, follower: StrategyAccount) -> None:
        placement = unknown(follower)
        client.force_login(User.objects.create_user("looker", is_staff=True))
        decide(client, placement.intent_id, decision="never_placed")
        assert OpenOrder.objects.get().status == "SUBMITTING"


class TestApi:
    def test_shows_what_is_known(self, client: Client, follower: StrategyAccount) -> None:
        placement = unknown(follower)
        client.force_login(follower.strategy.user)

        told = client.get(f"/api/orders/{placement.intent.uid}/resolve").json()

        assert told["success"] is True
        assert (told["client_order_id"], told["quantity"]) == (placement.client_order_id, "1")
        assert told["decide_from"] > told["send_by"]

    def test_shows_nothing_to_others_and_nothing_of_what_is_known(
        self, client: Client, follower: StrategyAccount
    ) -> None:
        placement = unknown(follower)
        path = f"/api/orders/{placement.intent.uid}/resolve"
        client.force_login(make_user("them"))
        assert client.get(path).status_code == 404
        client.force_login(follower.strategy.user)
        OpenOrder.objects.update(status="NEW")
        assert client.get(path).json()["code"] == "settled"
