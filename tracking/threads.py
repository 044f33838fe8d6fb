"""Synchronous work of an asyncio process: Django in threads, nothing of it on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from django.db import close_old_connections

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A pool of threads; each call hands its database connection back when it is done.

    Kept apart by purpose: calls that wait for an exchange never hold up those that write a fill down.
    """

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread. A caller that is cancelled stops waiting; the function goes on."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, _with_connection, call)

    def close(self) -> None:
        """Wait for what is running; start nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _with_connection(call: Callable[[], T]) -> T:
    close_old_connections()
    try:
        return call()
    finally:
        close_old_connections()
