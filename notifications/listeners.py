"""From a fact to a job of the worker, off the thread that has just committed an order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from django import db
from django_q.tasks import async_task
from redis.exceptions import RedisError

from notifications import chats
from orders.events import GuardTripped, OrderFailed
from tracking.events import BreakerChanged, StrangersFound

logger = logging.getLogger(__name__)

BUNDLE_SECONDS = 2.0


class Bundler:
    """Makes one call of all the rings within `seconds`, in a thread of its own. Ringing never waits."""

    def __init__(self, call: Callable[[], None], *, seconds: float) -> None:
        self._call, self._seconds = call, seconds
        self._rung = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        self._rung.set()
        if self._thread is None or not self._thread.is_alive():  # as in a forked child
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._listen, name="alerts", daemon=True)
                    self._thread.start()

    def _listen(self) -> None:
        while self._rung.wait():
            time.sleep(self._seconds)
            self._rung.clear()  # before the call: whoever rings from here on is heard again
            self._call()


def _enqueue() -> None:
    try:
        async_task("notifications.tasks.alerts_deliver", task_name="alerts")
    except (db.Error, RedisError, OSError) as error:
        logger.warning("The worker was not told of an alert, it looks by itself every minute: %s", error)
    finally:
        db.connections.close_all()  # this thread's


_bundler = Bundler(_enqueue, seconds=BUNDLE_SECONDS)


def order_failed(fact: OrderFailed) -> None:
    """Have the alert sent soon. The failed order's row is the alert: what is lost here is only time."""
    if chats.is_configured():
        _bundler.ring()


def guard_tripped(fact: GuardTripped) -> None:
    """Have the alert of a loss guard sent soon. The trip's row is the alert."""
    if chats.is_configured():
        _bundler.ring()


def strangers_found(fact: StrangersFound) -> None:
    """Have it told soon that orders bear ids of our shape and are not ours. Their rows are the alert."""
    if chats.is_configured():
        _bundler.ring()


def breaker_changed(fact: BreakerChanged) -> None:
    """Have it told soon that an exchange is away, or back. The breaker's row is the alert."""
    if chats.is_configured():
        _bundler.ring()
