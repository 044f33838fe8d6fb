from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from itertools import chain
from typing import Any

import pytest
from django.db import IntegrityError, connection, models, transaction

from exchanges.models import ConfigVersion
from orders.models import (
    Book,
    EventSource,
    EventType,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    Placement,
    StrategyAccount,
    Trade,
    WebhookDelivery,
)
from orders.services import submission
from orders.statements import pk_field
from orders.tests.factories import (
    FUTURES,
    NOON,
    Queries,
    SideBySide,
    make_delivery,
    make_follower,
    make_placements,
)
from orders.writes import Writes, draw_keys

pytestmark = pytest.mark.django_db

LATER = NOON + timedelta(seconds=5)
VERSION = "(SELECT version FROM exchanges_configversion WHERE id = 1) = %s"


@pytest.fixture
def follower() -> StrategyAccount:
    return make_follower()


def make_event(**overrides: Any) -> OrderEvent:
    fields = {"type": EventType.ACCEPTED, "source": EventSource.ANSWER, "created_at": NOON}
    return OrderEvent(**fields | overrides)


def make_trade(placement: Placement, **overrides: Any) -> Trade:
    intent = placement.intent
    amounts = dict.fromkeys(("quantity", "notional", "average_price"), Decimal(1))
    times = {"first_executed_at": NOON, "last_executed_at": NOON}
    return Trade(
        intent=intent,
        strategy_account_id=intent.strategy_account_id,
        symbol=intent.symbol,
        market_type=intent.market_type,
        side=intent.side,
        **(amounts | times | overrides),
    )


def insert_all(writes: Writes, follower: StrategyAccount, quantities: list[Decimal]) -> WebhookDelivery:
    """A delivery, its intents, placements and open orders, each referring to rows of the same run."""
    book, _ = Book.objects.get_or_create(account=follower.account, market_type=FUTURES, symbol="BTC/USDT")
    number = len(quantities)
    [[delivery_key], intent_keys, placement_keys] = draw_keys(
        (WebhookDelivery, 1), (OrderIntent, number), (Placement, number)
    )
    delivery = WebhookDelivery(
        pk=delivery_key, strategy=follower.strategy, webhook_id=f"w{delivery_key}", received_at=NOON
    )
    intents = [
        OrderIntent(
            pk=key, uid=f"u{key}", delivery=delivery, order_index=index, user_id=follower.strategy.user_id,
            strategy_account=follower, book=book, market_type=FUTURES, symbol="BTC/USDT", side="BUY",
            order_type="LIMIT", price=Decimal(90_000), quantity=quantity, home=Home.EXCHANGE,
            created_at=NOON, updated_at=NOON,
        )
        for index, (key, quantity) in enumerate(zip(intent_keys, quantities, strict=True))
    ]  # fmt: skip
    placements = [submission.placement_for(one, account_id=1, number=1, now=NOON) for one in intents]
    for placement, key in zip(placements, placement_keys, strict=True):
        placement.pk = key
    writes.insert([delivery])
    writes.insert(intents)
    writes.insert(placements)
    writes.insert(submission.open_order_for(one, now=NOON) for one in placements)
    writes.insert(submission.submitting_event(one, source="WEBHOOK", now=NOON) for one in placements)
    return delivery


def next_key(model: type[models.Model]) -> int:
    [[key]] = draw_keys((model, 1))
    return key


class TestDrawKeys:
    def test_gives_each_model_as_many_as_it_asks_for(self) -> None:
        keys = draw_keys((OrderIntent, 3), (Placement, 0), (OrderEvent, 1))

        assert [len(set(drawn)) for drawn in keys] == [3, 0, 1]
        assert keys[0] == sorted(keys[0])

    @pytest.mark.parametrize("model", [WebhookDelivery, OrderIntent, Placement])
    def test_never_gives_one_twice(self, model: type[models.Model]) -> None:
        first, second = draw_keys((model, 5))[0], draw_keys((model, 5))[0]

        assert len({*first, *second}) == 10

    def test_gives_none_that_a_row_got_by_itself(self) -> None:
        before = OrderEvent.objects.create(**_fields(make_event()))
        drawn = draw_keys((OrderEvent, 3))[0]
        after = OrderEvent.objects.create(**_fields(make_event()))

        assert len({before.pk, *drawn, after.pk}) == 5

    def test_asks_once_for_all_models(self) -> None:
        with Queries() as queries:
            draw_keys((WebhookDelivery, 1), (OrderIntent, 30), (Placement, 30))

        if connection.vendor == "postgresql":
            assert queries.count == 1

    def test_asks_nothing_for_nothing(self) -> None:
        with Queries() as queries:
            assert draw_keys((OrderIntent, 0), (Placement, 0)) == [[], []]

        assert queries.count == 0


