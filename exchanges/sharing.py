"""What one process learns of an exchange, told to the others by rows: bans and breakers.

One small thread per process writes down what this process was told and looks for what others were, every
LOOK_SECONDS and at once when there is news. The I/O loop only rings: nothing here ever holds it up.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.db import (
    Error,
    InterfaceError,
    InternalError,
    OperationalError,
    close_old_connections,
    connections,
)

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
_STOP_SECONDS = 5.0

T = TypeVar("T")
_subjects: list[Callable[[], None]] = []
_outboxes: list[Outbox[Any]] = []


class Outbox(Generic[T]):
    """What this process has heard and not yet written down, oldest first."""

    def __init__(self) -> None:
        _outboxes.append(self)
        self.empty()

    def empty(self) -> None:
        self._news: list[T] = []
        self._lock = threading.Lock()  # never held while the database is asked

    def put(self, news: T) -> None:
        """Take the news and return at once: the I/O loop calls this. Nothing where nobody would write it."""
        if _watcher is not None:
            with self._lock:
                self._news.append(news)
            _watcher.wake()

    def write(self, record: Callable[[T], None]) -> None:
        """Give each piece of news to `record`.

        One that the database does not take now stays first, and is tried again; one that can never be written
        down is dropped, loudly, so that it does not keep the others back.
        """
        while True:
            with self._lock:
                if not self._news:
                    return
                news = self._news[0]
            try:
                record(news)
            except (OperationalError, InterfaceError, InternalError):
                raise
            except Exception:
                logger.exception("Other processes will not hear of this, it cannot be written down: %s", news)
            with self._lock:
                self._news.remove(news)


def share(look: Callable[[], None]) -> None:
    """Have `look` write its news down and read the others', again and again, in the thread."""
    _subjects.append(look)


class _Watcher:
    def __init__(self) -> None:
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="exchange-news", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(_STOP_SECONDS)

    def _watch(self) -> None:
        try:
            while not self._stopping:
                for look in _subjects:
                    self._look(look)
                self._wake.wait(LOOK_SECONDS)
                self._wake.clear()
        finally:
            connections.close_all()

    def _look(self, look: Callable[[], None]) -> None:
        close_old_connections()
        try:
            look()
        except Error as exc:
            logger.warning("News of the exchanges cannot be shared with the other processes now: %s", exc)
        except Exception:
            logger.exception("News of the exchanges cannot be shared with the other processes now")
        finally:
            close_old_connections()


_watcher: _Watcher | None = None
_start_lock = threading.Lock()


def watch() -> None:
    """Share with the other processes from now on. Safe, and cheap, to call again and again."""
    global _watcher
    watcher = _watcher
    if watcher is not None and watcher.is_alive:
        return
    with _start_lock:
        if _watcher is None or not _watcher.is_alive:
            _watcher = _Watcher()


def stop() -> None:
    """End this process's thread; the next `watch()` starts another."""
    global _watcher
    watcher, _watcher = _watcher, None
    if watcher is not None:
        watcher.stop()


def _forget_in_child() -> None:
    # The parent's thread does not exist here; the first use of an adapter starts one.
    global _watcher, _start_lock
    _watcher = None
    _start_lock = threading.Lock()
    for outbox in _outboxes:
        outbox.empty()  # the parent writes its news itself


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(stop)
