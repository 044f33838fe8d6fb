"""The process's one I/O loop, and the sessions that live on it.

Synchronous code calls `run(coroutine)`, or `spawn(coroutine)` where the work has to go on when
nobody waits for it any more. In web and worker processes the loop is a daemon thread of its own;
`streams` gives its main loop with `adopt(loop)`. A forked child (django-q2) starts afresh.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.db import connection

from exchanges import measures
from exchanges.adapters.breaker import OPEN_SECONDS, BreakerNews
from exchanges.adapters.hosts import Hosts

T = TypeVar("T")
logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0
KEEP_CONNECTION_SECONDS = 0.25


class RuntimeMisuse(RuntimeError):
    """A synchronous call was made where it would wait for itself."""


@dataclass(frozen=True, slots=True)
class RuntimeStats:
    """What this process has made since it began: one loop, and one session per host."""

    loops: int
    sessions: dict[str, int]


@dataclass(slots=True)
class _Runtime:
    lock: threading.Lock = field(default_factory=threading.Lock)
    loop: asyncio.AbstractEventLoop | None = None
    thread: threading.Thread | None = None  # None: the loop is somebody else's
    hosts: Hosts | None = None
    loops_made: int = 0


@dataclass(slots=True)
class Options:
    """What the settings say; read when a host is first used. `breaker_seconds`: how long it stays open."""

    breaker_seconds: float = OPEN_SECONDS


options = Options()
_runtime = _Runtime()
_ban_listeners: list[Callable[[str, float, str], None]] = []
_breaker_listeners: list[Callable[[BreakerNews], None]] = []
_inherited: list[_Runtime] = []  # a fork's copies: closing them would disturb the parent's sockets


def loop() -> asyncio.AbstractEventLoop:
    """Return the process's I/O loop, started on first use."""
    runtime = _runtime
    if runtime.loop is not None:
        return runtime.loop
    with runtime.lock:
        if runtime.loop is None:
            _start(runtime)
        assert runtime.loop is not None
        return runtime.loop


def adopt(own_loop: asyncio.AbstractEventLoop) -> None:
    """Use a loop that the caller runs instead of a thread of ours; at its end they await `close()`."""
    runtime = _runtime
    with runtime.lock:
        if runtime.loop is own_loop:
            return
        if runtime.loop is not None:
            raise RuntimeMisuse("this process already has its I/O loop; adopt() comes before the first use")
        runtime.loop, runtime.loops_made = own_loop, runtime.loops_made + 1


