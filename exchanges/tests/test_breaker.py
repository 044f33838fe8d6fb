"""When a host is left alone, when it is tried again, and what passes all the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchanges.adapters import breaker as breaker_module
from exchanges.adapters.breaker import ANSWERS_TO_CLOSE, Attempt, Breaker, BreakerNews, BreakerState
from exchanges.adapters.departure import Call
from exchanges.adapters.exceptions import CircuitOpen, InsufficientFunds, NotSent, OutcomeUnknown
from exchanges.adapters.hosts import Hosts
from exchanges.adapters.types import Credentials, Endpoints, OrderRef
from exchanges.tests.scripted import Reply, ScriptedServer
from exchanges.tests.test_http import ORDER, make_client, make_order

URL = "http://127.0.0.1:9600"
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Clocks:
    """Both clocks of a breaker, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 1_700_000_000.0

    def time(self) -> float:
        return self.wall + self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(breaker_module, "time", clocks)
    return clocks


def make_breaker(heard: list[BreakerNews] | None = None) -> Breaker:
    return Breaker(URL, "binance", on_change=None if heard is None else heard.append)


def fail(breaker: Breaker, clocks: Clocks, times: int = 1) -> None:
    for _ in range(times):
        attempt = breaker.admit()
        clocks.now += 2
        attempt.failed("no answer within 2 s")


