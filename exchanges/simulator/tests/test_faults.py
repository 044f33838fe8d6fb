"""Each fault over a real socket: what the client sees, and what the exchange did."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import aiohttp
import pytest

from exchanges.simulator.testing import ControlError, SimulatorProcess
from exchanges.simulator.tests.clients import (
    WS_API,
    WireClient,
    ask,
    limit_order,
    next_event,
    subscription,
    wire_client,
)

ORDER = "/fapi/v1/order"
BATCH = "/fapi/v1/batchOrders"
PLACING = {"method": "POST", "path": ORDER}


@pytest.fixture
async def client(simulator: SimulatorProcess) -> AsyncIterator[WireClient]:
    async with wire_client(simulator.futures_url) as made:
        yield made


@pytest.fixture
async def socket(client: WireClient) -> aiohttp.ClientWebSocketResponse:
    key = (await client.send("POST", "/fapi/v1/listenKey")).data["listenKey"]
    return await client.listen(f"/private/ws/{key}")


class TestDropAnswer:
    async def test_accepts_the_order_and_hangs_up(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("drop_answer", match=PLACING)

        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.call("POST", ORDER, **limit_order("th-lost"))

        assert simulator.order("th-lost")["status"] == "NEW"
        assert simulator.faults() == []  # once, as asked

    async def test_may_hang_up_before_accepting(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("drop_answer", match=PLACING, stage="before")

        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.call("POST", ORDER, **limit_order("th-lost"))

        assert simulator.orders() == []


class TestDelayAfter:
    async def test_holds_the_answer_of_an_accepted_order(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("delay_after", match=PLACING, seconds=0.5)

        sending = asyncio.create_task(client.call("POST", ORDER, **limit_order("th-late")))
        await asyncio.to_thread(simulator.wait_for, lambda ledger: ledger["accepted"] == {"th-late": 1})
        assert not sending.done()

        assert (await sending).status == 200


class TestDelayBefore:
    async def test_accepts_nothing_from_a_client_that_went_away(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("delay_before", match=PLACING, seconds=0.3)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.call("POST", ORDER, **limit_order("th-gone")), 0.1)

        # Held up as long, but sent later: when it is through, the first one's time was over too.
        simulator.add_fault("delay_before", match=PLACING, seconds=0.3)
        reply = await client.call("POST", ORDER, **limit_order("th-stayed"))

        assert reply.status == 200
        assert simulator.ledger()["accepted"] == {"th-stayed": 1}

    async def test_accepts_what_was_on_its_way_all_the_same_when_it_arrives_late(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("arrive_late", match=PLACING, seconds=0.3)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.call("POST", ORDER, **limit_order("th-gone")), 0.1)

        simulator.add_fault("delay_before", match=PLACING, seconds=0.3)
        await client.call("POST", ORDER, **limit_order("th-stayed"))

        assert simulator.ledger()["accepted"] == {"th-gone": 1, "th-stayed": 1}

    @pytest.mark.parametrize("kind", ["delay_before", "arrive_late"])
    async def test_refuses_what_is_past_its_window_by_then(
        self, client: WireClient, simulator: SimulatorProcess, kind: str
    ) -> None:
        simulator.add_fault(kind, match=PLACING, seconds=0.3)

        reply = await client.call("POST", ORDER, recvWindow="200", **limit_order())

        assert (reply.status, reply.code) == (400, -5028)
        assert simulator.orders() == []

    async def test_refuses_it_on_spot_with_that_exchange_s_code(self, simulator: SimulatorProcess) -> None:
        simulator.add_fault("delay_before", match={"exchange": "binance-spot"}, seconds=0.3)

        async with wire_client(simulator.spot_url) as spot:
            reply = await spot.call("POST", "/api/v3/order", recvWindow="200", **limit_order())

        assert reply.code == -1021
        assert simulator.orders() == []


class TestStatus:
    async def test_before_accepting_does_nothing(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("status", match=PLACING, status=503, body='{"code":-1008,"msg":"busy"}')

        reply = await client.call("POST", ORDER, **limit_order())

        assert (reply.status, reply.code) == (503, -1008)
        assert simulator.orders() == []

    async def test_after_accepting_hides_that_it_was_done(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("status", match=PLACING, status=503, stage="after")

        reply = await client.call("POST", ORDER, **limit_order("th-hidden"))

        assert reply.status == 503
        assert reply.data["msg"] == "Unknown error, please check your request or try again later."
        assert simulator.order("th-hidden")["status"] == "NEW"

    @pytest.mark.parametrize("status", [429, 418])
    async def test_sends_clients_away_for_a_while(
        self, client: WireClient, simulator: SimulatorProcess, status: int
    ) -> None:
        simulator.add_fault("status", status=status, retry_after=7, times=2)

        replies = [await client.call("GET", "/fapi/v3/balance") for _ in range(3)]

        assert [reply.status for reply in replies] == [status, status, 200]
        assert (replies[0].code, replies[0].headers["Retry-After"]) == (-1003, "7")


class TestReject:
    async def test_refuses_only_the_matching_orders_of_a_batch(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault(
            "reject", match={"client_order_id_prefix": "th-bad"}, code=-2019, msg="Margin is insufficient."
        )
        batch = [limit_order("th-good"), limit_order("th-bad"), limit_order("th-bad-2")]

        reply = await client.call("POST", BATCH, batchOrders=json.dumps(batch))

        assert reply.data[1] == {"code": -2019, "msg": "Margin is insufficient."}
        assert simulator.ledger()["accepted"] == {"th-good": 1, "th-bad-2": 1}

    async def test_refuses_a_whole_request(self, client: WireClient, simulator: SimulatorProcess) -> None:
        simulator.add_fault("reject", match={"method": "GET", "path": ORDER}, code=-2013, msg="gone")
        await client.call("POST", ORDER, **limit_order("th-1"))

        refused = await client.call("GET", ORDER, symbol="BTCUSDT", origClientOrderId="th-1")
        found = await client.call("GET", ORDER, symbol="BTCUSDT", origClientOrderId="th-1")

        assert (refused.code, found.status) == (-2013, 200)

    async def test_can_follow_one_order_into_its_queries(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        match = {"method": "GET", "client_order_id_prefix": "th-1"}
        simulator.add_fault("reject", match=match, code=-2013, msg="gone", times=None)
        for name in ("th-1", "th-2"):
            await client.call("POST", ORDER, **limit_order(name))

        codes = [
            (await client.call("GET", ORDER, symbol="BTCUSDT", origClientOrderId=name)).code
            for name in ("th-1", "th-2", "th-1")
        ]

        assert codes == [-2013, None, -2013]


class TestEchoSecret:
    async def test_puts_key_and_signature_into_the_error(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("echo_secret", match=PLACING)

        reply = await client.call("POST", ORDER, **limit_order())

        assert reply.status == 400
        assert "apiKey=k1" in reply.data["msg"]
        assert "signature=" in reply.data["msg"]
        assert simulator.orders() == []


class TestStreamFaults:
    async def test_drop_one_message(
        self, client: WireClient, socket: aiohttp.ClientWebSocketResponse, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("stream_drop", match={"event": "ORDER_TRADE_UPDATE"})

        for name in ("th-1", "th-2"):
            await client.call("POST", ORDER, **limit_order(name))

        assert (await next_event(socket))["o"]["c"] == "th-2"

    async def test_send_one_message_twice(
        self, client: WireClient, socket: aiohttp.ClientWebSocketResponse, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("stream_duplicate", match={"client_order_id_prefix": "th-1"})

        for name in ("th-1", "th-2"):
            await client.call("POST", ORDER, **limit_order(name))

        told = [(await next_event(socket))["o"]["c"] for _ in range(3)]
        assert told == ["th-1", "th-1", "th-2"]

    async def test_change_the_order_of_two_messages(
        self, client: WireClient, socket: aiohttp.ClientWebSocketResponse, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("stream_reorder", match={"client_order_id_prefix": "th-1"})

        for name in ("th-1", "th-2"):
            await client.call("POST", ORDER, **limit_order(name))

        told = [(await next_event(socket))["o"]["c"] for _ in range(2)]
        assert told == ["th-2", "th-1"]

    async def test_change_the_order_of_two_fills_on_futures(
        self, client: WireClient, socket: aiohttp.ClientWebSocketResponse, simulator: SimulatorProcess
    ) -> None:
        await client.call("POST", ORDER, **limit_order("th-1"))
        simulator.add_fault("stream_reorder", match={"event": "ORDER_TRADE_UPDATE"})

        for quantity in (Decimal("0.004"), Decimal("0.006")):
            simulator.fill("th-1", quantity=quantity)

        told = [await next_event(socket) for _ in range(7)]
        assert [event["e"] for event in told[1:]] == [
            *("TRADE_LITE", "ACCOUNT_UPDATE") * 2,  # what comes with a fill releases nothing
            *("ORDER_TRADE_UPDATE",) * 2,
        ]
        assert [(one["o"]["l"], one["o"]["z"]) for one in told[5:]] == [
            ("0.006", "0.010"),
            ("0.004", "0.004"),
        ]

    async def test_change_the_order_of_two_fills_on_spot(self, simulator: SimulatorProcess) -> None:
        async with wire_client(simulator.spot_url) as spot:
            socket = await spot.listen(WS_API)
            await ask(socket, "userDataStream.subscribe.signature", subscription())
            await spot.call("POST", "/api/v3/order", **limit_order("th-1"))
            simulator.add_fault("stream_reorder", match={"event": "executionReport"})

            for quantity in (Decimal("0.004"), Decimal("0.006")):
                simulator.fill("th-1", quantity=quantity)

            told = [(await next_event(socket))["event"] for _ in range(6)]
        reports = [event for event in told if event["e"] == "executionReport"]
        assert [Decimal(report["l"]) for report in reports] == [0, Decimal("0.006"), Decimal("0.004")]

    async def test_change_the_order_of_each_kind_of_message_by_itself(
        self, client: WireClient, socket: aiohttp.ClientWebSocketResponse, simulator: SimulatorProcess
    ) -> None:
        await client.call("POST", ORDER, **limit_order("th-1"))
        await next_event(socket)
        simulator.add_fault("stream_reorder", times=3)  # all that the first fill brings

        for quantity in (Decimal("0.004"), Decimal("0.006")):
            simulator.fill("th-1", quantity=quantity)

        names = [(await next_event(socket))["e"] for _ in range(6)]
        assert names == [*["TRADE_LITE"] * 2, *["ACCOUNT_UPDATE"] * 2, *["ORDER_TRADE_UPDATE"] * 2]

    async def test_bring_a_message_that_nothing_follows_late(
        self, client: WireClient, socket: aiohttp.ClientWebSocketResponse, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("stream_reorder")

        await client.call("POST", ORDER, **limit_order("th-1"))

        assert (await next_event(socket))["o"]["c"] == "th-1"

    async def test_hold_a_message_and_what_follows_it(
        self, client: WireClient, socket: aiohttp.ClientWebSocketResponse, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("stream_delay", match={"client_order_id_prefix": "th-1"}, seconds=0.5)

        for name in ("th-1", "th-2"):
            await client.call("POST", ORDER, **limit_order(name))

        told = [(await next_event(socket))["o"]["c"] for _ in range(2)]
        assert told == ["th-1", "th-2"]
        assert time.time_ns() - simulator.order("th-1")["accepted_ns"] >= 500_000_000

    async def test_break_a_message_off(
        self, client: WireClient, socket: aiohttp.ClientWebSocketResponse, simulator: SimulatorProcess
    ) -> None:
        simulator.add_fault("stream_garble", match={"client_order_id_prefix": "th-1"})

        for name in ("th-1", "th-2"):
            await client.call("POST", ORDER, **limit_order(name))

        broken = await asyncio.wait_for(socket.receive(), 5)
        with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
            json.loads(broken.data)
        assert (await next_event(socket))["o"]["c"] == "th-2"

    async def test_cut_the_streams_of_one_account(
        self, client: WireClient, socket: aiohttp.ClientWebSocketResponse, simulator: SimulatorProcess
    ) -> None:
        async with wire_client(simulator.futures_url, "k2", "s2") as other:
            key = (await other.send("POST", "/fapi/v1/listenKey")).data["listenKey"]
            others = await other.listen(f"/private/ws/{key}")

            assert simulator.cut_streams(api_key="k1") == 1
            await other.call("POST", ORDER, **limit_order("th-2"))

            message = await asyncio.wait_for(socket.receive(), 5)
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            assert (await next_event(others))["o"]["c"] == "th-2"

    async def test_refuse_to_connect(self, client: WireClient, simulator: SimulatorProcess) -> None:
        key = (await client.send("POST", "/fapi/v1/listenKey")).data["listenKey"]
        simulator.add_fault("stream_refuse", match={"exchange": "binance-futures"}, status=503)

        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await client.listen(f"/private/ws/{key}")

        assert caught.value.status == 503
        assert not (await client.listen(f"/private/ws/{key}")).closed


class TestLatency:
    async def test_delays_a_round_trip_half_before_and_half_after(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.set_latency(100)
        began = time.time_ns()

        await client.call("POST", ORDER, **limit_order("th-1"))

        ended = time.time_ns()
        row = simulator.order("th-1")
        assert ended - began >= 100_000_000
        assert began < row["received_ns"] < row["accepted_ns"] < ended
        assert row["accepted_ns"] - row["received_ns"] >= 49_000_000
        assert ended - row["accepted_ns"] >= 49_000_000

    async def test_delays_what_streams_bring(
        self, client: WireClient, socket: aiohttp.ClientWebSocketResponse, simulator: SimulatorProcess
    ) -> None:
        simulator.set_latency(200)
        await client.call("POST", ORDER, **limit_order("th-1"))

        await next_event(socket)

        assert time.time_ns() - simulator.order("th-1")["accepted_ns"] >= 99_000_000


class TestLimits:
    async def test_are_enforced_when_asked(self, client: WireClient, simulator: SimulatorProcess) -> None:
        simulator.set_limits(exchange="binance-futures", enforce=True, orders={"10S": 3})

        replies = [await client.call("POST", ORDER, **limit_order(f"th-{i}")) for i in range(12)]

        refused = [reply for reply in replies if reply.status == 429]
        assert {reply.code for reply in refused} == {-1015}
        assert all(1 <= int(reply.headers["Retry-After"]) <= 10 for reply in refused)
        assert len(simulator.orders()) == 12 - len(refused) <= 6  # two windows at most
        simulator.reset()
        assert not simulator.set_limits()["binance-futures"]["enforce"]

    async def test_keep_what_was_used_to_themselves_when_asked(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        told = await client.call("POST", ORDER, **limit_order("th-1"))
        assert {"X-MBX-USED-WEIGHT-1M", "X-MBX-ORDER-COUNT-10S"} <= told.headers.keys()

        simulator.set_limits(tell=False)

        silent = await client.call("POST", ORDER, **limit_order("th-2"))
        assert not any(name.startswith("X-MBX") for name in silent.headers)


class TestControl:
    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "unheard_of"},
            {"kind": "status", "stage": "between"},
            {"kind": "status", "colour": "red"},
            {"kind": "status", "match": {"colour": "red"}},
        ],
    )
    def test_names_what_is_wrong_with_a_fault(
        self, simulator: SimulatorProcess, fault: dict[str, object]
    ) -> None:
        with pytest.raises(ControlError, match=r"unheard_of|stage|colour"):
            simulator.call("POST", "/faults", fault)
        assert simulator.faults() == []

    async def test_forgets_faults_when_told(self, client: WireClient, simulator: SimulatorProcess) -> None:
        simulator.add_fault("status", status=500, times=None)

        simulator.clear_faults()

        assert (await client.call("GET", "/fapi/v3/balance")).status == 200
