"""The one way to send: what leaves, when it may not, and what may be concluded afterwards."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from exchanges.adapters.binance.errors import ACCOUNT_LIMIT_CODES, CLOCK_CODES, judge_for
from exchanges.adapters.departure import Call, Clock, Signed
from exchanges.adapters.exceptions import (
    ErrorType,
    InsufficientFunds,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    RefusedForNow,
)
from exchanges.adapters.hosts import Hosts
from exchanges.adapters.http import RestClient
from exchanges.adapters.limits import OrderWindow, RateRules
from exchanges.adapters.secrets import Masker
from exchanges.adapters.types import MarketType
from exchanges.tests.scripted import Reply, Request, ScriptedServer

RULES = RateRules(
    weight_per_minute=2400,
    weight_header="X-MBX-USED-WEIGHT-1M",
    order_windows=(OrderWindow(300, 10, "X-MBX-ORDER-COUNT-10S"),),
)
SECRETS = ("apikey-RECOGNISABLE-1234", "secret-RECOGNISABLE-5678")
ORDER = "/fapi/v1/order"


def make_client(server_url: str, hosts: Hosts, **overrides: Any) -> RestClient:
    options: dict[str, Any] = {
        "venue": "binance",
        "base_url": server_url,
        "hosts": lambda: hosts,
        "rules": RULES,
        "account": "main",
        "sign": lambda query, ms: Signed(f"{query}&timestamp={ms}&signature=5161", {"X-KEY": SECRETS[0]}),
        "mask": Masker(*SECRETS),
        "clock_path": "/fapi/v1/time",
        "clock_codes": CLOCK_CODES,
        "account_limit_codes": ACCOUNT_LIMIT_CODES,
    } | overrides
    options.setdefault("judge", judge_for(MarketType.FUTURES, options["mask"]))
    return RestClient(**options)


def make_order(**overrides: Any) -> Call:
    fields: dict[str, Any] = {
        "method": "POST", "path": ORDER, "query": "symbol=BTCUSDT", "signed": True, "orders": (1,),
        "urgent": True, "changes": True,
    } | overrides  # fmt: skip
    return Call(**fields)


class TestSend:
    async def test_signs_the_text_that_it_sends(self, server: ScriptedServer, hosts: Hosts) -> None:
        server.script["POST", ORDER] = Reply({"orderId": 7})

        assert await make_client(server.url, hosts).send(make_order()) == {"orderId": 7}

        (request,) = server.requests
        assert request.query.startswith("symbol=BTCUSDT&timestamp=")
        assert request.query.endswith("&signature=5161")
        assert request.headers["X-KEY"] == SECRETS[0]
        assert request.body == b""

    async def test_reads_decimals_without_going_through_floats(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        server.script["GET", "/x"] = Reply(text='{"price": 0.12345678901234567890}')
        answer = await make_client(server.url, hosts).send(Call("GET", "/x"))
        assert str(answer["price"]) == "0.12345678901234567890"

    async def test_sends_nothing_after_the_deadline(self, server: ScriptedServer, hosts: Hosts) -> None:
        server.script["POST", ORDER] = Reply({"orderId": 7})
        with pytest.raises(NotSent) as caught:
            await make_client(server.url, hosts).send(make_order(send_by=time.monotonic() - 0.001))
        assert caught.value.error_type is ErrorType.TIMEOUT
        assert server.requests == []

    async def test_checks_the_deadline_after_it_waited_for_a_connection(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        """The only connection is taken until past the deadline: then it is too late, and nothing goes out."""
        release = threading.Event()
        server.script["GET", "/slow"] = Reply({}, wait=release)
        server.script["POST", ORDER] = Reply({"orderId": 7})
        client = make_client(server.url, hosts)
        connector = client.host.session.connector
        assert connector is not None
        connector._limit = 1
        taken = asyncio.create_task(client.send(Call("GET", "/slow")))
        await _until(lambda: bool(server.requests))

        deadline = time.monotonic() + 0.2
        order = asyncio.create_task(client.send(make_order(send_by=deadline)))
        await _until(lambda: time.monotonic() > deadline)
        release.set()

        with pytest.raises(NotSent, match="deadline had passed"):
            await order
        await taken
        assert server.paths() == ["GET /slow"]

    async def test_checks_the_deadline_of_a_request_with_a_body_too(
        self, server: ScriptedServer, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The body is written a step of the loop later than the headers are: a process may freeze between."""
        server.script["POST", ORDER] = Reply({"orderId": 7})
        client = make_client(server.url, hosts)
        await client.send(make_order(body=b"{}"))
        deadline = time.monotonic() + 0.05

        def sign_slowly(query: str, milliseconds: int) -> Signed:
            time.sleep(0.1)
            return Signed(query, {})

        client._sign = sign_slowly
        with pytest.raises(NotSent):
            await client.send(make_order(body=b"{}", send_by=deadline))
        assert server.paths() == [f"POST {ORDER}"]

    async def test_sends_nothing_where_the_limiter_holds_it_past_the_deadline(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        server.script["POST", ORDER] = Reply({"orderId": 7})
        rules = RateRules(2400, "W", (OrderWindow(1, 10, "C"),))
        client = make_client(server.url, hosts, rules=rules)
        await client.send(make_order())
        began = time.monotonic()
        with pytest.raises(NotSent, match="rate limit") as caught:
            await client.send(make_order(send_by=time.monotonic() + 0.1))
        assert caught.value.error_type is ErrorType.RATE_LIMIT
        assert time.monotonic() - began < 1
        assert len(server.requests) == 1

    async def test_knows_that_a_refused_connection_sent_nothing(self, hosts: Hosts) -> None:
        with pytest.raises(NotSent) as caught:
            await make_client(f"http://127.0.0.1:{_closed_port()}", hosts).send(make_order())
        assert caught.value.error_type is ErrorType.NETWORK_ERROR

    async def test_tries_once_more_when_the_connection_was_refused(
        self, server: ScriptedServer, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.script["POST", ORDER] = Reply({"orderId": 7})
        client = make_client(server.url, hosts)
        connector = client.host.session.connector
        assert connector is not None
        really, tries = connector.connect, []

        async def refused_once(*args: Any, **kwargs: Any) -> Any:
            tries.append(1)
            if len(tries) == 1:
                raise ConnectionRefusedError("Connect call failed")
            return await really(*args, **kwargs)

        monkeypatch.setattr(connector, "connect", refused_once)
        assert await client.send(make_order()) == {"orderId": 7}
        assert len(tries) == 2

    async def test_knows_that_an_unknown_host_got_nothing(self, hosts: Hosts) -> None:
        with pytest.raises(NotSent) as caught:
            await make_client("http://nowhere.invalid", hosts).send(make_order())
        assert caught.value.error_type is ErrorType.NETWORK_ERROR

    @pytest.mark.parametrize("method", ["POST", "DELETE"])
    async def test_never_repeats_a_request_whose_connection_broke(
        self, server: ScriptedServer, hosts: Hosts, method: str
    ) -> None:
        """aiohttp repeats a DELETE by itself when a kept connection breaks: not here."""
        server.script[method, ORDER] = [Reply({"orderId": 1}), Reply(then="drop"), Reply({"orderId": 3})]
        client = make_client(server.url, hosts)
        await client.send(make_order(method=method))
        with pytest.raises(OutcomeUnknown) as caught:
            await client.send(make_order(method=method))
        assert caught.value.error_type is ErrorType.NETWORK_ERROR
        assert len(server.requests) == 2  # the good one, and one that is unknown

    async def test_repeats_a_question_whose_connection_broke(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        server.script["GET", ORDER] = [Reply({"n": 1}), Reply(then="drop"), Reply({"n": 3})]
        client = make_client(server.url, hosts)
        await client.send(Call("GET", ORDER))
        assert await client.send(Call("GET", ORDER)) == {"n": 3}

    async def test_takes_another_connection_when_the_kept_one_was_closed_meanwhile(
        self, hosts: Hosts
    ) -> None:
        """The server hung up while our loop was busy: nothing left, so the order may go once more."""
        listener = await asyncio.to_thread(_OneShotServer)
        client = make_client(listener.url, hosts)
        await client.send(make_order())
        listener.hang_up()  # no await from here to the send: the loop has not heard of it
        assert await client.send(make_order()) == {"orderId": 2}
        assert listener.requests == 2
        listener.close()

    async def test_says_unknown_when_the_answer_does_not_come_in_time(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        release = threading.Event()
        server.script["POST", ORDER] = Reply({"orderId": 7}, wait=release)
        with pytest.raises(OutcomeUnknown) as caught:
            await make_client(server.url, hosts, seconds=0.1).send(make_order())
        release.set()
        assert caught.value.error_type is ErrorType.TIMEOUT
        assert len(server.requests) == 1

    async def test_says_unknown_when_a_good_answer_cannot_be_read(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        server.script["POST", ORDER] = Reply(text="<html>")
        with pytest.raises(OutcomeUnknown, match="unreadable"):
            await make_client(server.url, hosts).send(make_order())

    async def test_raises_what_the_reply_proves(self, server: ScriptedServer, hosts: Hosts) -> None:
        server.script["POST", ORDER] = Reply({"code": -2019, "msg": "Margin is insufficient."}, status=400)
        with pytest.raises(InsufficientFunds) as caught:
            await make_client(server.url, hosts).send(make_order())
        assert (caught.value.venue_code, caught.value.message) == ("-2019", "Margin is insufficient.")


class TestClock:
    async def test_is_read_again_and_the_request_repeated_when_it_was_off(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        server_ms = 1_700_000_000_000
        server.script["GET", "/fapi/v1/time"] = lambda request: Reply({"serverTime": server_ms})

        def judge_time(request: Request) -> Reply:
            if abs(int(request.params["timestamp"]) - server_ms) > 5000:
                return Reply({"code": -1021, "msg": "Timestamp for this request is outside…"}, status=400)
            return Reply({"orderId": 7})

        server.script["POST", ORDER] = judge_time
        client = make_client(server.url, hosts)
        assert await client.send(make_order()) == {"orderId": 7}
        assert server.paths() == [f"POST {ORDER}", "GET /fapi/v1/time", f"POST {ORDER}"]
        assert await client.send(make_order()) == {"orderId": 7}
        assert len(server.requests) == 4  # learned
        server_ms += 60_000
        assert await client.send(make_order()) == {"orderId": 7}
        assert len(server.requests) == 7  # and learned anew

    async def test_far_ahead_of_ours_means_that_we_slept_and_the_order_is_too_old(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        """Deadlines stand still while a machine is suspended; the exchange's clock does not."""
        server_ms = 1_700_000_000_000
        server.script["GET", "/fapi/v1/time"] = lambda request: Reply({"serverTime": server_ms})
        late = {"code": -1021, "msg": "Timestamp for this request is outside…"}
        client = make_client(server.url, hosts)
        await client.read_clock()
        server_ms += 60_000
        server.script["POST", ORDER] = Reply(late, status=400)

        planned_at = time.monotonic()  # before the sleep; what is sent after it is made after it, too
        with pytest.raises(NotSent):
            await client.send(make_order(send_by=planned_at + 5, planned_at=planned_at))
        with pytest.raises(NotSent):
            await client.send(make_order(send_by=planned_at + 5, planned_at=planned_at))

        assert server.paths().count(f"POST {ORDER}") == 1
        server.script["POST", ORDER] = Reply({"orderId": 7})
        assert await client.send(make_order(send_by=time.monotonic() + 5)) == {"orderId": 7}

    async def test_is_held_against_the_wall_clock_until_it_was_measured(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        server_ms = (time.time() + 60) * 1000
        server.script["GET", "/fapi/v1/time"] = Reply({"serverTime": server_ms})
        server.script["POST", ORDER] = Reply({"code": -1021, "msg": "Timestamp …"}, status=400)
        client = make_client(server.url, hosts)

        with pytest.raises(NotSent):
            await client.send(make_order(send_by=time.monotonic() + 5))

        assert server.paths() == [f"POST {ORDER}", "GET /fapi/v1/time"]

    async def test_of_a_host_that_nobody_asked_before_the_sleep_tells_of_it(
        self, server: ScriptedServer, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The wall clock was set right when the machine woke up: no signature would be refused."""
        server.script["POST", ORDER] = Reply({"orderId": 7})
        planned_at = time.monotonic()
        monkeypatch.setattr(Clock, "began_ahead_ms", Clock.began_ahead_ms - 60_000)
        client = make_client(server.url, hosts)

        with pytest.raises(NotSent):
            await client.send(make_order(send_by=planned_at + 5, planned_at=planned_at))

        assert server.requests == []
        assert await client.send(make_order(send_by=time.monotonic() + 5)) == {"orderId": 7}

    def test_takes_a_new_look_in_a_forked_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker may be forked days after its parent began, and the machine may have slept since."""
        monkeypatch.setattr(Clock, "began_ahead_ms", 0.0)
        pid = os.fork()
        if pid == 0:  # the child: no pytest in here
            os._exit(0 if Clock().slept_until == 0.0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert Clock().slept_until > 0

    @pytest.mark.parametrize("out", [0.01, 4.99], ids=["on the way back", "on the way there"])
    def test_does_not_take_a_slow_answer_for_a_sleep(self, out: float) -> None:
        clock = Clock()
        began, ahead_ms = time.monotonic(), clock._ahead_ms

        def measure(asked: float, out: float, seconds: float, slept: float = 0.0) -> None:
            server_ms = (began + asked + out + slept) * 1000 + ahead_ms
            clock.set(server_ms, asked_at=began + asked, answered_at=began + asked + seconds)

        measure(0, 0.01, 0.02)
        measure(25, out, 5)
        measure(50, 0.01, 0.02)
        measure(75, 0.01, 0.02)
        assert clock.slept_until == 0.0

        measure(100, 0.01, 0.02, slept=3)
        assert clock.slept_until == began + 100 + 0.02

    async def test_is_measured_from_the_first_byte_on(
        self, server: ScriptedServer, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a limiter holds up is no longer on its way: half of it would look like a sleep of ours."""
        server.script["GET", "/fapi/v1/time"] = Reply({"serverTime": 1_700_000_000_000})
        client = make_client(server.url, hosts)
        admit, learn = client.host.limits._admit_urgent, client.host.clock.set
        held_until, asked_at = [], []

        async def hold(*args: Any) -> None:
            await admit(*args)
            await asyncio.sleep(0.01)
            held_until.append(time.monotonic())

        def note(server_ms: float, **moments: float) -> None:
            asked_at.append(moments["asked_at"])
            learn(server_ms, **moments)

        monkeypatch.setattr(client.host.limits, "_admit_urgent", hold)
        monkeypatch.setattr(client.host.clock, "set", note)

        await client.read_clock()

        assert asked_at[0] >= held_until[0]

    async def test_is_read_once_for_many_requests_at_once(self, server: ScriptedServer, hosts: Hosts) -> None:
        server.script["GET", "/fapi/v1/time"] = Reply({"serverTime": 1_700_000_000_000})
        server.script["POST", ORDER] = Reply({"code": -1021, "msg": "Timestamp …"}, status=400)
        client = make_client(server.url, hosts)
        answers = await asyncio.gather(*(client.send(make_order()) for _ in range(6)), return_exceptions=True)
        assert {type(one) for one in answers} == {RefusedForNow}
        assert server.paths().count("GET /fapi/v1/time") == 1
        assert server.paths().count(f"POST {ORDER}") == 12


class TestWarmUp:
    async def test_opens_the_connections_that_the_first_orders_use(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        release = threading.Event()
        server.script["GET", "/fapi/v1/time"] = Reply({"serverTime": 1}, wait=release)
        client = make_client(server.url, hosts)
        warming = asyncio.create_task(client.warm_up(3))
        await _until(lambda: len(server.requests) == 3)
        release.set()
        await warming
        server.script["POST", ORDER] = Reply({"orderId": 7})
        await asyncio.gather(*(client.send(make_order()) for _ in range(3)))
        assert len(server.connections) == 3
        assert client.host.clock.is_measured


class TestBans:
    async def test_stop_every_request_to_the_host_before_it_leaves(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        body = {"code": -1003, "msg": "Too many requests"}
        server.script["GET", "/x"] = Reply(body, status=429, headers={"Retry-After": "30"})
        client = make_client(server.url, hosts)
        other = make_client(server.url, hosts, account="other")
        with pytest.raises(RateLimited):
            await client.send(Call("GET", "/x"))
        with pytest.raises(RateLimited, match="not sent") as caught:
            await other.send(make_order())
        assert caught.value.retry_after == pytest.approx(30, abs=2)
        assert len(server.requests) == 1

    async def test_are_announced_for_the_other_processes(self, server: ScriptedServer) -> None:
        heard: list[tuple[str, float, str]] = []
        hosts = Hosts(on_ban=lambda *news: heard.append(news))
        server.script["GET", "/x"] = Reply({"code": -1003, "msg": "Way too many requests"}, status=418)
        with pytest.raises(RateLimited):
            await make_client(server.url, hosts).send(Call("GET", "/x"))
        await hosts.close()
        ((base_url, until, reason),) = heard
        assert (base_url, reason) == (server.url, "Way too many requests")
        assert until == pytest.approx(time.time() + 120, abs=5)

    async def test_of_one_accounts_orders_leave_the_others_alone(
        self, server: ScriptedServer, hosts: Hosts
    ) -> None:
        body = {"code": -1015, "msg": "Too many new orders."}
        limited = Reply(body, status=429, headers={"Retry-After": "10"})
        server.script["POST", ORDER] = [limited, Reply({"orderId": 7})]
        client = make_client(server.url, hosts)
        with pytest.raises(RateLimited):
            await client.send(make_order())
        with pytest.raises(NotSent, match="rate limit"):
            await client.send(make_order(send_by=time.monotonic() + 0.1))
        other = make_client(server.url, hosts, account="other")
        assert await other.send(make_order()) == {"orderId": 7}


class TestSecrets:
    @pytest.mark.parametrize("status", [200, 400, 500, 503])
    @pytest.mark.parametrize("shape", ['{"code": -1, "msg": "%s"}', "<html>%s"])
    async def test_of_a_reply_never_reach_an_error_or_a_log(
        self,
        server: ScriptedServer,
        hosts: Hosts,
        caplog: pytest.LogCaptureFixture,
        status: int,
        shape: str,
    ) -> None:
        text = shape % f"{SECRETS[0]} {SECRETS[1]} signature=deadbeef12"
        server.script["POST", ORDER] = Reply(text=text, status=status)
        with caplog.at_level(logging.DEBUG), pytest.raises(Exception, match=r"\*\*\*") as caught:
            await make_client(server.url, hosts).send(make_order())
        logging.getLogger("test").error("failed", exc_info=caught.value)
        for secret in (*SECRETS, "deadbeef12", "signature=5161"):
            assert secret not in str(caught.value)
            assert secret not in caplog.text

    async def test_of_the_url_never_reach_an_error(
        self, server: ScriptedServer, hosts: Hosts, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.script["POST", ORDER] = Reply(then="drop")
        with caplog.at_level(logging.DEBUG), pytest.raises(OutcomeUnknown) as caught:
            await make_client(server.url, hosts).send(make_order())
        logging.getLogger("test").error("failed", exc_info=caught.value)
        assert "5161" not in caplog.text
        assert caught.value.__cause__ is None


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _OneShotServer:
    """Answers in plain sockets, so that a test can hang up at an exact moment."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests = 0
        self._current: socket.socket | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._current = connection
            if connection.recv(65536):
                self.requests += 1
                body = f'{{"orderId": {self.requests}}}'
                connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    def hang_up(self) -> None:
        assert self._current is not None
        self._current.shutdown(socket.SHUT_RDWR)
        self._current.close()

    def close(self) -> None:
        self._listener.close()
