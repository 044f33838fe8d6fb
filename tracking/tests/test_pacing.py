"""How often an account is compared and with which question, as request weight gets short."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django.fixtures import Settings

from exchanges.adapters.base import ListCost
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.binance.spot import BinanceSpot
from exchanges.adapters.limits import HostLimits
from exchanges.adapters.testing import FakeExchange
from exchanges.adapters.types import ListedOrder, VenueOrderStatus
from exchanges.models import Account
from orders.models import Book
from tracking import pacing
from tracking.pacing import PLANNED_SHARE, Pacer, pacer
from tracking.reconciliation import reconcile_account
from tracking.sessions import sessions_ensure
from tracking.tests.conftest import Exchanges
from tracking.tests.making import FUTURES, key_of, make_account, make_order, make_resting, open_order, report

pytestmark = pytest.mark.django_db(transaction=True)
BINANCE = ListCost(whole=80, symbol=2, per_minute=2400)


class Clock:
    def __init__(self) -> None:
        self.now = 10_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    monkeypatch.setattr("random.random", lambda: 0.5)
    monkeypatch.setattr(pacing, "COUNT_SECONDS", 1e9)
    return clock


def pacer_with(accounts: int, clock: Clock) -> Pacer:
    made = Pacer()
    made._counts = {("binance", "SIMULATOR", FUTURES): accounts}
    made._counted_at = clock.now
    return made


def pace(made: Pacer, account: Account, *symbols: str, cost: ListCost | None = BINANCE) -> pacing.Pace:
    """One run that succeeds."""
    found = made.pace(key_of(account), account, cost, lambda: symbols)
    if found.symbols is None:
        made.fetched_whole(key_of(account))
    return found


class TestPace:
    def test_is_whole_and_unhurried_while_weight_is_plenty(self, clock: Clock) -> None:
        found = pace(pacer_with(2, clock), make_account(), "BTC/USDT")
        assert (found.symbols, found.seconds) == (None, 0.0)

    def test_is_by_symbol_where_two_hundred_accounts_share_an_address(self, clock: Clock) -> None:
        found = pace(pacer_with(200, clock), make_account(), "BTC/USDT")
        assert found.symbols == ("BTC/USDT",)
        assert 29 < found.seconds < 40

    @pytest.mark.parametrize("accounts", [3, 20, 200, 2000])
    @pytest.mark.parametrize("symbols", [0, 1, 5, 60])
    def test_never_plans_more_weight_than_there_is_for_it(
        self, clock: Clock, settings: Settings, accounts: int, symbols: int
    ) -> None:
        """An hour of all accounts: lists may use their part of the address's weight, orders have the rest."""
        made, account = pacer_with(accounts, clock), make_account()
        names = tuple(f"C{number}/USDT" for number in range(symbols))
        used, until = 0, clock.now + 3600
        while clock.now < until:
            found = pace(made, account, *names)
            used += BINANCE.whole if found.symbols is None else BINANCE.symbol * len(found.symbols)
            clock.now += max(found.seconds, settings.RECONCILE_DOWN_SECONDS)
        allowed = BINANCE.per_minute * 60 * PLANNED_SHARE
        assert used * accounts <= allowed + BINANCE.whole * accounts  # and one list at the edge

    def test_asks_nothing_where_nothing_is_of_interest(self, clock: Clock) -> None:
        assert pace(pacer_with(200, clock), make_account()).symbols == ()

    def test_fetches_the_whole_list_now_and_then(self, clock: Clock) -> None:
        made, account = pacer_with(200, clock), make_account()
        seen = set()
        for _ in range(1000):
            found = pace(made, account, "BTC/USDT")
            seen.add(found.symbols)
            clock.now += found.seconds
        assert seen == {("BTC/USDT",), None}

    def test_asks_for_the_whole_list_again_when_it_did_not_come(self, clock: Clock) -> None:
        made, account = pacer_with(200, clock), make_account()
        while made.pace(key_of(account), account, BINANCE, lambda: ["BTC/USDT"]).symbols is not None:
            clock.now += 60

        assert made.pace(key_of(account), account, BINANCE, lambda: ["BTC/USDT"]).symbols is None

    def test_knows_no_budget_where_an_exchange_has_none(self, clock: Clock) -> None:
        assert pace(pacer_with(2000, clock), make_account(), "A/B", cost=None).symbols is None

    def test_counts_the_accounts_of_the_same_exchange_and_environment(self, clock: Clock) -> None:
        accounts = [make_account() for _ in range(3)]
        other = make_account(environment="LIVE")
        sessions_ensure([key_of(one) for one in (*accounts, other)])
        made = Pacer()
        assert made._accounts(("binance", "SIMULATOR", FUTURES)) == 3
        assert made._accounts(("binance", "LIVE", FUTURES)) == 1

    def test_knows_what_binance_counts(self) -> None:
        assert (BinanceFutures.list_weights, BinanceFutures.rules.weight_per_minute) == ((80, 2), 2400)
        assert (BinanceSpot.list_weights, BinanceSpot.rules.weight_per_minute) == ((80, 6), 6000)


