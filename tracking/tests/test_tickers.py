from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.models import F

from exchanges.adapters.exceptions import OutcomeUnknown
from exchanges.adapters.testing import FakeExchange
from exchanges.models import Account, LastPrice
from orders.models import Book, FailedStatus, OpenOrder, OrderIntent, StrategyPosition
from orders.tests.rows import make_failed_order
from tracking.tests.conftest import Exchanges
from tracking.tests.making import FUTURES, SYMBOL, make_account, make_order, make_resting
from tracking.tickers import tickers_refresh

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def account(exchanges: Exchanges) -> Account:
    return make_account()


@pytest.fixture
def exchange(exchanges: Exchanges, account: Account) -> FakeExchange:
    return exchanges.of(account)


def nothing_recent() -> None:
    OpenOrder.objects.all().delete()
    OrderIntent.objects.update(created_at=F("created_at") - timedelta(hours=2))


class TestTickersRefresh:
    def test_asks_nobody_when_nothing_is_traded(self, account: Account, exchange: FakeExchange) -> None:
        exchange.fails_with = OutcomeUnknown("must not be asked", venue="fake")

        assert tickers_refresh() == 0

    def test_writes_the_price_of_a_resting_order(self, account: Account, exchange: FakeExchange) -> None:
        make_resting(account)

        assert tickers_refresh() == 1

        row = LastPrice.objects.get()
        assert (row.exchange, row.environment, row.market_type) == ("binance", "SIMULATOR", FUTURES)
        assert (row.symbol, row.price) == (SYMBOL, Decimal(95000))

    def test_writes_the_price_of_what_is_held(self, account: Account, exchange: FakeExchange) -> None:
        placement = make_order(account)
        nothing_recent()
        assert tickers_refresh() == 0
        StrategyPosition.objects.create(
            strategy_account=placement.intent.strategy_account,
            account=account,
            market_type=FUTURES,
            symbol=SYMBOL,
            quantity=Decimal("0.5"),
        )

        assert tickers_refresh() == 1
        StrategyPosition.objects.update(quantity=Decimal(0))
        LastPrice.objects.all().delete()
        assert tickers_refresh() == 0

    def test_writes_the_price_of_a_failed_order_until_it_is_removed(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        owner = make_order(account).intent.strategy_account
        failed = make_failed_order(owner, symbol=SYMBOL)
        nothing_recent()

        assert tickers_refresh() == 1

        LastPrice.objects.all().delete()
        failed.status = FailedStatus.REMOVED
        failed.save()
        assert tickers_refresh() == 0

    def test_writes_only_what_changed(self, account: Account, exchange: FakeExchange) -> None:
        make_resting(account)
        tickers_refresh()
        first = LastPrice.objects.get()

        assert tickers_refresh() == 0

        exchange.prices[SYMBOL] = Decimal("95000.1")
        assert tickers_refresh() == 1
        row = LastPrice.objects.get()
        assert (row.pk, row.price) == (first.pk, Decimal("95000.1"))

    def test_shows_that_an_unchanged_price_is_still_looked_at(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        make_resting(account)
        tickers_refresh()
        LastPrice.objects.update(seen_at=F("seen_at") - timedelta(minutes=1))

        assert tickers_refresh() == 1

    def test_asks_once_for_all_accounts_and_symbols_of_a_market(
        self, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        other = make_account()
        asked: list[list[str]] = []
        for owner in (account, other):
            make_order(owner, symbol=SYMBOL)
            make_order(owner, symbol="ETH/USDT")
            fake = exchanges.of(owner)
            fetch = fake.fetch_tickers

            async def counted(symbols: list[str], fetch: object = fetch) -> dict[str, Decimal]:
                asked.append(symbols)
                return await fetch(symbols)  # type: ignore[operator,no-any-return]

            fake.fetch_tickers = counted  # type: ignore[method-assign,assignment]

        tickers_refresh()

        assert asked == [[SYMBOL, "ETH/USDT"]]
        assert Book.objects.count() == 4

    def test_survives_an_exchange_that_gives_no_prices(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        make_resting(account)
        exchange.fails_with = OutcomeUnknown("connection lost", venue="fake")

        assert tickers_refresh() == 0

        assert LastPrice.objects.exists() is False