def _fields(row: models.Model) -> dict[str, Any]:
    pk = pk_field(type(row))
    return {f.attname: getattr(row, f.attname) for f in row._meta.local_concrete_fields if f is not pk}


@pytest.mark.django_db(transaction=True)
class TestDrawKeysBesideOthers:
    def test_gives_every_connection_its_own(self, follower: StrategyAccount) -> None:
        def write() -> list[int]:
            with transaction.atomic():
                writes = Writes()
                delivery = insert_all(writes, follower, [Decimal(1)] * 20)
                writes.run()
            return list(delivery.intents.values_list("pk", flat=True))

        with SideBySide() as threads:
            drawn = [future.result() for future in [threads.start(write) for _ in range(8)]]

        assert len(set(chain(*drawn))) == 160
        assert OpenOrder.objects.filter(placement__intent=models.F("intent")).count() == 160


class TestWrites:
    def test_inserts_rows_that_refer_to_each_other(self, follower: StrategyAccount) -> None:
        exact = [Decimal("0.123456789012345678"), Decimal("12345678901234567890.1"), Decimal("1E-18")]
        writes = Writes()
        delivery = insert_all(writes, follower, exact)
        with Queries() as queries:
            assert writes.run()

        rows = OpenOrder.objects.select_related("intent", "placement__intent").order_by("pk")
        assert [row.intent.quantity for row in rows] == exact
        assert [row.placement.quantity for row in rows] == exact
        assert [row.placement.intent_id for row in rows] == [row.pk for row in rows]
        assert {row.intent.delivery_id for row in rows} == {delivery.pk}
        logged = OrderEvent.objects.order_by("pk").values_list("intent_id", "data__client_order_id")
        assert list(logged) == [(row.pk, row.placement.client_order_id) for row in rows]
        if connection.vendor == "postgresql":
            assert queries.count == 1

    @pytest.mark.parametrize("number", [1, 3])
    def test_gives_rows_without_a_key_theirs(self, follower: StrategyAccount, number: int) -> None:
        delivery = WebhookDelivery(strategy=follower.strategy, webhook_id="w", received_at=NOON)
        rows = [make_event(message=str(index)) for index in range(number)]
        writes = Writes()
        writes.insert(rows)
        writes.insert([delivery])
        writes.run()

        assert [OrderEvent.objects.get(pk=row.pk).message for row in rows] == [str(i) for i in range(number)]
        assert WebhookDelivery.objects.get().pk == delivery.pk
        assert not delivery._state.adding

    def test_inserts_saves_and_deletes_together(self, follower: StrategyAccount) -> None:
        kept, ended, other = make_placements(follower, [{}] * 3)
        kept.exchange_order_id, kept.filled_quantity = "x1", Decimal("0.000000000000000001")
        ended.exchange_order_id, ended.filled_quantity = "x2", Decimal("1E+3")
        kept.exchange_words = "not asked for"
        kept.intent.updated_at = LATER
        writes = Writes()
        writes.save([kept, ended], fields=("exchange_order_id", "filled_quantity"))
        writes.save([kept.intent], fields=("updated_at",))
        writes.delete(OpenOrder, {ended.intent_id})
        writes.insert([make_event(message="one"), make_event(message="two")])
        writes.run()

        found = Placement.objects.order_by("pk").values_list("exchange_order_id", "filled_quantity")
        assert list(found) == [("x1", Decimal("1E-18")), ("x2", Decimal(1000)), ("", Decimal(0))]
        assert not Placement.objects.exclude(exchange_words="").exists()
        assert [OrderIntent.objects.get(pk=one.intent_id).updated_at == LATER for one in (kept, ended)] == [
            True,
            False,
        ]
        assert set(OpenOrder.objects.values_list("pk", flat=True)) == {kept.intent_id, other.intent_id}
        assert list(OrderEvent.objects.order_by("pk").values_list("message", flat=True)) == ["one", "two"]

    def test_reads_values_when_it_sends_them(self, follower: StrategyAccount) -> None:
        [placement] = make_placements(follower, [{}])
        writes = Writes()
        writes.save([placement], fields=("exchange_words",))
        placement.exchange_words = "late"
        writes.run()

        assert Placement.objects.get().exchange_words == "late"

    def test_updates_what_an_upsert_meets(self, follower: StrategyAccount) -> None:
        met, new = make_placements(follower, [{}] * 2)
        make_trade(met, realized_pnl=Decimal(7)).save()
        writes = Writes()
        rows = [make_trade(one, quantity=Decimal("2.5"), realized_pnl=Decimal(1)) for one in (met, new)]
        writes.upsert(rows, unique=("intent",), fields=("quantity",))
        writes.run()

        found = dict(Trade.objects.values_list("intent_id", "realized_pnl"))
        assert found == {met.intent_id: Decimal(7), new.intent_id: Decimal(1)}
        assert set(Trade.objects.values_list("quantity", flat=True)) == {Decimal("2.5")}

    def test_sends_nothing_for_nothing(self) -> None:
        writes = Writes()
        with Queries() as queries:
            writes.insert([])
            writes.upsert([], unique=("intent",), fields=("quantity",))
            writes.save([], fields=("message",))
            writes.delete(OrderEvent, [])
            assert writes.run()

        assert queries.count == 0

    def test_begins_anew_after_it_was_run(self) -> None:
        event = make_event()
        writes = Writes()
        writes.insert([event])
        writes.run()
        writes.delete(OrderEvent, [event.pk])
        writes.run()
        with Queries() as queries:
            writes.run()

        assert (OrderEvent.objects.count(), queries.count) == (0, 0)

    def test_refuses_to_write_a_row_twice(self, follower: StrategyAccount) -> None:
        [placement] = make_placements(follower, [{}])
        writes = Writes()
        writes.save([placement], fields=("outcome",))

        with pytest.raises(AssertionError, match="Placement in two parts"):
            writes.save([placement], fields=("exchange_words",))
        with pytest.raises(AssertionError, match="Placement in two parts"):
            writes.delete(Placement, [placement.pk])
        with pytest.raises(AssertionError, match="Placement in two parts"):
            writes.insert([placement])
        with pytest.raises(AssertionError, match="OpenOrder twice"):
            writes.delete(OpenOrder, [placement.intent_id] * 2)

    def test_lets_rows_of_two_models_have_the_same_key(self) -> None:
        writes = Writes()
        writes.delete(OpenOrder, [1])
        writes.delete(OrderEvent, [1])
        writes.run()

    def test_writes_nothing_when_one_part_fails(self, follower: StrategyAccount) -> None:
        taken = make_delivery(follower.strategy)
        writes = Writes()
        writes.insert([make_event()])
        writes.insert(
            [WebhookDelivery(strategy=follower.strategy, webhook_id=taken.webhook_id, received_at=NOON)]
        )

        with pytest.raises(IntegrityError), transaction.atomic():
            writes.run()
        assert not OrderEvent.objects.exists()


class TestCondition:
    def version(self) -> int:
        return ConfigVersion.objects.get_or_create(pk=1)[0].version

    def test_that_holds_is_told(self) -> None:
        writes = Writes()
        writes.insert([make_event()])

        assert writes.run(VERSION, self.version()) is True
        assert OrderEvent.objects.count() == 1

    def test_that_does_not_hold_is_told_so_that_the_caller_rolls_back(self) -> None:
        event, version = make_event(), self.version()
        writes = Writes()
        writes.insert([event])

        with transaction.atomic():
            assert writes.run(VERSION, version + 1) is False
            transaction.set_rollback(True)
        assert not OrderEvent.objects.exists()
        assert event.pk is None

    def test_is_asked_even_when_there_is_nothing_to_write(self) -> None:
        assert Writes().run(VERSION, self.version() + 1) is False
