"""A streams process in a thread of the test, stopped the way SIGTERM stops it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from exchanges import runtime
from tracking.streams import Streams


@contextmanager
def streams_process() -> Iterator[Streams]:
    """A streams process of ours in a thread, stopped the way SIGTERM stops it."""
    runtime.stop()
    started = threading.Event()
    made: list[tuple[Streams, asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        made.append((Streams(), asyncio.get_running_loop()))
        started.set()
        await made[0][0].run()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(5)
    process, loop = made[0]
    try:
        yield process
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(process.stop)
        thread.join(15)
        runtime.stop()
        assert not thread.is_alive()
