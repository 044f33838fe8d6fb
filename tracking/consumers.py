"""`/ws/positions/`: the live page's socket.

The page says in the address what it wants to see and, after a lost connection, the last event it saw:
`?last=<id>&lang=<code>&user=<id>&strategy_account=<id>`, and which failed orders (orders/failed_filter.py).
We send JSON frames, each with its number:

    {"frame": 7, "kind": "news", "last_id": 1204,
     "events": [{"id": 1204, "html": "<li …>"}],
     "steps": [{"do": "swap", "at": "order-31", "html": "<tr …>"}]}

and the page answers each with `{"ack": 7}`. Which failed orders it shows it can change in between, with
`{"failed": {"symbol": "BTC/USDT"}}`; what makes no sense is answered by a sentence in `failed-problem` and
changes nothing. Frames of the kind `still` are empty: they prove that
both ends are alive. Nobody is waited for: a page that leaves too many frames unanswered is dropped
with 1013 and comes back with its last id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

from channels.auth import get_user
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import Error as DatabaseFault
from django.utils import timezone

from orders.failed_filter import FILTER_NAMES
from tracking.bell import Listener
from tracking.live import Frame, LiveView
from tracking.visibility import number_from, visible_to

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # prices, and the log once more in case a ring was lost
LOOK_SECONDS_WITHOUT_BELL = 0.5
REST_SECONDS = 0.1  # between two looks, so that a burst becomes one frame …
REST_FACTOR = 4  # … and longer when looking takes long: webhooks share this process
MAX_REST_SECONDS = 0.5
STILL_SECONDS = 10.0
ALLOWED_SECONDS = 15.0
MAX_UNANSWERED = 32  # frames
ANSWER_SECONDS = 25.0  # for the oldest unanswered frame
SEND_SECONDS = 5.0  # where the server makes us wait for a full socket
MAX_MESSAGE = 1024  # characters of a message from the page

TRY_AGAIN = 1013
BAD_MESSAGE = 4400
NOT_ALLOWED = 4403

_listeners: dict[asyncio.AbstractEventLoop, Listener] = {}


class TooSlow(Exception):
    """The page does not keep up with what it is sent."""


class PositionsConsumer(AsyncWebsocketConsumer):
    # No channel of its own: one Listener per process hears the bell, and goes on without Redis.
    channel_layer_alias = "none"

    async def connect(self) -> None:
        user: Any = self.scope["user"]
        if not user.is_authenticated:
            await self.close()
            return
        query = {key: values[-1] for key, values in parse_qs(self.scope["query_string"].decode()).items()}
        self._user = user
        self._last_id = number_from(query.get("last"))
        self._view = LiveView(visible_to(user, query), language=_language(query.get("lang")))
        self._view.show_failed(query)
        self._asked: dict[str, str] | None = None  # other failed orders than those that are shown
        self._wake = asyncio.Event()
        self._frame = 0
        self._unanswered: dict[int, float] = {}  # frame number -> when it was sent
        await self.accept()
        self._task = asyncio.create_task(self._follow(), name="live page")

    async def disconnect(self, code: int) -> None:
        if task := getattr(self, "_task", None):
            task.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            message = json.loads((text_data or "")[:MAX_MESSAGE])
            if "failed" in message:
                self._asked = _filter_in(message)
                self._wake.set()
                return
            answered = int(message["ack"])
        except (ValueError, TypeError, KeyError, RecursionError):
            await self.close(BAD_MESSAGE)
            return
        self._unanswered = {frame: at for frame, at in self._unanswered.items() if frame > answered}

    async def _follow(self) -> None:
        """Bring the page up to date until it leaves."""
        listener = _listener()
        listener.add(self._wake)
        try:
            await self._keep_up(listener)
        except (TooSlow, TimeoutError):
            logger.info("A live page of user %s was too slow and is dropped", self._user.pk)
            await self.close(TRY_AGAIN)
        except DatabaseFault as error:
            logger.warning("A live page could not read the database: %s", error)
            await self.close(TRY_AGAIN)
        except Exception:  # the end of the task: nobody else would hear of it
            logger.exception("A live page failed")
            await self.close(TRY_AGAIN)
        finally:
            listener.remove(self._wake)

    async def _keep_up(self, listener: Listener) -> None:
        await self._send(await self._first_frame())
        checked_at = sent_at = time.monotonic()
        rest = REST_SECONDS
        while True:
            await asyncio.sleep(rest)
            await self._wait(LOOK_SECONDS if listener.hears else LOOK_SECONDS_WITHOUT_BELL)
            now = time.monotonic()
            if now > checked_at + ALLOWED_SECONDS:
                if not await self._is_still_allowed():
                    await self.close(NOT_ALLOWED)
                    return
                checked_at = now
            if self._asked is not None:
                self._view.show_failed(self._asked)
                self._asked = None
            frame = await database_sync_to_async(self._view.news)(now=timezone.now())
            rest = min(max(REST_SECONDS, REST_FACTOR * (time.monotonic() - now)), MAX_REST_SECONDS)
            if not frame.is_empty or now > sent_at + STILL_SECONDS:
                await self._send(frame)
                sent_at = now

    async def _first_frame(self) -> Frame:
        if self._last_id is None:
            return await database_sync_to_async(self._view.snapshot)(now=timezone.now())
        return await database_sync_to_async(self._view.resume)(self._last_id, now=timezone.now())

    async def _wait(self, seconds: float) -> None:
        """Wait for the bell, but not longer than this."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _send(self, frame: Frame) -> None:
        now = time.monotonic()
        if len(self._unanswered) >= MAX_UNANSWERED or any(
            at < now - ANSWER_SECONDS for at in self._unanswered.values()
        ):
            raise TooSlow
        self._frame += 1
        self._unanswered[self._frame] = now
        kind = "still" if frame.is_empty else frame.kind
        text = json.dumps(asdict(frame) | {"frame": self._frame, "kind": kind}, ensure_ascii=False)
        async with asyncio.timeout(SEND_SECONDS):
            await self.send(text_data=text)

    async def _is_still_allowed(self) -> bool:
        """A page must not outlive its login, nor show more than its user may still see."""
        session: Any = self.scope["session"]
        if not await database_sync_to_async(session.exists)(session.session_key):
            return False
        user: Any = await get_user(self.scope)
        return bool(user.is_authenticated and user.is_staff == self._user.is_staff)


def _filter_in(message: dict[str, Any]) -> dict[str, str]:
    """Return what a page asks for. Raises ValueError where it is not of our page's making."""
    asked: dict[str, str] = message["failed"]
    known = isinstance(asked, dict) and len(message) == 1 and asked.keys() <= FILTER_NAMES
    if not known or not all(isinstance(value, str) for value in asked.values()):
        raise ValueError(asked)
    return asked


def _listener() -> Listener:
    loop = asyncio.get_running_loop()
    if loop not in _listeners:
        _listeners.clear()  # of loops that ended; a server has one
        _listeners[loop] = Listener()
    return _listeners[loop]


def _language(code: str | None) -> str:
    return code if code in dict(settings.LANGUAGES) else settings.LANGUAGE_CODE
