from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from orders.models import EventType, OpenOrder, OrderEvent, StrategyAccount, StrategyPosition
from orders.states import OrderStatus
from orders.tests.rows import (
    log_event,
    make_failed_order,
    make_open_order,
    make_position,
    make_strategy_account,
    make_user,
    set_price,
)
from tracking import consumers, event_log
from tradehub.asgi import application

pytestmark = pytest.mark.django_db(transaction=True)

Frame = dict[str, Any]
in_database = sync_to_async
ORIGIN = b"http://localhost"
PATIENCE = 20  # seconds, for a machine that has other things to do


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps, taken faster."""
    monkeypatch.setattr(consumers, "LOOK_SECONDS_WITHOUT_BELL", 0.05)
    monkeypatch.setattr(consumers, "REST_SECONDS", 0.01)


@pytest.fixture
def owner(transactional_db: None) -> StrategyAccount:
    return make_strategy_account()


def _session_of(user: User) -> str:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client.cookies[settings.SESSION_COOKIE_NAME].value


class Page:
    """The browser's side: takes frames and answers each."""

    def __init__(self, socket: WebsocketCommunicator) -> None:
        self.socket = socket

    async def frame(self, *, answer: bool = True) -> Frame:
        frame: Frame = await self.socket.receive_json_from(timeout=PATIENCE)
        if answer:
            await self.socket.send_json_to({"ack": frame["frame"]})
        return frame

    async def until(self, condition: Callable[[Frame], bool]) -> Frame:
        """Take frames until one fulfils the condition; the last one taken is returned."""
        async with asyncio.timeout(PATIENCE):
            while not condition(frame := await self.frame()):
                pass
        return frame

    async def closed_with(self) -> int:
        async with asyncio.timeout(PATIENCE):
            while (message := await self.socket.receive_output(timeout=PATIENCE))[
                "type"
            ] != "websocket.close":
                pass
        return int(message["code"])


def socket_for(session: str | None, query: str = "", origin: bytes = ORIGIN) -> WebsocketCommunicator:
    headers = [(b"origin", origin), (b"host", b"localhost")]
    if session:
        headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={session}".encode()))
    return WebsocketCommunicator(application, f"/ws/positions/?{query}", headers=headers)


@asynccontextmanager
async def page_of(user: User, query: str = "") -> AsyncIterator[Page]:
    socket = socket_for(await in_database(_session_of)(user), query)
    connected, _ = await socket.connect(timeout=PATIENCE)
    assert connected
    try:
        yield Page(socket)
    finally:
        await socket.disconnect(timeout=PATIENCE)


def event_ids(frame: Frame) -> list[int]:
    return [event["id"] for event in frame["events"]]


def html_at(frame: Frame, at: str) -> str:
    return "".join(step["html"] for step in frame["steps"] if step["at"] == at)


class TestConnecting:
    async def test_gives_a_snapshot_with_the_id_of_the_last_event(self, owner: StrategyAccount) -> None:
        order = await in_database(make_open_order)(owner)
        await in_database(make_failed_order)(owner)
        await in_database(make_position)(owner)
        first = await in_database(log_event)(owner, intent=order.intent)
        second = await in_database(log_event)(owner, intent=order.intent)

        async with page_of(owner.strategy.user) as page:
            frame = await page.frame()

        assert (frame["kind"], frame["last_id"]) == ("snapshot", second.pk)
        assert event_ids(frame) == [first.pk, second.pk]
        assert f'id="order-{order.pk}"' in html_at(frame, "orders-rows")
        assert 'id="failed-' in html_at(frame, "failed-rows")
        assert 'id="position-' in html_at(frame, "positions-rows")
        assert html_at(frame, "orders-count") == "1"

    async def test_refuses_a_stranger(self, owner: StrategyAccount) -> None:
        connected, _ = await socket_for(None).connect(timeout=PATIENCE)

        assert connected is False

    @pytest.mark.parametrize("origin", [b"http://evil.example", b"http://localhost.evil.example", b"null"])
    async def test_refuses_another_sites_page(self, owner: StrategyAccount, origin: bytes) -> None:
        session = await in_database(_session_of)(owner.strategy.user)

        connected, _ = await socket_for(session, origin=origin).connect(timeout=PATIENCE)

        assert connected is False

    async def test_speaks_the_pages_language(self, owner: StrategyAccount) -> None:
        await in_database(make_open_order)(owner)

        async with page_of(owner.strategy.user, "lang=ko") as page:
            frame = await page.frame()

        assert "매수" in html_at(frame, "orders-rows")


