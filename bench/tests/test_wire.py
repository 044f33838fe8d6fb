from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.wire import Broken, Connection, post


@asynccontextmanager
async def server(*parts: bytes) -> AsyncIterator[Connection]:
    """A server that sends these bytes, one write each, as soon as it was asked, then hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"ask")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    connection = await Connection.open(*listener.sockets[0].getsockname()[:2])
    try:
        yield connection
    finally:
        connection.close()
        listener.close()


class TestSend:
    async def test_gives_the_whole_answer_however_it_is_cut(self) -> None:
        async with server(b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 5\r\n\r", b"\nhel", b"lo") as connection:
            reply = await connection.send(post("/x", b"ask", host="h"))

        assert (reply.status, reply.body) == (200, b"hello")
        assert 0 < reply.milliseconds < 5000

    async def test_breaks_when_the_server_hangs_up(self) -> None:
        async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel") as connection:
            with pytest.raises(Broken, match="hung up"):
                await connection.send(post("/x", b"ask", host="h"))

    async def test_breaks_on_an_answer_of_unknown_length(self) -> None:
        async with server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") as connection:
            with pytest.raises(Broken, match="length"):
                await connection.send(post("/x", b"ask", host="h"))
