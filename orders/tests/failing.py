"""Failed orders for tests: made by the real services, against exchanges in memory."""

from __future__ import annotations

from typing import Any

from exchanges.adapters.exceptions import ExchangeError, InsufficientFunds
from orders.clock import database_now
from orders.models import EventSource, FailedOrder, OrderIntent, Placement, StrategyAccount
from orders.services.applied import Outcome
from orders.services.settlement import outcomes_apply
from orders.tests.factories import make_placement

NO_MONEY = InsufficientFunds("Account has insufficient balance for requested action.", venue_code="-2010")


def refuse(placement: Placement, error: ExchangeError = NO_MONEY) -> FailedOrder:
    """The exchange's answer to a placement is no."""
    outcomes_apply([Outcome(placement.pk, error)], source=EventSource.ANSWER, now=database_now())
    return FailedOrder.objects.get(intent_id=placement.intent_id)


def make_failed(follower: StrategyAccount, error: ExchangeError = NO_MONEY, **fields: Any) -> FailedOrder:
    """An order that the exchange refused: a LIMIT buy of 1 BTC at 90,000 unless told otherwise."""
    return refuse(make_placement(follower, **fields), error)


def next_client_id(failed: FailedOrder, number: int = 2) -> str:
    return f"th{failed.uid}{number:04d}"


def intent_of(failed: FailedOrder) -> OrderIntent:
    return OrderIntent.objects.get(pk=failed.intent_id)


def failed_of(intent: OrderIntent) -> FailedOrder | None:
    return FailedOrder.objects.filter(intent=intent).first()
