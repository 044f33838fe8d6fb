"""Fills that the exchange counts and we have not booked: fetched by REST and applied."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from exchanges import access, runtime
from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import ExchangeError
from exchanges.adapters.types import Fill, MarketType, OrderRef, OrderReport, VenueOrderStatus
from orders.models import Placement
from orders.services.applied import Applied, Outcome
from orders.services.settlement import outcomes_apply

logger = logging.getLogger(__name__)

FETCH_SECONDS = 5


def fill_gaps(*, placement_ids: Sequence[int], source: str, now: datetime) -> Applied:
    """Fetch the fills of placements that have a gap and book what is missing.

    A placement whose fills cannot be fetched now keeps its gap; the resolver comes back to it.
    """
    rows = Placement.objects.filter(pk__in=placement_ids).select_related("intent", "account")
    gaps = [row for row in rows if row.has_gap]
    if not gaps:
        return Applied()
    groups: dict[tuple[int, str], list[Placement]] = defaultdict(list)
    for row in gaps:
        groups[row.account_id, row.intent.market_type].append(row)
    outcomes: list[Outcome] = []
    for (_, market_type), placements in groups.items():
        try:
            exchange = access.exchange_for(placements[0].account, market_type)
            fetched = runtime.run(_fetch(exchange, [p.to_ref() for p in placements]), FETCH_SECONDS * 2)
        except (ExchangeError, TimeoutError) as exc:
            logger.warning("Fills of %s orders could not be fetched: %s", len(placements), exc)
            continue
        for placement, fills in zip(placements, fetched, strict=True):
            if fills:
                outcomes.append(Outcome(placement.pk, _report(placement, fills)))
    return outcomes_apply(outcomes, source=source, now=now)


async def _fetch(exchange: Exchange, refs: Sequence[OrderRef]) -> list[list[Fill]]:
    async def one(ref: OrderRef) -> list[Fill]:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                return await exchange.fetch_executions(ref)
        except (ExchangeError, TimeoutError) as exc:
            logger.warning("Fills of %s could not be fetched: %s", ref.client_order_id, exc)
            return []

    return list(await asyncio.gather(*(one(ref) for ref in refs)))


def _report(placement: Placement, fills: Sequence[Fill]) -> OrderReport:
    """Fills alone say nothing new about the order's state: it is what the exchange said last."""
    order_id = placement.child_order_id or placement.exchange_order_id
    return OrderReport(
        market_type=MarketType(placement.intent.market_type),
        symbol=placement.intent.symbol,
        exchange_order_id=placement.exchange_order_id,
        client_order_id=placement.client_order_id,
        status=VenueOrderStatus(placement.exchange_status or VenueOrderStatus.PARTIALLY_FILLED),
        fills=tuple(replace(fill, exchange_order_id=fill.exchange_order_id or order_id) for fill in fills),
    )
