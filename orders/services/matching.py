"""Which placement of ours a report is about: by our id, else by the exchange's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q

from exchanges.adapters.types import STOP_TYPES, OrderReport
from orders.models import Placement


@dataclass(frozen=True, slots=True)
class Reports:
    """What one account's stream, list or answer says, in the order in which it is to be applied."""

    account_id: int
    market_type: str
    reports: Sequence[OrderReport]


# Placement ids by account, market, kind of id ("client", "order", "conditional"), and id (or symbol:id). An
# exchange may number conditional orders apart from the others: the same number is another order there.
Found = dict[tuple[int, str, str, str], int]


def placements_named(batches: Sequence[Reports]) -> Found:
    """Return the placements that any of these reports may be about; one query."""
    reports = [report for batch in batches for report in batch.reports]
    client_ids = {report.client_order_id for report in reports if report.client_order_id}
    exchange_ids = {report.exchange_order_id for report in reports if report.exchange_order_id}
    exchange_ids |= {report.child_order_id for report in reports if report.child_order_id}
    rows = (
        Placement.objects.filter(
            account_id__in={batch.account_id for batch in batches},
            intent__market_type__in={batch.market_type for batch in batches},
        )
        .filter(
            Q(client_order_id__in=client_ids)
            | (Q(exchange_order_id__in=exchange_ids) & ~Q(exchange_order_id=""))
            | (Q(child_order_id__in=exchange_ids) & ~Q(child_order_id=""))
        )
        .values_list(
            "pk",
            "account_id",
            "intent__market_type",
            "client_order_id",
            "exchange_order_id",
            "child_order_id",
            "intent__symbol",
            "intent__order_type",
        )
    )
    found: Found = {}
    for pk, account_id, market_type, client_id, exchange_id, child_id, symbol, order_type in rows:
        found[account_id, market_type, "client", client_id] = pk
        for kind, order_id in numbers_of(exchange_id, child_id, is_conditional=order_type in STOP_TYPES):
            found[account_id, market_type, kind, f"{symbol}:{order_id}"] = pk
    return found


def placement_named(found: Found, batch: Reports, report: OrderReport) -> int | None:
    account = batch.account_id, batch.market_type
    by_client = found.get((*account, "client", report.client_order_id))
    if by_client is not None:
        return by_client
    numbers = numbers_of(report.exchange_order_id, report.child_order_id, is_conditional=report.conditional)
    for kind, order_id in numbers:
        by_exchange = found.get((*account, kind, f"{report.symbol}:{order_id}"))
        if by_exchange is not None:
            return by_exchange
    return None


def numbers_of(own: str, child: str, *, is_conditional: bool) -> list[tuple[str, str]]:
    """Return an order's numbers at the exchange, with their kinds. A child is a plain order."""
    named = (("conditional" if is_conditional else "order", own), ("order", child))
    return [(kind, number) for kind, number in named if number]
