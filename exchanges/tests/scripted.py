"""An exchange's side of the wire for tests: a real server on loopback that answers from a script."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import WSMsgType, web

PAYLOADS = Path(__file__).parent / "payloads"


def payload(name: str) -> Any:
    """A saved reply."""
    return json.loads((PAYLOADS / f"{name}.json").read_text())


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str  # as it came, still encoded
    headers: dict[str, str]
    body: bytes
    peer: tuple[str, int]

    @property
    def params(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(frozen=True)
class Reply:
    """`then` of "drop" hangs up instead of answering; `wait` is set by the test before the answer goes."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    then: str = "answer"
    wait: threading.Event | None = None
    text: str | None = None


Script = Callable[[Request], Reply]


class ScriptedServer:
    """`script[METHOD, path]`: a Reply, a list of them (the last one stays) or a function of the request."""

    def __init__(self) -> None:
        self.script: dict[tuple[str, str], Reply | list[Reply] | Script] = {}
        self.requests: list[Request] = []
        self.connections: set[tuple[str, int]] = set()
        self.server_time_ms: Callable[[], int] | None = None
        self.url = ""
        self.sockets: list[web.WebSocketResponse] = []
        self.heard: list[Any] = []  # by the websockets
        self.is_deaf = False  # answers no ping of a websocket
        self.greeting: Callable[[Any], list[Any]] = lambda message: []
        self._loop = asyncio.new_event_loop()
        self._stopped = threading.Event()

    def paths(self) -> list[str]:
        return [f"{one.method} {one.path}" for one in self.requests]

    def sent_to(self, path: str) -> list[Request]:
        return [one for one in self.requests if one.path == path]

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    def tell(self, message: Any) -> None:
        """Send a message to every open websocket."""
        text = message if isinstance(message, str) else json.dumps(message)
        self.call(self._tell(text))

    def hang_up(self, *, code: int | None) -> None:
        """Close every websocket: orderly with a code, or by cutting the wire."""
        self.call(self._hang_up(code))

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(5)

    async def _tell(self, text: str) -> None:
        for socket in self.sockets:
            await socket.send_str(text)

    async def _hang_up(self, code: int | None) -> None:
        for socket in self.sockets:
            if code is not None:
                await socket.close(code=code)
            elif socket._req is not None and socket._req.transport is not None:
                socket._req.transport.abort()
        self.sockets.clear()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peername")
        self.connections.add(peer)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._handle_socket(request)
        seen = Request(
            request.method, request.path, request.rel_url.raw_query_string, dict(request.headers),
            await request.read(), peer,
        )  # fmt: skip
        self.requests.append(seen)
        reply = self._reply_to(seen)
        if reply.wait is not None:
            await asyncio.to_thread(reply.wait.wait, 10)
        if reply.then == "drop":
            request.transport.abort()
        text = reply.text if reply.text is not None else json.dumps(reply.body)
        return web.Response(
            text=text, status=reply.status, headers=reply.headers, content_type="application/json"
        )

    def _reply_to(self, seen: Request) -> Reply:
        found = self.script.get((seen.method, seen.path))
        if found is None:
            return Reply({"code": -5000, "msg": f"Path {seen.path} is not in the script"}, status=404)
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found if isinstance(found, Reply) else found(seen)

    async def _handle_socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoping=not self.is_deaf)
        await socket.prepare(request)
        self.heard.append(request.path)
        self.sockets.append(socket)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                said = json.loads(message.data)
                self.heard.append(said)
                for answer in self.greeting(said):
                    await socket.send_json(answer)
        return socket

    def start(self) -> None:
        ready = threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        assert ready.wait(5)

    def _serve(self, ready: threading.Event) -> None:
        async def begin() -> web.AppRunner:
            app = web.Application()
            app.router.add_route("*", "/{tail:.*}", self._handle)
            runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            return runner

        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(begin())
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()
        self._stopped.set()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._stopped.wait(5)


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
