from __future__ import annotations

from datetime import timedelta

import pytest

from orders.listing import EventRow
from orders.models import OrderEvent, StrategyAccount
from orders.selectors import Visible
from orders.tests.rows import NOON, log_event, make_strategy_account
from tracking import event_log
from tracking.event_log import EventReader

EVERYBODY = Visible(user_id=None)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def owner(db: None) -> StrategyAccount:
    return make_strategy_account()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(owner: StrategyAccount, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> EventReader:
    """A reader as on PostgreSQL: it looks back."""
    monkeypatch.setattr(event_log, "look_back", lambda: timedelta(seconds=10))
    return EventReader(EVERYBODY, clock=clock)


@pytest.fixture
def simple_reader(owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch) -> EventReader:
    """A reader as on SQLite: one writer, ids in order."""
    monkeypatch.setattr(event_log, "look_back", lambda: timedelta(0))
    return EventReader(EVERYBODY)


def ids(rows: list[EventRow] | None) -> list[int]:
    assert rows is not None
    return [row.id for row in rows]


def late(owner: StrategyAccount, event: OrderEvent) -> None:
    """Commit an event whose id was taken earlier."""
    log_event(owner, id=event.pk, created_at=event.created_at)


class TestEventReader:
    def test_gives_each_event_once_and_in_order(self, owner: StrategyAccount, reader: EventReader) -> None:
        old = log_event(owner)
        assert ids(reader.start(now=NOON)) == [old.pk]
        first, second = log_event(owner), log_event(owner)

        assert ids(reader.read()) == [first.pk, second.pk]
        assert ids(reader.read()) == []
        assert reader.last_id == second.pk

    def test_finds_an_event_that_commits_after_a_higher_id(
        self, owner: StrategyAccount, reader: EventReader, clock: Clock
    ) -> None:
        reader.start(now=NOON)
        slow, fast = log_event(owner), log_event(owner)
        slow.delete()  # its transaction is still open
        assert ids(reader.read()) == [fast.pk]
        clock.now += 9
        slow.pk = fast.pk - 1
        late(owner, slow)

        assert ids(reader.read()) == [fast.pk - 1]
        assert ids(reader.read()) == []
        assert reader.last_id == fast.pk

    def test_looks_back_ten_seconds_and_no_further(
        self, owner: StrategyAccount, reader: EventReader, clock: Clock
    ) -> None:
        reader.start(now=NOON)
        event = log_event(owner)
        event.delete()
        last = log_event(owner)
        reader.read()
        clock.now += 11
        reader.read()  # here the floor rises above it
        event.pk = last.pk - 1
        late(owner, event)

        assert ids(reader.read()) == []

    def test_finds_an_event_that_was_on_its_way_at_the_start(
        self, owner: StrategyAccount, reader: EventReader
    ) -> None:
        event = log_event(owner)
        event.delete()
        shown = log_event(owner)
        assert ids(reader.start(now=NOON)) == [shown.pk]
        event.pk = shown.pk - 1
        late(owner, event)

        assert ids(reader.read()) == [shown.pk - 1]

    def test_does_not_look_back_where_one_writer_commits_in_order(
        self, owner: StrategyAccount, simple_reader: EventReader
    ) -> None:
        simple_reader.start(now=NOON)
        event = log_event(owner)
        event.delete()
        last = log_event(owner)
        assert ids(simple_reader.read()) == [last.pk]
        event.pk = last.pk - 1
        late(owner, event)

        assert ids(simple_reader.read()) == []

    def test_needs_a_fresh_start_when_too_much_happened(
        self, owner: StrategyAccount, reader: EventReader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(event_log, "MAX_BEHIND", 3)
        reader.start(now=NOON)
        for _ in range(3):
            log_event(owner)
        assert len(ids(reader.read())) == 3
        for _ in range(4):
            log_event(owner)

        assert reader.read() is None


class TestResume:
    def test_gives_what_was_missed(self, owner: StrategyAccount, reader: EventReader) -> None:
        log_event(owner, created_at=NOON - timedelta(minutes=1))
        seen = log_event(owner)
        missed = log_event(owner)

        assert ids(reader.resume(seen.pk)) == [seen.pk, missed.pk]  # `seen` again: the page drops it
        assert ids(reader.read()) == []

    def test_includes_what_committed_late_before_the_last_seen(
        self, owner: StrategyAccount, reader: EventReader
    ) -> None:
        slow = log_event(owner, created_at=NOON - timedelta(seconds=8))
        seen = log_event(owner)

        assert ids(reader.resume(seen.pk)) == [slow.pk, seen.pk]

    def test_gives_only_what_is_new_where_nothing_commits_late(
        self, owner: StrategyAccount, simple_reader: EventReader
    ) -> None:
        seen, missed = log_event(owner), log_event(owner)

        assert ids(simple_reader.resume(seen.pk)) == [missed.pk]

    def test_needs_a_fresh_start_after_more_than_it_may_miss(
        self, owner: StrategyAccount, reader: EventReader
    ) -> None:
        seen = log_event(owner)
        template = log_event(owner)
        OrderEvent.objects.bulk_create(
            OrderEvent(type=template.type, source=template.source, created_at=NOON) for _ in range(499)
        )
        assert len(ids(reader.resume(seen.pk))) == 501  # 500 missed, and the last seen again

        log_event(owner)
        assert reader.resume(seen.pk) is None

    def test_needs_a_fresh_start_for_an_id_that_is_not_theirs_to_see(
        self, owner: StrategyAccount, reader: EventReader
    ) -> None:
        foreign = log_event(owner)

        assert EventReader(Visible(user_id=owner.strategy.user_id + 1)).resume(foreign.pk) is None
        assert reader.resume(foreign.pk + 1000) is None
