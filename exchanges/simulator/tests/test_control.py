from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from exchanges.simulator.testing import ControlError, SimulatorProcess, running_simulator
from exchanges.simulator.tests.clients import WireClient, limit_order, wire_client

ORDER = "/fapi/v1/order"


@pytest.fixture
async def client(simulator: SimulatorProcess) -> AsyncIterator[WireClient]:
    async with wire_client(simulator.futures_url) as made:
        yield made


class TestLedger:
    async def test_counts_every_acceptance_of_a_client_id(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        for _ in range(2):  # a closed order's id may be used again, and that is what must be seen
            await client.call("POST", ORDER, **limit_order("th-twice"))
            await client.call("DELETE", ORDER, symbol="BTCUSDT", origClientOrderId="th-twice")

        assert simulator.ledger()["accepted"] == {"th-twice": 2}
        with pytest.raises(AssertionError, match="2 orders"):
            simulator.order("th-twice")

    async def test_tells_fills_positions_and_requests(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        began = time.time_ns()
        await client.call("POST", ORDER, **limit_order("th-1"))
        simulator.fill("th-1", quantity="0.004", price="89000")
        ended = time.time_ns()

        ledger = simulator.ledger()
        row = ledger["orders"][0]
        assert (row["status"], row["filled"], row["average_price"]) == ("PARTIALLY_FILLED", "0.004", "89000")
        fill = row["fills"][0]
        assert (fill["price"], fill["fee"], fill["is_maker"]) == ("89000", "0.07120000", True)
        assert began <= row["received_ns"] <= row["accepted_ns"] <= ended
        assert row["accepted_at"] == f"{row['accepted_ns'] // 1000 / 1000:.3f}"
        account = ledger["accounts"]["binance-futures"]["k1"]
        assert account["positions"][0]["quantity"] == "0.004"
        assert account["balances"]["USDT"]["wallet"] == "999999.92880000"
        assert ledger["requests"] == {"binance-futures POST /fapi/v1/order": 1}

    async def test_filters(self, client: WireClient, simulator: SimulatorProcess) -> None:
        await client.call("POST", ORDER, **limit_order("th-btc"))
        await client.call("POST", ORDER, **limit_order("th-eth", symbol="ETHUSDT", price="3000"))
        async with wire_client(simulator.spot_url, "k2", "s2") as other:
            await other.call("POST", "/api/v3/order", **limit_order("other"))

        def names(**filters: str) -> list[str]:
            return [row["client_order_id"] for row in simulator.orders(**filters)]

        assert names(symbol="ETH/USDT") == names(symbol="ETHUSDT") == ["th-eth"]
        assert names(api_key="k2") == names(exchange="binance-spot") == ["other"]
        assert names(client_order_id_prefix="th-") == ["th-btc", "th-eth"]
        assert names(client_order_id_prefix="th-", symbol="BTC/USDT") == ["th-btc"]


class TestAccounts:
    async def test_become_known_with_their_balances(self, simulator: SimulatorProcess) -> None:
        async with wire_client(simulator.spot_url, "new-key", "new-secret") as client:
            before = await client.call("GET", "/api/v3/account")
            simulator.add_account("new-key", "new-secret", {"binance-spot": {"USDT": "12.5"}})
            after = await client.call("GET", "/api/v3/account", omitZeroBalances="true")

        assert before.code == -2015
        assert after.data["balances"][0] == {"asset": "USDT", "free": "12.50000000", "locked": "0.00000000"}


class TestPrices:
    async def test_move_both_markets(self, client: WireClient, simulator: SimulatorProcess) -> None:
        simulator.set_price("BTCUSDT", "94321.1")

        futures = await client.get("/fapi/v1/ticker/price?symbol=BTCUSDT")
        async with wire_client(simulator.spot_url) as spot:
            everywhere = await spot.get('/api/v3/ticker/price?symbols=["BTCUSDT","ETHUSDT"]')

        assert futures.data["price"] == "94321.10"
        assert [row["price"] for row in everywhere.data] == ["94321.10000000", "3500.00000000"]

    @pytest.mark.parametrize(
        "body",
        [
            {"symbol": "NOPE", "price": "1"},
            {"symbol": "BTC/USDT", "price": "-1"},
            {"symbol": "BTC/USDT", "price": "NaN"},
            {"symbol": "BTC/USDT"},
            {},
        ],
    )
    def test_refuse_nonsense(self, simulator: SimulatorProcess, body: dict[str, str]) -> None:
        with pytest.raises(ControlError):
            simulator.call("POST", "/price", body)
        assert simulator.state()["prices"]["BTC/USDT"] == "95000"


class TestTick:
    def test_steps_the_same_way_from_the_same_seed(self, simulator: SimulatorProcess) -> None:
        walks = []
        for seed in (7, 7, 8):
            simulator.reset(seed=seed)
            simulator.tick(20)
            walks.append(simulator.state()["prices"])

        assert walks[0] == walks[1] != walks[2]

    async def test_fills_a_large_order_in_parts(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        await client.call("POST", ORDER, **limit_order("th-large", quantity="1", price="94999"))
        seen = set()
        for _ in range(2000):
            simulator.tick()
            row = simulator.order("th-large")
            seen.add(row["status"])
            if row["status"] == "FILLED":
                break

        assert seen == {"NEW", "PARTIALLY_FILLED", "FILLED"}
        assert 3 <= len(row["fills"]) <= 5


class TestReset:
    async def test_makes_all_as_new_but_keeps_keys(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.add_account("kept", "secret")
        await client.call("POST", ORDER, **limit_order())
        simulator.set_clock_offset(5000)
        simulator.add_fault("status", status=500)

        simulator.reset(prices={"BTC/USDT": "90000"})

        state = simulator.state()
        assert (state["clock_offset_ms"], state["faults"], state["prices"]["BTC/USDT"]) == (0, [], "90000")
        assert "kept" in state["api_keys"]
        assert simulator.ledger()["orders"] == []


class TestFill:
    async def test_names_an_order_that_is_not_there_or_cannot_be_filled_so(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        await client.call("POST", ORDER, **limit_order("th-1"))

        with pytest.raises(ControlError, match="no open order th-none"):
            simulator.fill("th-none")
        with pytest.raises(ControlError, match="QUANTITY_TOO_LARGE"):
            simulator.fill("th-1", quantity="1")


class TestCancel:
    async def test_ends_an_order_by_hand_once(self, client: WireClient, simulator: SimulatorProcess) -> None:
        await client.call("POST", ORDER, **limit_order("th-1"))
        assert simulator.order("th-1")["ended_ns"] == 0

        assert simulator.cancel("th-1")["status"] == "CANCELED"

        row = simulator.order("th-1")
        assert row["status"] == "CANCELED"
        assert row["accepted_ns"] < row["ended_ns"]
        with pytest.raises(ControlError, match="no open order th-1"):
            simulator.cancel("th-1")


class TestCommandLine:
    def test_walks_by_itself(self) -> None:
        with running_simulator("--tick-ms", "5", "--seed", "3", "--price", "BTC/USDT=50000") as walking:
            deadline = time.monotonic() + 5
            while walking.state()["prices"]["BTC/USDT"] == "50000":
                assert time.monotonic() < deadline
            assert walking.state()["walks"]

    def test_replays_trades(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        file = tmp_path_factory.mktemp("replay") / "trades.csv"
        file.write_text("time,symbol,price\n1000,BTC/USDT,94000\n1010,ETH/USDT,3000\n1100,BTC/USDT,93000\n")
        with running_simulator("--replay", str(file)) as replaying:
            deadline = time.monotonic() + 5
            while replaying.state()["prices"]["BTC/USDT"] != "93000":
                assert time.monotonic() < deadline
            assert replaying.state()["prices"]["ETH/USDT"] == "3000"

    async def test_knows_accounts_and_fees(self) -> None:
        arguments = ("--fixed", "--account", "key:secret", "--fee", "binance-futures=0/0.001")
        with running_simulator(*arguments) as process:
            async with wire_client(process.futures_url, "key", "secret") as client:
                order = limit_order("th-1", price="95000")
                await client.call("POST", ORDER, **order)
            assert process.order("th-1")["fills"][0]["fee"] == "0.95000000"

    def test_ends_at_once_on_sigterm(self) -> None:
        with running_simulator("--fixed") as process:
            began = time.monotonic()
            process.stop()
            assert (process.process.returncode, time.monotonic() - began < 2) == (0, True)

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--host", "0.0.0.0"),
            ("--host", "example.org"),
            ("--price", "BTC/USDT=much"),
            ("--price", "DOGE/USDT=1"),
            ("--account", "no-secret"),
            ("--fee", "binance-spot=1"),
        ],
    )
    def test_refuses_what_it_cannot_read_or_should_not_do(self, arguments: tuple[str, ...]) -> None:
        with pytest.raises(RuntimeError, match="did not start"), running_simulator(*arguments):
            pass
