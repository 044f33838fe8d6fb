"""Queries that are compiled once return what the ORM returns, each time they are asked."""

from __future__ import annotations

import pytest
from django.db import connection
from django.db.models import Q
from django.db.models.expressions import RawSQL

from orders import prepared
from orders.models import DELIVERY_CONTENT, OrderIntent, Placement, StrategyAccount
from orders.prepared import Query
from orders.tests.factories import Queries, make_follower, make_placements

pytestmark = pytest.mark.django_db


@pytest.fixture
def follower() -> StrategyAccount:
    return make_follower()


class TestQuery:
    def test_returns_what_the_orm_returns(self, follower: StrategyAccount) -> None:
        placements = make_placements(follower, [{}] * 3)
        whole = (
            Placement.objects.select_related("intent__delivery")
            .defer(*(f"intent__delivery__{one}" for one in DELIVERY_CONTENT))
            .order_by("pk")
        )
        query = Query(lambda ids: whole.filter(pk__any=ids))

        for wanted in (placements, placements[:1], []):
            ids = [placement.pk for placement in wanted]
            found, expected = query(ids), list(whole.filter(pk__in=ids))
            assert [one.__dict__.keys() for one in found] == [one.__dict__.keys() for one in expected]
            for one, other in zip(found, expected, strict=True):
                fields = [field.attname for field in Placement._meta.concrete_fields]
                assert [getattr(one, name) for name in fields] == [getattr(other, name) for name in fields]
                assert one.created_at.utcoffset() == other.created_at.utcoffset()
                assert one.intent.delivery.webhook_id == other.intent.delivery.webhook_id
                assert one.intent.delivery.get_deferred_fields() == set(DELIVERY_CONTENT)

    def test_returns_values_and_what_is_given_for_raw_sql(self, follower: StrategyAccount) -> None:
        first, second = make_placements(follower, [{}] * 2)
        query = Query(
            lambda ids, word: (
                Placement.objects.filter(Q(pk__any=ids) | Q(pk=0))
                .annotate(word=RawSQL("%s || ''", (word,)))
                .order_by("pk")
                .values_list("pk", "word")
            )
        )

        assert query([first.pk], "one") == [(first.pk, "one")]
        assert query([second.pk, first.pk], "100%s") == [(first.pk, "100%s"), (second.pk, "100%s")]

    def test_is_one_query_that_shows_its_values(self, follower: StrategyAccount) -> None:
        (placement,) = make_placements(follower, [{}] * 1)
        query = Query(lambda ids: Placement.objects.filter(pk__any=ids, client_order_id="it's"))
        with Queries() as queries:
            query([placement.pk])

        (statement,) = queries.statements
        assert str(placement.pk) in statement
        assert "it" in statement


class TestPlans:
    def test_are_kept_by_the_server_from_the_third_use_on(self, follower: StrategyAccount) -> None:
        if connection.vendor != "postgresql":
            assert prepared.rows("SELECT %s + 1", [1]) == [(2,)]
            return
        sql = "SELECT count(*) FROM orders_orderintent WHERE uid = %s -- kept"
        kept = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%%-- kept'"

        counts = []
        for _ in range(4):
            prepared.rows(sql, ["x"])
            with connection.cursor() as cursor:
                cursor.execute(kept)
                counts.append(cursor.fetchone()[0])

        assert counts == [0, 0, 1, 1]


class TestAny:
    def test_serves_the_orm_without_a_query_of_ours(self, follower: StrategyAccount) -> None:
        placements = make_placements(follower, [{}] * 2)

        found = OrderIntent.objects.filter(placements__pk__any=[placements[1].pk])

        assert [one.pk for one in found] == [placements[1].intent_id]
