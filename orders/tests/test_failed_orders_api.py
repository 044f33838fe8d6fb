"""The failed orders' calls: whose rows, which filters, what is refused and in which words."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import AsyncClient, Client

from orders.clock import database_now
from orders.models import (
    FailedOrder,
    FailedStatus,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    Placement,
    StrategyAccount,
    WebhookDelivery,
)
from orders.tests.factories import (
    Exchanges,
    Queries,
    elsewhere,
    make_account,
    make_follower,
    make_placement,
    make_placements,
    make_strategy,
    make_user,
)
from orders.tests.failing import NO_MONEY, intent_of, make_failed, next_client_id

pytestmark = pytest.mark.django_db
URL = "/api/failed-orders"
NOON = datetime(2026, 7, 21, 12, tzinfo=UTC)


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


@pytest.fixture
def theirs(follower: StrategyAccount) -> StrategyAccount:
    return make_follower(make_strategy("theirs", user=make_user("them"), token="t"), make_account("theirs"))


@pytest.fixture
def owner(client: Client, follower: StrategyAccount) -> Client:
    client.force_login(follower.strategy.user)
    return client


def get(client: Client, path: str = "", **query: Any) -> tuple[int, Any]:
    response = client.get(URL + path, query)
    return response.status_code, response.json()


def listed(client: Client, **query: Any) -> list[int | None]:
    status, body = get(client, **query)
    assert status == 200, body
    assert body["count"] >= len(body["orders"])
    return [row["id"] for row in body["orders"]]


def post(client: Client, path: str, body: Any = None) -> tuple[int, Any]:
    response = client.post(URL + path, body, content_type="application/json")
    return response.status_code, response.json()


def unknown_for_long(follower: StrategyAccount, **fields: Any) -> Placement:
    return make_placements(follower, [fields], now=database_now() - timedelta(minutes=2))[0]


class TestList:
    def test_tells_everything_about_a_failed_order(self, owner: Client, follower: StrategyAccount) -> None:
        failed = make_failed(
            follower,
            order_type="STOP_LIMIT",
            quantity=Decimal("0.5000"),
            price=Decimal("95000.10"),
            stop_price=Decimal("95000"),
        )
        FailedOrder.objects.update(created_at=NOON)

        status, body = get(owner)

        assert (status, body["success"], body["count"], body["next"]) == (200, True, 1, None)
        (row,) = body["orders"]
        assert row.pop("updated_at").endswith("Z")
        assert row == {
            "id": failed.pk,
            "uid": failed.uid,
            "strategy_account_id": follower.pk,
            "strategy": "test1",
            "account": "main",
            "symbol": "BTC/USDT",
            "market_type": "FUTURES",
            "side": "BUY",
            "order_type": "STOP_LIMIT",
            "quantity": "0.5",
            "price": "95000.1",
            "stop_price": "95000",
            "reduce_only": False,
            "reason": "Insufficient balance",
            "error_type": "insufficient_balance",
            "exchange_error": NO_MONEY.message,
            "retry_count": 0,
            "max_retries": 5,
            "next_retry_at": None,
            "status": "pending_retry",
            "webhook_id": failed.webhook_id,
            "created_at": "2026-07-21T12:00:00Z",
        }

    def test_shows_only_ones_own_and_to_staff_all(
        self, owner: Client, follower: StrategyAccount, theirs: StrategyAccount
    ) -> None:
        mine, other = make_failed(follower), make_failed(theirs)
        unknown_for_long(theirs)
        staff = Client()
        staff.force_login(make_user("operator", is_staff=True))

        assert listed(owner) == [mine.pk]
        assert listed(owner, strategy_account_id=theirs.pk) == []
        assert listed(staff) == [None, other.pk, mine.pk]
        assert listed(staff, strategy_account_id=theirs.pk) == [None, other.pk]

    def test_filters(self, owner: Client, follower: StrategyAccount) -> None:
        btc, eth = make_failed(follower), make_failed(follower, symbol="ETH/USDT")
        FailedOrder.objects.filter(pk=btc.pk).update(created_at=NOON, status="expired", error_type="unknown")
        FailedOrder.objects.filter(pk=eth.pk).update(created_at=NOON + timedelta(hours=1))

        assert listed(owner) == [eth.pk, btc.pk]
        assert listed(owner, symbol="ETH/USDT") == [eth.pk]
        assert listed(owner, status="expired") == [btc.pk]
        assert listed(owner, error_type="insufficient_balance") == [eth.pk]
        assert listed(owner, created_after="2026-07-21T12:00:00Z") == [eth.pk, btc.pk]
        assert listed(owner, created_after="2026-07-21T21:30:00+09:00") == [eth.pk]
        assert listed(owner, created_before="2026-07-21T13:00:00Z") == [btc.pk]
        assert listed(owner, created_before="2026-07-21T13:00:00Z", symbol="ETH/USDT") == []
        assert listed(owner, strategy_account_id=follower.pk) == [eth.pk, btc.pk]

    def test_shows_removed_ones_only_when_asked(self, owner: Client, follower: StrategyAccount) -> None:
        failed = make_failed(follower)
        assert owner.delete(f"{URL}/{failed.pk}").json() == {"success": True}

        assert listed(owner) == []
        assert listed(owner, status="removed") == [failed.pk]

    def test_shows_orders_whose_outcome_is_unknown_without_an_id(
        self, owner: Client, follower: StrategyAccount
    ) -> None:
        failed = make_failed(follower)
        placement = unknown_for_long(follower)
        make_placement(follower)  # on its way since a moment ago

        assert listed(owner) == [None, failed.pk]
        assert listed(owner, status="pending_retry") == [failed.pk]
        assert listed(owner, error_type="insufficient_balance") == [failed.pk]
        _, body = get(owner, status="resolving")
        (row,) = body["orders"]
        assert (row["id"], row["uid"], row["status"]) == (None, placement.intent.uid, "resolving")
        assert row.keys() == get(owner, status="pending_retry")[1]["orders"][0].keys()

    def test_comes_in_pages(self, owner: Client, follower: StrategyAccount) -> None:
        unknown_for_long(follower)
        make_failed(follower)
        row = FailedOrder.objects.values().get()
        for number in range(59):
            intent = OrderIntent.objects.get(pk=row["intent_id"])
            intent.pk, intent.uid, intent.order_index = None, f"x{number}", number + 1
            intent.save()
            FailedOrder.objects.create(**row | {"id": None, "intent_id": intent.pk, "uid": intent.uid})

        _, first = get(owner, symbol="BTC/USDT")
        second = owner.get(first["next"]).json()

        ids = [order["id"] for order in first["orders"] + second["orders"]]
        newest_first = FailedOrder.objects.order_by("-pk").values_list("pk", flat=True)
        assert ids == [None, *newest_first]
        assert (first["count"], len(first["orders"]), second["next"]) == (61, 50, None)
        assert "symbol=BTC%2FUSDT" in first["next"]
        assert get(owner, page=3)[1]["orders"] == []

    @pytest.mark.parametrize(
        ("query", "faults"),
        [
            ({"strategy_account_id": "x"}, ["strategy_account_id"]),
            ({"strategy_account_id": "9" * 30}, ["strategy_account_id"]),
            ({"status": "weird", "error_type": "REJECTED"}, ["status", "error_type"]),
            ({"created_after": "yesterday"}, ["created_after"]),
            ({"created_after": "2026-07-21T12:00:00"}, ["created_after"]),
            ({"created_after": "2026-07-21"}, ["created_after"]),
            ({"created_after": "0001-01-01T00:00:00+09:00"}, ["created_after"]),
            ({"page": "0"}, ["page"]),
            ({"page": "two", "colour": "red"}, ["page", "colour"]),
            ({"symbol": "BTC\0"}, ["symbol"]),
            ({"symbol": ["BTC/USDT", "ETH/USDT"]}, ["symbol"]),
            (
                {"created_after": "2026-07-21T12:00:00Z", "created_before": "2026-07-21T12:00:00Z"},
                ["created_before"],
            ),
        ],
    )
    def test_names_every_fault_of_its_filters(
        self, owner: Client, query: dict[str, Any], faults: list[str]
    ) -> None:
        status, body = get(owner, **query)

        assert (status, body["success"], body["code"]) == (400, False, "invalid_request")
        assert [fault["field"] for fault in body["errors"]] == faults
        assert all(fault["message"] in body["error"] for fault in body["errors"])

    def test_costs_the_same_for_one_and_for_many(self, owner: Client, follower: StrategyAccount) -> None:
        counts = []
        for _ in range(2):
            for _ in range(5):
                make_failed(follower)
                unknown_for_long(follower)
            with Queries() as queries:
                listed(owner)
            counts.append(queries.count)
        assert counts[1] <= counts[0]


class TestDoors:
    CALLS = [
        ("get", ""),
        ("get", "/stats"),
        ("get", "/export.csv"),
        ("delete", "/{id}"),
        ("post", "/{id}/retry"),
        ("post", "/{id}/schedule"),
        ("post", "/bulk"),
    ]

    @pytest.mark.parametrize(("method", "path"), CALLS)
    def test_are_shut_without_a_login(
        self, client: Client, follower: StrategyAccount, exchanges: Exchanges, method: str, path: str
    ) -> None:
        failed = make_failed(follower)

        response = getattr(client, method)(URL + path.format(id=failed.pk))

        assert response.status_code == 403
        assert response.json()["code"] == "not_authenticated"
        assert FailedOrder.objects.get().status == "pending_retry"
        assert exchanges.all_calls() == 0

    @pytest.mark.parametrize(("method", "path"), [call for call in CALLS if call[0] != "get"])
    def test_are_shut_without_the_csrf_token(
        self, follower: StrategyAccount, exchanges: Exchanges, method: str, path: str
    ) -> None:
        failed = make_failed(follower)
        client = Client(enforce_csrf_checks=True)
        client.force_login(follower.strategy.user)

        response = getattr(client, method)(
            URL + path.format(id=failed.pk),
            {"action": "remove", "ids": [failed.pk], "at": None},
            content_type="application/json",
        )

        assert (response.status_code, response.json()["success"]) == (403, False)
        assert "CSRF" in response.json()["error"]
        assert FailedOrder.objects.get().status == "pending_retry"
        assert exchanges.all_calls() == 0

    def test_are_open_with_it(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)
        client = Client(enforce_csrf_checks=True)
        client.force_login(follower.strategy.user)
        client.get("/positions")
        token = client.cookies["csrftoken"].value

        response = client.post(f"{URL}/{failed.pk}/retry", headers={"X-CSRFToken": token})

        assert (response.status_code, response.json()["success"]) == (200, True)

    @pytest.mark.parametrize(
        ("method", "path"), [("delete", "/{id}"), ("post", "/{id}/retry"), ("post", "/{id}/schedule")]
    )
    def test_say_the_same_of_somebody_elses_and_of_what_does_not_exist(
        self, owner: Client, theirs: StrategyAccount, exchanges: Exchanges, method: str, path: str
    ) -> None:
        other = make_failed(theirs)
        answers = []
        for one in (other.pk, other.pk + 1000, "9" * 40, "abc", "1.5", "-1", "٣"):
            response = getattr(owner, method)(
                URL + path.format(id=one), {"at": None}, content_type="application/json"
            )
            answers.append((response.status_code, response.json()))

        assert {status for status, _ in answers} == {404}
        assert all(body == answers[0][1] for _, body in answers)
        assert answers[0][1]["code"] == "not_found"
        other.refresh_from_db()
        assert (other.status, exchanges.all_calls()) == ("pending_retry", 0)

    def test_of_staff_reach_everybodys(
        self, client: Client, theirs: StrategyAccount, exchanges: Exchanges
    ) -> None:
        client.force_login(make_user("operator", is_staff=True))
        assert post(client, f"/{make_failed(theirs).pk}/retry")[0] == 200

    def test_know_which_methods_there_are(self, owner: Client, follower: StrategyAccount) -> None:
        assert owner.get(f"{URL}/{make_failed(follower).pk}/retry").status_code == 405


class TestRetry:
    def test_answers_with_the_exchanges_order_id(
        self, owner: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)

        status, body = post(owner, f"/{failed.pk}/retry")

        order_id = Placement.objects.get(number=2).exchange_order_id
        assert (status, body) == (200, {"success": True, "order_id": order_id})
        assert OrderEvent.objects.get(type="RETRY").data["by"] == "trader"
        assert post(owner, f"/{failed.pk}/retry")[0] == 404

    def test_is_400_with_the_reason(
        self, owner: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)
        exchanges.of(follower).fail(next_client_id(failed), NO_MONEY)

        status, body = post(owner, f"/{failed.pk}/retry")

        assert (status, body["success"], body["error"]) == (400, False, NO_MONEY.message)
        again = FailedOrder.objects.get()
        OrderIntent.objects.update(retry_count=5)
        status, body = post(owner, f"/{again.pk}/retry")
        assert (status, body["code"]) == (400, "retries_used_up")
        owner.delete(f"{URL}/{again.pk}")
        status, body = post(owner, f"/{again.pk}/retry")
        assert (status, body["code"]) == (400, "removed")

    def test_is_not_there_for_an_order_whose_outcome_is_unknown(
        self, owner: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = unknown_for_long(follower)

        for one in (placement.intent.uid, placement.intent_id, "null"):
            assert post(owner, f"/{one}/retry")[0] == 404

        assert OpenOrder.objects.get().status == "SUBMITTING"
        assert exchanges.all_calls() == 0


class TestBulk:
    def test_gives_results_by_id_in_their_order(
        self, owner: Client, follower: StrategyAccount, theirs: StrategyAccount
    ) -> None:
        good, other = make_failed(follower), make_failed(theirs)

        status, body = post(owner, "/bulk", {"action": "retry", "ids": [other.pk, good.pk, 99999, good.pk]})

        assert (status, body["success"], body["succeeded"], body["failed"]) == (200, True, 1, 2)
        assert [one["id"] for one in body["results"]] == [other.pk, good.pk, 99999]
        assert [one["status"] for one in body["results"]] == [404, 200, 404]
        assert body["results"][0] | {"id": 99999} == body["results"][2]
        assert body["results"][1]["order_id"]

    def test_removes(self, owner: Client, follower: StrategyAccount, exchanges: Exchanges) -> None:
        rows = [make_failed(follower) for _ in range(3)]

        status, body = post(owner, "/bulk", {"action": "remove", "ids": [row.pk for row in rows]})

        assert (status, body["succeeded"]) == (200, 3)
        assert set(FailedOrder.objects.values_list("status", flat=True)) == {FailedStatus.REMOVED}
        assert exchanges.all_calls() == 0

    @pytest.mark.parametrize(
        ("body", "fields"),
        [
            ({}, ["action", "ids"]),
            ({"action": "sell", "ids": "all"}, ["action", "ids"]),
            ({"action": "remove", "ids": []}, ["ids"]),
            ({"action": "remove", "ids": list(range(1, 102))}, ["ids"]),
            ({"action": "remove", "ids": [1, "2", True, None, 0, 2**63]}, [f"ids.{n}" for n in range(1, 6)]),
            ({"action": "remove", "ids": [1], "force": True}, ["force"]),
            ([1, 2], ["body"]),
        ],
    )
    def test_does_nothing_when_anything_is_nonsense(
        self, owner: Client, follower: StrategyAccount, body: Any, fields: list[str]
    ) -> None:
        make_failed(follower)

        status, answer = post(owner, "/bulk", body)

        assert (status, answer["success"], answer["code"]) == (400, False, "invalid_request")
        assert [fault["field"] for fault in answer["errors"]] == fields
        assert FailedOrder.objects.get().status == "pending_retry"

    @pytest.mark.parametrize("text", ["{nonsense", "[" * 2000, r'{"\ud800": 1}'])
    def test_is_400_for_what_is_no_json_that_can_be_used(self, owner: Client, text: str) -> None:
        response = owner.post(f"{URL}/bulk", text, content_type="application/json")
        assert (response.status_code, response.json()["code"]) == (400, "parse_error")

    def test_takes_a_hundred(self, owner: Client, follower: StrategyAccount) -> None:
        make_failed(follower)
        status, body = post(owner, "/bulk", {"action": "remove", "ids": list(range(10_001, 10_101))})
        assert (status, body["success"], body["failed"]) == (200, False, 100)


class TestSchedule:
    def test_keeps_the_time_and_takes_it_back(self, owner: Client, follower: StrategyAccount) -> None:
        failed = make_failed(follower)
        at = (database_now() + timedelta(hours=1)).replace(microsecond=0)

        status, body = post(owner, f"/{failed.pk}/schedule", {"at": at.isoformat()})

        assert (status, body["next_retry_at"]) == (200, at.isoformat().replace("+00:00", "Z"))
        assert get(owner)[1]["orders"][0]["next_retry_at"] == body["next_retry_at"]
        assert post(owner, f"/{failed.pk}/schedule", {"at": None}) == (
            200,
            {"success": True, "next_retry_at": None},
        )
        failed.refresh_from_db()
        assert failed.next_retry_at is None

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"at": "2020-01-01T00:00:00Z"}, "future"),
            ({"at": "9999-01-01T00:00:00Z"}, "30 days"),
            ({"at": "2026-07-21T12:00:00"}, "time zone"),
            ({"at": "tomorrow"}, "at:"),
            ({"at": 5}, "at:"),
            ({}, "required"),
            ({"at": None, "then": 1}, "then"),
        ],
    )
    def test_is_400_for_a_time_that_cannot_be(
        self, owner: Client, follower: StrategyAccount, body: Any, words: str
    ) -> None:
        failed = make_failed(follower)

        status, answer = post(owner, f"/{failed.pk}/schedule", body)

        assert (status, answer["success"]) == (400, False)
        assert words in answer["error"]
        failed.refresh_from_db()
        assert failed.next_retry_at is None


def exported(client: Client, **query: str) -> list[dict[str, str]]:
    response = client.get(f"{URL}/export.csv", query)
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/csv")
    text = b"".join(response.streaming_content).decode()  # type: ignore[attr-defined]
    return list(csv.DictReader(io.StringIO(text, newline="")))


class TestExport:
    def test_has_the_lists_rows_and_filters(
        self, owner: Client, follower: StrategyAccount, theirs: StrategyAccount
    ) -> None:
        make_failed(theirs)
        btc = make_failed(follower, quantity=Decimal("0.10"))
        make_failed(follower, symbol="ETH/USDT")
        unknown_for_long(follower)

        rows = exported(owner)
        assert [row["status"] for row in rows] == ["resolving", "pending_retry", "pending_retry"]
        (row,) = exported(owner, symbol="BTC/USDT", status="pending_retry")
        assert (row["id"], row["quantity"], row["reason"]) == (str(btc.pk), "0.1", "Insufficient balance")
        assert (row["stop_price"], row["next_retry_at"]) == ("", "")

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
    def test_runs_nothing_in_a_spreadsheet(
        self, owner: Client, follower: StrategyAccount, start: str
    ) -> None:
        make_failed(follower)
        words = f'{start}HYPERLINK("http://evil","x"),\r\n=2'
        FailedOrder.objects.update(exchange_error=words, webhook_id=start)

        (row,) = exported(owner)

        assert (row["exchange_error"], row["webhook_id"]) == (f"'{words}", f"'{start}")

    def test_is_read_from_the_database_as_it_is_sent(self, owner: Client, follower: StrategyAccount) -> None:
        make_failed(follower)
        response = owner.get(f"{URL}/export.csv")
        assert response.streaming is True
        lines = iter(response.streaming_content)  # type: ignore[attr-defined]
        with Queries() as before:
            assert next(lines).startswith(b"id,uid,created_at,")
        with Queries() as after:
            assert NO_MONEY.message.encode() in next(lines)
        assert (before.count, after.count) == (0, 2)  # the unresolved and the failed
        response.close()
        assert list(lines) == []  # the database's cursor is closed with it

    def test_names_every_fault_of_its_filters(self, owner: Client) -> None:
        response = owner.get(f"{URL}/export.csv", {"page": "1", "status": "x"})
        assert [fault["field"] for fault in response.json()["errors"]] == ["status", "page"]


@pytest.mark.django_db(transaction=True)
class TestExportOverAsgi:
    async def test_streams(self, exchanges: Exchanges) -> None:
        follower = await elsewhere(make_follower)
        await elsewhere(lambda: make_failed(follower))
        client = AsyncClient()
        await elsewhere(lambda: client.force_login(follower.strategy.user))

        response = await client.get(f"{URL}/export.csv")

        assert response.is_async is True  # type: ignore[attr-defined]
        text = b"".join([block async for block in response.streaming_content])  # type: ignore[attr-defined]
        assert NO_MONEY.message.encode() in text
        await sync_to_async(connections.close_all)()  # of the thread that served it


class TestStats:
    def test_counts(self, owner: Client, follower: StrategyAccount, theirs: StrategyAccount) -> None:
        today = database_now().astimezone(UTC)
        btc, eth = make_failed(follower), make_failed(follower, symbol="ETH/USDT")
        old = make_failed(follower)
        make_failed(theirs)
        FailedOrder.objects.filter(pk=eth.pk).update(created_at=today - timedelta(days=1), reason="Other")
        FailedOrder.objects.filter(pk=old.pk).update(created_at=today - timedelta(days=40))
        owner.delete(f"{URL}/{btc.pk}")
        make_placement(follower, home=Home.DONE)

        status, body = get(owner, "/stats", days=30)

        assert (status, body["success"], body["days"], body["total"]) == (200, True, 30, 2)
        assert body["by_reason"] == [
            {"reason": "Insufficient balance", "count": 1},
            {"reason": "Other", "count": 1},
        ]
        assert body["by_error_type"] == [{"error_type": "insufficient_balance", "count": 2}]
        assert body["by_symbol"] == [{"symbol": "BTC/USDT", "count": 1}, {"symbol": "ETH/USDT", "count": 1}]
        assert len(body["by_day"]) == 30
        assert body["by_day"][-1] == {"day": today.date().isoformat(), "count": 1}
        assert body["by_day"][-2]["count"] == 1

    def test_gives_each_strategys_rate_of_success(self, owner: Client, follower: StrategyAccount) -> None:
        make_failed(follower)
        for home, status in ((Home.DONE, ""), (Home.EXCHANGE, "NEW"), (Home.EXCHANGE, "SUBMITTING")):
            placement = make_placement(follower, home=home)
            if status:
                OpenOrder.objects.filter(placement=placement).update(status=status)
            else:
                OpenOrder.objects.filter(placement=placement).delete()
        WebhookDelivery.objects.update(received_at=database_now())

        _, body = get(owner, "/stats")

        assert body["strategies"] == [
            {"strategy": "test1", "orders": 4, "succeeded": 2, "failed": 1, "success_rate": "66.67"}
        ]

    @pytest.mark.parametrize("days", ["0", "366", "-1", "many", "1.5"])
    def test_is_400_for_days_that_cannot_be(self, owner: Client, days: str) -> None:
        status, body = get(owner, "/stats", days=days)
        assert (status, [fault["field"] for fault in body["errors"]]) == (400, ["days"])

    def test_costs_the_same_for_one_and_for_many(self, owner: Client, follower: StrategyAccount) -> None:
        counts = []
        for _ in range(2):
            for number in range(5):
                FailedOrder.objects.filter(pk=make_failed(follower).pk).update(reason=f"{number}")
            with Queries() as queries:
                assert get(owner, "/stats")[0] == 200
            counts.append(queries.count)
        assert counts[1] <= counts[0]


def test_a_retried_order_lives_on_under_its_uid(
    owner: Client, follower: StrategyAccount, exchanges: Exchanges
) -> None:
    failed = make_failed(follower)
    post(owner, f"/{failed.pk}/retry")
    assert intent_of(failed).uid == failed.uid
    assert listed(owner) == []


class TestAdmin:
    @pytest.fixture
    def operator(self, client: Client) -> Client:
        client.force_login(User.objects.create_superuser("operator", password="the-operators-word"))
        return client

    def act(self, client: Client, action: str, *failed: FailedOrder, **more: str) -> Any:
        body = {"action": action, "_selected_action": [one.pk for one in failed]} | more
        return client.post("/admin/orders/failedorder/", body, follow=True)

    def test_retries_after_a_question(
        self, operator: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        good, used_up = make_failed(follower), make_failed(follower)
        OrderIntent.objects.filter(pk=used_up.intent_id).update(retry_count=5)

        asked = self.act(operator, "retry", good, used_up)
        assert ("Retry failed orders?" in asked.content.decode(), exchanges.all_calls()) == (True, 0)
        done = self.act(operator, "retry", good, used_up, confirmed="yes", reason="margin is back")

        assert intent_of(good).home == Home.EXCHANGE
        assert f"#{used_up.pk}: All 5 retries are used up" in done.content.decode()
        assert OrderEvent.objects.get(type="RETRY").data["by"] == "operator"
        logged = LogEntry.objects.values_list("change_message", flat=True)
        assert list(logged) == ["Retry failed orders: margin is back"] * 2

    def test_removes_after_a_question(
        self, operator: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)

        self.act(operator, "remove", failed)
        assert FailedOrder.objects.get().status == "pending_retry"
        self.act(operator, "remove", failed, confirmed="yes", reason="")

        assert FailedOrder.objects.get().status == "removed"
        assert (OrderEvent.objects.get(type="REMOVED").data["by"], exchanges.all_calls()) == ("operator", 0)

    def test_does_nothing_for_staff_that_may_only_look(
        self, client: Client, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)
        staff = make_user("looker", is_staff=True)
        staff.user_permissions.add(Permission.objects.get(codename="view_failedorder"))
        client.force_login(staff)

        for action in ("retry", "remove"):
            self.act(client, action, failed, confirmed="yes", reason="")

        failed.refresh_from_db()
        assert (failed.status, exchanges.all_calls()) == ("pending_retry", 0)
