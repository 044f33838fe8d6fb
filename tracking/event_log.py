"""Following the order event log: every event once, in order, those that commit late included."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import QuerySet

from orders.listing import EventRow
from orders.models import OrderEvent
from orders.selectors import Visible, event_rows

MAX_BEHIND = 500  # events; a reader that missed more starts afresh
TICKER_LENGTH = 50
LOOK_BACK = timedelta(seconds=10)  # no transaction of ours lasts longer


def look_back() -> timedelta:
    """How long after a higher id a lower one may still appear."""
    return LOOK_BACK if connection.vendor == "postgresql" else timedelta(0)


class EventReader:
    """One reader's place in the part of the log that it may see.

    On PostgreSQL an id is taken before its transaction commits, so a lower id can appear after a higher
    one. Each read therefore looks again at everything above `_floor`, the highest id that was first seen
    more than ten seconds ago, and drops what it has given out. SQLite has one writer at a time: there
    the floor is simply the last id.
    """

    def __init__(self, visible: Visible, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._visible = visible
        self._clock = clock
        self._look_back = look_back()
        self._floor = 0
        self._seen: dict[int, float] = {}  # id above the floor -> when it was first seen
        self.last_id = 0

    def start(self, *, now: datetime) -> list[EventRow]:
        """Begin at the end of the log; return its last events, the oldest first."""
        self._floor, self._seen = 0, {}
        if not self._is_simple:
            # Twice the time: the clocks of the processes that write may differ. Noted before the lines are
            # read: what commits in between is given out twice rather than never.
            self._floor = self._settled_before(now - 2 * self._look_back)
            above = self._visible.events().filter(id__gt=self._floor)
            self._remember(list(above.values_list("id", flat=True)))
        recent = event_rows(self._visible.events().order_by("-id"), limit=TICKER_LENGTH)[::-1]
        self.last_id = recent[-1].id if recent else 0
        if self._is_simple:
            self._floor = self.last_id
        return recent

    def resume(self, last_id: int) -> list[EventRow] | None:
        """Begin after `last_id`; return what came since, or None where a fresh start is needed.

        Events of the ten seconds before `last_id` are returned again, because one that committed late
        may be among them: the receiver drops the ids that it has.
        """
        anchor = self._visible.events().filter(id=last_id).values_list("created_at", flat=True).first()
        if anchor is None:  # another database's id, or an event that is not (or no longer) ours to see
            return None
        self._seen, self.last_id = {}, last_id
        self._floor = last_id if self._is_simple else self._settled_before(anchor - self._look_back)
        rows = event_rows(self._above_floor(), limit=2 * MAX_BEHIND)
        if len(rows) == 2 * MAX_BEHIND or sum(row.id > last_id for row in rows) > MAX_BEHIND:
            return None
        self._advance(rows)
        return rows

    def read(self) -> list[EventRow] | None:
        """Return the events that were not given out yet, or None if there are too many of them."""
        fresh = event_rows(self._above_floor().exclude(id__in=list(self._seen)), limit=MAX_BEHIND + 1)
        if len(fresh) > MAX_BEHIND:
            return None
        self._advance(fresh)
        return fresh

    def _above_floor(self) -> QuerySet[OrderEvent]:
        return self._visible.events().filter(id__gt=self._floor).order_by("id")

    @property
    def _is_simple(self) -> bool:
        return not self._look_back

    def _settled_before(self, moment: datetime) -> int:
        """The highest id that was written before `moment`: nothing below it can still be missing."""
        old = self._visible.events().filter(created_at__lt=moment)
        return old.order_by("-id").values_list("id", flat=True).first() or 0

    def _advance(self, rows: list[EventRow]) -> None:
        ids = [row.id for row in rows]
        self.last_id = max([self.last_id, *ids])
        if self._is_simple:
            self._floor = self.last_id
            return
        self._remember(ids)
        settled = self._clock() - self._look_back.total_seconds()
        self._floor = max([self._floor, *(id for id, seen_at in self._seen.items() if seen_at < settled)])
        self._seen = {id: seen_at for id, seen_at in self._seen.items() if id > self._floor}

    def _remember(self, ids: list[int]) -> None:
        now = self._clock()
        for id in ids:
            self._seen.setdefault(id, now)
