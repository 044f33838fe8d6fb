from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest
from django.contrib.auth import get_user_model

from exchanges import access, runtime
from exchanges.adapters.exceptions import OutcomeUnknown
from exchanges.adapters.testing import BTC_USDT, FakeExchange
from exchanges.adapters.types import Credentials
from exchanges.instruments import instruments_refresh
from exchanges.models import Account, ConfigVersion, Instrument

pytestmark = pytest.mark.django_db


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeExchange]:
    fake = FakeExchange()
    monkeypatch.setattr(access, "exchange_for", lambda account, market_type: fake)
    yield fake
    runtime.stop()


@pytest.fixture
def account() -> Account:
    user = get_user_model().objects.create_user("trader")
    account = Account(user=user, name="main", exchange="binance", environment="SIMULATOR")
    account.credentials = Credentials("key", "secret")
    account.save()
    return account


class TestInstrumentsRefresh:
    def test_writes_what_the_exchange_lists(self, exchange: FakeExchange, account: Account) -> None:
        changed = instruments_refresh(account=account, market_type="FUTURES")

        assert changed == 1
        row = Instrument.objects.get()
        assert (row.exchange, row.environment, row.market_type) == ("binance", "SIMULATOR", "FUTURES")
        assert (row.symbol, row.venue_symbol) == ("BTC/USDT", "BTCUSDT")
        assert (row.tick_size, row.lot_step) == (Decimal("0.1"), Decimal("0.001"))
        assert (row.max_open_orders, row.max_conditional_orders) == (200, 200)

    def test_leaves_everything_alone_when_nothing_changed(
        self, exchange: FakeExchange, account: Account
    ) -> None:
        instruments_refresh(account=account, market_type="FUTURES")
        version, written = ConfigVersion.current(), Instrument.objects.get().updated_at

        assert instruments_refresh(account=account, market_type="FUTURES") == 0

        assert ConfigVersion.current() == version  # no process has to read anything anew
        assert Instrument.objects.get().updated_at == written

    def test_writes_only_the_one_that_changed_and_tells_the_caches(
        self, exchange: FakeExchange, account: Account
    ) -> None:
        eth = replace(BTC_USDT, symbol="ETH/USDT", venue_symbol="ETHUSDT", base_asset="ETH")
        exchange.instruments = [BTC_USDT, eth]
        instruments_refresh(account=account, market_type="FUTURES")
        version, before = ConfigVersion.current(), dict(Instrument.objects.values_list("symbol", "pk"))
        exchange.instruments = [BTC_USDT, replace(eth, tick_size=Decimal("0.01"))]

        assert instruments_refresh(account=account, market_type="FUTURES") == 1

        assert Instrument.objects.get(symbol="ETH/USDT").tick_size == Decimal("0.01")
        assert dict(Instrument.objects.values_list("symbol", "pk")) == before  # rewritten, not made anew
        assert ConfigVersion.current() == version + 1

    def test_marks_one_that_is_no_longer_listed(self, exchange: FakeExchange, account: Account) -> None:
        eth = replace(BTC_USDT, symbol="ETH/USDT", venue_symbol="ETHUSDT", base_asset="ETH")
        exchange.instruments = [BTC_USDT, eth]
        instruments_refresh(account=account, market_type="FUTURES")
        exchange.instruments = [BTC_USDT]

        assert instruments_refresh(account=account, market_type="FUTURES") == 1

        assert dict(Instrument.objects.values_list("symbol", "is_trading")) == {
            "BTC/USDT": True,
            "ETH/USDT": False,
        }

    def test_keeps_what_is_known_when_the_exchange_lists_nothing(
        self, exchange: FakeExchange, account: Account
    ) -> None:
        instruments_refresh(account=account, market_type="FUTURES")
        exchange.instruments = []

        assert instruments_refresh(account=account, market_type="FUTURES") == 0

        assert Instrument.objects.get().is_trading is True

    def test_raises_and_writes_nothing_when_the_exchange_cannot_be_asked(
        self, exchange: FakeExchange, account: Account
    ) -> None:
        exchange.fails_with = OutcomeUnknown("connection lost", venue="fake")

        with pytest.raises(OutcomeUnknown):
            instruments_refresh(account=account, market_type="FUTURES")

        assert Instrument.objects.exists() is False
