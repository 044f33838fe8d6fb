from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings

from exchanges import runtime
from tracking import bell
from tracking.bell import Bell, Listener

IN_MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


class Layer:
    """A channel layer that counts; the first `faults` sends fail."""

    def __init__(self) -> None:
        self.sent: list[float] = []
        self.faults = 0
        self.gate = threading.Event()
        self.gate.set()

    async def group_send(self, group: str, message: dict[str, str]) -> None:
        assert (group, message) == ("positions", {"type": "bell.ring"})
        while not self.gate.is_set():
            await asyncio.sleep(0.005)
        if self.faults:
            self.faults -= 1
            raise ConnectionRefusedError("Redis is away")
        self.sent.append(time.monotonic())


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Layer:
    made = Layer()
    monkeypatch.setattr(bell, "_layer", lambda: made)
    return made


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


class TestRing:
    async def test_sounds_once_for_many_rings_and_never_more_than_twenty_times_a_second(
        self, layer: Layer
    ) -> None:
        own = Bell(lambda coroutine: asyncio.get_running_loop().create_task(coroutine))
        began = time.monotonic()
        while time.monotonic() < began + 0.3:
            own.ring()
            await asyncio.sleep(0.001)
        rang_last = time.monotonic()

        await until(lambda: layer.sent and layer.sent[-1] >= rang_last - 0.002)  # the last one is heard, too

        gaps = [later - earlier for earlier, later in zip(layer.sent, layer.sent[1:], strict=False)]
        assert len(layer.sent) <= 8
        assert min(gaps) >= bell.RING_EVERY_SECONDS * 0.9

    def test_does_not_keep_the_one_who_rings(self, layer: Layer) -> None:
        layer.gate.clear()  # Redis does not answer
        sounding: list[Future[None]] = []
        own = Bell(lambda coroutine: sounding.append(runtime.spawn(coroutine)))
        threads = [threading.Thread(target=own.ring) for _ in range(8)]

        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert layer.sent == []  # all of them are back before anything was sent
        layer.gate.set()
        for future in sounding:
            future.result(20)
        assert len(layer.sent) == len(sounding) > 0

    async def test_goes_on_after_a_fault(self, layer: Layer, caplog: pytest.LogCaptureFixture) -> None:
        layer.faults = 1
        own = Bell(lambda coroutine: asyncio.get_running_loop().create_task(coroutine))
        own.ring()
        await until(lambda: "The bell did not sound" in caplog.text)

        own.ring()

        await until(lambda: len(layer.sent) == 1)

    async def test_rings_again_where_the_last_ring_was_lost_with_its_loop(
        self, layer: Layer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bell, "SOUNDS_WITHIN_SECONDS", 0.05)
        lost: list[Any] = []
        own = Bell(lost.append)  # a loop that never comes to it
        own.ring()
        own._spawn = lambda coroutine: asyncio.get_running_loop().create_task(coroutine)

        async with asyncio.timeout(20):
            while not layer.sent:
                own.ring()
                await asyncio.sleep(0.005)

        lost[0].close()

    def test_does_nothing_without_redis(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = IN_MEMORY
        spawned: list[object] = []

        Bell(spawned.append).ring()

        assert spawned == []


class TestListener:
    async def test_hears_nothing_and_starts_nothing_without_redis(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = IN_MEMORY
        listener = Listener()

        listener.add(asyncio.Event())

        assert listener.hears is False
        assert [task for task in asyncio.all_tasks() if task.get_name() == "bell"] == []


@pytest.mark.services
class TestThroughRedis:
    async def test_wakes_the_pages_of_another_loop_and_hears_again_after_a_cut(self) -> None:
        listener, wake = Listener(), asyncio.Event()
        listener.add(wake)
        await until(lambda: listener.hears)
        bell.ring()  # on the I/O loop of another thread
        async with asyncio.timeout(20):
            await wake.wait()

        _cut_connections()
        await until(lambda: listener.hears)
        wake.clear()
        async with asyncio.timeout(20):
            while not wake.is_set():
                bell.ring()
                await asyncio.sleep(0.1)
        await listener.close()


def _cut_connections() -> None:
    """Cut those of our Redis database only: the server may have others to serve."""
    with redis.Redis.from_url(django_settings.REDIS_URL) as client:
        own = client.client_id()
        ours = str(client.connection_pool.connection_kwargs.get("db", 0))
        for other in client.client_list():
            if other["db"] == ours and other["id"] != str(own):
                client.client_kill_filter(_id=other["id"])
