"""The HTTP server: one handler for every dialect and the control API, and the command line.

It is aiohttp's low-level server on purpose: this is the exchange in our benchmark, so nothing
stands between the parsed request and the dialect.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import ipaddress
import logging
import signal
import sys
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path

from aiohttp import web

from exchanges.simulator.control import Control
from exchanges.simulator.faults import Fault, FaultKind
from exchanges.simulator.instruments import DEFAULT_PRICES
from exchanges.simulator.state import DEFAULT_FEES, Options, Simulator
from exchanges.simulator.wire import Answer, Call, Dialect, encode

CONTROL = "_sim"
# No access log: aiohttp asks the logger whether it is enabled, once per connection.
_SILENT = logging.getLogger("exchanges.simulator.access")
_SILENT.disabled = True


class _Handler(web.RequestHandler):
    """Notes when the first byte of a request was handled, before anything is parsed."""

    __slots__ = ("first_byte_ns",)
    first_byte_ns: int

    def data_received(self, data: bytes) -> None:
        if not self.first_byte_ns:
            self.first_byte_ns = time.time_ns()
        super().data_received(data)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        handler = _Handler(self, loop=self._loop, access_log=_SILENT, keepalive_timeout=3600)
        handler.first_byte_ns = 0
        return handler


class Gate:
    """Takes requests to where they belong, with the latency and the faults in force."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._control = Control(simulator)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        received_ns = protocol.first_byte_ns if isinstance(protocol, _Handler) else time.time_ns()
        target, _, query = request.raw_path.partition("?")
        slash = target.find("/", 1)
        mount, path = (target[1:slash], target[slash:]) if slash > 0 else (target[1:], "/")
        dialect = self._simulator.dialects.get(mount)
        if dialect is not None and "Upgrade" in request.headers:
            return await dialect.stream(request, path, query)
        body = (await request.read()).decode("utf-8", "replace") if request.can_read_body else ""
        if isinstance(protocol, _Handler):
            protocol.first_byte_ns = 0  # the next byte begins the next request
        call = Call(mount, request.method, path, query, body, request.headers, received_ns)
        if dialect is not None:
            answer = await self._pass(dialect, request, call)
        elif mount == CONTROL:
            answer = self._control.answer(call)
        else:
            answer = Answer(404, encode({"error": f"nothing is mounted under /{mount}"}))
        return web.Response(
            status=answer.status,
            body=answer.body.encode(),
            headers=answer.headers,
            content_type=answer.content_type,
        )

    async def _pass(self, dialect: Dialect, request: web.BaseRequest, call: Call) -> Answer:
        simulator = self._simulator
        simulator.requests[f"{call.exchange} {call.method} {call.path}"] += 1
        one_way = simulator.one_way_seconds()
        found: dict[FaultKind, Fault] = {}
        if simulator.faults.active:
            call.api_key = call.headers.get("X-MBX-APIKEY", "")
            found = simulator.faults.for_call(
                call, dialect.orders_in(call), places=dialect.places_orders(call)
            )
        late = found.get(FaultKind.ARRIVE_LATE)
        held = late or found.get(FaultKind.DELAY_BEFORE)
        wait = one_way + (held.seconds if held is not None else 0.0)
        if wait > 0:
            refused = dialect.admit(call) if held is not None else None
            simulator.held += held is not None
            await asyncio.sleep(wait)
            simulator.held -= held is not None
            if refused is not None:
                return refused
            if late is None and (request.transport is None or request.transport.is_closing()):
                return _NOBODY  # the client went away: what it sent never arrived
        dropped = found.get(FaultKind.DROP_ANSWER)
        if dropped is not None and dropped.stage == "before":
            return _hang_up(request)
        answer = _spoil(found, "before", call) or dialect.answer(call)
        if found:
            answer = _spoil(found, "after", call) or answer
            if (kept := found.get(FaultKind.DELAY_AFTER)) is not None:
                await asyncio.sleep(kept.seconds)
        if one_way > 0:
            await asyncio.sleep(one_way)
        return answer if dropped is None else _hang_up(request)


_NOBODY = Answer(499, "")
# What a status says when the fault brings no body. Source: fact sheet A5, B4.
_BODIES = {
    418: {"code": -1003, "msg": "Way too many requests; IP banned."},
    429: {"code": -1003, "msg": "Too many requests."},
    503: {"code": -1000, "msg": "Unknown error, please check your request or try again later."},
}


def _hang_up(request: web.BaseRequest) -> Answer:
    if request.transport is not None:
        request.transport.close()
    return _NOBODY


