"""A live page without a browser: a real websocket to a real web process, and the rows that it would show.

    with LivePage(web.url, session=session_of(user)) as page:
        page.wait_for(lambda: page.cells("orders", "Status") == ["New"], seconds=1)

It does what static/js/live.js does: takes every step, answers every frame, and when the connection is lost
comes back with the last event that it has seen.
"""

from __future__ import annotations

import asyncio
import http.cookiejar
import re
import threading
import time
import urllib.request
from collections.abc import Callable
from html import unescape
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import aiohttp
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

Rows = dict[str, str]  # the id of a row -> its HTML, in the order in which they stand

AGAIN_SECONDS = 0.1
_ROW = re.compile(r'<(?:tr|li)\b[^>]*?\bid="([^"]+)"')
_CELL = re.compile(r'<td\b[^>]*?\bdata-label="([^"]+)"[^>]*>(.*?)</td>', re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


def session_of(user: User) -> str:
    """Log a user in; return the session's key."""
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def log_in(url: str, username: str, password: str) -> str:
    """Log in at a web process as a browser does; return the session's key."""
    cookies = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(cookies)
    )
    opener.open(f"{url}/login/", timeout=10).close()
    token = next(str(cookie.value) for cookie in cookies if cookie.name == settings.CSRF_COOKIE_NAME)
    form = urlencode({"username": username, "password": password, "csrfmiddlewaretoken": token})
    opener.open(f"{url}/login/", form.encode(), timeout=10).close()
    return next(str(cookie.value) for cookie in cookies if cookie.name == settings.SESSION_COOKIE_NAME)


def words(html: str) -> str:
    return " ".join(unescape(_TAG.sub(" ", html)).split())


def rows_in(html: str) -> Rows:
    found = list(_ROW.finditer(html))
    ends = [*(one.start() for one in found), len(html)][1:]
    return {one[1]: html[one.start() : end] for one, end in zip(found, ends, strict=False)}


class LivePage:
    """What one person sees, kept up to date by a thread of its own."""

    def __init__(self, url: str, *, session: str) -> None:
        self._origin = url
        self._socket_url = f"ws://{urlsplit(url).netloc}/ws/positions/"
        self._cookies = {settings.SESSION_COOKIE_NAME: session}
        self._sections: dict[str, Rows] = {}
        self._last_id: int | None = None
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._stay()), daemon=True)
        self.connections = 0
        self.events: list[str] = []  # the ticker's lines, oldest first

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for(lambda: "streams" in self._sections, seconds=15)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    # --- looking ----------------------------------------------------------------------------------

    def rows(self, section: str) -> list[str]:
        """The lines of a list as a person reads them."""
        return [words(html) for html in self._sections.get(section, {}).values()]

    def cells(self, section: str, label: str) -> list[str]:
        """One column of a list: the first word of each cell, which is the figure where it is one."""
        found = [dict(_CELL.findall(html)) for html in self._sections.get(section, {}).values()]
        return [words(cells[label]).partition(" ")[0] for cells in found if label in cells]

    def wait_for(self, condition: Callable[[], Any], *, seconds: float) -> float:
        """Wait until the page shows it; return the monotonic time of the frame that brought it."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                assert left > 0, f"not on the page within {seconds} s: {self._everything()}"
                self._changed.wait(left)
            return time.monotonic()

    def _everything(self) -> str:
        lists = {name: self.rows(name) for name in self._sections}
        return f"{lists}, {self.events[-5:]}"

    # --- staying up to date -----------------------------------------------------------------------

    async def _stay(self) -> None:
        async with aiohttp.ClientSession(cookies=self._cookies, trust_env=False) as client:
            while not self._stopped.is_set():
                try:
                    await self._listen(client)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    pass  # the server is away: a page comes back, again and again
                await asyncio.sleep(AGAIN_SECONDS)

    async def _listen(self, client: aiohttp.ClientSession) -> None:
        query = "" if self._last_id is None else f"?last={self._last_id}"
        async with client.ws_connect(
            self._socket_url + query, headers={"Origin": self._origin}, max_msg_size=0
        ) as socket:
            self.connections += 1
            while not self._stopped.is_set():
                try:
                    async with asyncio.timeout(0.2):
                        message = await socket.receive()
                except TimeoutError:
                    continue
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return
                frame = message.json()
                await socket.send_json({"ack": frame["frame"]})
                with self._changed:
                    self._take(frame)
                    self._changed.notify_all()

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["kind"] == "snapshot":
            self.events.clear()
        self.events += [words(event["html"]) for event in frame["events"]]
        self._last_id = frame["last_id"] or self._last_id
        for step in frame["steps"]:
            self._step(**step)

    def _step(self, *, do: str, at: str, html: str) -> None:
        fresh = rows_in(html)
        section = at.removesuffix("-rows") if at.endswith("-rows") else self._section_of(at)
        if section is None:
            return  # a count or the summary
        rows = self._sections.setdefault(section, {})
        if do == "fill":
            self._sections[section] = fresh
        elif do == "first":
            self._sections[section] = fresh | rows
        else:
            keep = {"swap": fresh, "after": {at: rows[at]} | fresh, "remove": {}}[do]
            told: Rows = {}
            for key, row in rows.items():
                told |= keep if key == at else {key: row}
            self._sections[section] = told

    def _section_of(self, row: str) -> str | None:
        return next((name for name, rows in self._sections.items() if row in rows), None)
