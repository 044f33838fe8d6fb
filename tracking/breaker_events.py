"""An exchange cannot be reached, or can again: an event for everybody who trades there."""

from __future__ import annotations

from django.db.models import Q

from exchanges.adapters.breaker import BreakerState
from exchanges.breakers import served_by
from exchanges.models import Account, Breaker
from orders.clock import database_now
from orders.events import EventsLogged, publish
from orders.models import EventSource, EventType, OrderEvent
from tracking.events import BreakerChanged


def breaker_changed(row: Breaker, before: str) -> None:
    """Write one event per user with an account there; runs in the transaction that changed the row."""
    served = served_by(row.base_url)
    users = _users(row.exchange, {environment for environment, _ in served})
    now = database_now()
    data = {"base_url": row.base_url, "node": row.node, "market_types": sorted({one for _, one in served})}
    OrderEvent.objects.bulk_create(
        OrderEvent(
            type=EventType.BREAKER,
            source=EventSource.BREAKER,
            user_id=user_id,
            before=before,
            after=row.state,
            message=_words(row)[:500],
            data=data,
            created_at=now,
        )
        for user_id in users
    )
    publish(EventsLogged(), BreakerChanged(row.base_url))


def _users(exchange: str, environments: set[str]) -> list[int | None]:
    there = Q(exchange=exchange, environment__in=environments, is_active=True)
    users = Account.objects.filter(there).order_by("user_id").values_list("user_id", flat=True).distinct()
    return list(users) or [None]  # nobody trades there: for the staff, then


def _words(row: Breaker) -> str:
    if row.state == BreakerState.CLOSED:
        return f"{row.exchange} answers again"
    return (
        f"{row.exchange} cannot be reached: queued orders wait, others are refused, cancels are still sent. "
        f"{row.reason}"
    )