class TestFollowing:
    async def test_brings_events_in_order_and_the_rows_they_changed(self, owner: StrategyAccount) -> None:
        async with page_of(owner.strategy.user) as page:
            await page.frame()
            order = await in_database(make_open_order)(owner)
            events = [await in_database(log_event)(owner, intent=order.intent) for _ in range(3)]

            told: list[int] = []
            steps: list[Frame] = []
            while len(told) < 3:
                frame = await page.frame()
                told += event_ids(frame)
                steps += frame["steps"]

        assert told == [event.pk for event in events]
        assert frame["last_id"] == events[-1].pk
        added = [step for step in steps if step["at"] == "orders-rows"]
        assert [step["do"] for step in added] == ["first"]
        assert f'id="order-{order.pk}"' in added[0]["html"]

    async def test_changes_a_row_and_takes_it_away_when_its_order_ends(self, owner: StrategyAccount) -> None:
        order = await in_database(make_open_order)(owner)

        async with page_of(owner.strategy.user) as page:
            await page.frame()
            order.intent.filled_quantity, order.status = Decimal("0.25"), OrderStatus.PARTIALLY_FILLED
            await in_database(order.intent.save)()
            await in_database(order.save)()
            await in_database(log_event)(owner, intent=order.intent, type=EventType.PARTIALLY_FILLED)
            changed = await page.until(lambda frame: bool(frame["events"]))
            await in_database(OpenOrder.objects.filter(pk=order.pk).delete)()
            await in_database(log_event)(owner, intent=order.intent, type=EventType.FILLED)
            gone = await page.until(lambda frame: bool(frame["events"]))

        [swap] = [step for step in changed["steps"] if step["at"] == f"order-{order.pk}"]
        assert swap["do"] == "swap"
        assert 'value="50"' in swap["html"]
        assert {"do": "remove", "at": f"order-{order.pk}", "html": ""} in gone["steps"]
        assert html_at(gone, "orders-count") == "0"

    async def test_tells_an_event_that_commits_after_a_later_one(
        self, owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As on PostgreSQL, where an id is taken before its transaction commits.
        monkeypatch.setattr(event_log, "look_back", lambda: event_log.LOOK_BACK)
        async with page_of(owner.strategy.user) as page:
            await page.frame()
            slow, fast = await in_database(log_event)(owner), await in_database(log_event)(owner)
            slow_id, created_at = slow.pk, timezone.now()
            await in_database(OrderEvent.objects.filter(pk=slow_id).delete)()
            await page.until(lambda frame: fast.pk in event_ids(frame))
            await in_database(log_event)(owner, id=slow_id, created_at=created_at)

            frame = await page.until(lambda frame: bool(frame["events"]))

        assert event_ids(frame) == [slow_id]
        assert frame["last_id"] == fast.pk

    async def test_shows_nobody_elses_rows_or_events(self, owner: StrategyAccount) -> None:
        other = await in_database(make_strategy_account)(
            user=await in_database(make_user)("other"), group_name="secret-plan"
        )

        async with page_of(
            owner.strategy.user, f"user={other.strategy.user_id}&strategy_account={other.pk}"
        ) as page:
            frames = [await page.frame()]
        async with page_of(owner.strategy.user) as page:
            frames.append(await page.frame())
            await in_database(make_open_order)(other)
            await in_database(log_event)(other)
            await in_database(log_event)(other, user_id=None)  # the operators' own
            mine = await in_database(log_event)(owner)
            frames.append(await page.until(lambda frame: bool(frame["events"])))

        assert event_ids(frames[-1]) == [mine.pk]
        assert "secret-plan" not in json.dumps(frames)

    async def test_shows_staff_everything_or_what_they_filter(self, owner: StrategyAccount) -> None:
        staff = await in_database(make_user)("operator", is_staff=True)
        other = await in_database(make_strategy_account)(
            user=await in_database(make_user)("other"), group_name="other"
        )
        await in_database(make_open_order)(owner)
        await in_database(make_open_order)(other)

        async with page_of(staff) as page:
            everything = await page.frame()
        async with page_of(staff, f"user={other.strategy.user_id}") as page:
            filtered = await page.frame()

        assert html_at(everything, "orders-count") == "2"
        assert html_at(filtered, "orders-count") == "1"
        assert "test1" not in html_at(filtered, "orders-rows")

    async def test_moves_unrealised_profit_with_the_price_and_says_nothing_else(
        self, owner: StrategyAccount
    ) -> None:
        position: StrategyPosition = await in_database(make_position)(
            owner, quantity=Decimal(2), average_price=Decimal(100)
        )
        await in_database(set_price)("110", seen_at=timezone.now())

        async with page_of(owner.strategy.user) as page:
            snapshot = await page.frame()
            await in_database(set_price)("115", seen_at=timezone.now())
            frame = await page.until(lambda frame: frame["kind"] == "news")

        assert "+20.00" in html_at(snapshot, "positions-rows")
        assert {step["at"] for step in frame["steps"]} == {f"position-{position.pk}", "summary"}
        assert "+30.00" in html_at(frame, f"position-{position.pk}")
        assert frame["events"] == []

    async def test_escapes_the_words_of_an_exchange(self, owner: StrategyAccount) -> None:
        bad = "<script>alert(1)</script><img src=x onerror=alert(2)>"
        await in_database(make_failed_order)(owner, exchange_error=bad, reason=bad[:100])
        await in_database(log_event)(owner, message=bad)

        async with page_of(owner.strategy.user) as page:
            frame = await page.frame()

        shown = html_at(frame, "failed-rows") + frame["events"][0]["html"]
        assert "<script" not in shown
        assert "<img" not in shown
        assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3


class TestFailedFilter:
    async def test_is_read_from_the_address_and_changed_by_a_message(self, owner: StrategyAccount) -> None:
        bitcoin = await in_database(make_failed_order)(owner)
        ether = await in_database(make_failed_order)(owner, symbol="ETH/USDT")

        async with page_of(owner.strategy.user, "symbol=ETH/USDT") as page:
            first = await page.frame()
            text = json.dumps({"failed": {"symbol": "BTC/USDT"}})
            await page.socket.send_input({"type": "websocket.receive", "text": text})
            changed = await page.until(lambda frame: bool(html_at(frame, "failed-rows")))

        assert f"failed-{ether.pk}" in html_at(first, "failed-rows")
        assert f"failed-{bitcoin.pk}" not in html_at(first, "failed-rows")
        assert [step["at"] for step in changed["steps"] if step["do"] == "remove"] == [f"failed-{ether.pk}"]
        assert f"failed-{bitcoin.pk}" in html_at(changed, "failed-rows")

    async def test_shows_nobody_elses_rows(self, owner: StrategyAccount) -> None:
        other = await in_database(make_strategy_account)(
            user=await in_database(make_user)("other"), group_name="secret-plan"
        )
        await in_database(make_failed_order)(other)

        async with page_of(owner.strategy.user, f"strategy_account_id={other.pk}") as page:
            frame = await page.frame()

        assert "secret-plan" not in json.dumps(frame)

    @pytest.mark.parametrize(
        "asked",
        [None, [], "x", {"user_id": "1"}, {"status": "removed"}, {"symbol": 1}, {"symbol": ["BTC/USDT"]}],
    )
    async def test_that_no_page_of_ours_would_send_ends_the_connection(
        self, owner: StrategyAccount, asked: object
    ) -> None:
        async with page_of(owner.strategy.user) as page:
            await page.frame()
            text = json.dumps({"failed": asked})
            await page.socket.send_input({"type": "websocket.receive", "text": text})

            assert await page.closed_with() == consumers.BAD_MESSAGE


class TestResuming:
    async def test_gets_what_was_missed_and_the_state_of_now(self, owner: StrategyAccount) -> None:
        seen = await in_database(log_event)(owner)
        missed = [await in_database(log_event)(owner) for _ in range(2)]
        await in_database(make_open_order)(owner)

        async with page_of(owner.strategy.user, f"last={seen.pk}") as page:
            frame = await page.frame()

        assert (frame["kind"], frame["last_id"]) == ("resumed", missed[-1].pk)
        assert [id for id in event_ids(frame) if id > seen.pk] == [event.pk for event in missed]
        assert html_at(frame, "orders-count") == "1"

    async def test_gets_a_snapshot_when_too_far_behind(
        self, owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = await in_database(log_event)(owner)
        for _ in range(4):
            last = await in_database(log_event)(owner)
        monkeypatch.setattr(event_log, "MAX_BEHIND", 3)

        async with page_of(owner.strategy.user, f"last={seen.pk}") as page:
            frame = await page.frame()

        assert (frame["kind"], frame["last_id"]) == ("snapshot", last.pk)

    @pytest.mark.parametrize("last", ["999999999", "-1", "abc", "9" * 40, "1%00"])
    async def test_gets_a_snapshot_for_an_id_that_makes_no_sense(
        self, owner: StrategyAccount, last: str
    ) -> None:
        await in_database(log_event)(owner)

        async with page_of(owner.strategy.user, f"last={last}") as page:
            frame = await page.frame()

        assert frame["kind"] == "snapshot"

    async def test_can_be_repeated_over_lost_connections_without_losing_an_event(
        self, owner: StrategyAccount
    ) -> None:
        told: list[int] = []
        query = ""
        for _ in range(3):
            made = [(await in_database(log_event)(owner)).pk for _ in range(2)]
            async with page_of(owner.strategy.user, query) as page:
                frame = await page.frame()
            told += [id for id in event_ids(frame) if id not in told]
            query = f"last={frame['last_id']}"
            assert told[-2:] == made
        assert told == sorted(told)
        assert len(told) == 6


class TestSlowPages:
    async def test_are_dropped_when_they_answer_nothing(
        self, owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumers, "MAX_UNANSWERED", 3)
        async with page_of(owner.strategy.user) as page:
            for _ in range(3):
                await in_database(log_event)(owner)
                await page.frame(answer=False)
            await in_database(log_event)(owner)

            assert await page.closed_with() == consumers.TRY_AGAIN

    async def test_are_dropped_when_an_answer_takes_too_long(
        self, owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumers, "ANSWER_SECONDS", 0.2)
        monkeypatch.setattr(consumers, "STILL_SECONDS", 0.05)
        async with page_of(owner.strategy.user) as page:
            assert await page.closed_with() == consumers.TRY_AGAIN

    async def test_do_not_hold_up_others(self, owner: StrategyAccount) -> None:
        async with page_of(owner.strategy.user), page_of(owner.strategy.user) as quick:
            await quick.frame()  # the other one takes nothing at all
            event = await in_database(log_event)(owner)

            assert event_ids(await quick.until(lambda frame: bool(frame["events"]))) == [event.pk]


class TestStaying:
    async def test_is_proved_by_empty_frames_while_nothing_happens(
        self, owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumers, "STILL_SECONDS", 0.05)
        async with page_of(owner.strategy.user) as page:
            await page.frame()
            frame = await page.frame()

        assert (frame["kind"], frame["events"], frame["steps"]) == ("still", [], [])

    @pytest.mark.parametrize(
        "message", ["", "no json", "{}", '{"ack": "x"}', "[1]", "null", '{"ack": 1' + " " * 1100 + "}"]
    )
    async def test_ends_with_a_message_that_makes_no_sense(
        self, owner: StrategyAccount, message: str
    ) -> None:
        async with page_of(owner.strategy.user) as page:
            await page.frame()
            await page.socket.send_input({"type": "websocket.receive", "text": message})

            assert await page.closed_with() == consumers.BAD_MESSAGE

    @pytest.mark.parametrize("what", ["logged out", "switched off", "no longer staff"])
    async def test_ends_when_the_login_does(
        self, owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        monkeypatch.setattr(consumers, "ALLOWED_SECONDS", 0.05)
        staff: User = await in_database(make_user)("operator", is_staff=True)
        async with page_of(staff) as page:
            await page.frame()
            if what == "logged out":
                await in_database(Session.objects.all().delete)()
            else:
                field = "is_active" if what == "switched off" else "is_staff"
                await in_database(User.objects.filter(pk=staff.pk).update)(**{field: False})

            assert await page.closed_with() == consumers.NOT_ALLOWED

    async def test_sees_an_order_become_resolving_as_time_goes_by(
        self, owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tracking.live.CLOCK_EVERY", timedelta(seconds=0.1))
        sent_at = timezone.now() - timedelta(seconds=4.5)
        order = await in_database(make_open_order)(owner, status=OrderStatus.SUBMITTING, submitted_at=sent_at)
        async with page_of(owner.strategy.user) as page:
            snapshot = await page.frame()
            frame = await page.until(lambda frame: bool(html_at(frame, "failed-rows")))

        assert html_at(snapshot, "failed-count") == "0"
        assert f'id="resolving-{order.pk}"' in html_at(frame, "failed-rows")