class TestBreaker:
    def test_says_when_it_is_worth_another_try(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        fail(breaker, clocks, 3)
        clocks.now += 12

        with pytest.raises(CircuitOpen) as caught:
            breaker.admit()

        assert caught.value.retry_after == 18

    def test_opens_after_three_failures_in_a_row(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        fail(breaker, clocks, 2)
        breaker.admit().answered()
        fail(breaker, clocks, 2)
        assert breaker.state is CLOSED

        fail(breaker, clocks)

        assert breaker.state is OPEN
        with pytest.raises(
            CircuitOpen, match=r"binance cannot be reached, the next try is in 30 s \(no answer"
        ):
            breaker.admit()

    def test_takes_what_ended_in_one_instant_for_one_failure(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        under_way = [breaker.admit() for _ in range(30)]
        clocks.now += 10

        for attempt in under_way:
            attempt.failed("connection reset")

        assert breaker.state is CLOSED
        fail(breaker, clocks, 2)
        assert breaker.state is OPEN

    def test_counts_requests_that_time_out_one_after_the_other(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        under_way: list[Attempt] = []
        for _ in range(3):
            under_way.append(breaker.admit())
            clocks.now += 2
        for attempt in under_way:
            clocks.now += 2
            attempt.failed("no answer")
        assert breaker.state is OPEN

    def test_lets_one_try_after_thirty_seconds(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        fail(breaker, clocks, 3)
        clocks.now += 29.9
        with pytest.raises(CircuitOpen):
            breaker.admit()
        clocks.now += 0.2

        breaker.admit()

        with pytest.raises(CircuitOpen, match="it is being tried just now"):
            breaker.admit()

    def test_is_open_again_when_the_try_fails(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        fail(breaker, clocks, 3)
        clocks.now += 31
        fail(breaker, clocks)
        clocks.now += 29
        with pytest.raises(CircuitOpen):
            breaker.admit()
        clocks.now += 2
        breaker.admit()

    def test_closes_step_by_step(self, clocks: Clocks) -> None:
        heard: list[BreakerNews] = []
        breaker = make_breaker(heard)
        fail(breaker, clocks, 3)
        clocks.now += 31
        at_once = []
        while breaker.state is not CLOSED:
            under_way: list[Attempt] = []
            while len(under_way) < 10:
                try:
                    under_way.append(breaker.admit())
                except CircuitOpen:
                    break
            at_once.append(len(under_way))
            under_way.pop(0).answered()
            for attempt in under_way:
                attempt.abandon()
        assert at_once == [1, 2, 3]
        assert [news.state for news in heard] == [OPEN, HALF_OPEN, CLOSED]
        assert (heard[0].opened_at, heard[-1].opened_at) == (heard[0].changed_at, None)

    def test_lets_the_next_one_try_when_a_try_was_given_up(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        fail(breaker, clocks, 3)
        clocks.now += 31
        breaker.admit().abandon()
        breaker.admit()

    def test_always_lets_cancels_through_and_believes_their_answers(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        fail(breaker, clocks, 3)
        clocks.now += 1
        cancel = breaker.admit(always=True)
        breaker.recheck(cancel, always=True)

        cancel.answered()

        assert breaker.state is HALF_OPEN

    def test_is_not_held_open_by_cancels_that_fail(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        fail(breaker, clocks, 3)
        for _ in range(5):
            cancel = breaker.admit(always=True)
            clocks.now += 5.9
            cancel.failed("no answer")
        clocks.now += 1
        breaker.admit()

    def test_refuses_what_waited_its_turn_while_it_opened(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        waiting = breaker.admit()
        fail(breaker, clocks, 3)
        with pytest.raises(CircuitOpen, match="went silent"):
            breaker.recheck(waiting)

    @given(st.lists(st.sampled_from(["answer", "fail", "give up", "wait", "cancel", "late"]), max_size=60))
    def test_never_stands_open_for_good(self, steps: list[str]) -> None:
        """Whatever happened: after half a minute one may try, and three answers close it."""
        clocks = Clocks()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(breaker_module, "time", clocks)
            breaker = make_breaker()
            left: list[Attempt] = []
            for step in steps:
                clocks.now += 1.5
                if step == "wait":
                    clocks.now += 31
                    continue
                if step == "late":
                    if left:
                        left.pop().failed("late")
                    continue
                try:
                    attempt = breaker.admit(always=step == "cancel")
                except CircuitOpen:
                    assert breaker.state is not CLOSED
                    continue
                if step == "answer":
                    attempt.answered()
                elif step == "give up":
                    attempt.abandon()
                elif step == "fail":
                    left.append(attempt)
                    left.pop(0).failed("no answer")
                else:
                    attempt.failed("no answer")
            for attempt in left:
                attempt.abandon()
            clocks.now += 31
            for _ in range(ANSWERS_TO_CLOSE):
                breaker.admit().answered()
            assert breaker.state is CLOSED


class TestAdopt:
    def test_believes_another_process_and_tries_when_it_says(self, clocks: Clocks) -> None:
        heard: list[BreakerNews] = []
        other, breaker = make_breaker(), make_breaker(heard)
        fail(other, clocks, 3)

        breaker.adopt(other.news())

        assert breaker.state is OPEN
        with pytest.raises(CircuitOpen):
            breaker.admit()
        clocks.now += 31
        breaker.admit()
        assert heard == []  # it is the other one's news

    def test_knows_better_when_it_was_answered_since(self, clocks: Clocks) -> None:
        other, breaker = make_breaker(), make_breaker()
        fail(other, clocks, 3)
        clocks.now += 1
        breaker.admit().answered()

        breaker.adopt(other.news())

        assert breaker.state is CLOSED

    def test_closes_when_the_other_one_has(self, clocks: Clocks) -> None:
        other, breaker = make_breaker(), make_breaker()
        fail(other, clocks, 3)
        breaker.adopt(other.news())
        clocks.now += 31
        for _ in range(ANSWERS_TO_CLOSE):
            other.admit().answered()

        breaker.adopt(other.news())

        assert breaker.state is CLOSED
        breaker.admit()
        breaker.admit()

    def test_does_not_wait_an_hour_because_the_clock_was_set_back(self, clocks: Clocks) -> None:
        other, breaker = make_breaker(), make_breaker()
        fail(other, clocks, 3)
        row = other.news()
        clocks.wall -= 3600

        breaker.adopt(row)
        clocks.now += 31

        breaker.admit().answered()
        breaker.adopt(row)  # again and again, as long as the row says so
        breaker.admit()

    def test_does_not_listen_to_old_news(self, clocks: Clocks) -> None:
        breaker = make_breaker()
        fail(breaker, clocks, 3)
        old = replace(breaker.news(), state=CLOSED, changed_at=clocks.time() - 100)
        breaker.adopt(old)
        assert breaker.state is OPEN


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    known = Hosts(breaker_seconds=0.3)
    yield known
    await known.close()


class TestSend:
    async def test_leaves_a_host_alone_that_gives_no_answer(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        server.script["GET", "/x"] = Reply(then="drop")
        server.script["POST", ORDER] = Reply({"orderId": 7})
        client = make_client(server.url, hosts)
        for _ in range(3):
            with pytest.raises(OutcomeUnknown):
                await client.send(Call("GET", "/x"))

        with pytest.raises(CircuitOpen) as caught:
            await client.send(make_order())

        assert server.paths().count(f"POST {ORDER}") == 0  # provably not sent
        assert "signature" not in caught.value.message

    @pytest.mark.parametrize(
        "reply",
        [
            Reply({"code": -1007, "msg": "Timeout waiting for response from backend server."}, status=504),
            Reply(text="<html>502 Bad Gateway</html>", status=502),
        ],
        ids=["504", "html"],
    )
    async def test_counts_a_gateway_with_nobody_behind_it(
        self, server: ScriptedServer, hosts: Hosts, reply: Reply
    ) -> None:
        server.script["GET", "/x"] = reply
        client = make_client(server.url, hosts)
        for _ in range(3):
            with pytest.raises(OutcomeUnknown):
                await client.send(Call("GET", "/x"))
        assert client.host.breaker.state is OPEN

    async def test_counts_a_host_that_nobody_listens_on(self, hosts: Hosts) -> None:
        client = make_client("http://127.0.0.1:9", hosts)
        for _ in range(3):
            with pytest.raises(NotSent):
                await client.send(Call("GET", "/x"))
        with pytest.raises(CircuitOpen):
            await client.send(Call("GET", "/x"))

    async def test_is_never_tripped_by_refusals(self, server: ScriptedServer, hosts: Hosts) -> None:
        replies = [
            Reply({"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}, status=401),
            Reply({"code": -2019, "msg": "Margin is insufficient."}, status=400),
            Reply({"code": -1008, "msg": "Server is currently overloaded with other requests."}, status=503),
            Reply({"code": -1001, "msg": "Internal error; unable to process your request."}, status=400),
        ]
        server.script["POST", ORDER] = lambda request: replies[len(server.requests) % len(replies)]
        client = make_client(server.url, hosts)
        for _ in range(12):
            with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is not the point
                await client.send(make_order())
            assert not isinstance(caught.value, CircuitOpen)
        assert client.host.breaker.state is CLOSED

    async def test_is_never_tripped_by_deadlines_of_ours(self, server: ScriptedServer, hosts: Hosts) -> None:
        client = make_client(server.url, hosts)
        for _ in range(5):
            with pytest.raises(NotSent):
                await client.send(make_order(send_by=0.0))
        assert client.host.breaker.state is CLOSED

    async def test_closes_one_account_after_another_was_answered(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        """One host, many accounts: whoever asks first after half a minute tries for all."""
        server.script["GET", "/x"] = Reply(then="drop")
        first, second = make_client(server.url, hosts), make_client(server.url, hosts, account="second")
        for _ in range(3):
            with pytest.raises(OutcomeUnknown):
                await first.send(Call("GET", "/x"))
        release = threading.Event()
        server.script["GET", "/x"] = Reply({"fine": True}, wait=release)
        await asyncio.sleep(0)
        await _until_admitted(first)
        trying = asyncio.create_task(second.send(Call("GET", "/x")))
        await asyncio.sleep(0)
        with pytest.raises(CircuitOpen, match="being tried"):
            await first.send(Call("GET", "/x"))
        release.set()
        assert await trying == {"fine": True}
        assert first.host.breaker.state is HALF_OPEN
        for _ in range(2):
            await first.send(Call("GET", "/x"))
        assert first.host.breaker.state is CLOSED

    async def test_sends_cancels_all_the_same(self, server: ScriptedServer, hosts: Hosts) -> None:
        from exchanges.adapters.binance.spot import BinanceSpot

        server.script["GET", "/api/v3/exchangeInfo"] = Reply(then="drop")
        exchange = BinanceSpot(Credentials("k", "s"), Endpoints(server.url, ""), hosts=lambda: hosts)
        for _ in range(3):
            with pytest.raises(OutcomeUnknown):
                await exchange.load_instruments()
        assert exchange._rest.host.breaker.state is OPEN

        await exchange.cancel_orders([OrderRef(symbol="BTC/USDT", client_order_id="th1")])

        assert [one.method for one in server.sent_to("/api/v3/order")] == ["DELETE"]

    async def test_keeps_hosts_apart(self, server: ScriptedServer, hosts: Hosts) -> None:
        server.script["POST", ORDER] = Reply({"code": -2019, "msg": "Margin is insufficient."}, status=400)
        dead, alive = make_client("http://127.0.0.1:9", hosts), make_client(server.url, hosts)
        for _ in range(3):
            with pytest.raises(NotSent):
                await dead.send(Call("GET", "/x"))
        with pytest.raises(InsufficientFunds):
            await alive.send(make_order())


async def _until_admitted(client: object) -> None:
    """Wait until the breaker would let somebody try."""
    from exchanges.adapters.http import RestClient

    assert isinstance(client, RestClient)
    for _ in range(500):
        try:
            client.host.breaker.admit().abandon()
        except CircuitOpen:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError("the breaker lets nobody try")
