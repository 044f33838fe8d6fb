"""Work for several accounts at the same time, so that a slow exchange holds up its own account alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import connection

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 8  # threads and database connections


def side_by_side(work: Callable[[T], R], items: Iterable[T], *, at_once: int = AT_ONCE) -> list[R]:
    """Return `work(item)` for each item, in their order, so many of them at a time.

    Each runs in a thread with a database connection of its own, a single one in the caller's. `work` handles
    its own errors: what it raises is raised here, after the others have ended.
    """
    todo = list(items)
    if len(todo) < 2 or connection.in_atomic_block:
        return [work(item) for item in todo]

    def in_thread(item: T) -> R:
        try:
            return work(item)
        finally:
            connection.close()

    with ThreadPoolExecutor(min(at_once, len(todo)), thread_name_prefix="side by side") as pool:
        running = [pool.submit(in_thread, item) for item in todo]
    return [one.result() for one in running]
