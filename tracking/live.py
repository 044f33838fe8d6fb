"""What one open live page shows, and the steps that bring it up to date.

Synchronous and without a socket: the view renders the first state with it, the consumer the rest.
The rows travel as HTML that our templates wrote (and escaped); `static/js/live.js` takes the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from django.template.loader import render_to_string
from django.utils import translation
from django.utils.html import escape

from orders import failed_listing, queue_selectors, selectors
from orders.failed_filter import FilterRefused, failed_filter_from
from orders.failed_listing import EVERY_FAILED_ORDER
from orders.listing import BookRow, EventRow, WaitingRow
from orders.models import EventType
from orders.selectors import Visible
from orders.states import OrderStatus
from tracking.event_log import EventReader
from tracking.rows import Added, Changed, Gone, changes
from tracking.selectors import StreamState, external_orders, stream_states

PRICES_EVERY = timedelta(seconds=1)
CLOCK_EVERY = timedelta(seconds=5)  # leases that run out, submissions that take too long
ALL_EVERY = timedelta(seconds=30)  # renamed, edited by hand: what no event tells


@dataclass(frozen=True, slots=True)
class Section:
    """One list of the page; its rows stand in the element `<name>-rows`, drawn by `rows/<name>.html`."""

    name: str
    read: Callable[..., Sequence[Any]]
    count: Callable[[Sequence[Any]], str] = lambda rows: str(len(rows))


SECTIONS = {
    section.name: section
    for section in (
        Section("positions", selectors.positions),
        Section("orders", selectors.open_orders),
        Section("waiting", queue_selectors.waiting_orders, queue_selectors.waiting_count),
        Section("externals", external_orders),
        Section("failed", failed_listing.failed_orders, failed_listing.failed_count),
        Section("trades", selectors.recent_trades),
        Section("streams", stream_states),
        Section("stops", selectors.stops),
    )
}

# What an event may have changed. Any report of an exchange can bring fills, the end of an order included.
_ORDER = frozenset({"orders"})
_OUTCOME = frozenset({"orders", "failed"})
_MOVE = frozenset({"orders", "waiting", "failed"})  # to another home; a slot is taken or free
_FILLS = frozenset({"positions", "trades"})
_REPORT = _OUTCOME | _FILLS
_END = _MOVE | _FILLS
AFFECTED: dict[str, frozenset[str]] = {
    EventType.QUEUED: _MOVE,
    EventType.SUBMITTING: frozenset({"orders", "waiting"}),
    EventType.CANCEL_REQUESTED: _ORDER,
    EventType.CANCELING: _ORDER,
    EventType.UNKNOWN: _OUTCOME,
    EventType.FAILED: _MOVE,
    EventType.ACCEPTED: _REPORT,
    EventType.TRIGGERED: _REPORT,
    EventType.PARTIALLY_FILLED: _REPORT,
    EventType.FILLED: _END,
    EventType.LATE_FILL: _END,
    EventType.CANCELED: _END,
    EventType.LIVE_AGAIN: _REPORT,
    EventType.REJECTED: _END,
    EventType.EXPIRED: _END,
    EventType.RETRY: _MOVE,
    EventType.REMOVED: frozenset({"failed"}),
    EventType.GUARD: frozenset({"stops"}),
    EventType.IMPOSSIBLE_REPORT: frozenset(),
    EventType.EXTERNAL: frozenset({"externals", "waiting"}),  # they take up slots
    EventType.STREAM: frozenset({"streams"}),
    EventType.BREAKER: frozenset(),
    EventType.OPERATOR: frozenset(SECTIONS),
}
# Nothing begins to wait without one of these; where nothing waits, the others need no look at the queue.
BEGINS_TO_WAIT = frozenset({EventType.QUEUED, EventType.RETRY, EventType.OPERATOR})


def affected_by(event: EventRow) -> frozenset[str]:
    """Return the names of the sections that have to be read again."""
    names = AFFECTED.get(event.type, AFFECTED[EventType.OPERATOR])
    return names - _FILLS if event.filled_quantity == 0 else names


class FrameKind(StrEnum):
    SNAPSHOT = "snapshot"  # everything is drawn again, the ticker too
    RESUMED = "resumed"  # the ticker goes on, everything else is drawn again
    NEWS = "news"  # what changed


class Do(StrEnum):
    """What a step does with the element `at`."""

    FILL = "fill"  # html becomes its content
    SWAP = "swap"  # html takes its place
    FIRST = "first"  # html becomes its first child
    AFTER = "after"  # html comes right after it
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Step:
    do: Do
    at: str  # the id of an element
    html: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """An event as the ticker shows it."""

    id: int
    html: str


@dataclass(frozen=True, slots=True)
class Frame:
    kind: FrameKind
    last_id: int  # of the last event that is told here or was told before
    events: tuple[Line, ...]  # in order
    steps: tuple[Step, ...]

    @property
    def is_empty(self) -> bool:
        return not self.events and not self.steps


@dataclass(frozen=True, slots=True)
class Money:
    asset: str
    unrealized: Decimal
    realized: Decimal


@dataclass(frozen=True, slots=True)
class Summary:
    money: tuple[Money, ...]  # per quote asset, of the positions shown
    open_orders: int
    waiting: str  # "1000+" where more wait than are counted
    failed: int
    resolving: int
    streams_live: int
    streams: int


class LiveView:
    """One page's state: which rows it has, and how far it has read the log."""

    def __init__(self, visible: Visible, *, language: str) -> None:
        self._visible = visible
        self._language = language
        self._failed = EVERY_FAILED_ORDER
        self._failed_problem = ""  # what is wrong with the filter that was asked for last
        self._asked = False  # for other failed orders than those that are shown
        self._reader = EventReader(visible)
        self._shown: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        self._summary: Summary | None = None
        self._prices_at = self._clock_at = self._all_at = datetime.min.replace(tzinfo=UTC)

    def show_failed(self, asked: Mapping[str, str]) -> None:
        """Show these from the next look on; what makes no sense changes nothing but a sentence."""
        with translation.override(self._language):
            try:
                self._failed, self._failed_problem = failed_filter_from(asked), ""
            except FilterRefused as refused:
                self._failed_problem = str(refused)
        self._asked = True

    def first_page(self, *, now: datetime) -> dict[str, Any]:
        """Return what the page's template needs; the socket takes over from its `last_id`."""
        ticker = self._reader.start(now=now)
        self._read_all(now)
        return {
            "last_id": self._reader.last_id,
            "shown": {name: list(rows.values()) for name, rows in self._shown.items()},
            "counts": {
                name: section.count(list(self._shown[name].values())) for name, section in SECTIONS.items()
            },
            "ticker": ticker[::-1],
            "summary": _summary(self._shown),
            "failed_problem": self._failed_problem,
        }

    def snapshot(self, *, now: datetime) -> Frame:
        """Start afresh: the state of everything and the last lines of the log."""
        ticker = self._reader.start(now=now)  # before the rows: what changes after this is told again
        self._read_all(now)
        return self._frame(FrameKind.SNAPSHOT, ticker, self._everything())

    def resume(self, last_id: int, *, now: datetime) -> Frame:
        """Go on after the last event that a page has seen; a snapshot if it has missed too many."""
        missed = self._reader.resume(last_id)
        if missed is None:
            return self.snapshot(now=now)
        self._read_all(now)
        return self._frame(FrameKind.RESUMED, missed, self._everything())

    def news(self, *, now: datetime) -> Frame:
        """Return what changed since the last call; the frame is empty if nothing did."""
        events = self._reader.read()
        if events is None:
            return self.snapshot(now=now)
        names = self._due(now).union(*map(self._concerns, events))
        steps: list[Step] = []
        if self._asked:
            self._asked = False
            names |= {"failed"}
            steps.append(self._problem_step())
        with translation.override(self._language):
            for name in SECTIONS:
                if name in names:
                    steps += self._refresh(SECTIONS[name], now)
        return self._frame(FrameKind.NEWS, events, [*steps, *self._summary_steps()])

    def _concerns(self, event: EventRow) -> frozenset[str]:
        names = affected_by(event)
        if self._shown["waiting"] or event.type in BEGINS_TO_WAIT or event.type not in AFFECTED:
            return names
        return names - {"waiting"}

    def _frame(self, kind: FrameKind, events: Sequence[EventRow], steps: Sequence[Step]) -> Frame:
        with translation.override(self._language):
            lines = tuple(Line(event.id, _row("events", event)) for event in events)
        return Frame(kind, self._reader.last_id, lines, tuple(steps))

    def _due(self, now: datetime) -> frozenset[str]:
        """What has to be looked at because time went by."""
        if now >= self._all_at:
            self._plan(now)
            return frozenset(SECTIONS)
        due = set()
        if now >= self._prices_at:
            self._prices_at = now + PRICES_EVERY
            if any(not row.is_flat for row in self._shown["positions"].values()):
                due.add("positions")
        if now >= self._clock_at:
            self._clock_at = now + CLOCK_EVERY
            due.add("streams")
            submitting = any(row.status == OrderStatus.SUBMITTING for row in self._shown["orders"].values())
            if submitting or self._shown["failed"]:  # the market's price stands beside each
                due.add("failed")
            if any(_is_due(row, now) for row in self._shown["waiting"].values()):
                due.add("waiting")
        return frozenset(due)

    def _plan(self, now: datetime) -> None:
        self._prices_at, self._clock_at = now + PRICES_EVERY, now + CLOCK_EVERY
        self._all_at = now + ALL_EVERY

    def _read_all(self, now: datetime) -> None:
        self._plan(now)
        for section in SECTIONS.values():
            self._shown[section.name] = {row.key: row for row in self._read(section, now)}

    def _read(self, section: Section, now: datetime) -> Sequence[Any]:
        only = {"only": self._failed} if section.name == "failed" else {}
        return section.read(self._visible, now=now, **only)

    def _everything(self) -> list[Step]:
        self._summary, self._asked = None, False
        steps = [*self._summary_steps(), self._problem_step()]
        with translation.override(self._language):
            for name, section in SECTIONS.items():
                steps += _whole(section, list(self._shown[name].values()))
        return steps

    def _refresh(self, section: Section, now: datetime) -> list[Step]:
        name, before = section.name, self._shown[section.name]
        rows = self._read(section, now)
        self._shown[name] = {row.key: row for row in rows}
        difference = changes(before, rows)
        if difference is None:
            return _whole(section, rows)
        steps = [_step(name, change) for change in difference]
        old, new = section.count(list(before.values())), section.count(rows)
        return steps if old == new else [*steps, _count(name, new)]

    def _summary_steps(self) -> list[Step]:
        summary = _summary(self._shown)
        if summary == self._summary:
            return []
        self._summary = summary
        with translation.override(self._language):
            html = render_to_string("positions/summary.html", {"summary": summary})
        return [Step(Do.FILL, "summary", html)]

    def _problem_step(self) -> Step:
        return Step(Do.FILL, "failed-problem", escape(self._failed_problem))


