"""From names to URLs and adapters."""

from __future__ import annotations

import pytest

from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.binance.spot import BinanceSpot
from exchanges.adapters.exceptions import UnsupportedOrder
from exchanges.adapters.types import Credentials, Endpoints, Environment, MarketType
from exchanges.metadata import endpoints_for
from exchanges.registry import ADAPTERS, adapter_for, capabilities_of

SPOT, FUTURES = MarketType.SPOT, MarketType.FUTURES
SIMULATOR_URL = "http://127.0.0.1:9800"


def find(market: MarketType, environment: Environment, **overrides: str) -> Endpoints:
    return endpoints_for("binance", market, environment, simulator_url=SIMULATOR_URL, overrides=overrides)


class TestEndpointsFor:
    @pytest.mark.parametrize(
        ("market", "environment", "rest", "ws"),
        [
            (SPOT, Environment.LIVE, "https://api.binance.com", "wss://ws-api.binance.com:443/ws-api/v3"),
            (FUTURES, Environment.LIVE, "https://fapi.binance.com", "wss://fstream.binance.com"),
            (
                FUTURES,
                Environment.TESTNET,
                "https://demo-fapi.binance.com",
                "wss://fstream.binancefuture.com",
            ),
            (
                SPOT,
                Environment.SIMULATOR,
                "http://127.0.0.1:9800/binance-spot",
                "ws://127.0.0.1:9800/binance-spot/ws-api/v3",
            ),
            (
                FUTURES,
                Environment.SIMULATOR,
                "http://127.0.0.1:9800/binance-futures",
                "ws://127.0.0.1:9800/binance-futures",
            ),
        ],
    )
    def test_know_where_each_market_lives(
        self, market: MarketType, environment: Environment, rest: str, ws: str
    ) -> None:
        assert find(market, environment) == Endpoints(rest, ws)

    @pytest.mark.parametrize("environment", list(Environment))
    def test_let_an_override_win_over_the_environment(self, environment: Environment) -> None:
        found = find(FUTURES, environment, EXCHANGE_URL_BINANCE_FUTURES_REST="http://proxy:1/x/")
        assert found.rest == "http://proxy:1/x"
        assert found.ws == find(FUTURES, environment).ws

    def test_take_the_override_of_the_market_first(self) -> None:
        overrides = {"EXCHANGE_URL_BINANCE_WS": "ws://all", "EXCHANGE_URL_BINANCE_SPOT_WS": "ws://spot"}
        assert find(SPOT, Environment.LIVE, **overrides).ws == "ws://spot"
        assert find(FUTURES, Environment.LIVE, **overrides).ws == "ws://all"

    def test_refuse_a_market_that_the_exchange_does_not_have(self) -> None:
        with pytest.raises(UnsupportedOrder, match="binance has no DOMESTIC_STOCK market"):
            find(MarketType.DOMESTIC_STOCK, Environment.LIVE)

    def test_turn_a_secure_simulator_into_a_secure_websocket(self) -> None:
        found = endpoints_for(
            "binance", FUTURES, Environment.SIMULATOR, simulator_url="https://sim.example/", overrides={}
        )
        assert found == Endpoints("https://sim.example/binance-futures", "wss://sim.example/binance-futures")


class TestAdapterFor:
    def test_keeps_one_adapter_per_keys_and_place(self) -> None:
        place = Endpoints("http://127.0.0.1:9830/a", "ws://127.0.0.1:9830/a")
        elsewhere = Endpoints("http://127.0.0.1:9830/b", "ws://127.0.0.1:9830/b")
        mine, others = Credentials("registry-key", "s"), Credentials("registry-other", "s")
        first = adapter_for("binance", FUTURES, credentials=mine, endpoints=place)
        assert adapter_for("binance", FUTURES, credentials=mine, endpoints=place) is first
        assert adapter_for("binance", FUTURES, credentials=others, endpoints=place) is not first
        assert adapter_for("binance", FUTURES, credentials=mine, endpoints=elsewhere) is not first
        assert type(first) is BinanceFutures
        assert type(adapter_for("binance", SPOT, credentials=mine, endpoints=place)) is BinanceSpot

    def test_makes_a_new_one_for_a_new_secret(self) -> None:
        place = Endpoints("http://127.0.0.1:9830/a", "ws://127.0.0.1:9830/a")
        old, new = Credentials("registry-key", "old"), Credentials("registry-key", "new")
        adapters = {id(adapter_for("binance", SPOT, credentials=one, endpoints=place)) for one in (old, new)}
        assert len(adapters) == 2

    def test_hands_the_settings_on(self) -> None:
        adapter = adapter_for(
            "binance", SPOT, credentials=Credentials("k", "s"), endpoints=Endpoints("http://x", "ws://x"),
            timeout_seconds=4.0, validity_seconds=2.5,
        )  # fmt: skip
        assert adapter.capabilities.request_timeout_seconds == 4.0
        assert adapter.capabilities.validity_window_seconds == 2.5
        assert BinanceSpot.capabilities.request_timeout_seconds == 10.0

    def test_refuses_an_exchange_it_does_not_know(self) -> None:
        with pytest.raises(UnsupportedOrder):
            adapter_for("nowhere", SPOT, credentials=Credentials("k", "s"), endpoints=Endpoints("", ""))


class TestCapabilitiesOf:
    def test_answer_for_every_adapter(self) -> None:
        for exchange, market in ADAPTERS:
            assert capabilities_of(exchange, market).market_types == {market}
        assert capabilities_of("binance", FUTURES).place_batch_size == 5
