"""Reconciling on demand: by the staff's API and by the admin's action."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib import messages
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from exchanges.adapters.exceptions import AuthenticationFailed
from exchanges.adapters.testing import FakeExchange
from exchanges.adapters.types import VenueOrderStatus
from exchanges.models import Account
from orders.models import EventType, OpenOrder, OrderEvent
from tracking import on_demand
from tracking.leases import lease_acquire
from tracking.reconciliation import Reconciled
from tracking.tests.conftest import Exchanges
from tracking.tests.making import (
    FUTURES,
    long_ago,
    make_account,
    make_order,
    make_resting,
    open_order,
    report,
)

pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/admin/system/order-tracking/sync-orders"


@pytest.fixture
def account(exchanges: Exchanges) -> Account:
    return make_account()


@pytest.fixture
def exchange(exchanges: Exchanges, account: Account) -> FakeExchange:
    return exchanges.of(account)


@pytest.fixture
def staff(client: Client) -> Client:
    client.force_login(User.objects.create_user("operator", is_staff=True))
    return client


def sync(client: Client, body: Any, content_type: str = "application/json") -> tuple[int, Any]:
    data = body if isinstance(body, str) else json.dumps(body)
    response = client.post(PATH, data, content_type=content_type)
    return response.status_code, response.json()


class TestSyncOrders:
    def test_settles_what_differs_and_says_what_it_found(
        self, staff: Client, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        exchange.end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)
        exchange.orders["900"] = report()

        status, body = sync(staff, {"account_id": account.pk})

        assert (status, body["success"], body["account_id"]) == (200, True, account.pk)
        (market,) = body["markets"]
        assert (market["market_type"], market["external_orders"], market["errors"]) == (FUTURES, 1, [])
        (difference,) = market["differences"]
        assert difference["kind"] == "NOT_OPEN_THERE"
        assert difference["client_order_id"] == placement.client_order_id
        assert open_order(placement) is None
        assert sync(staff, {"account_id": account.pk})[1]["markets"][0]["differences"] == []

    def test_writes_down_who_asked(self, staff: Client, account: Account, exchange: FakeExchange) -> None:
        sync(staff, {"account_id": account.pk})

        event = OrderEvent.objects.get(type=EventType.OPERATOR)
        assert event.data["by"] == "operator"
        assert (event.account_id, event.user_id) == (account.pk, account.user_id)
        assert event.message == "Reconciled on demand: FUTURES: 0 differences, 0 external orders"
        entry = LogEntry.objects.get()
        assert (entry.user.username, entry.object_id) == ("operator", str(account.pk))

    def test_asks_for_unknown_orders_of_this_account_alone(
        self, staff: Client, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        other = make_account()
        mine = make_order(account, planned_at=long_ago(seconds=60))
        theirs = make_order(other, planned_at=long_ago(seconds=60))

        sync(staff, {"account_id": account.pk})

        counts = {row.placement_id: row.not_found_count for row in OpenOrder.objects.all()}
        assert counts == {mine.pk: 1, theirs.pk: 0}

    def test_compares_every_market_of_an_account_that_trades_none(
        self, staff: Client, account: Account, exchanges: Exchanges
    ) -> None:
        account.strategy_accounts.all().delete()
        _, body = sync(staff, {"account_id": account.pk})
        assert [market["market_type"] for market in body["markets"]] == ["SPOT", "FUTURES"]

    def test_is_400_for_an_exchange_that_we_cannot_talk_to(self, staff: Client) -> None:
        account = make_account(exchange="bybit")
        account.strategy_accounts.all().delete()

        status, body = sync(staff, {"account_id": account.pk})

        assert (status, body["code"]) == (400, "no_market")
        assert body["error"] == "There is nothing to compare: no adapter for bybit (CRYPTO)"
        assert OrderEvent.objects.exists() is False
        assert LogEntry.objects.exists() is False

    def test_tells_why_a_market_could_not_be_compared(
        self, staff: Client, account: Account, exchange: FakeExchange
    ) -> None:
        exchange.fails_with = AuthenticationFailed("Invalid API-key", venue="fake")
        status, body = sync(staff, {"account_id": account.pk})
        assert (status, body["success"]) == (200, False)
        assert body["markets"][0]["errors"] == ["Invalid API-key"]

    def test_is_409_while_a_run_is_going_on(
        self, staff: Client, account: Account, exchange: FakeExchange
    ) -> None:
        lease_acquire(name=f"reconcile:{account.pk}:{FUTURES}", owner="another", seconds=10)
        status, body = sync(staff, {"account_id": account.pk})
        assert (status, body["code"]) == (409, "busy")
        assert "is going on" in body["error"]
        assert OrderEvent.objects.exists() is False

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"account_id": "1"}, "account_id: must be a whole number, such as 1"),
            ({"account_id": "abc"}, "account_id: must be a whole number, such as 1"),
            ({"account_id": True}, "account_id: must be a whole number, such as 1"),
            ({"account_id": 1.5}, "account_id: must be a whole number, such as 1"),
            ({"account_id": None}, "account_id: This field may not be null"),
            ({"account_id": [1]}, "account_id: must be a whole number, such as 1"),
            ({"account_id": -1}, "account_id: Ensure this value is greater than or equal to 1"),
            ({"account_id": 0}, "account_id: Ensure this value is greater than or equal to 1"),
            ({"account_id": 10**30}, "account_id: Ensure this value is less than or equal to"),
            ({}, "account_id: This field is required"),
            ({"account_id": 1, "force": True}, "force: there is no such parameter"),
            ([1], "Expected a dictionary"),
            ("{account_id: 1", "JSON parse error"),
            ("[" * 2000, "nested deeper than"),
            ('{"account_id": ' + "[" * 2000 + "]" * 2000 + "}", "nested deeper than"),
            (r'{"account_id": 1, "\ud800": 1}', "a broken character"),
            (r'{"account_id": "\udfff"}', "a broken character"),
            ("", "account_id: This field is required"),
        ],
    )
    def test_says_what_is_wrong_with_a_request(
        self, staff: Client, account: Account, exchange: FakeExchange, body: Any, words: str
    ) -> None:
        status, answer = sync(staff, body)
        assert (status, answer["success"]) == (400, False)
        assert words in answer["error"]
        assert OrderEvent.objects.exists() is False

    def test_takes_no_body_that_is_too_large(self, staff: Client, account: Account) -> None:
        status, answer = sync(staff, f'{{"account_id": 1, "why": "{"x" * 3_000_000}"}}')
        assert (status, answer["code"]) == (413, "body_too_large")
        assert answer["error"] == "The body is larger than 2560 KiB"

    def test_takes_no_form(self, staff: Client, account: Account) -> None:
        status, answer = sync(staff, f"account_id={account.pk}", "application/x-www-form-urlencoded")
        assert status == 400
        assert "JSON parse error" in answer["error"]

    def test_is_404_for_an_account_that_does_not_exist(self, staff: Client) -> None:
        status, body = sync(staff, {"account_id": 999_999})
        assert (status, body["error"]) == (404, "There is no account 999999")

    def test_is_for_staff(self, client: Client, account: Account, exchange: FakeExchange) -> None:
        assert sync(client, {"account_id": account.pk})[0] == 403
        client.force_login(account.user)
        assert sync(client, {"account_id": account.pk})[0] == 403
        assert OrderEvent.objects.exists() is False

    def test_wants_its_token(self, account: Account) -> None:
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(User.objects.create_user("operator", is_staff=True))
        status, body = sync(strict, {"account_id": account.pk})
        assert status == 403
        assert "CSRF" in body["error"]

    def test_is_a_post(self, staff: Client) -> None:
        assert staff.get(PATH).status_code == 405

    def test_takes_a_slash_at_the_end(self, staff: Client, account: Account, exchange: FakeExchange) -> None:
        response = staff.post(f"{PATH}/", {"account_id": account.pk}, content_type="application/json")
        assert response.status_code == 200


class TestReconcileNow:
    def reconcile(self, client: Client, *accounts: Account) -> str:
        chosen = {"action": "reconcile_now", "_selected_action": [one.pk for one in accounts]}
        response = client.post(reverse("admin:exchanges_account_changelist"), chosen, follow=True)
        return response.content.decode()

    def test_reconciles_accounts_and_writes_down_who_asked(
        self, client: Client, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        client.force_login(get_user_model().objects.create_superuser("operator"))
        other = make_account()
        placement = make_resting(account)
        exchange.end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)
        exchanges.of(other).fails_with = AuthenticationFailed("Invalid API-key", venue="fake")

        page = self.reconcile(client, account, other)

        assert f"{account}: FUTURES: 1 differences, 0 external orders" in page
        assert f"{other}: FUTURES: Invalid API-key" in page
        assert open_order(placement) is None
        assert {event.data["by"] for event in OrderEvent.objects.filter(type="OPERATOR")} == {"operator"}
        assert LogEntry.objects.count() == 2

    def test_warns_where_there_is_nothing_to_compare(self, client: Client) -> None:
        client.force_login(get_user_model().objects.create_superuser("operator"))
        account = make_account(exchange="bybit")
        account.strategy_accounts.all().delete()

        chosen = {"action": "reconcile_now", "_selected_action": [account.pk]}
        answer = client.post(reverse("admin:exchanges_account_changelist"), chosen)

        told = [(one.level, one.message) for one in messages.get_messages(answer.wsgi_request)]
        words = f"{account}: There is nothing to compare: no adapter for bybit (CRYPTO)"
        assert told == [(messages.WARNING, words)]

    def test_is_not_for_those_who_may_only_look(
        self, client: Client, account: Account, exchange: FakeExchange
    ) -> None:
        client.force_login(get_user_model().objects.create_user("looker", is_staff=True))
        self.reconcile(client, account)
        assert OrderEvent.objects.exists() is False


class TestSideBySide:
    def test_lets_no_account_wait_for_another(
        self, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both markets of one account wait for each other: one after the other they never would meet."""
        import threading

        meeting = threading.Barrier(2, timeout=10)
        found = Reconciled()

        def meet(**asked: Any) -> Reconciled:
            meeting.wait()
            return found

        monkeypatch.setattr(on_demand, "reconcile_account", meet)
        account = make_account()
        account.strategy_accounts.all().delete()
        assert [one.found for one in on_demand.orders_sync(account=account, by="me")] == [found, found]
