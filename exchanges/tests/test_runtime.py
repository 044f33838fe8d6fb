"""One loop and one session per host, whoever calls."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal

import pytest
from django.db import connection, connections, transaction

from exchanges import runtime
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.testing import make_request
from exchanges.adapters.types import Credentials, Endpoints, OrderReport
from exchanges.models import Account
from exchanges.tests.scripted import Reply, Request, ScriptedServer

pytestmark = pytest.mark.usefixtures("fresh_runtime")


async def _thread_name() -> str:
    return threading.current_thread().name


def _accept(request: Request) -> Reply:
    return Reply(
        [
            {
                "orderId": number,
                "clientOrderId": order["newClientOrderId"],
                "symbol": order["symbol"],
                "status": "NEW",
                "side": order["side"],
                "type": order["type"],
                "origQty": order["quantity"],
                "price": order["price"],
                "executedQty": "0",
                "avgPrice": "0",
                "updateTime": 1700000000000,
            }
            for number, order in enumerate(json.loads(request.params["batchOrders"]), start=1)
        ]
    )


class TestRun:
    def test_runs_the_coroutine_on_the_io_thread_and_returns_its_result(self) -> None:
        assert runtime.run(_thread_name()) == "exchange-io"

    def test_raises_what_the_coroutine_raises(self) -> None:
        async def fail() -> None:
            raise KeyError("gone")

        with pytest.raises(KeyError, match="gone"):
            runtime.run(fail())

    def test_stops_the_coroutine_when_its_time_is_over(self) -> None:
        ended = threading.Event()

        async def linger() -> None:
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()

        with pytest.raises(TimeoutError, match=r"^no answer within 0\.05 s$"):
            runtime.run(linger(), timeout=0.05)
        assert ended.wait(5)

    @pytest.mark.django_db(transaction=True)
    def test_gives_the_database_connection_back_while_it_takes_long(self) -> None:
        held: list[bool] = []
        mine = connections["default"]  # of this thread; the loop's is another

        async def look(after: float) -> None:
            await asyncio.sleep(after)
            held.append(mine.connection is not None)

        def ask(after: float) -> None:
            Account.objects.exists()
            runtime.run(look(after), timeout=10)

        ask(0)
        ask(runtime.KEEP_CONNECTION_SECONDS + 0.3)

        assert held == [True, False]
        assert not Account.objects.exists()  # it connects again where it is needed

    @pytest.mark.django_db(transaction=True)
    def test_keeps_the_connection_inside_a_transaction(self) -> None:
        with transaction.atomic():
            Account.objects.exists()
            runtime.run(asyncio.sleep(runtime.KEEP_CONNECTION_SECONDS + 0.1))
            assert connection.connection is not None

    def test_refuses_to_wait_for_itself(self) -> None:
        async def inside() -> str:
            return runtime.run(_thread_name())

        with pytest.raises(runtime.RuntimeMisuse, match="await the coroutine there"):
            runtime.run(inside())


class TestRunAsync:
    async def test_brings_the_result_to_another_loop(self) -> None:
        assert await runtime.run_async(_thread_name()) == "exchange-io"


class TestSpawn:
    def test_goes_on_when_nobody_waits_any_more(self) -> None:
        done = threading.Event()

        async def work() -> None:
            await asyncio.sleep(0.1)
            done.set()

        future = runtime.spawn(work())
        with pytest.raises(TimeoutError):
            future.result(0.01)
        assert done.wait(5)

    def test_logs_what_the_coroutine_raises(self, caplog: pytest.LogCaptureFixture) -> None:
        async def fail() -> None:
            raise KeyError("gone")

        with caplog.at_level(logging.ERROR, logger="exchanges.runtime"):
            future = runtime.spawn(fail())
            with pytest.raises(KeyError):
                future.result(5)
            runtime.run(_thread_name())  # callbacks of the first have run by now
        assert "'gone'" in caplog.text


class TestAdopt:
    def test_uses_the_callers_loop(self) -> None:
        async def main() -> tuple[str, int]:
            runtime.adopt(asyncio.get_running_loop())
            name = await asyncio.to_thread(lambda: runtime.run(_thread_name()))
            await runtime.close()
            return name, runtime.stats().loops

        before = runtime.stats().loops
        assert asyncio.run(main()) == (threading.current_thread().name, before + 1)

    def test_refuses_a_second_loop(self) -> None:
        runtime.run(_thread_name())

        async def main() -> None:
            runtime.adopt(asyncio.get_running_loop())

        with pytest.raises(runtime.RuntimeMisuse, match="already has its I/O loop"):
            asyncio.run(main())


class TestHosts:
    def test_are_refused_off_the_io_loop(self) -> None:
        async def elsewhere() -> None:
            runtime.hosts()

        with pytest.raises(runtime.RuntimeMisuse):
            asyncio.run(elsewhere())

    def test_share_a_ban_that_another_process_has_met(self) -> None:
        async def banned_for() -> float:
            host = runtime.hosts().host("http://127.0.0.1:9830", "binance", BinanceFutures.rules)
            return host.limits.banned_for

        assert runtime.run(banned_for()) == 0
        runtime.obey_ban("http://127.0.0.1:9830", time.time() + 60, "told by a row")
        assert runtime.run(banned_for()) == pytest.approx(60, abs=2)


class TestStats:
    def test_count_one_loop_and_one_session_over_100_batches_from_8_threads(
        self, server: ScriptedServer
    ) -> None:
        server.script["POST", "/fapi/v1/batchOrders"] = _accept
        exchange = BinanceFutures(
            Credentials("key", "secret"),
            Endpoints(server.url, server.ws_url),
            hosts=runtime.hosts,
            rules=replace(BinanceFutures.rules, order_windows=()),  # 100 batches are more than 10 s allow
        )
        loops_before = runtime.stats().loops

        def send(number: int) -> list[object]:
            batch = [make_request(f"b{number}-{i}", price=Decimal(90000 - i)) for i in range(2)]
            return list(runtime.run(exchange.place_orders(batch), timeout=30))

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(send, range(50)))
            answers += list(threads.map(send, range(50, 100)))

        assert all(isinstance(one, OrderReport) for answer in answers for one in answer)
        assert len(server.sent_to("/fapi/v1/batchOrders")) == 100
        assert runtime.stats().loops - loops_before == 1
        assert runtime.stats().sessions == {server.url: 1}


class TestFork:
    def test_gives_the_child_a_loop_of_its_own_and_leaves_the_parents_alone(
        self, server: ScriptedServer
    ) -> None:
        server.script["GET", "/fapi/v1/time"] = Reply({"serverTime": 1700000000000})

        async def ask() -> int:
            session = runtime.hosts().session(server.url)
            async with session.get(f"{server.url}/fapi/v1/time") as response:
                return int((await response.json())["serverTime"])

        assert runtime.run(ask(), timeout=5) == 1700000000000
        pid = os.fork()
        if pid == 0:  # the child: no pytest in here
            code = 1
            try:
                code = 0 if runtime.run(ask(), timeout=5) and runtime.stats().loops == 1 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert runtime.run(ask(), timeout=5) == 1700000000000
        assert len(server.connections) == 2  # the child opened its own, the parent's was kept
