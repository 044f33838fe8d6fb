"""A webhook's failed orders and their alert, from the exchange's refusal to the chat."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from exchanges import runtime
from exchanges.instruments import instruments_refresh
from exchanges.models import Account
from exchanges.simulator.testing import SimulatorProcess, simulator, simulator_process
from notifications import listeners
from notifications.alerts import alerts_deliver
from notifications.listeners import Bundler
from notifications.tests.bot_api import CHAT, TOKEN, BotApi
from notifications.tests.conftest import Bell, bell, bot_api
from notifications.tests.making import wait_until
from orders.models import FailedOrder
from orders.provisioning import parse_provision
from orders.services.intake import Incoming, webhook_receive
from orders.services.provision import provision
from orders.webhook.answers import WebhookAnswer
from tests.processes import Site, post_webhook

__all__ = ["bell", "bot_api", "simulator", "simulator_process"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(90)]
SECRETS = API_KEY, API_SECRET, WEBHOOK_TOKEN = "apikey-known-1", "apisecret-known-2", "token-known-3"
CONFIG = {
    "users": [{"username": "trader", "password": "a-long-enough-password-1", "language": "ko"}],
    "accounts": [
        {
            "name": "main", "user": "trader", "exchange": "binance", "environment": "SIMULATOR",
            "api_key": API_KEY, "api_secret": API_SECRET,
        }
    ],
    "strategies": [
        {
            "group_name": "test1", "user": "trader", "token": WEBHOOK_TOKEN, "market_type": "FUTURES",
            "execution_mode": "IMMEDIATE",
            "accounts": [{"account": "main", "allocated_capital": "10000", "leverage": 10}],
        }
    ],
}  # fmt: skip


@pytest.fixture
def exchange(simulator: SimulatorProcess, settings: Settings) -> Iterator[SimulatorProcess]:  # noqa: F811
    settings.SIMULATOR_URL = simulator.url
    simulator.add_account(API_KEY, API_SECRET, {"binance-futures": {"USDT": "1000000"}})
    provision(parse_provision(CONFIG, environment={}))
    instruments_refresh(account=Account.objects.get(), market_type="FUTURES")
    yield simulator
    runtime.stop()


def payload(webhook_id: str, count: int) -> dict[str, Any]:
    orders = [
        {"order_type": "LIMIT", "side": "buy", "price": 80000 + n, "quantity": "0.01"} for n in range(count)
    ]
    return {
        "group_name": "test1", "token": WEBHOOK_TOKEN, "symbol": "BTC/USDT",
        "webhook_id": webhook_id, "orders": orders,
    }  # fmt: skip


def post(webhook_id: str, count: int = 1) -> WebhookAnswer:
    body = json.dumps(payload(webhook_id, count)).encode()
    return webhook_receive(Incoming(body=body, address="127.0.0.1"))


def refuse_everything(exchange: SimulatorProcess, **overrides: Any) -> None:
    fault: dict[str, Any] = {"code": -2019, "msg": "Margin is insufficient."} | overrides
    exchange.add_fault("reject", status=400, times=None, **fault)


class TestAlertOfAWebhook:
    def test_is_one_message_for_thirty_refused_orders(
        self,
        exchange: SimulatorProcess,
        bot_api: BotApi,  # noqa: F811
    ) -> None:
        refuse_everything(exchange)

        answer = post("w1", 30)
        alerts_deliver()

        results = [result["result"] for result in answer.body["results"]]
        assert [result["alert_sent"] for result in results] == [True] * 30
        (message,) = bot_api.messages
        assert message.text.startswith("⚠️ 주문 30건 실패\n\ntest1 · w1 · ")
        assert "\nmain: 잔고가 부족합니다\n• BTC/USDT 매수 지정가 0.01 @ 80000\n" in message.text
        assert "\nMargin is insufficient.\n→ 계정에 자금을" in message.text

    def test_has_no_secrets_in_it(
        self,
        exchange: SimulatorProcess,
        bot_api: BotApi,
        caplog: pytest.LogCaptureFixture,  # noqa: F811
    ) -> None:
        exchange.add_fault("echo_secret", match={"path": "/fapi/v1/order"}, code=-2019, msg="Margin?")
        with caplog.at_level(logging.DEBUG):
            post("w1")
            alerts_deliver()

        (message,) = bot_api.messages
        failed = FailedOrder.objects.get()
        assert "signature=***" in message.text  # the exchange did quote our request
        for secret in (*SECRETS, TOKEN.partition(":")[2]):
            assert secret not in message.html + failed.exchange_error + caplog.text

    def test_shows_the_exchanges_markup_as_text(
        self,
        exchange: SimulatorProcess,
        bot_api: BotApi,  # noqa: F811
    ) -> None:
        refuse_everything(exchange, code=-1013, msg="<b>Filter</b> failure: a<b & *c* _d_ </i>")

        post("w1")
        alerts_deliver()

        assert "<b>Filter</b> failure: a<b & *c* _d_ </i>" in bot_api.messages[0].text

    def test_costs_the_webhook_no_query(
        self,
        exchange: SimulatorProcess,
        bot_api: BotApi,
        bell: Bell,
        settings: Settings,  # noqa: F811
    ) -> None:
        refuse_everything(exchange)
        post("warm")
        bell.rings = 0
        queries = {}
        for token in (TOKEN, ""):
            settings.TELEGRAM_BOT_TOKEN = token
            with CaptureQueriesContext(connection) as captured:
                post(f"w{token}", 30)
            queries[token] = len(captured)

        assert queries[TOKEN] == queries[""] > 0
        assert bell.rings == 30
        assert FailedOrder.objects.filter(webhook_id="w", alert_sent=True).exists() is False

    @pytest.mark.parametrize("trouble", ["silent", "gone"])
    def test_leaves_the_orders_alone_while_telegram_is_down(
        self,
        exchange: SimulatorProcess,
        bot_api: BotApi,  # noqa: F811
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        trouble: str,
    ) -> None:
        bot_api.release = threading.Event()
        if trouble == "gone":
            settings.TELEGRAM_API_URL = "http://127.0.0.1:1"
        delivered = threading.Event()

        def deliver() -> None:
            try:
                alerts_deliver()
            finally:
                connection.close()
                delivered.set()

        monkeypatch.setattr(listeners, "_bundler", Bundler(deliver, seconds=0.0))
        exchange.add_fault(
            "reject",
            match={"path": "/fapi/v1/order"},
            status=400,
            code=-2019,
            msg="Margin is insufficient.",
            times=1,
        )

        refused = post("w1")  # the alert is being sent from here on, and gets nowhere
        wait_until(lambda: bot_api.asked or delivered.is_set())
        placed = post("w2", 5)

        assert (refused.status, placed.status) == (400, 200)
        assert placed.body["summary"]["successful_orders"] == 5
        assert len(exchange.orders()) == 5
        bot_api.release.set()
        assert delivered.wait(10)


class TestAlertBetweenProcesses:
    """Web and worker as they run in the demo: SQLite, no Redis."""

    @pytest.fixture
    def site(self, tmp_path: Path, bot_api: BotApi) -> Iterator[Site]:  # noqa: F811
        telegram = {
            "TELEGRAM_BOT_TOKEN": TOKEN,
            "TELEGRAM_CHAT_ID": CHAT,
            "TELEGRAM_API_URL": bot_api.url,
        }
        with Site.on_sqlite(tmp_path, **telegram) as made:
            made.start_simulator("--fixed", "--account", f"{API_KEY}:{API_SECRET}")
            (tmp_path / "provision.json").write_text(json.dumps(CONFIG))
            made.manage("provision", str(tmp_path / "provision.json"))
            made.manage("instruments")
            refuse_everything(made.simulator)
            yield made

    def test_goes_from_the_webhook_through_the_worker_to_the_chat(
        self,
        site: Site,
        bot_api: BotApi,  # noqa: F811
    ) -> None:
        worker, web = site.start_worker(), site.start_web()

        status, _ = post_webhook(web, payload("w1", 30))
        wait_until(lambda: bot_api.messages, seconds=20)

        assert status == 400
        assert [message.text.splitlines()[0] for message in bot_api.messages] == ["⚠️ 주문 30건 실패"]
        logs = web.log() + worker.log()
        assert all(secret not in logs for secret in (*SECRETS, TOKEN.partition(":")[2]))

    def test_survives_the_death_of_the_web_process(self, site: Site, bot_api: BotApi) -> None:  # noqa: F811
        web = site.start_web()
        post_webhook(web, payload("w1", 30))
        web.kill()  # before the worker was told

        site.manage("shell", "-c", "from notifications.tasks import alerts_deliver; alerts_deliver()")

        assert [message.text.splitlines()[0] for message in bot_api.messages] == ["⚠️ 주문 30건 실패"]
