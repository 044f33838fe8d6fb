"""Orders placed by hand: shown, counted against the caps, and never touched, whoever cancels or tidies up."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings
from ulid import ULID

from exchanges import access, runtime
from exchanges.adapters.testing import make_request
from exchanges.adapters.types import OrderRef, OrderReport
from orders.models import Book, EventType, OpenOrder, OrderEvent, PendingOrder, TradeExecution
from orders.selectors import Visible
from orders.services.kill_switches import Scope, kill_switches_set, orders_cancel
from orders.services.queue import sweep
from orders.tests.conftest import _nothing_remembered
from orders.tests.factories import limit
from tracking.models import OrderTrackingSession, SessionStatus
from tracking.reconciliation import reconcile_account
from tracking.selectors import external_orders
from tracking.tests.making import make_account, wait_until
from tracking.tests.running import streams_process
from tracking.tests.test_queue_cases import Desk, desk

__all__ = ["_nothing_remembered", "desk"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(90)]
STOP = {"order_type": "STOP_LIMIT", "stop_price": Decimal(99000), "price": Decimal(99500)}


def by_hand(desk: Desk, client_order_id: str, **fields: Any) -> str:
    """Place an order past our records; return the exchange's id."""
    exchange = access.exchange_for(desk.main.account, "FUTURES")
    request = make_request(
        client_order_id, **({"price": Decimal(80_000), "quantity": Decimal("0.5")} | fields)
    )
    (placed,) = runtime.run(exchange.place_orders([request]), timeout=5)
    assert isinstance(placed, OrderReport), placed
    return placed.exchange_order_id


def cancel_by_hand(desk: Desk, order_id: str) -> None:
    exchange = access.exchange_for(desk.main.account, "FUTURES")
    ref = OrderRef(symbol="BTC/USDT", exchange_order_id=order_id)
    runtime.run(exchange.cancel_orders([ref]), timeout=5)


def reconcile(desk: Desk) -> None:
    assert reconcile_account(account_id=desk.main.account_id, market_type="FUTURES").errors == []


def shown(user_id: int | None = None) -> list[str]:
    rows = external_orders(Visible(user_id=user_id), now=timezone.now())
    return [row.client_order_id for row in rows]


def status(desk: Desk, client_order_id: str) -> str:
    found: str = desk.simulator.order(client_order_id)["status"]
    return found


@pytest.fixture
def followed(desk: Desk) -> Iterator[Desk]:
    with streams_process():
        wait_until(
            lambda: OrderTrackingSession.objects.filter(
                status=SessionStatus.CONNECTED, last_reconciled_at__isnull=False
            ).exists()
        )
        yield desk


class TestAreShown:
    def test_with_what_they_are_until_they_end(self, desk: Desk) -> None:
        order_id = by_hand(desk, "web_1")
        reconcile(desk)

        (row,) = external_orders(Visible(user_id=desk.main.strategy.user_id), now=timezone.now())
        assert (row.symbol, row.side, row.order_type, row.status) == ("BTC/USDT", "BUY", "LIMIT", "NEW")
        assert (row.price, row.quantity, row.is_strange) == (Decimal(80_000), Decimal("0.5"), False)
        assert (row.account, row.exchange_order_id) == (desk.main.account.name, order_id)

        cancel_by_hand(desk, order_id)
        reconcile(desk)

        assert shown() == []
        events = OrderEvent.objects.filter(type=EventType.EXTERNAL).order_by("pk")
        assert [(one.before, one.after) for one in events] == [("", "NEW"), ("NEW", "")]
        reconcile(desk)
        assert events.count() == 2

    def test_again_when_the_exchange_lists_one_that_was_taken_for_gone(self, desk: Desk) -> None:
        by_hand(desk, "web_1")
        reconcile(desk)
        desk.simulator.add_fault("status", status=200, body="[]", match={"path": "/fapi/v1/openOrders"})
        reconcile(desk)
        assert shown() == []
        reconcile(desk)
        assert shown() == ["web_1"]

    def test_to_those_whose_account_it_is_alone(self, desk: Desk) -> None:
        by_hand(desk, "web_1")
        reconcile(desk)
        assert shown(desk.main.strategy.user_id) == ["web_1"]
        assert shown(make_account().user_id) == []
        assert shown(None) == ["web_1"]

    def test_on_the_page_as_external(self, desk: Desk, client: Client) -> None:
        by_hand(desk, "web_1")
        by_hand(desk, f"th{ULID()}0001", price=Decimal(81_000))
        reconcile(desk)
        client.force_login(desk.main.strategy.user)

        page = client.get("/positions").content.decode()

        assert '<span class="tag external">external</span>' in page
        assert "80,000" in page or "80000" in page
        assert "has an id of our shape that this installation never made" in page
        korean = client.get("/positions", headers={"accept-language": "ko"}).content.decode()
        assert "외부 주문" in korean

    def test_within_seconds_by_the_stream_and_gone_likewise(self, followed: Desk) -> None:
        order_id = by_hand(followed, "web_1")
        wait_until(lambda: shown() == ["web_1"], seconds=5)
        cancel_by_hand(followed, order_id)
        wait_until(lambda: shown() == [], seconds=5)
        ended = OrderEvent.objects.filter(type=EventType.EXTERNAL).latest("pk")
        assert ended.after == "CANCELED"


