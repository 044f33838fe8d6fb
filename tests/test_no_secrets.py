"""No secret is ever written down: everything is driven with recognisable ones, then searched.

The exchange quotes our key, query and signature in every refusal it has, on every call of the adapters and
of the user streams. What was written by then is read as a thief would: every row of every table, every
line of the log (before the log's own mask), every answer and every message.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.test import Client
from pytest_django.fixtures import Settings

from exchanges import access, registry, runtime
from exchanges.adapters.binance.auth import Signer
from exchanges.adapters.exceptions import ExchangeError
from exchanges.adapters.secrets import Masker
from exchanges.adapters.testing import make_request
from exchanges.adapters.types import MarketType, OrderRef
from exchanges.instruments import instruments_refresh
from exchanges.models import Account
from exchanges.simulator.testing import SimulatorProcess, simulator, simulator_process
from notifications.alerts import alerts_deliver
from notifications.tests.bot_api import TOKEN as BOT_TOKEN
from notifications.tests.bot_api import BotApi
from notifications.tests.conftest import bell, bot_api
from orders.clock import database_now
from orders.models import FailedOrder, OpenOrder, OrderEvent
from orders.provisioning import parse_provision
from orders.services.intake import Incoming, webhook_receive
from orders.services.provision import provision
from tests.processes import wait_until
from tracking.models import OrderTrackingSession, SessionStatus
from tracking.reconciliation import reconcile_account
from tracking.resolver import cancels_sweep, gaps_sweep, resolve
from tracking.tests.running import streams_process
from tracking.tickers import tickers_refresh

__all__ = ["bell", "bot_api", "simulator", "simulator_process"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(110)]

API_KEY = "KEYrecognisable0vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6ut"
API_SECRET = "SECRETrecognisable/NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN6"
PASSWORD = "PASSWORDrecognisable-1"
TOKENS = {market.value: f"TOKENrecognisable+{market.value}/x" for market in MarketType}
MARKETS = (MarketType.FUTURES.value, MarketType.SPOT.value)
DIALECTS = {"FUTURES": "binance-futures", "SPOT": "binance-spot"}
CONFIG = {
    "users": [{"username": "trader", "password": PASSWORD}],
    "accounts": [
        {
            "name": "main", "user": "trader", "exchange": "binance", "environment": "SIMULATOR",
            "api_key": API_KEY, "api_secret": API_SECRET,
        }
    ],
    "strategies": [
        {
            "group_name": market, "user": "trader", "token": TOKENS[market], "market_type": market,
            "execution_mode": mode, "accounts": [{"account": "main", "allocated_capital": "10000"}],
        }
        for market, mode in zip(MARKETS, ("IMMEDIATE", "QUEUED"), strict=True)
    ],
}  # fmt: skip


class Told:
    """Everything that left the system for somebody to read, and every secret that was in use."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.secrets: set[str] = {API_KEY, API_SECRET, PASSWORD, *TOKENS.values()}
        self.secrets |= {BOT_TOKEN.partition(":")[2]}

    def keep(self, text: object) -> None:
        self.texts.append(text if isinstance(text, str) else json.dumps(text, default=str))

    def found(self, text: str) -> set[str]:
        return {secret for secret in self.secrets if secret in text or quote(secret, safe="") in text}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Knows signatures and listen keys too, as the adapters make and get them."""
    made = Told()
    sign, add = Signer.signature, Masker.add

    def signature(self: Signer, payload: str) -> str:
        signed = sign(self, payload)
        made.secrets.add(signed)
        return signed

    def remember(self: Masker, *secrets: str) -> None:
        made.secrets.update(secret for secret in secrets if secret)
        add(self, *secrets)

    monkeypatch.setattr(Signer, "signature", signature)
    monkeypatch.setattr(Masker, "add", remember)
    return made


@pytest.fixture
def exchange(simulator: SimulatorProcess, settings: Settings, told: Told) -> Iterator[SimulatorProcess]:  # noqa: F811
    settings.SIMULATOR_URL = simulator.url
    runtime.stop()
    registry.forget()
    balances = {"binance-futures": {"USDT": "1000000"}, "binance-spot": {"USDT": "1000000", "BTC": "10"}}
    simulator.add_account(API_KEY, API_SECRET, balances)
    provision(parse_provision(CONFIG, environment={}))
    for market in MARKETS:
        instruments_refresh(account=Account.objects.get(), market_type=market)
    yield simulator
    runtime.stop()
    registry.forget()


def echo(exchange: SimulatorProcess, **fault: Any) -> None:
    """From now on the exchange refuses everything, quoting the request and its key."""
    settings: dict[str, Any] = {"code": -2019, "msg": "Margin?"} | fault
    exchange.add_fault("echo_secret", times=None, **settings)


def post(told: Told, market: str, *orders: dict[str, Any]) -> int:
    payload = {"group_name": market, "token": TOKENS[market], "symbol": "BTC/USDT", "orders": list(orders)}
    answer = webhook_receive(Incoming(body=json.dumps(payload).encode(), address="127.0.0.1"))
    told.keep(answer.body)
    return answer.status


def limit(price: int = 80_000, **fields: Any) -> dict[str, Any]:
    return {"order_type": "LIMIT", "side": "buy", "price": price, "quantity": "0.01"} | fields


def market_order() -> dict[str, Any]:
    return {"order_type": "MARKET", "side": "buy", "quantity": "0.01"}


def stop() -> dict[str, Any]:
    return {
        "order_type": "STOP_LIMIT", "side": "sell", "price": 70_000, "stop_price": 71_000, "quantity": "0.01",
    }  # fmt: skip


def every_signal(told: Told, market: str) -> None:
    post(told, market, limit())
    post(told, market, *(limit(80_000 + number) for number in range(6)), stop())
    post(told, market, market_order())
    post(told, market, {"order_type": "CANCEL_ALL_ORDER"}, market_order())


def every_look(told: Told, market: str) -> None:
    """What the worker and the streams process do in the background."""
    account = Account.objects.get()
    OpenOrder.objects.update(ask_at=database_now() - timedelta(minutes=1))
    looks: tuple[Callable[[], Any], ...] = (
        resolve,
        gaps_sweep,
        cancels_sweep,
        tickers_refresh,
        lambda: reconcile_account(account_id=account.pk, market_type=market),
        lambda: instruments_refresh(account=account, market_type=market),
        lambda: access.warm_up(account, market),
    )
    for look in looks:
        try:
            look()
        except (ExchangeError, TimeoutError) as exc:
            told.keep(repr(exc) + str(exc) + str(vars(exc)))


def every_call(told: Told, market: str) -> int:
    """Each call of an adapter by itself; return how many were refused."""
    adapter = access.exchange_for(Account.objects.get(), market)
    ref = OrderRef(symbol="BTC/USDT", client_order_id="th-nothing", exchange_order_id="1")
    stop_ref = OrderRef(symbol="BTC/USDT", client_order_id="th-nothing", conditional=True)
    requests = [make_request(f"direct{number}") for number in range(6)]
    calls: list[Any] = [
        adapter.load_instruments(),
        adapter.place_orders(requests[:1]),
        adapter.place_orders(requests),
        adapter.cancel_orders([ref]),
        adapter.cancel_orders([ref, stop_ref]),
        adapter.fetch_order(ref),
        adapter.fetch_order(stop_ref),
        adapter.fetch_open_orders(),
        adapter.fetch_open_orders("BTC/USDT"),
        adapter.fetch_executions(ref),
        adapter.fetch_recent_orders("BTC/USDT", since_ms=0),
        adapter.fetch_balances(),
        adapter.fetch_positions(),
        adapter.fetch_tickers(["BTC/USDT"]),
        adapter.set_leverage("BTC/USDT", 3),
        adapter.check_account(),
        adapter.warm_up(),
    ]
    refused = 0
    for call in calls:
        try:
            answers = runtime.run(call, 15)
        except ExchangeError as exc:
            answers = [exc]
        for answer in answers if isinstance(answers, list) else [answers]:
            told.keep(repr(answer))
            if isinstance(answer, ExchangeError):
                refused += 1
                told.keep(str(answer) + str(vars(answer)))
    return refused


def people_look(told: Told) -> None:
    """What a page, the API, the CSV and an operator's pages show."""
    client = Client()
    client.force_login(User.objects.get(username="trader"))
    staff = Client()
    staff.force_login(User.objects.create_superuser("operator", password="the-operators-word"))
    for path in ("/positions", "/api/failed-orders", "/api/failed-orders/stats"):
        told.keep(client.get(path).content.decode())
    export = client.get("/api/failed-orders/export.csv")
    told.keep(b"".join(export.streaming_content).decode())  # type: ignore[attr-defined]
    for failed in FailedOrder.objects.exclude(status="removed")[:3]:
        told.keep(client.post(f"/api/failed-orders/{failed.pk}/retry").content.decode())
    for name in ("failedorder", "orderevent", "placement", "webhookdelivery", "strategy"):
        told.keep(staff.get(f"/admin/orders/{name}/").content.decode())
    for name in ("account", "ban"):
        told.keep(staff.get(f"/admin/exchanges/{name}/").content.decode())


