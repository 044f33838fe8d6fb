"""Telegram's side of the wire for tests: a Bot API server on loopback.

It reads the markup as strictly as Telegram: an unknown or unclosed tag, an unknown entity, and a text
that is too long are refused.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from typing import Any

from aiohttp import web

TOKEN = "123456789:AAE-recognisable-bot-token-000000000"
CHAT = "-100200300"
OTHER_CHAT = -100900900


@dataclass(frozen=True)
class Message:
    chat_id: str
    html: str

    @property
    def text(self) -> str:
        """What a person reads."""
        return unescape(re.sub(r"<[^>]*>", "", self.html))


def flood(seconds: int) -> web.Response:
    return refusal(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)


def refusal(status: int, description: str, **parameters: Any) -> web.Response:
    body = {"ok": False, "error_code": status, "description": description}
    return web.json_response(body | ({"parameters": parameters} if parameters else {}), status=status)


class BotApi:
    """`messages` is what the chat shows, `asked` counts every request; `answers` are given first."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.answers: list[web.Response] = []
        self.asked = 0
        self.url = ""
        self.release: threading.Event | None = None  # set by the test before anything is answered
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._serial = 0

    async def _send_message(self, request: web.Request) -> web.Response:
        self.asked += 1
        form = {str(name): str(value) for name, value in (await request.post()).items()}
        if request.match_info["token"] != TOKEN:
            return refusal(401, "Unauthorized")
        if self.release is not None:
            await asyncio.to_thread(self.release.wait, 10)
        if self.answers:
            return self.answers.pop(0)
        if form["chat_id"] not in (CHAT, str(OTHER_CHAT)):
            return refusal(400, "Bad Request: chat not found")
        message = Message(form["chat_id"], form["text"])
        if fault := markup_fault(form["text"], form.get("parse_mode", "")):
            return refusal(400, f"Bad Request: can't parse entities: {fault}")
        if len(message.text) > 4096:
            return refusal(400, "Bad Request: message is too long")
        self.messages.append(message)
        self._serial += 1
        result = {
            "message_id": self._serial,
            "date": 1784635200,
            "chat": {"id": int(form["chat_id"]), "type": "supergroup"},
            "text": message.text,
        }
        return web.json_response({"ok": True, "result": result})

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/bot{token}/sendMessage", self._send_message)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"


class _Markup(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.open: list[str] = []
        self.fault = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag not in {"b", "i", "u", "s", "code", "pre", "a"}:
            self.fault = f"unsupported start tag {tag}"

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.fault = f"unexpected end tag {tag}"

    def handle_data(self, data: str) -> None:
        if "<" in data:
            self.fault = "a bare <"

    def handle_entityref(self, name: str) -> None:
        if name not in {"lt", "gt", "amp", "quot"}:
            self.fault = f"unknown entity {name}"


def markup_fault(html: str, parse_mode: str = "HTML") -> str:
    if parse_mode != "HTML":
        return "" if "<" not in html else "markup without parse_mode"
    markup = _Markup()
    markup.feed(html)
    markup.close()
    return markup.fault or ("unclosed tag" if markup.open else "")


@contextmanager
def running_bot_api() -> Iterator[BotApi]:
    api = BotApi()
    thread = threading.Thread(target=api._loop.run_forever, name="bot-api", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(api._start(), api._loop).result(5)
        yield api
    finally:
        if api._runner is not None:
            asyncio.run_coroutine_threadsafe(api._runner.cleanup(), api._loop).result(5)
        api._loop.call_soon_threadsafe(api._loop.stop)
        thread.join(5)
        api._loop.close()