def _summary(shown: dict[str, dict[str, Any]]) -> Summary:
    money: dict[str, Money] = {}
    for row in shown["positions"].values():
        sum_so_far = money.get(row.quote_asset, Money(row.quote_asset, Decimal(0), Decimal(0)))
        money[row.quote_asset] = Money(
            row.quote_asset,
            sum_so_far.unrealized + (row.unrealized_pnl or Decimal(0)),
            sum_so_far.realized + row.realized_pnl,
        )
    resolving = sum(row.is_resolving for row in shown["failed"].values())
    return Summary(
        money=tuple(money[asset] for asset in sorted(money)),
        open_orders=len(shown["orders"]),
        waiting=queue_selectors.waiting_count(shown["waiting"].values()),
        failed=len(shown["failed"]) - resolving,
        resolving=resolving,
        streams_live=sum(row.state == StreamState.LIVE for row in shown["streams"].values()),
        streams=len(shown["streams"]),
    )


def _step(name: str, change: Changed[Any] | Added[Any] | Gone) -> Step:
    match change:
        case Changed(row):
            return Step(Do.SWAP, row.key, _row(name, row))
        case Added(row, after=None):
            return Step(Do.FIRST, f"{name}-rows", _row(name, row))
        case Added(row, after=str(above)):
            return Step(Do.AFTER, above, _row(name, row))
        case Gone(key):
            return Step(Do.REMOVE, key)
    raise AssertionError(change)


def _whole(section: Section, rows: Sequence[Any]) -> list[Step]:
    html = "".join(_row(section.name, row) for row in rows)
    return [Step(Do.FILL, f"{section.name}-rows", html), _count(section.name, section.count(rows))]


def _count(name: str, count: str) -> Step:
    return Step(Do.FILL, f"{name}-count", count)


def _is_due(row: BookRow | WaitingRow, now: datetime) -> bool:
    return isinstance(row, WaitingRow) and row.waits_until is not None and row.waits_until <= now


def _row(name: str, row: Any) -> str:
    return render_to_string(f"positions/rows/{name}.html", {"row": row}).strip()