class TestCountAgainstTheCaps:
    def test_from_the_moment_the_stream_tells_of_them(self, followed: Desk) -> None:
        followed.post(limit(90_000, quantity="1"))
        by_hand(followed, "web_1")
        by_hand(followed, "web_2", **STOP)
        wait_until(lambda: sorted(shown()) == ["web_1", "web_2"], seconds=5)
        book = wait_until(
            lambda: Book.objects.filter(external_limit_orders=1, external_stop_orders=1).first(), seconds=5
        )
        assert book.symbol == "BTC/USDT"

    def test_so_that_ours_wait_and_move_up_when_one_has_gone(self, desk: Desk, settings: Settings) -> None:
        settings.QUEUE_LIMIT_CAP = 2
        order_id = by_hand(desk, "web_1")
        reconcile(desk)

        desk.post(limit(90_000, quantity="1"), limit(90_001, quantity="1"))
        assert [*map(int, desk.resting())] == [80_000, 90_001]
        assert [*map(int, desk.waiting())] == [90_000]

        cancel_by_hand(desk, order_id)
        reconcile(desk)
        assert [*map(int, desk.resting())] == [90_000, 90_001]
        assert desk.waiting() == []


class TestAreNeverTouched:
    def test_by_the_queue_whatever_comes(self, desk: Desk, settings: Settings) -> None:
        """Worse than all of ours, and above the cap: it stays where it is."""
        settings.QUEUE_LIMIT_CAP = 2
        for number in (1, 2, 3):
            by_hand(desk, f"web_{number}", price=Decimal(70_000 + number))
        reconcile(desk)
        desk.post(*(limit(90_000 + each, quantity="1") for each in range(4)))
        sweep()
        assert [status(desk, f"web_{number}") for number in (1, 2, 3)] == ["NEW"] * 3
        assert [*map(int, desk.resting())] == [70_001, 70_002, 70_003]
        assert PendingOrder.objects.count() == 4

    def test_by_cancel_all(self, desk: Desk) -> None:
        desk.post(limit(90_000, quantity="1"))
        by_hand(desk, "web_1")
        reconcile(desk)

        desk.post({"symbol": "BTC/USDT", "order_type": "CANCEL_ALL_ORDER"})

        assert OpenOrder.objects.exists() is False
        assert status(desk, "web_1") == "NEW"

    def test_by_the_kill_switchs_cancels(self, desk: Desk) -> None:
        desk.post(limit(90_000, quantity="1"))
        by_hand(desk, "web_1")
        reconcile(desk)

        ids = [desk.main.account_id]
        kill_switches_set(Scope.ACCOUNT, ids, engaged=True, by="operator", reason="drill")
        orders_cancel(Scope.ACCOUNT, ids)

        wait_until(lambda: not OpenOrder.objects.exists())
        assert status(desk, "web_1") == "NEW"

    def test_by_what_they_fill(self, desk: Desk) -> None:
        """A fill of theirs is told and changes nobody's position."""
        by_hand(desk, "web_1")
        reconcile(desk)
        desk.simulator.fill("web_1", quantity=Decimal("0.2"), exchange="binance-futures")
        reconcile(desk)
        assert TradeExecution.objects.exists() is False
        (row,) = external_orders(Visible(user_id=None), now=timezone.now())
        assert (row.filled_quantity, row.status) == (Decimal("0.2"), "PARTIALLY_FILLED")


class TestAnIdOfOurShape:
    def test_is_external_with_an_alarm(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        stray = f"th{ULID()}0001"
        by_hand(desk, stray)

        reconcile(desk)

        assert shown() == [stray]
        assert status(desk, stray) == "NEW"
        event = OrderEvent.objects.get(type=EventType.EXTERNAL)
        assert (event.data["alert"], event.message) == (
            True,
            "An order with an id of our shape that this installation never made",
        )
        assert "another installation, or a restored backup?" in caplog.text
        assert Book.objects.get(symbol="BTC/USDT").external_limit_orders == 1
