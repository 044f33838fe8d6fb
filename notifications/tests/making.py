"""Failed orders as the house writes them, for the tests of this room."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db import transaction

from notifications.formatting import Failure
from orders import events
from orders.models import DeliveryState, FailedOrder, StrategyAccount, WebhookDelivery
from orders.tests.rows import NOON, make_failed_order


def fail_orders(owner: StrategyAccount, count: int = 1, **fields: Any) -> list[FailedOrder]:
    """Write failed orders of one webhook down in one transaction, and publish them."""
    state = fields.pop("delivery_state", DeliveryState.ANSWERED)
    defaults = {"webhook_id": "w1", "created_at": datetime.now(UTC), "alert_sent": events.alerts_enabled()}
    with transaction.atomic():
        failed = [make_failed_order(owner, **defaults | fields) for _ in range(count)]
        deliveries = WebhookDelivery.objects.filter(pk__in=[one.intent.delivery_id for one in failed])
        deliveries.update(state=state)
        events.publish(*(events.OrderFailed(one.pk, one.webhook_id) for one in failed))
    return failed


def make_failure(**overrides: Any) -> Failure:
    fields: dict[str, Any] = {
        "id": 1,
        "strategy": "test1",
        "account": "main",
        "webhook_id": "w1",
        "symbol": "BTC/USDT",
        "side": "BUY",
        "order_type": "LIMIT",
        "quantity": Decimal("0.500"),
        "price": Decimal(95000),
        "stop_price": None,
        "reason": "Insufficient balance",
        "error_type": "insufficient_balance",
        "exchange_error": "Account has insufficient balance for requested action.",
        "status": "pending_retry",
        "created_at": NOON,
    }
    return Failure(**fields | overrides)


def wait_until(condition: Callable[[], Any], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
