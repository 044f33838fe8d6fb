"""From reports to the ledger, and the errands that follow."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from exchanges.adapters.exceptions import ExchangeError
from exchanges.adapters.types import OrderReport
from orders.clock import database_now
from orders.services.cancellation import cancels_send
from orders.services.gaps import fill_gaps
from orders.services.settlement import Applied, apply_reports
from orders.services.submission import place_anew
from tracking.unmatched import unmatched_keep
from tracking.watch import StreamKey

logger = logging.getLogger(__name__)


def reports_apply(*, key: StreamKey, reports: Sequence[OrderReport], source: str) -> Applied:
    """Apply reports of one stream, in the order given, and keep those that name no placement.

    The caller runs the errands that are left, with `errands_run` or in its own time.
    """
    now = database_now()
    applied = apply_reports(
        account_id=key.account_id, market_type=key.market_type, reports=reports, source=source, now=now
    )
    unmatched_keep(key=key, reports=applied.unmatched, source=source)
    return applied


def errands_run(applied: Applied, *, source: str) -> None:
    """Fetch fills that are missing, place again what never arrived, cancel what lives after its cancel.

    All of it asks the exchange. What fails here is asked again by the resolver and by reconciliation.
    """
    later = Applied()
    try:
        if applied.gaps:
            later.merge(fill_gaps(placement_ids=applied.gaps, source=source, now=database_now()))
        if applied.to_place_anew:
            later.merge(place_anew(intent_ids=applied.to_place_anew, source=source))
        if alive := {*applied.to_cancel, *later.to_cancel}:
            cancels_send(intent_ids=alive, source=source, now=database_now())
    except (ExchangeError, TimeoutError) as exc:
        logger.warning("Fills, placements or cancels have to wait: %s", exc)
