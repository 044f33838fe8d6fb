"""The rows of waiting orders: made here, wherever an intent comes from."""

from __future__ import annotations

from datetime import datetime

from exchanges.adapters.types import OrderType, Side
from orders.models import OrderIntent, PendingOrder
from orders.planning import priority_of, sort_price_of


def pending_for(
    intent: OrderIntent,
    *,
    account_id: int,
    now: datetime,
    waits_until: datetime | None = None,
    reason: str = "",
    is_retry: bool = False,
) -> PendingOrder:
    """Return the waiting row of a LIMIT or STOP intent, not yet saved. The caller sets `home` to QUEUE."""
    order_type, side = OrderType(intent.order_type), Side(intent.side)
    return PendingOrder(
        intent=intent,
        account_id=account_id,
        strategy_account_id=intent.strategy_account_id,
        book_id=intent.book_id,
        side=intent.side,
        priority=priority_of(order_type),
        sort_price=sort_price_of(order_type, side, price=intent.price, stop_price=intent.stop_price),
        created_at=intent.created_at,
        queued_at=now,
        waits_until=waits_until,
        reason=reason[:200],
        is_retry=is_retry,
    )
