"""Back over the queue's migrations and forth again: what waited stays in somebody's sight."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from pytest_django.fixtures import Settings

from orders.models import FailedOrder, Home, OrderIntent, PendingOrder
from orders.services.failures import order_params
from orders.services.retries import failed_orders_retry
from orders.tests.factories import Exchanges, limit, make_follower, post

pytestmark = pytest.mark.django_db(transaction=True)

BEFORE_THE_QUEUE = ("orders", "0003_canceling_event")


def migrate(*targets: tuple[str, str]) -> None:
    MigrationExecutor(connection).migrate(list(targets))


def newest() -> list[tuple[str, str]]:
    graph = MigrationExecutor(connection).loader.graph
    return list(graph.leaf_nodes())


@pytest.fixture
def _all_tables_afterwards() -> Iterator[None]:
    targets = newest()
    yield
    migrate(*targets)


@pytest.mark.usefixtures("_all_tables_afterwards")
def test_what_waits_when_the_queue_is_taken_away_becomes_a_failed_order(
    exchanges: Exchanges, settings: Settings
) -> None:
    settings.QUEUE_LIMIT_CAP = 1
    make_follower()
    post({"orders": [limit(90_000), limit(89_000), limit(88_000)]})
    waited = set(PendingOrder.objects.values_list("intent_id", flat=True))
    targets = newest()

    migrate(BEFORE_THE_QUEUE)
    migrate(*targets)

    failed = {row.intent_id: row for row in FailedOrder.objects.select_related("intent__delivery")}
    assert len(waited) == 2
    assert set(failed) == waited
    assert not OrderIntent.objects.filter(home=Home.QUEUE).exists()
    for row in failed.values():
        assert (row.intent.home, row.status, row.uid) == (Home.FAILED, "pending_retry", row.intent.uid)
        assert row.quantity == row.intent.remaining_quantity > 0
        assert row.order_params == order_params(row.intent)
        assert row.webhook_id == row.intent.delivery.webhook_id
    retried = failed_orders_retry(failed_order_ids=[row.pk for row in failed.values()], by="trader")
    assert all(result.success for result in retried.values())
