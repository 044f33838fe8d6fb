"""The worker's clock, run faster: what django-q2's schedule asks for every half minute comes every second.

The jobs go through the real broker to the real worker; only who says "now" is this thread. A broker that is
away loses some of them, as it would lose the schedule's.
"""

from __future__ import annotations

import threading

EVERY_SECONDS = 1.0
MOST_WAITING = 12
LEFT_OUT = frozenset({"tracking.tasks.instruments_load"})  # once a day is often enough


class FastClock:
    """Puts the schedule's jobs into the broker until it is stopped."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="fast-clock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5)

    def _tick(self) -> None:
        from django_q.brokers import get_broker  # noqa: PLC0415  after Django is set up
        from django_q.tasks import async_task  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415

        from tracking.schedules import JOBS  # noqa: PLC0415

        functions = sorted({job.function for job in JOBS} - LEFT_OUT)
        broker = get_broker()
        while not self._stopping.wait(EVERY_SECONDS):
            try:
                if broker.queue_size() > MOST_WAITING:
                    continue  # the worker is dead or frozen: what waits is enough
                for function in functions:
                    async_task(function, broker=broker)
            except (RedisError, OSError):
                continue