@pytest.fixture
def account(exchanges: Exchanges) -> Account:
    return make_account()


@pytest.fixture
def exchange(exchanges: Exchanges, account: Account) -> FakeExchange:
    return exchanges.of(account)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, clock: Clock, exchange: FakeExchange) -> list[str | None]:
    """Weight is short for this account; returns what lists were asked for."""
    monkeypatch.setattr(pacer, "_counts", {("binance", "SIMULATOR", FUTURES): 200})
    monkeypatch.setattr(pacer, "_counted_at", clock.now)
    monkeypatch.setattr(pacer, "_whole_at", {})
    monkeypatch.setattr(exchange, "list_cost", lambda: BINANCE)
    asked: list[str | None] = []
    fetch = exchange.fetch_open_orders

    async def noted(symbol: str | None = None) -> list[ListedOrder]:
        asked.append(symbol)
        return await fetch(symbol)

    monkeypatch.setattr(exchange, "fetch_open_orders", noted)
    return asked


class TestReconcileBySymbol:
    def test_settles_ours_and_counts_others_where_we_have_something(
        self, account: Account, exchange: FakeExchange, short: list[str | None]
    ) -> None:
        placement = make_resting(account)
        exchange.end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)
        exchange.orders["900"] = report()
        exchange.orders["901"] = report(exchange_order_id="901", symbol="ETH/USDT")

        result = reconcile_account(account_id=account.pk, market_type=FUTURES)

        assert short == ["BTC/USDT"]
        kinds = sorted(one.kind.name for one in result.differences)
        assert kinds == ["EXTERNAL", "NOT_OPEN_THERE"]
        assert open_order(placement) is None
        assert Book.objects.get(symbol="BTC/USDT").external_limit_orders == 1
        assert result.again_after > 29

    def test_leaves_the_count_of_symbols_alone_that_were_not_asked_for(
        self, account: Account, exchange: FakeExchange, short: list[str | None], clock: Clock
    ) -> None:
        make_resting(account)
        Book.objects.create(account=account, market_type=FUTURES, symbol="ETH/USDT", external_limit_orders=3)
        Book.objects.create(account=account, market_type=FUTURES, symbol="XRP/USDT")
        exchange.orders["901"] = report(exchange_order_id="901", symbol="ETH/USDT")

        reconcile_account(account_id=account.pk, market_type=FUTURES)

        assert sorted(filter(None, short)) == ["BTC/USDT", "ETH/USDT"]
        assert Book.objects.get(symbol="ETH/USDT").external_limit_orders == 1

    def test_believes_no_list_about_a_symbol_that_came_up_meanwhile(
        self, account: Account, exchange: FakeExchange, short: list[str | None]
    ) -> None:
        placement = make_order(account, symbol="ETH/USDT")  # its book matters: the exchange is asked
        assert reconcile_account(account_id=account.pk, market_type=FUTURES).is_clean
        assert short == ["ETH/USDT"]
        assert open_order(placement) is not None

    def test_gives_a_person_the_whole_list(
        self, account: Account, exchange: FakeExchange, short: list[str | None]
    ) -> None:
        reconcile_account(account_id=account.pk, market_type=FUTURES, on_demand=True)
        assert short == [None]


class TestPutOff:
    def test_leaves_the_last_of_the_weight_to_orders(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def wait() -> float:
            return 21.5

        monkeypatch.setattr(exchange, "background_wait", wait)
        result = reconcile_account(account_id=account.pk, market_type=FUTURES)
        assert (result.ran, result.again_after) == (False, 21.5)
        assert reconcile_account(account_id=account.pk, market_type=FUTURES, on_demand=True).ran

    def test_is_known_from_the_exchanges_own_count(self) -> None:
        """Other processes draw on the same budget: what counts is what the answers say."""
        limits = HostLimits("binance", BinanceFutures.rules)
        told: dict[str, Any] = {"account": "a", "server_seconds": 30.0}
        limits.learn({"X-MBX-USED-WEIGHT-1M": "1199"}, **told)
        assert limits.background_wait == 0
        limits.learn({"X-MBX-USED-WEIGHT-1M": "1200"}, **told)
        assert 29 < limits.background_wait <= 30
