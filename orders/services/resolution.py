"""A person's decision about an order whose outcome nobody knows: it is this one there, or it never came.

The last resort where the resolver cannot be sure. What can be checked is checked: an order is adopted only if
the exchange knows it and it can be ours; "never placed" only when no request can arrive any more, and the
exchange does not find it by our own id.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from django.conf import settings

from exchanges import access, runtime
from exchanges.adapters.exceptions import (
    CircuitOpen,
    ExchangeError,
    NotSent,
    OrderNotFound,
    OutcomeUnknown,
    RefusedForNow,
)
from exchanges.adapters.types import OrderRef, OrderReport
from exchanges.fields import plain
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
EVENTS_SHOWN = 20


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


@dataclass(frozen=True, slots=True)
class KnownEvent:
    at: datetime
    what: str
    source: str
    words: str


@dataclass(frozen=True, slots=True)
class UnknownOrder:
    """All that is known of an order whose outcome is not. `decide_from`: not before that."""

    uid: str
    client_order_id: str
    exchange: str
    account: str
    market_type: str
    symbol: str
    side: str
    order_type: str
    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None
    cancel_requested: bool
    sent_at: datetime
    send_by: datetime
    decide_from: datetime
    not_found_count: int
    events: tuple[KnownEvent, ...]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Every fact with its name, for a page."""
        prices = [("price", self.price), ("stop price", self.stop_price)]
        return [
            ("client order id", self.client_order_id),
            ("account", f"{self.account} ({self.exchange} {self.market_type})"),
            ("order", f"{self.side} {plain(self.quantity)} {self.symbol} {self.order_type}"),
            *((name, plain(value)) for name, value in prices if value is not None),
            ("cancel asked for", "yes" if self.cancel_requested else "no"),
            ("planned at", _utc(self.sent_at)),
            ("never sent after", _utc(self.send_by)),
            ("not found by us", f"{self.not_found_count} times"),
            ("can be decided from", _utc(self.decide_from)),
        ]


def unknown_order(*, uid: str, visible: Visible) -> UnknownOrder:
    """Return what is known of a SUBMITTING order. Raises ResolutionRefused."""
    order = _unknown(uid, visible)
    intent, placement = order.intent, order.placement
    log = OrderEvent.objects.filter(intent_id=order.pk).order_by("-pk")[:EVENTS_SHOWN]
    return UnknownOrder(
        uid=intent.uid,
        client_order_id=placement.client_order_id,
        exchange=order.account.exchange,
        account=order.account.name,
        market_type=intent.market_type,
        symbol=intent.symbol,
        side=intent.side,
        order_type=intent.order_type,
        quantity=placement.quantity,
        price=intent.price,
        stop_price=intent.stop_price,
        cancel_requested=intent.cancel_requested,
        sent_at=order.submitted_at,
        send_by=placement.send_by,
        decide_from=_earliest(order),
        not_found_count=order.not_found_count,
        events=tuple(
            KnownEvent(row.created_at, row.get_type_display(), row.get_source_display(), row.message)
            for row in reversed(log)
        ),
    )


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def order_resolve(
    *, uid: str, exchange_order_id: str | None, by: str, visible: Visible, reason: str = ""
) -> OrderIntent:
    """Settle a SUBMITTING order: as this order of the exchange, or with None as never placed.

    Returns the intent as it is then. Raises ResolutionRefused.
    """
    order = _unknown(uid, visible)
    now = database_now()
    if now < _earliest(order):
        sentence = "Wait: it is still being looked up, and its request may still arrive"
        raise ResolutionRefused(ResolutionCode.TOO_SOON, sentence)
    if exchange_order_id is None:
        _refuse_if_there(order)
        words = f"{by} decided: it was never placed"
        applied = never_placed(
            placement_ids=[order.placement_id], source=EventSource.OPERATOR, now=now, reason=words
        )
    else:
        words = f"{by} decided: it is the exchange's order {exchange_order_id}"
        applied = _adopt(order, exchange_order_id)
    _log(order, words, by=by, reason=reason)
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


def _refuse_if_there(order: OpenOrder) -> None:
    """Ask by our own id once more: what is there after all is recorded, and must not be placed again."""
    try:
        exchange = access.exchange_for(order.account, order.intent.market_type)
        report = runtime.run(exchange.fetch_order(order.placement.to_ref()), FETCH_SECONDS)
    except (CircuitOpen, NotSent, OutcomeUnknown, RefusedForNow, TimeoutError) as exc:
        sentence = "The exchange does not answer, so nobody can know; nothing was changed"
        raise ResolutionRefused(ResolutionCode.EXCHANGE_ERROR, sentence) from exc
    except ExchangeError:
        return  # it knows no such order, or tells us nothing at all: then the person's word counts
    outcome = Outcome(order.placement_id, report)
    applied = outcomes_apply([outcome], source=EventSource.RESOLVER, now=database_now())
    errands_run(applied, source=EventSource.RESOLVER)
    sentence = f"The exchange has it, as its order {report.exchange_order_id}: that is recorded now"
    raise ResolutionRefused(ResolutionCode.SETTLED, sentence)


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


def _log(order: OpenOrder, words: str, *, by: str, reason: str) -> None:
    OrderEvent.objects.create(
        type=EventType.OPERATOR,
        source=EventSource.OPERATOR,
        user_id=order.intent.user_id,
        account_id=order.account_id,
        strategy_account_id=order.strategy_account_id,
        intent_id=order.pk,
        symbol=order.intent.symbol,
        message=words[:500],
        data={"by": by, "reason": reason, "client_order_id": order.placement.client_order_id},
        created_at=database_now(),
    )
    events.publish(events.EventsLogged())
