"""A request up to its first byte: what it is, and the last look before it leaves.

What happens in `LastCheckRequest.send` comes after the connection was acquired, with nothing to wait for in
between: deadline, clock, signature, first byte. What was held up, or a process that was frozen, sends nothing
late.

Units: `*_ms` are milliseconds of the exchange's clock; deadlines are `time.monotonic()`.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from yarl import URL

_PEER_CLOSED = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
SLEPT_MS = 2000.0  # no clock drifts that far between two measurements


class Signed(NamedTuple):
    """What a signature adds: the whole query as it goes out, and headers."""

    query: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class Call:
    """One request, for a single order and a batch alike.

    `query` is percent-encoded already: what is signed is what is sent. `changes`: the exchange's state
    is different afterwards, so it must not be sent twice. `urgent`: an order or a cancel. `always`: tried
    although the host seems dead, as cancels are. `orders` is what it costs of the account's order windows,
    in the order of RateRules.order_windows. `planned_at`: when it was decided on, before it was written down;
    what has a deadline is held back where the machine has slept since.
    """

    method: str
    path: str
    query: str = ""
    signed: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    weight: int = 1
    orders: tuple[int, ...] = ()
    urgent: bool = False
    changes: bool = False
    always: bool = False
    send_by: float | None = None
    planned_at: float = field(default_factory=time.monotonic)
    seconds: float | None = None  # None: the client's own


def _wall_ahead_ms() -> float:
    return (time.time() - time.monotonic()) * 1000


class Clock:
    """The exchange's time, kept by our monotonic clock so that no step of the wall clock moves it.

    That clock stands still while a machine is suspended, and with it every deadline. The exchange's own goes
    on: where it is found ahead of ours, `slept_until` says which calls may be older than they look. Until it
    was measured the wall clock stands for it. One that is behind looks like a sleep, the first time: what was
    planned before is held back, for nobody can tell.
    """

    began_ahead_ms = _wall_ahead_ms()  # when the process began

    def __init__(self) -> None:
        self._ahead_ms = _wall_ahead_ms()
        self._doubt_ms = 0.0  # of the last measurement
        self.is_measured = False
        self.measured_at = 0.0
        # The wall clock is set right after a sleep: that one cannot be seen by a measurement any more.
        slept = self._ahead_ms - self.began_ahead_ms > SLEPT_MS
        self.slept_until = time.monotonic() if slept else 0.0
        self.lock = asyncio.Lock()

    def now_ms(self) -> int:
        return int(time.monotonic() * 1000 + self._ahead_ms)

    def set(self, server_ms: float, *, asked_at: float, answered_at: float) -> None:
        """Take the server's time as of half-way between question and answer, give or take half the way."""
        ahead_ms = server_ms - (asked_at + answered_at) * 500
        doubt_ms = (answered_at - asked_at) * 500
        if ahead_ms - self._ahead_ms > SLEPT_MS + doubt_ms + self._doubt_ms:
            self.slept_until = answered_at
        self._ahead_ms, self._doubt_ms = ahead_ms, doubt_ms
        self.is_measured, self.measured_at = True, answered_at

    @classmethod
    def begin(cls) -> None:
        cls.began_ahead_ms = _wall_ahead_ms()


os.register_at_fork(after_in_child=Clock.begin)


class NeverLeft(Exception):
    """The connection turned out to be closed before the first byte was written."""


class SecondSend(Exception):
    """The HTTP library wanted to repeat a request that changes something."""


@dataclass(slots=True)
class Departure:
    """Carries a call to the moment of sending and remembers whether that moment came."""

    call: Call
    clock: Clock
    sign: Callable[[str, int], Signed] | None
    has_left: bool = False
    left_at: float = 0.0
    answered_at: float = 0.0

    def is_too_late(self, now: float) -> bool:
        call = self.call
        return call.send_by is not None and (now > call.send_by or call.planned_at < self.clock.slept_until)

    def leave(self) -> Signed:
        """Last check and signature; from here on the request counts as sent."""
        if self.has_left and self.call.changes:
            raise SecondSend
        now = time.monotonic()
        if self.is_too_late(now):
            raise TooLate
        self.has_left, self.left_at = True, now
        if self.call.urgent and self.call.changes and (hear := departures.get()) is not None:
            hear(now)
        if self.sign is None:
            return Signed(self.call.query, {})
        return self.sign(self.call.query, self.clock.now_ms())


class TooLate(Exception):
    """The deadline passed before the first byte."""


# Hears when the first byte of each order or cancel leaves that this context sends: monotonic seconds. It is
# called on the I/O loop right before that byte, so it must do next to nothing.
departures: ContextVar[Callable[[float], None] | None] = ContextVar("departures", default=None)
departing: ContextVar[Departure | None] = ContextVar("departing", default=None)


class LastCheckRequest(aiohttp.ClientRequest):
    """Checks the deadline, then signs, when nothing but the socket is left to come."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._departure = departing.get()

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        departure = self._departure
        if departure is None:  # a websocket handshake
            return await super().send(conn)
        if _is_closed_by_peer(conn):
            # We were frozen or busy while the server hung up: the loop has not seen it yet.
            raise NeverLeft
        query, headers = departure.leave()
        if headers:
            self.headers.update(headers)
        if query:
            self.url = URL(f"{self.url.raw_path}?{query}", encoded=True)
        return await super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        # A body is written by a task of its own, headers and all: check once more.
        departure = self._departure
        if departure is not None and departure.is_too_late(time.monotonic()):
            departure.has_left = False
            if conn.protocol is not None:
                conn.protocol.set_exception(TooLate())
            return
        await super().write_bytes(writer, conn, content_length)


def _is_closed_by_peer(conn: Connection) -> bool:
    transport = conn.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return True
    poller = select.poll()
    poller.register(sock.fileno(), _PEER_CLOSED)
    return bool(poller.poll(0))
