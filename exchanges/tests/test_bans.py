"""A ban that one process meets holds the others back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import OperationalError
from django.utils import timezone

from exchanges import bans, runtime, sharing
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.exceptions import RateLimited
from exchanges.adapters.types import Credentials, Endpoints
from exchanges.bans import ban_record, bans_obey
from exchanges.models import Ban
from exchanges.simulator.testing import SimulatorProcess
from exchanges.tests.scripted import Reply, ScriptedServer
from tests.processes import migrated_file

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[2]
URL = "http://127.0.0.1:9600"
ACCOUNT = "/fapi/v1/positionSide/dual"


def banned_for(url: str) -> float:
    async def ask() -> float:
        return runtime.hosts().host(url, "binance", BinanceFutures.rules).limits.banned_for

    return runtime.run(ask(), timeout=5)


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.1)


@pytest.fixture
def watching(fresh_runtime: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0.1)
    sharing.watch()
    yield
    sharing.stop()


class TestBanRecord:
    def test_keeps_the_longer_ban(self) -> None:
        now = time.time()
        for seconds in (60, 30):
            ban_record(URL, now + seconds, f"{seconds} s")
        ban = Ban.objects.get()
        assert ban.until.timestamp() == pytest.approx(now + 60, abs=0.01)
        assert ban.reason == "60 s"

    def test_takes_the_longer_ban_and_the_next_one(self) -> None:
        for seconds in (-5, 30, 60):
            ban_record(URL, time.time() + seconds, f"{seconds} s")
        assert Ban.objects.get().reason == "60 s"


@pytest.mark.usefixtures("fresh_runtime")
class TestBansObey:
    def test_holds_a_host_back_that_is_in_use(self) -> None:
        assert banned_for(URL) == 0
        ban_record(URL, time.time() + 60, "Way too many requests")
        assert bans_obey() == 1
        assert banned_for(URL) == pytest.approx(60, abs=2)

    def test_holds_a_host_back_whose_first_use_comes_later(self) -> None:
        ban_record(URL, time.time() + 60, "Way too many requests")
        bans_obey()
        assert banned_for(URL) == pytest.approx(60, abs=2)

    def test_forgets_a_ban_that_is_over(self) -> None:
        Ban.objects.create(base_url=URL, until=timezone.now() - timedelta(seconds=1), reason="over")
        assert bans_obey() == 0
        assert banned_for(URL) == 0


@pytest.mark.usefixtures("watching")
class TestWatch:
    def test_writes_down_what_the_exchange_told_this_process(self, server: ScriptedServer) -> None:
        body = {"code": -1003, "msg": "Way too many requests; IP banned."}
        server.script["GET", ACCOUNT] = Reply(body, status=418, headers={"Retry-After": "90"})
        exchange = BinanceFutures(Credentials("k", "s"), Endpoints(server.url, ""), hosts=runtime.hosts)

        with pytest.raises(RateLimited):
            runtime.run(exchange.check_account(), timeout=5)

        wait_until(Ban.objects.exists)
        ban = Ban.objects.get()
        assert (ban.base_url, ban.reason) == (server.url, body["msg"])
        assert ban.until.timestamp() == pytest.approx(time.time() + 90, abs=10)

    def test_obeys_a_row_that_another_process_wrote(self) -> None:
        ban_record(URL, time.time() + 60, "told to another one")
        wait_until(lambda: banned_for(URL) > 50)

    def test_tries_again_what_could_not_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried = threading.Event()
        really = ban_record

        def fail_once(base_url: str, until: float, reason: str) -> None:
            if not tried.is_set():
                tried.set()
                raise OperationalError("database is locked")
            really(base_url, until, reason)

        monkeypatch.setattr(bans, "ban_record", fail_once)
        runtime._announce_ban(URL, time.time() + 60, "told once")
        wait_until(Ban.objects.exists)
        assert tried.is_set()

    def test_is_one_thread_however_often_it_is_called(self) -> None:
        for _ in range(3):
            sharing.watch()
        assert [one.name for one in threading.enumerate()].count("exchange-news") == 1

    def test_starts_anew_in_a_forked_child(self) -> None:
        pid = os.fork()
        if pid == 0:  # the child: no pytest and no database in here
            code = 1
            try:
                code = 0 if sharing._watcher is None and not sharing._start_lock.locked() else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# Asks the exchange once per "ask" that it reads; "state" only shows what it believes.
CHILD = """
import sys
import django
django.setup()
from exchanges import access, runtime
from exchanges.adapters.exceptions import ExchangeError
from exchanges.adapters.types import Credentials
from exchanges.models import Account

account = Account(exchange="binance", environment="SIMULATOR")
account.credentials = Credentials("k1", "s1")
exchange = access.exchange_for(account, "FUTURES")
runtime.run(exchange.fetch_tickers(["BTC/USDT"]), 20)
print("ready", flush=True)

async def believed():
    return exchange._rest.host.breaker.state.value

for line in sys.stdin:
    if line.strip() == "state":
        print(runtime.run(believed(), 5), flush=True)
        continue
    try:
        runtime.run(exchange.fetch_tickers(["BTC/USDT"]), 20)
        print("ok", flush=True)
    except ExchangeError as exc:
        print(type(exc).__name__, exc, flush=True)
"""


class _Child:
    def __init__(self, environment: dict[str, str]) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> str:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def ask(self, what: str = "ask") -> str:
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{what}\n")
        self._popen.stdin.flush()
        return self.hear()

    def end(self) -> None:
        self._popen.kill()
        self._popen.communicate(timeout=5)


class TestOutbox:
    @pytest.fixture
    def outbox(self, watching: None) -> Iterator[sharing.Outbox[str]]:
        made: sharing.Outbox[str] = sharing.Outbox()
        for word in ("first", "second"):
            made.put(word)
        yield made
        sharing._outboxes.remove(made)

    def test_goes_on_behind_what_can_never_be_written(
        self, outbox: sharing.Outbox[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """PostgreSQL takes no NUL in a text, and an exchange's words are anything."""
        written = []

        def record(word: str) -> None:
            if word == "first":
                raise ValueError("A string literal cannot contain NUL (0x00) characters.")
            written.append(word)

        outbox.write(record)
        outbox.write(record)

        assert written == ["second"]
        assert "it cannot be written down: first" in caplog.text

    def test_keeps_everything_while_the_database_is_away(self, outbox: sharing.Outbox[str]) -> None:
        def away(word: str) -> None:
            raise OperationalError("server closed the connection")

        with pytest.raises(OperationalError):
            outbox.write(away)

        written: list[str] = []
        outbox.write(written.append)
        assert written == ["first", "second"]


class TestTwoProcesses:
    def test_wait_when_one_of_them_was_banned(self, simulator: SimulatorProcess, tmp_path: Path) -> None:
        environment = os.environ | {
            "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
            "DJANGO_SETTINGS_MODULE": "tradehub.settings",
            "DEBUG": "true",
            "DOTENV": str(tmp_path / "none"),
            "SIMULATOR_URL": simulator.url,
        }
        migrated_file(tmp_path / "db.sqlite3")
        with ExitStack() as ending:
            first, second = _Child(environment), _Child(environment)
            ending.callback(first.end)
            ending.callback(second.end)
            assert (first.hear(), second.hear()) == ("ready", "ready")
            simulator.add_fault("status", status=418, retry_after=60, times=1)

            assert first.ask().startswith("RateLimited")

            # The simulator's fault is spent: it would answer the second one.
            wait_until(lambda: second.ask().startswith("RateLimited not sent: binance asked us to wait"))
