from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import DatabaseError, connection

from orders.bulk import bulk_insert, bulk_save
from orders.models import EventSource, EventType, OrderEvent

NOON = datetime(2026, 7, 21, 12, tzinfo=UTC)

pytestmark = pytest.mark.django_db


def make_event(**overrides: Any) -> OrderEvent:
    fields = {
        "type": EventType.ACCEPTED,
        "source": EventSource.ANSWER,
        "symbol": "BTC/USDT",
        "created_at": NOON,
    }
    return OrderEvent(**fields | overrides)


def stored(*names: str) -> list[Any]:
    return list(OrderEvent.objects.order_by("pk").values_list(*names, flat=len(names) == 1))


class TestBulkInsert:
    def test_gives_each_row_the_key_of_what_it_wrote(self) -> None:
        rows = bulk_insert(make_event(intent_id=number, data={"number": number}) for number in range(20))

        assert [OrderEvent.objects.get(pk=row.pk).intent_id for row in rows] == list(range(20))
        assert stored("data") == [{"number": number} for number in range(20)]

    def test_writes_rows_that_are_all_alike(self) -> None:
        bulk_insert(make_event() for _ in range(3))

        assert stored("symbol", "intent_id", "created_at") == [("BTC/USDT", None, NOON)] * 3

    def test_writes_one_row(self) -> None:
        bulk_insert([make_event(message='a "quoted", {braced} \\ word', data={"a": ["b", None]})])

        assert stored("message", "data") == [('a "quoted", {braced} \\ word', {"a": ["b", None]})]

    def test_writes_what_some_rows_lack(self) -> None:
        bulk_insert([make_event(occurred_at=NOON), make_event(), make_event(occurred_at=NOON)])

        assert stored("occurred_at") == [NOON, None, NOON]

    @pytest.mark.parametrize("number", [1, 2])
    def test_refuses_what_is_too_long(self, number: int) -> None:
        rows = [make_event(symbol="X" * 49) for _ in range(number)]
        if connection.vendor == "postgresql":  # SQLite does not look at lengths
            with pytest.raises(DatabaseError, match="too long"):
                bulk_insert(rows)

    def test_writes_nothing_without_rows(self) -> None:
        assert bulk_insert([]) == []


class TestBulkSave:
    def test_writes_each_row_its_own_values_and_no_other_field(self) -> None:
        rows = bulk_insert(make_event(intent_id=number) for number in range(3))
        for row in rows:
            row.message, row.symbol, row.after = f"m{row.intent_id}", "other", "NEW"

        bulk_save(rows[1:], fields=("message", "after"))

        assert stored("message", "after", "symbol") == [
            ("", "", "BTC/USDT"),
            ("m1", "NEW", "BTC/USDT"),
            ("m2", "NEW", "BTC/USDT"),
        ]

    def test_writes_one_row_only(self) -> None:
        rows = bulk_insert(make_event() for _ in range(2))
        rows[0].message = "changed"

        bulk_save(rows[:1], fields=("message",))

        assert stored("message") == ["changed", ""]
