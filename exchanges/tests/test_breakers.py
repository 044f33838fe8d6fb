"""Breakers as rows: what one process finds, the others of its machine believe."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import OperationalError
from django.utils import timezone
from pytest_django import Settings

from exchanges import breakers, runtime, sharing
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.breaker import BreakerNews, BreakerState
from exchanges.adapters.exceptions import OutcomeUnknown
from exchanges.adapters.types import Credentials, Endpoints
from exchanges.breakers import breaker_record, breaker_states, breakers_adopt, node, served_by
from exchanges.models import Breaker
from exchanges.simulator.testing import SimulatorProcess
from exchanges.tests.scripted import Reply, ScriptedServer
from exchanges.tests.test_bans import _Child, wait_until
from tests.processes import migrated_file

pytestmark = pytest.mark.django_db(transaction=True)
URL = "http://127.0.0.1:9600"


def news(state: BreakerState = BreakerState.OPEN, *, at: float = 0.0, base_url: str = URL) -> BreakerNews:
    now = time.time() + at
    is_open = state is not BreakerState.CLOSED
    return BreakerNews(
        base_url=base_url,
        venue="binance",
        state=state,
        failures=3 if is_open else 0,
        changed_at=now,
        opened_at=now if is_open else None,
        retry_at=now + 30 if is_open else None,
        reason="no answer within 10 s" if is_open else "",
    )


def state_of(url: str) -> BreakerState:
    async def ask() -> BreakerState:
        return runtime.hosts().host(url, "binance", BinanceFutures.rules).breaker.state

    return runtime.run(ask(), timeout=5)


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    heard: list[tuple[str, str]] = []
    monkeypatch.setattr(breakers, "_listeners", [lambda row, before: heard.append((before, row.state))])
    return heard


@pytest.fixture
def watching(fresh_runtime: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0.1)
    sharing.watch()
    yield
    sharing.stop()


class TestBreakerRecord:
    def test_tells_when_it_opens_and_when_it_closes_and_not_in_between(
        self, changes: list[tuple[str, str]]
    ) -> None:
        for at, state in enumerate(
            (BreakerState.OPEN, BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED)
        ):
            breaker_record(news(state, at=at))
        assert changes == [("CLOSED", "OPEN"), ("HALF_OPEN", "CLOSED")]
        row = Breaker.objects.get()
        assert (row.base_url, row.node, row.state, row.opened_at) == (URL, node(), "CLOSED", None)

    def test_ignores_old_news(self, changes: list[tuple[str, str]]) -> None:
        breaker_record(news(BreakerState.OPEN))
        breaker_record(news(BreakerState.CLOSED, at=-60))
        assert Breaker.objects.get().state == "OPEN"

    def test_writes_nothing_when_a_listener_cannot_note_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The row and what follows from it stand together, so that the next try tells it as well."""

        def fails(row: Breaker, before: str) -> None:
            raise OperationalError("database is locked")

        monkeypatch.setattr(breakers, "_listeners", [fails])
        with pytest.raises(OperationalError):
            breaker_record(news())
        assert Breaker.objects.exists() is False

    def test_writes_down_what_is_so_after_the_clock_was_set_back(self) -> None:
        breaker_record(news(at=3600))

        breaker_record(news(BreakerState.CLOSED))

        assert Breaker.objects.get().state == BreakerState.CLOSED


class TestBreakerStates:
    def test_says_which_exchange_and_whom_it_serves(self, settings: Settings) -> None:
        settings.SIMULATOR_URL = "http://127.0.0.1:9600"
        breaker_record(news(base_url=URL + "/binance-futures"))

        (state,) = breaker_states()

        assert {key: state[key] for key in ("exchange", "environments", "market_types", "state", "node")} == {
            "exchange": "binance",
            "environments": ["SIMULATOR"],
            "market_types": ["FUTURES"],
            "state": "OPEN",
            "node": node(),
        }
        assert state["retry_at"] > timezone.now()

    def test_forgets_what_nobody_asks_about_any_more(self) -> None:
        breaker_record(news())
        Breaker.objects.update(retry_at=timezone.now() - timedelta(minutes=11))
        assert breaker_states() == []

    def test_keeps_live_and_simulator_apart(self) -> None:
        assert served_by("https://fapi.binance.com") == [("LIVE", "FUTURES")]
        assert served_by("https://api.binance.com") == [("LIVE", "SPOT")]
        assert served_by("https://example.com") == []


@pytest.mark.usefixtures("fresh_runtime")
class TestBreakersAdopt:
    def test_opens_and_closes_with_the_others_of_this_machine(self) -> None:
        breaker_record(news())
        assert breakers_adopt() == 1
        wait_until(lambda: state_of(URL) is BreakerState.OPEN)
        breaker_record(news(BreakerState.CLOSED, at=1))
        breakers_adopt()
        wait_until(lambda: state_of(URL) is BreakerState.CLOSED)

    def test_leaves_other_machines_their_troubles(self) -> None:
        breaker_record(news())
        Breaker.objects.update(node="another")
        assert breakers_adopt() == 0
        assert state_of(URL) is BreakerState.CLOSED


@pytest.mark.usefixtures("watching")
class TestWatch:
    def test_writes_down_what_this_process_found(self, server: ScriptedServer) -> None:
        server.script["GET", "/fapi/v1/positionSide/dual"] = Reply(then="drop")
        exchange = BinanceFutures(Credentials("k", "s"), Endpoints(server.url, ""), hosts=runtime.hosts)
        for _ in range(3):
            with pytest.raises(OutcomeUnknown):
                runtime.run(exchange.check_account(), timeout=5)

        wait_until(Breaker.objects.exists)

        row = Breaker.objects.get()
        assert (row.base_url, row.exchange, row.state, row.failures) == (server.url, "binance", "OPEN", 3)
        assert "its outcome is unknown" in row.reason


class TestTwoProcesses:
    def test_wait_when_one_of_them_meets_a_dead_exchange(
        self, simulator: SimulatorProcess, tmp_path: Path
    ) -> None:
        environment = os.environ | {
            "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
            "DJANGO_SETTINGS_MODULE": "tradehub.settings",
            "DEBUG": "true",
            "DOTENV": str(tmp_path / "none"),
            "SIMULATOR_URL": simulator.url,
            "EXCHANGE_BREAKER_SECONDS": "5",
        }
        migrated_file(tmp_path / "db.sqlite3")
        with ExitStack() as ending:
            first, second = _Child(environment), _Child(environment)
            ending.callback(first.end)
            ending.callback(second.end)
            assert (first.hear(), second.hear()) == ("ready", "ready")
            simulator.add_fault("status", status=502, body="<html>", times=3)
            for _ in range(3):
                assert first.ask().startswith("OutcomeUnknown")
            assert first.ask().startswith("CircuitOpen")

            # The simulator would answer the second one: it has only heard of the first one's trouble.
            wait_until(lambda: second.ask("state") == "OPEN")
            assert second.ask().startswith("CircuitOpen not sent: binance cannot be reached")
            wait_until(lambda: first.ask() == "ok")
            for _ in range(2):
                assert first.ask() == "ok"
            assert first.ask("state") == "CLOSED"
            wait_until(lambda: second.ask("state") == "CLOSED")
            assert second.ask() == "ok"
