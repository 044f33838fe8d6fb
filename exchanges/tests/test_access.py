"""From an account row to its adapter."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from hashlib import sha256

import pytest
from pytest_django import Settings

from exchanges import access, registry, runtime
from exchanges.adapters.types import Credentials
from exchanges.models import Account
from exchanges.tests.scripted import Reply, ScriptedServer


@pytest.fixture
def account(server: ScriptedServer, settings: Settings) -> Iterator[Account]:
    settings.EXCHANGE_URLS = {"EXCHANGE_URL_BINANCE_FUTURES_REST": server.url}
    account = Account(exchange="binance", environment="SIMULATOR")
    account.credentials = Credentials("access-key", "access-secret")
    yield account
    runtime.stop()
    registry.forget()


class TestExchangeFor:
    def test_gives_this_process_its_share_of_the_limits_and_no_more(
        self, account: Account, server: ScriptedServer, settings: Settings
    ) -> None:
        settings.EXCHANGE_RATE_SHARE = 0.05  # 2400 * 0.05 / 2: two reads of weight 30 a minute
        path = "/fapi/v1/positionSide/dual"
        server.script["GET", path] = Reply({"dualSidePosition": False})
        exchange = access.exchange_for(account, "FUTURES")
        for _ in range(2):
            runtime.run(exchange.check_account(), timeout=5)

        with pytest.raises(TimeoutError):
            runtime.run(exchange.check_account(), timeout=0.5)

        assert len(server.sent_to(path)) == 2

    def test_starts_no_thread_that_asks_the_database_in_a_test(self, account: Account) -> None:
        access.exchange_for(account, "FUTURES")
        assert "exchange-bans" not in {thread.name for thread in threading.enumerate()}


class TestLoginFingerprint:
    def test_is_another_one_for_other_keys_and_tells_none(self) -> None:
        account = Account(exchange="binance", environment="SIMULATOR")
        account.credentials = Credentials("access-key", "access-secret")
        before = access.login_fingerprint(account)

        account.credentials = Credentials("access-key", "another-secret")

        assert access.login_fingerprint(account) != before
        assert before != sha256(b"binance\0SIMULATOR\0access-key\0access-secret\0").hexdigest()

    def test_is_that_of_what_is_stored_where_no_key_reads_it(self) -> None:
        account = Account(exchange="binance", environment="SIMULATOR", encrypted_api_key="unreadable")
        before = access.login_fingerprint(account)
        assert access.login_fingerprint(account) == before

        account.encrypted_api_key = "unreadable too"

        assert access.login_fingerprint(account) != before
