"""A kept-alive HTTP/1.1 connection with as little in the way as possible: the clock is the point of it."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_END = b"\r\n\r\n"


class Broken(Exception):
    """The server hung up, or answered what this client does not read."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `sent_ns` is the clock right before the request was written, both epoch nanoseconds."""

    status: int
    body: bytes
    sent_ns: int
    answered_ns: int

    @property
    def milliseconds(self) -> float:
        return (self.answered_ns - self.sent_ns) / 1e6


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Reply] | None = None
        self._sent_ns = 0

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes) -> asyncio.Future[Reply]:
        """Write a request; the future is its reply. Raises Broken when the connection is gone."""
        if self._transport is None or self._transport.is_closing():
            raise Broken("the connection is closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._sent_ns = time.time_ns()
        self._transport.write(request)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        self._buffer += data
        head_ends = self._buffer.find(_END)
        if head_ends < 0 or self._waiting is None:
            return
        head = bytes(self._buffer[: head_ends + 2])
        status, length = _STATUS.match(head), _LENGTH.search(head)
        if status is None or length is None:
            self._fail(f"an answer without status or length: {head[:200]!r}")
            return
        begins = head_ends + len(_END)
        ends = begins + int(length[1])
        if len(self._buffer) < ends:
            return
        reply = Reply(int(status[1]), bytes(self._buffer[begins:ends]), self._sent_ns, now)
        del self._buffer[:ends]
        waiting, self._waiting = self._waiting, None
        waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the server hung up ({exc})")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _fail(self, why: str) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(Broken(why))


def post(path: str, body: bytes = b"", *, host: str, headers: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + _END + body
