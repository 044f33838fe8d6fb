"""The webhook over HTTP: the bare ASGI application, as a server calls it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from pytest_django.fixtures import Settings

from exchanges import measures
from exchanges.adapters import exceptions as errors
from orders.models import DeliveryState, OpenOrder, OrderIntent, StrategyAccount, WebhookDelivery
from orders.services import intake
from orders.tests.factories import (
    LIMIT,
    MARKET,
    TOKEN,
    Exchanges,
    Gate,
    limit,
    make_follower,
    post,
    wait_until,
)
from orders.webhook import planning, views
from orders.webhook.views import webhook

pytestmark = pytest.mark.django_db(transaction=True)

Communicator: Any = ApplicationCommunicator  # it has no types
Answer = tuple[int, dict[str, str], dict[str, Any]]


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def scope(method: str = "POST", headers: dict[str, str] | None = None) -> dict[str, Any]:
    pairs = {"host": "localhost", "content-type": "text/plain"} | (headers or {})
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": "/api/webhook",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
        "client": ("203.0.113.7", 40000),
        "server": ("127.0.0.1", 8000),
    }


async def read(communicator: Any) -> Answer:
    start = await communicator.receive_output(20)
    body = b""
    while True:
        part = await communicator.receive_output(20)
        body += part.get("body", b"")
        if not part.get("more_body"):
            break
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, json.loads(body)


async def request(*chunks: bytes, **fields: Any) -> Answer:
    communicator = Communicator(webhook, scope(**fields))
    for number, chunk in enumerate(chunks or (b"",), start=1):
        more = number < len(chunks)
        await communicator.send_input({"type": "http.request", "body": chunk, "more_body": more})
    return await read(communicator)


def signed(payload: dict[str, Any]) -> bytes:
    return json.dumps(payload | {"token": TOKEN}).encode()


@pytest.fixture
async def gate(exchanges: Exchanges, follower: StrategyAccount) -> AsyncIterator[Gate]:
    """The exchange holds its answers until the gate opens."""
    gate = Gate()
    exchanges.of(follower).before_placing = gate
    yield gate
    gate.open()
    # What went on after its time-out ends before the tables are emptied under it.
    if (threads := views._threads) is not None:
        views._threads = None
        await sync_to_async(threads.shutdown)(wait=True)


class TestWebhook:
    async def test_is_answered_as_json_that_nobody_may_keep(self, follower: StrategyAccount) -> None:
        status, headers, body = await request(signed(LIMIT))

        assert (status, body["success"]) == (200, True)
        assert headers["content-type"] == "application/json"
        assert headers["cache-control"] == "no-store"

    async def test_takes_a_body_in_pieces_with_its_token_in_a_header(self, follower: StrategyAccount) -> None:
        text = json.dumps(LIMIT).encode()

        status, _, body = await request(
            text[:10], text[10:11], text[11:], headers={"X-Webhook-Token": TOKEN, "Idempotency-Key": "k1"}
        )

        assert (status, body["webhook_id"]) == (200, "k1")

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
    async def test_is_405_by_any_other_method(self, follower: StrategyAccount, method: str) -> None:
        status, headers, body = await request(signed(LIMIT), method=method)

        assert (status, headers["allow"], body["code"]) == (405, "POST", "method_not_allowed")
        assert not await sync_to_async(WebhookDelivery.objects.exists)()

    @pytest.mark.parametrize("declared", [True, False])
    async def test_of_a_megabyte_is_413_and_nothing_is_read_of_it(
        self, follower: StrategyAccount, exchanges: Exchanges, declared: bool
    ) -> None:
        megabyte = b'{"x": "' + b"x" * 1_000_000 + b'"}'
        headers = {"Content-Length": str(len(megabyte))} if declared else {}

        status, _, body = await request(megabyte[:500_000], megabyte[500_000:], headers=headers)

        assert (status, body["success"], body["code"]) == (413, False, "body_too_large")
        assert body["error"] == "The body is larger than 64 KiB."
        assert not await sync_to_async(WebhookDelivery.objects.exists)()
        assert exchanges.all_calls() == 0

    async def test_of_exactly_the_limit_is_read(self, follower: StrategyAccount, settings: Settings) -> None:
        body = signed(LIMIT | {"comment": ""})
        padded = body.replace(b'"comment": ""', b'"comment": "%s"' % (b"x" * (64 * 1024 - len(body))))
        assert len(padded) == settings.WEBHOOK_MAX_BODY_BYTES

        assert (await request(padded))[0] == 200

    async def test_of_a_sender_who_went_away_does_nothing(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        communicator = Communicator(webhook, scope())
        await communicator.send_input({"type": "http.request", "body": signed(LIMIT)[:20], "more_body": True})
        await communicator.send_input({"type": "http.disconnect"})
        await communicator.wait(10)

        assert await communicator.receive_nothing(0.05)
        assert not await sync_to_async(WebhookDelivery.objects.exists)()

    @pytest.mark.parametrize(
        ("proxies", "forwarded", "seen"),
        [
            ([], "198.51.100.1", "203.0.113.7"),  # whoever says so is no proxy of ours
            (["203.0.113.0/24"], "198.51.100.1", "198.51.100.1"),
            (["203.0.113.0/24"], "6.6.6.6, 198.51.100.1", "198.51.100.1"),
            (["203.0.113.0/24"], "198.51.100.1, 203.0.113.9", "198.51.100.1"),
        ],
    )
    async def test_is_recorded_with_the_address_that_our_proxies_vouch_for(
        self, follower: StrategyAccount, settings: Settings, proxies: list[str], forwarded: str, seen: str
    ) -> None:
        settings.TRUSTED_PROXIES = proxies

        await request(signed(LIMIT), headers={"X-Forwarded-For": forwarded})

        assert (await WebhookDelivery.objects.aget()).source_address == seen

    async def test_that_breaks_unforeseen_is_503_and_no_500(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(intake, "strategy_config", broken)

        assert (await request(signed(LIMIT)))[0] == 503
        assert exchanges.all_calls() == 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """The status and the seconds of every answer that was counted."""
    found: list[tuple[int, float]] = []
    monkeypatch.setattr(measures, "webhook", lambda *, status, seconds: found.append((status, seconds)))
    return found


class TestTimeOut:
    @pytest.fixture(autouse=True)
    def impatient(self, settings: Settings) -> None:
        settings.WEBHOOK_TIMEOUT_SECONDS = 0.4

    async def test_is_408_while_the_work_goes_on_and_its_answer_is_recorded(
        self, follower: StrategyAccount, exchanges: Exchanges, gate: Gate
    ) -> None:
        status, _, body = await request(signed({"orders": [limit(), MARKET], "webhook_id": "slow"}))

        assert (status, body) == (
            408,
            {
                "success": False,
                "error": "Order execution timeout",
                "code": "timeout",
                "webhook_id": "slow",
            },
        )
        delivery = await WebhookDelivery.objects.aget()
        assert (delivery.state, delivery.response) == (DeliveryState.WORKING, None)
        assert await OpenOrder.objects.filter(status="SUBMITTING").acount() == 2

        gate.open()
        await sync_to_async(wait_until)(lambda: WebhookDelivery.objects.get().state == DeliveryState.ANSWERED)

        delivery = await WebhookDelivery.objects.aget()
        assert (delivery.response_status, delivery.timed_out) == (200, True)
        assert delivery.response is not None
        assert [one["executed"] for one in delivery.response["results"]] == [True, True]
        assert delivery.timings["total_ms"] > 400
        assert len(exchanges.of(follower).submitted) == 2

    async def test_counts_when_it_was_answered_and_not_when_the_work_was_done(
        self, follower: StrategyAccount, gate: Gate, counted: list[tuple[int, float]]
    ) -> None:
        assert (await request(signed(LIMIT)))[0] == 408
        told = list(counted)
        gate.open()
        await sync_to_async(wait_until)(lambda: WebhookDelivery.objects.get().state == DeliveryState.ANSWERED)

        ((status, seconds),) = told
        assert (status, counted) == (408, told)
        assert seconds >= 0.4

    async def test_may_be_asked_about_with_the_same_id(
        self, follower: StrategyAccount, exchanges: Exchanges, gate: Gate
    ) -> None:
        named = signed(LIMIT | {"webhook_id": "slow"})
        assert (await request(named))[0] == 408

        assert (await request(named))[0] == 409
        gate.open()
        await sync_to_async(wait_until)(lambda: WebhookDelivery.objects.get().state == DeliveryState.ANSWERED)
        status, _, body = await request(named)

        assert (status, body["duplicate"], body["success"]) == (200, True, True)
        assert len(exchanges.of(follower).submitted) == 1

    async def test_before_anything_was_written_is_503_and_nothing_will_be(
        self,
        follower: StrategyAccount,
        exchanges: Exchanges,
        monkeypatch: pytest.MonkeyPatch,
        counted: list[tuple[int, float]],
    ) -> None:
        """The database or a lock is slow: TradingView sends again after a 503, never after a 408."""
        let_go, worked = threading.Event(), threading.Event()

        def slow(*args: Any, **fields: Any) -> Any:
            let_go.wait(20)
            return planning.make_plan(*args, **fields)

        def watched(incoming: Any) -> Any:
            try:
                return intake.webhook_receive(incoming)
            finally:
                worked.set()

        monkeypatch.setattr(intake, "make_plan", slow)
        monkeypatch.setattr(views, "webhook_receive", watched)

        status, _, body = await request(signed(LIMIT))
        let_go.set()
        assert await asyncio.to_thread(worked.wait, 20)

        assert (status, body["code"]) == (503, "unavailable")
        assert exchanges.all_calls() == 0
        assert not await OrderIntent.objects.aexists()
        assert [status for status, _ in counted] == [503]
        assert (await request(signed(LIMIT)))[0] == 200

    async def test_of_one_holds_up_nobody_else(
        self, follower: StrategyAccount, exchanges: Exchanges, gate: Gate
    ) -> None:
        slow = asyncio.create_task(request(signed(LIMIT | {"webhook_id": "slow"})))
        await asyncio.to_thread(gate.reached.wait, 10)
        exchanges.of(follower).before_placing = None

        status, _, _ = await request(signed(limit(90_001)))

        assert status == 200
        assert (await slow)[0] == 408

    async def test_names_the_delivery_that_nobody_had_named(
        self, follower: StrategyAccount, gate: Gate
    ) -> None:
        _, _, body = await request(signed(LIMIT))

        assert body["webhook_id"] == (await WebhookDelivery.objects.aget()).webhook_id

    async def test_leaves_what_stays_unknown_to_the_resolver(
        self, follower: StrategyAccount, exchanges: Exchanges, gate: Gate
    ) -> None:
        exchanges.of(follower).fails_with = errors.OutcomeUnknown("read timed out")
        assert (await request(signed(LIMIT)))[0] == 408
        gate.open()
        await sync_to_async(wait_until)(lambda: WebhookDelivery.objects.get().state == DeliveryState.ANSWERED)

        order = await OpenOrder.objects.aget()
        assert order.status == "SUBMITTING"
        assert order.ask_at is not None
        assert (await OrderIntent.objects.aget()).home == "EXCHANGE"


class TestEnding:
    """The server is told to end: it cancels every application, and waits for `answer_all`."""

    async def test_answers_what_was_begun_and_begins_nothing_more(
        self, follower: StrategyAccount, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(views, "_is_ending", False)  # and again after this test
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": signed(LIMIT)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        serving = asyncio.create_task(webhook(scope(), receive, send))
        assert await asyncio.to_thread(gate.reached.wait, 10)

        serving.cancel()
        ending = asyncio.create_task(views.answer_all(seconds=10))
        await asyncio.wait({serving})
        assert (serving.cancelled(), ending.done(), sent) == (True, False, [])
        gate.open()
        await ending

        assert (sent[0]["status"], json.loads(sent[1]["body"])["success"]) == (200, True)
        status, _, body = await request(signed(MARKET))
        assert (status, body["code"]) == (503, "unavailable")
        assert await sync_to_async(OrderIntent.objects.count)() == 1

    async def test_waits_for_nobody_for_ever(
        self, follower: StrategyAccount, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(views, "_is_ending", False)
        serving = asyncio.create_task(request(signed(LIMIT)))
        assert await asyncio.to_thread(gate.reached.wait, 10)

        await asyncio.wait_for(views.answer_all(seconds=0.1), 5)

        gate.open()
        assert (await serving)[0] == 200


class TestSecrets:
    def test_in_an_exchanges_words_reach_no_row_and_no_answer_unmasked(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        """Adapters mask what they raise; here that nothing we add brings the keys back."""
        exchanges.of(follower).fails_with = errors.InvalidOrder("Signature for this request is not valid.")

        answer = post(LIMIT)

        credentials = follower.account.credentials
        kept = json.dumps(
            [answer.body, *WebhookDelivery.objects.values("payload", "response", "plan")], default=str
        )
        for secret in (TOKEN, credentials.api_key, credentials.api_secret):
            assert secret not in kept