def _spoil(found: dict[FaultKind, Fault], stage: str, call: Call) -> Answer | None:
    """Return the answer that a fault gives instead of the exchange's, if one does."""
    fault = found.get(FaultKind.STATUS)
    if fault is not None and fault.stage == stage:
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        body = fault.body or encode(_BODIES.get(fault.status, {}))
        return Answer(fault.status, body, headers)
    if stage != "before":
        return None
    if (fault := found.get(FaultKind.REJECT)) is not None:
        return Answer(fault.status, encode({"code": fault.code, "msg": fault.msg}))
    if (fault := found.get(FaultKind.ECHO_SECRET)) is not None:
        text = f"{fault.msg} apiKey={call.api_key} query={call.query}{call.body}"
        return Answer(fault.status, encode({"code": fault.code, "msg": text}))
    return None


async def serve(options: Options, *, host: str, port: int) -> None:
    """Run until SIGTERM or SIGINT; prints one line when ready."""
    simulator = Simulator(options)
    loop = asyncio.get_running_loop()
    server = _Server(Gate(simulator).handle)
    listener = await loop.create_server(server, host, port, backlog=1024)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    # What lives by now lives on; the rest are orders, which are kept for ever anyway.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    simulator.start()
    bound_host, bound_port = listener.sockets[0].getsockname()[:2]
    sys.stdout.write(f"simulator listening on http://{bound_host}:{bound_port}\n")
    sys.stdout.flush()
    await stopped.wait()
    simulator.stop()
    simulator.hub.cut()
    listener.close()
    await server.shutdown(timeout=0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9800, help="0 picks a free one")
    parser.add_argument("--seed", type=int, default=1, help="of the random walk")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of a round trip, half each way")
    parser.add_argument("--price", action="append", default=[], metavar="BTC/USDT=95000")
    parser.add_argument("--account", action="append", default=[], metavar="KEY:SECRET")
    parser.add_argument("--fee", action="append", default=[], metavar="binance-spot=0.001/0.001")
    movement = parser.add_mutually_exclusive_group()
    movement.add_argument("--walk", dest="walks", action="store_true", default=True, help="prices move")
    movement.add_argument("--fixed", dest="walks", action="store_false", help="prices stand still")
    parser.add_argument("--tick-ms", type=int, default=250, help="time between two steps of the walk")
    parser.add_argument("--replay", type=Path, help="CSV of trades: time (ms), symbol, price")
    parser.add_argument("--replay-speed", type=float, default=1.0)
    parser.add_argument("--enforce-limits", action="store_true", help="answer 429 past the rate limits")
    parser.add_argument("--limit-scale", type=int, default=1, help="factor on every rate limit")
    parser.add_argument("--allow-remote", action="store_true", help="bind to other than loopback")


def options_from(arguments: argparse.Namespace) -> Options:
    """Return the options; raises ValueError naming the argument that cannot be read."""
    if not arguments.allow_remote and not _is_loopback(arguments.host):
        raise ValueError(f"--host {arguments.host} is not loopback; --allow-remote permits it")
    return Options(
        seed=arguments.seed,
        walks=arguments.walks,
        tick_ms=arguments.tick_ms,
        latency_ms=arguments.latency_ms,
        prices=dict(_price(text) for text in arguments.price),
        accounts=dict(_split(text, ":", "--account KEY:SECRET") for text in arguments.account),
        fees=dict(_fee(text) for text in arguments.fee),
        enforce_limits=arguments.enforce_limits,
        limit_scale=arguments.limit_scale,
        replay=arguments.replay,
        replay_speed=arguments.replay_speed,
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the simulator as the parsed arguments say; return the exit code."""
    try:
        options = options_from(arguments)
    except ValueError as error:
        sys.stderr.write(f"simulator: {error}\n")
        return 2
    asyncio.run(serve(options, host=arguments.host, port=arguments.port))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulator", description="A local exchange.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(text: str, separator: str, usage: str) -> tuple[str, str]:
    left, found, right = text.partition(separator)
    if not (left and found and right):
        raise ValueError(f"{usage}: cannot read {text!r}")
    return left, right


def _price(text: str) -> tuple[str, Decimal]:
    symbol, value = _split(text, "=", "--price SYMBOL=PRICE")
    if symbol not in DEFAULT_PRICES:
        raise ValueError(f"--price {text}: the symbols are {', '.join(DEFAULT_PRICES)}")
    try:
        price = Decimal(value)
    except InvalidOperation:
        price = Decimal(0)
    if not price.is_finite() or price <= 0:
        raise ValueError(f"--price {text}: not a price")
    return symbol, price


def _fee(text: str) -> tuple[str, tuple[Decimal, Decimal]]:
    name, rates = _split(text, "=", "--fee EXCHANGE=MAKER/TAKER")
    if name not in DEFAULT_FEES:
        raise ValueError(f"--fee {text}: the exchanges are {', '.join(DEFAULT_FEES)}")
    maker, taker = _split(rates, "/", "--fee EXCHANGE=MAKER/TAKER")
    try:
        return name, (Decimal(maker), Decimal(taker))
    except InvalidOperation:
        raise ValueError(f"--fee {text}: not rates") from None
