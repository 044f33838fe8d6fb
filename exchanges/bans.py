"""Bans as rows: what an exchange tells one process, every process that sends obeys.

An exchange bans an address, not a process, and whoever goes on asking is banned for longer. So the
first one that is sent away (418, or 429 with its Retry-After) writes it down, and one small thread per
process looks for such rows every LOOK_SECONDS. Processes behind another address wait as well: rather
that than a ban that grows.

Times are this machine's wall clock, as the exchange's "for so many seconds" is counted by it.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from datetime import UTC, datetime

from django.db import Error, close_old_connections, connections
from django.utils import timezone

from exchanges import runtime
from exchanges.models import Ban

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
_STOP_SECONDS = 5.0


def ban_record(base_url: str, until: float, reason: str) -> None:
    """Write a ban down; a longer one that is known already stands. `until` in epoch seconds."""
    ends_at = datetime.fromtimestamp(until, UTC)
    defaults = {"until": ends_at, "reason": reason}
    _, is_new = Ban.objects.get_or_create(base_url=base_url, defaults=defaults)
    if not is_new:
        Ban.objects.filter(base_url=base_url, until__lt=ends_at).update(until=ends_at, reason=reason)


def bans_obey() -> int:
    """Let this process's adapters hold back where a ban is in force; return how many there are."""
    bans = list(Ban.objects.filter(until__gt=timezone.now()))
    for ban in bans:
        runtime.obey_ban(ban.base_url, ban.until.timestamp(), ban.reason)
    return len(bans)


class _Watcher:
    """The thread that writes down what this process is told, and looks for what others were told."""

    def __init__(self) -> None:
        self._news: dict[str, tuple[float, str]] = {}  # by base URL; the longest is the last
        self._lock = threading.Lock()  # never held while the database is asked
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="exchange-bans", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def hear(self, base_url: str, until: float, reason: str) -> None:
        """Take the news and return at once: the I/O loop calls this."""
        with self._lock:
            self._news[base_url] = (until, reason)
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(_STOP_SECONDS)

    def _watch(self) -> None:
        try:
            while not self._stopping:
                self._look()
                self._wake.wait(LOOK_SECONDS)
                self._wake.clear()
        finally:
            connections.close_all()

    def _look(self) -> None:
        close_old_connections()
        try:
            self._write_news()
            bans_obey()
        except Error as exc:
            logger.warning("Bans cannot be shared with the other processes now: %s", exc)
        except Exception:
            logger.exception("Bans cannot be shared with the other processes now")
        finally:
            close_old_connections()

    def _write_news(self) -> None:
        """Write down what was heard. What cannot be written is tried again at the next look."""
        with self._lock:
            news = dict(self._news)
        for base_url, (until, reason) in news.items():
            if until > time.time():
                logger.warning("%s sends us away for %.0f s: %s", base_url, until - time.time(), reason)
                ban_record(base_url, until, reason)
            with self._lock:
                if self._news.get(base_url) == (until, reason):
                    del self._news[base_url]


_watcher: _Watcher | None = None
_start_lock = threading.Lock()


def watch() -> None:
    """Share bans with the other processes from now on. Safe, and cheap, to call again and again."""
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


def _hear(base_url: str, until: float, reason: str) -> None:
    watcher = _watcher
    if watcher is not None:
        watcher.hear(base_url, until, reason)


def _forget_in_child() -> None:
    # The parent's thread does not exist here; the first use of an adapter starts one.
    global _watcher, _start_lock
    _watcher = None
    _start_lock = threading.Lock()


runtime.on_ban(_hear)
os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(stop)
