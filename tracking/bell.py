"""The bell: "there is something new in the event log", rung across processes through the channel layer.

It carries nothing: whoever hears it reads the log, so a ring that is lost, doubled or early does no
harm. Without Redis there is no way between processes; then ringing does nothing and live pages read
the log on their own, twice a second.

    subscribe(EventsLogged, lambda fact: bell.ring())
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer, get_channel_layer
from redis.exceptions import RedisError

from exchanges import runtime

logger = logging.getLogger(__name__)

GROUP = "positions"
MESSAGE = {"type": "bell.ring"}
RING_EVERY_SECONDS = 0.05
# A ring that has not sounded by then never will: its loop ended, or stayed behind in a fork.
SOUNDS_WITHIN_SECONDS = 1.0
REJOIN_SECONDS = 3600.0  # Redis forgets a group's members after a day
RETRY_SECONDS = 1.0

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Bell:
    """Rings from any thread without waiting; rings that come close together become one.

    `spawn` starts a coroutine on a loop that outlives the caller, and returns at once.
    """

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._lock = threading.Lock()
        self._swings_since: float | None = None
        self._rung_at = 0.0

    def ring(self) -> None:
        """Tell every live page of every process to look at the log. Call it after the commit."""
        if not reaches_other_processes():
            return
        with self._lock:
            now = time.monotonic()
            if self._swings_since is not None and now - self._swings_since < SOUNDS_WITHIN_SECONDS:
                return  # the ring that is about to sound is for this one, too
            self._swings_since = now
        self._spawn(self._sound())

    async def _sound(self) -> None:
        await asyncio.sleep(max(0.0, self._rung_at + RING_EVERY_SECONDS - time.monotonic()))
        self._rung_at = time.monotonic()
        with self._lock:  # before the send: what is committed from here on rings again
            self._swings_since = None
        try:
            async with asyncio.timeout(SOUNDS_WITHIN_SECONDS):  # a Redis that hangs collects no rings
                await _layer().group_send(GROUP, MESSAGE)
        except (RedisError, OSError, ChannelFull) as error:
            logger.warning("The bell did not sound, live pages find out on their own: %s", error)


class Listener:
    """Wakes the live pages of this process, with one subscription for all of them.

    Lives on one event loop, from the first page on. When Redis was away it joins again; until then
    `hears` is False and the pages look at the log on their own.
    """

    def __init__(self) -> None:
        self.hears = False
        self._wakes: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, wake: asyncio.Event) -> None:
        self._wakes.add(wake)
        if self._task is None and reaches_other_processes():
            self._task = asyncio.create_task(self._listen(), name="bell")

    def remove(self, wake: asyncio.Event) -> None:
        self._wakes.discard(wake)

    async def close(self) -> None:
        """Stop listening. For tests: a server's listener ends with its loop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task, self.hears = None, False

    async def _listen(self) -> None:
        layer = _layer()
        channel = await layer.new_channel()
        while True:
            try:
                await layer.group_add(GROUP, channel)
                self.hears = True
                await self._wake_until(time.monotonic() + REJOIN_SECONDS, layer, channel)
            except (RedisError, OSError) as error:
                self.hears = False
                logger.warning("The bell cannot be heard, live pages look on their own: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _wake_until(self, end: float, layer: Any, channel: str) -> None:
        while (left := end - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await layer.receive(channel)
            except TimeoutError:
                return
            for wake in self._wakes:
                wake.set()


def reaches_other_processes() -> bool:
    """Tell whether the channel layer leaves this process."""
    return not isinstance(_layer(), InMemoryChannelLayer)


def _layer() -> Any:
    layer = get_channel_layer()
    assert layer is not None, "CHANNEL_LAYERS has no default"
    return layer


_bell = Bell(runtime.spawn)
ring = _bell.ring
