"""The queue where two processes, two answers or two rules meet: nothing is sent twice, held for ever or for nothing."""

from __future__ import annotations

import pytest
from pytest_django.fixtures import Settings

from exchanges.adapters import exceptions as errors
from orders.models import (
    OpenOrder,
    StrategyAccount,
)
from orders.models.intent import client_order_id
from orders.services.deliveries import take_over
from orders.states import OrderStatus
from orders.tests.factories import (
    Exchanges,
    accepted_only,
    let_lease_end,
    limit,
    make_follower,
)
from orders.tests.test_queue import (
    ended,
    hear_and_follow_up,
    intent_at,
    ladder,
    place,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def follower(exchanges: Exchanges, settings: Settings) -> StrategyAccount:
    settings.QUEUE_LIMIT_CAP = 3
    return make_follower()


class TestTakeOver:
    def test_sends_nothing_again_that_another_process_took_from_the_queue(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        place(*ladder(3))
        delivery = accepted_only(limit(80_000))  # it waits; its process dies
        name = client_order_id(intent_at(80_000).uid, 1)
        fake.lose_answer(name, errors.OutcomeUnknown("read timed out"))
        hear_and_follow_up(follower, ended(exchanges, follower, 90_002))
        assert OpenOrder.objects.get(intent__price=80_000).status == OrderStatus.SUBMITTING
        fake.fill(name, announce=False)  # then the exchange would take its id once more
        let_lease_end(delivery)

        take_over(delivery.pk)

        assert sum(one.client_order_id == name for one in fake.submitted) == 1
