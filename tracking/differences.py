"""What an exchange's list of open orders and ours disagree about. Pure: no database, no network, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from exchanges.adapters.types import OrderReport
from orders.services.matching import numbers_of
from orders.states import OrderStatus

_ZERO = Decimal(0)


class Disagreement(StrEnum):
    NOT_OPEN_HERE = "open there, ended here"
    NOT_OPEN_THERE = "open here, not there"
    FOUND = "submitting here, open there"
    FILLED_MORE = "filled more there than is booked"
    TRIGGERED = "triggered there, not known here"
    EXTERNAL = "open there, not ours"


@dataclass(frozen=True, slots=True)
class OurOrder:
    """A placement as we know it. `is_open`: its order has not ended; `booked`: what we counted as filled."""

    placement_id: int
    symbol: str
    client_order_id: str
    exchange_order_id: str
    child_order_id: str
    status: str
    booked: Decimal
    is_open: bool
    is_conditional: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """One disagreement. `ours` is None for an external order, `theirs` where they list nothing."""

    kind: Disagreement
    ours: OurOrder | None = None
    theirs: OrderReport | None = None

    def __str__(self) -> str:
        named = self.ours or self.theirs
        assert named is not None
        there = f" filled {self.theirs.filled_quantity} there" if self.theirs else ""
        here = f" filled {self.ours.booked} here ({self.ours.status})" if self.ours else ""
        return f"{named.symbol} {named.client_order_id or named.exchange_order_id}: {self.kind};{there}{here}"


def differences(theirs: Sequence[OrderReport], ours: Iterable[OurOrder]) -> list[Difference]:
    """Compare what is open there with our placements; nothing where both agree.

    `ours` are all placements of ours that are open here, and those ended ones that `theirs` names.
    A SUBMITTING order that they do not list says nothing: it may be on its way. The resolver asks.
    """
    index = _Index(ours)
    found: list[Difference] = []
    seen: set[int] = set()
    for report in theirs:
        order = index.match(report)
        if order is None:
            found.append(Difference(Disagreement.EXTERNAL, theirs=report))
            continue
        seen.add(order.placement_id)
        kind = _disagreement(order, report)
        if kind is not None:
            found.append(Difference(kind, order, report))
    found.extend(
        Difference(Disagreement.NOT_OPEN_THERE, order)
        for order in index
        if order.placement_id not in seen and order.is_open and order.status != OrderStatus.SUBMITTING
    )
    return found


def _disagreement(order: OurOrder, report: OrderReport) -> Disagreement | None:
    if not order.is_open:
        return Disagreement.NOT_OPEN_HERE
    if order.status == OrderStatus.SUBMITTING:
        return Disagreement.FOUND
    if (report.filled_quantity or _ZERO) > order.booked:
        return Disagreement.FILLED_MORE
    child = report.child_order_id
    if order.is_conditional and not report.conditional:
        child = child or report.exchange_order_id  # the order that it has become, listed as any other
    if child and child != order.child_order_id:
        return Disagreement.TRIGGERED
    return None


class _Index:
    """Our orders by every name that a report may use for them; exchange ids repeat between symbols."""

    def __init__(self, ours: Iterable[OurOrder]) -> None:
        self._orders = {order.placement_id: order for order in ours}
        self._by_client = {order.client_order_id: order for order in self._orders.values()}
        self._by_id = {
            (order.symbol, *number): order
            for order in self._orders.values()
            for number in numbers_of(
                order.exchange_order_id, order.child_order_id, is_conditional=order.is_conditional
            )
        }

    def __iter__(self) -> Iterator[OurOrder]:
        return iter(self._orders.values())

    def match(self, report: OrderReport) -> OurOrder | None:
        if report.client_order_id and (order := self._by_client.get(report.client_order_id)):
            return order
        numbers = numbers_of(
            report.exchange_order_id, report.child_order_id, is_conditional=report.conditional
        )
        found = (self._by_id.get((report.symbol, *number)) for number in numbers)
        return next((order for order in found if order is not None), None)