def spawn(coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Start a coroutine on the I/O loop and let it go; what it raises is logged.

    Waiting on the future with a time-out does not stop the work, `future.cancel()` does.
    """
    future = _submit(coroutine)
    future.add_done_callback(_log_failure)
    return future


def run(coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Run a coroutine on the I/O loop and wait for it. Any thread but the loop's own may call.

    Where that takes long, the thread's database connection goes back meanwhile: a slow exchange, or a
    limiter that holds requests, must not keep the connections that fills are written down with.

    Raises: TimeoutError after `timeout` seconds, and stops the coroutine (`spawn` does not);
            RuntimeMisuse when called on the I/O loop itself.
    """
    if threading.get_ident() == _loop_thread_id():
        coroutine.close()
        raise RuntimeMisuse("runtime.run() was called on the I/O loop itself; await the coroutine there")
    began = time.monotonic()
    future = _submit(coroutine)
    try:
        wait_without_connection([future], at_most=timeout)
        return future.result(None if timeout is None else max(0.0, began + timeout - time.monotonic()))
    except concurrent.futures.TimeoutError:
        if timeout is None or future.done():
            raise
        future.cancel()
        # In words: it ends in logs and on terminals, where Python's own says nothing at all.
        raise TimeoutError(f"no answer within {timeout:g} s") from None


def wait_without_connection(
    futures: Collection[concurrent.futures.Future[Any]], *, at_most: float | None = None
) -> None:
    """Wait a moment for one of these; if none is done by then, give this thread's connection back."""
    seconds = KEEP_CONNECTION_SECONDS if at_most is None else min(at_most, KEEP_CONNECTION_SECONDS)
    done, _ = concurrent.futures.wait(
        futures, timeout=seconds, return_when=concurrent.futures.FIRST_COMPLETED
    )
    if not done and not connection.in_atomic_block:
        connection.close()


async def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the I/O loop from a coroutine of another loop (or of the same one)."""
    if asyncio.get_running_loop() is _runtime.loop:
        return await coroutine
    return await asyncio.wrap_future(_submit(coroutine))


def hosts() -> Hosts:
    """The hosts that this process talks to, each with its one session. Call it on the I/O loop."""
    runtime = _runtime
    if runtime.hosts is None:
        if asyncio.get_running_loop() is not runtime.loop:
            raise RuntimeMisuse("exchange hosts belong to the I/O loop: go through runtime.run()")
        runtime.hosts = Hosts(
            on_ban=_announce_ban,
            on_breaker=_announce_breaker,
            breaker_seconds=options.breaker_seconds,
            on_round_trip=measures.round_trip,
        )
    return runtime.hosts


def on_ban(listener: Callable[[str, float, str], None]) -> None:
    """Have `listener(base_url, until_epoch_seconds, reason)` called when an exchange bans this address.

    It is called on the I/O loop and must not block: hand the news on.
    """
    _ban_listeners.append(listener)


def obey_ban(base_url: str, until: float, reason: str) -> None:
    """Obey a ban that another process has met. `until` in epoch seconds; any thread may call."""

    async def apply() -> None:
        hosts().ban(base_url, until - time.time(), reason)

    spawn(apply())


def on_breaker(listener: Callable[[BreakerNews], None]) -> None:
    """Have `listener` called on the I/O loop when a breaker of this process changes; it must not block."""
    _breaker_listeners.append(listener)


def adopt_breaker(news: BreakerNews) -> None:
    """Believe what another process found of a host. Any thread may call."""

    async def apply() -> None:
        hosts().adopt(news)

    spawn(apply())


def stats() -> RuntimeStats:
    known = _runtime.hosts
    return RuntimeStats(loops=_runtime.loops_made, sessions=dict(known.sessions_made) if known else {})


async def close() -> None:
    """Close every session. For the owner of an adopted loop; ours is closed at exit."""
    known, _runtime.hosts = _runtime.hosts, None
    if known is not None:
        await known.close()


def stop() -> None:
    """Close the sessions, end the loop's thread and forget both. The next use starts afresh."""
    runtime = _runtime
    with runtime.lock:
        own_loop, thread = runtime.loop, runtime.thread
        if own_loop is not None and thread is not None and thread.is_alive():
            closing = asyncio.run_coroutine_threadsafe(close(), own_loop)
            try:
                closing.result(_CLOSE_SECONDS)
            except concurrent.futures.TimeoutError:
                logger.warning("Sessions were not closed within %s s", _CLOSE_SECONDS)
            own_loop.call_soon_threadsafe(own_loop.stop)
            thread.join(_CLOSE_SECONDS)
        runtime.loop = runtime.thread = runtime.hosts = None


def _announce_ban(base_url: str, until: float, reason: str) -> None:
    for listener in _ban_listeners:
        listener(base_url, until, reason)


def _announce_breaker(news: BreakerNews) -> None:
    for listener in _breaker_listeners:
        listener(news)


def _start(runtime: _Runtime) -> None:
    new_loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_serve, args=(new_loop,), name="exchange-io", daemon=True)
    thread.start()
    runtime.thread, runtime.loops_made = thread, runtime.loops_made + 1
    runtime.loop = new_loop  # last: readers outside the lock see a complete runtime


def _serve(own_loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(own_loop)
    try:
        own_loop.run_forever()
    finally:
        left_over = asyncio.all_tasks(own_loop)
        for task in left_over:
            task.cancel()
        own_loop.run_until_complete(asyncio.gather(*left_over, return_exceptions=True))
        own_loop.run_until_complete(own_loop.shutdown_asyncgens())
        own_loop.close()


def _loop_thread_id() -> int | None:
    runtime = _runtime
    if runtime.thread is not None:
        return runtime.thread.ident
    # An adopted loop runs in some thread of its owner: asyncio keeps the id while it runs.
    return getattr(runtime.loop, "_thread_id", None)


def _submit(coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    return asyncio.run_coroutine_threadsafe(coroutine, loop())


def _log_failure(future: concurrent.futures.Future[Any]) -> None:
    if future.cancelled():
        return
    if (error := future.exception()) is not None:
        logger.error("A background task on the I/O loop failed: %s", error, exc_info=error)


def _forget_in_child() -> None:
    # The parent's loop thread does not exist here, and its sockets are the parent's.
    global _runtime
    _inherited.append(_runtime)
    _runtime = _Runtime()


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(stop)
