"""A person's decision about an order whose outcome nobody knows: it is this one there, or it never came.

The last resort where the resolver cannot be sure. What can be checked is checked: an order is adopted only if
the exchange knows it and it can be ours; "never placed" only when no request can arrive any more.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from django.conf import settings

from exchanges import access, runtime
from exchanges.adapters.exceptions import ExchangeError, OrderNotFound
from exchanges.adapters.types import OrderRef, OrderReport
from orders import events
from orders.clock import database_now
from orders.models import EventSource, EventType, OpenOrder, OrderEvent, OrderIntent, Placement
from orders.selectors import Visible
from orders.services.applied import Applied, Outcome
from orders.services.queue import errands_run
from orders.services.settlement import never_placed, outcomes_apply
from orders.states import OrderStatus

UNKNOWN_FOR = timedelta(minutes=1)  # before that the resolver is nearly always faster than a person
FETCH_SECONDS = 10.0


class ResolutionCode(StrEnum):
    NOT_FOUND = "not_found"
    SETTLED = "settled"
    TOO_SOON = "too_soon"
    NOT_AT_EXCHANGE = "not_at_exchange"
    ANOTHER_ORDER = "another_order"
    EXCHANGE_ERROR = "exchange_error"


class ResolutionRefused(Exception):
    """Nothing was changed; `code` for machines, the text for people."""

    def __init__(self, code: ResolutionCode, error: str) -> None:
        super().__init__(error)
        self.code, self.error = code, error


def order_resolve(*, uid: str, exchange_order_id: str | None, by: str, visible: Visible) -> OrderIntent:
    """Settle a SUBMITTING order: as this order of the exchange, or with None as never placed.

    Returns the intent as it is then. Raises ResolutionRefused.
    """
    order = _unknown(uid, visible)
    now = database_now()
    if now < _earliest(order):
        sentence = "Wait: it is still being looked up, and its request may still arrive"
        raise ResolutionRefused(ResolutionCode.TOO_SOON, sentence)
    if exchange_order_id is None:
        words = f"{by} decided: it was never placed"
        applied = never_placed(
            placement_ids=[order.placement_id], source=EventSource.OPERATOR, now=now, reason=words
        )
    else:
        words = f"{by} decided: it is the exchange's order {exchange_order_id}"
        applied = _adopt(order, exchange_order_id)
    _log(order, words, by=by)
    errands_run(applied, source=EventSource.RESOLVER)
    return OrderIntent.objects.select_related("open_order", "failed_order").get(pk=order.pk)


def _unknown(uid: str, visible: Visible) -> OpenOrder:
    intents = OrderIntent.objects.filter(visible.rows(), uid=uid)
    if not intents.exists():
        raise ResolutionRefused(ResolutionCode.NOT_FOUND, "There is no such order")
    rows = OpenOrder.objects.filter(intent__uid=uid, status=OrderStatus.SUBMITTING)
    order = rows.select_related("intent", "placement", "account").first()
    if order is None:
        raise ResolutionRefused(ResolutionCode.SETTLED, "What became of this order is known already")
    return order


def _earliest(order: OpenOrder) -> datetime:
    """From when a decision is asked for: no request that left in time can be accepted any more."""
    wait = (
        settings.EXCHANGE_TIMEOUT_SECONDS
        + settings.EXCHANGE_VALIDITY_SECONDS
        + settings.RESOLVE_MARGIN_SECONDS
    )
    return max(order.submitted_at + UNKNOWN_FOR, order.placement.send_by + timedelta(seconds=wait))


def _adopt(order: OpenOrder, exchange_order_id: str) -> Applied:
    report = _fetch(order, exchange_order_id)
    placement = order.placement
    others = Placement.objects.filter(account_id=order.account_id, exchange_order_id=exchange_order_id)
    is_taken = others.filter(intent__symbol=order.intent.symbol).exclude(pk=placement.pk).exists()
    named = report.client_order_id not in ("", placement.client_order_id)
    differs = report.symbol != order.intent.symbol or report.side not in (None, order.intent.side)
    if is_taken or named or differs or report.quantity not in (None, placement.quantity):
        sentence = "That is another order: its id, symbol, side or quantity is not this one's"
        raise ResolutionRefused(ResolutionCode.ANOTHER_ORDER, sentence)
    ours = replace(report, client_order_id=placement.client_order_id)
    outcome = Outcome(placement.pk, ours)
    return outcomes_apply([outcome], source=EventSource.RESOLVER, now=database_now())


def _fetch(order: OpenOrder, exchange_order_id: str) -> OrderReport:
    intent = order.intent
    ref = OrderRef(symbol=intent.symbol, exchange_order_id=exchange_order_id, conditional=intent.is_stop)
    try:
        exchange = access.exchange_for(order.account, intent.market_type)
        return runtime.run(exchange.fetch_order(ref), FETCH_SECONDS)
    except OrderNotFound as exc:
        raise ResolutionRefused(ResolutionCode.NOT_AT_EXCHANGE, "The exchange has no such order") from exc
    except ExchangeError as exc:
        raise ResolutionRefused(ResolutionCode.EXCHANGE_ERROR, exc.message) from exc
    except TimeoutError as exc:
        sentence = "The exchange does not answer; nothing was changed"
        raise ResolutionRefused(ResolutionCode.EXCHANGE_ERROR, sentence) from exc


def _log(order: OpenOrder, words: str, *, by: str) -> None:
    OrderEvent.objects.create(
        type=EventType.OPERATOR,
        source=EventSource.OPERATOR,
        user_id=order.intent.user_id,
        account_id=order.account_id,
        strategy_account_id=order.strategy_account_id,
        intent_id=order.pk,
        symbol=order.intent.symbol,
        message=words[:500],
        data={"by": by, "client_order_id": order.placement.client_order_id},
        created_at=database_now(),
    )
    events.publish(events.EventsLogged())