def every_row() -> Iterator[tuple[str, str]]:
    """Every value of every row of every table, with where it stands."""
    for model in apps.get_models():
        columns = [field.attname for field in model._meta.concrete_fields]
        for row in model._default_manager.values_list(*columns):
            for column, value in zip(columns, row, strict=True):
                text = json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)
                yield f"{model._meta.label}.{column}", text


def is_connected() -> bool:
    states = OrderTrackingSession.objects.values_list("status", flat=True)
    return len(states) == 2 and set(states) == {SessionStatus.CONNECTED}


class TestNoSecretIsWrittenDown:
    def test_whatever_the_exchange_quotes(
        self,
        exchange: SimulatorProcess,
        told: Told,
        bot_api: BotApi,  # noqa: F811
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            for market in MARKETS:
                every_signal(told, market)  # all is well
                echo(exchange, match={"exchange": DIALECTS[market]})
                every_signal(told, market)
                every_look(told, market)
                assert every_call(told, market) > 15
                exchange.clear_faults()
                # Refused as nobody expects it: an answer that is no JSON, one that is cut off.
                body = f"<html>apiKey={API_KEY} {API_SECRET} X-MBX-APIKEY: {API_KEY}</html>"
                exchange.add_fault("status", status=502, body=body, times=None)
                every_signal(told, market)
                every_look(told, market)
                every_call(told, market)
                exchange.clear_faults()
                exchange.add_fault("drop_answer", times=3)
                every_signal(told, market)
                exchange.clear_faults()
                every_look(told, market)
            alerts_deliver()
            people_look(told)
            told.texts += [message.html + message.text for message in bot_api.messages]

        assert any("signature=***" in text for _, text in every_row())  # it did quote, and it was written
        assert FailedOrder.objects.exclude(exchange_error="").count() > 5
        assert len(told.secrets) > 100  # the signatures
        self.assert_clean(told, caplog)

    def test_whatever_happens_to_the_streams(
        self, exchange: SimulatorProcess, told: Told, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            echo(exchange, code=-1125, msg="This listenKey does not exist.")
            exchange.add_fault("stream_refuse", status=403, times=2)
            with streams_process():
                wait_until(lambda: "***" in caplog.text, what="a refused stream to be logged")
                exchange.clear_faults()
                wait_until(is_connected, seconds=30, what="both streams")
                for market in MARKETS:
                    post(told, market, limit())
                    adapter = access.exchange_for(Account.objects.get(), market)
                    by_hand = make_request("byhand", price=Decimal(80_100))
                    told.keep(repr(runtime.run(adapter.place_orders([by_hand]), 15)))
                wait_until(
                    lambda: OrderEvent.objects.filter(type="EXTERNAL").count() >= 2,
                    what="the orders that are not ours",
                )
                exchange.expire_listen_key(API_KEY)
                exchange.cut_streams()
                wait_until(is_connected, seconds=30, what="both streams again")
                told.keep(repr(list(OrderTrackingSession.objects.values())))

        assert any(len(secret) == 64 and secret.isalnum() for secret in told.secrets - {API_KEY, API_SECRET})
        self.assert_clean(told, caplog)

    @staticmethod
    def assert_clean(told: Told, caplog: pytest.LogCaptureFixture) -> None:
        leaks = {where for where, text in every_row() if told.found(text)}
        assert leaks == set()
        assert [text[:300] for text in told.texts if told.found(text)] == []
        lines = [record.getMessage() + str(record.exc_text or "") for record in caplog.records]
        assert [line[:300] for line in lines if told.found(line)] == []
        assert told.found(caplog.text) == set()

    def test_is_what_this_would_notice(self, exchange: SimulatorProcess, told: Told) -> None:
        """The search itself: a secret in a row is found, plain or escaped for an address."""
        OrderEvent.objects.create(
            type="OPERATOR",
            source="OPERATOR",
            message=f"x{quote(API_SECRET, safe='')}y",
            data={"deep": [{"key": API_KEY}]},
            created_at=database_now(),
        )

        leaks = {where for where, text in every_row() if told.found(text)}

        assert leaks == {"orders.OrderEvent.message", "orders.OrderEvent.data"}
