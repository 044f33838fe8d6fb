"""Which placement of ours a report is about: by our id, else by the exchange's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q

from exchanges.adapters.types import OrderReport
from orders.models import Placement


@dataclass(frozen=True, slots=True)
class Reports:
    """What one account's stream, list or answer says, in the order in which it is to be applied."""

    account_id: int
    market_type: str
    reports: Sequence[OrderReport]


Found = dict[tuple[int, str, str, str], int]


def placements_named(batches: Sequence[Reports]) -> Found:
    """Return placement ids by account, market, "client" or "exchange", and id (or symbol:id); one query."""
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
        )
    )
    found: Found = {}
    for pk, account_id, market_type, client_id, exchange_id, child_id, symbol in rows:
        found[account_id, market_type, "client", client_id] = pk
        for order_id in filter(None, (exchange_id, child_id)):
            found[account_id, market_type, "exchange", f"{symbol}:{order_id}"] = pk
    return found


def placement_named(found: Found, batch: Reports, report: OrderReport) -> int | None:
    account = batch.account_id, batch.market_type
    by_client = found.get((*account, "client", report.client_order_id))
    if by_client is not None:
        return by_client
    for order_id in filter(None, (report.exchange_order_id, report.child_order_id)):
        by_exchange = found.get((*account, "exchange", f"{report.symbol}:{order_id}"))
        if by_exchange is not None:
            return by_exchange
    return None
