"""From reports to the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from exchanges.adapters.types import OrderReport
from orders.clock import database_now
from orders.services.applied import Applied
from orders.services.settlement import apply_reports
from tracking.unmatched import unmatched_keep
from tracking.watch import StreamKey


def reports_apply(*, key: StreamKey, reports: Sequence[OrderReport], source: str) -> Applied:
    """Apply reports of one stream, in the order given, and keep those that name no placement.

    The caller runs the errands that are left, with `orders.services.queue.errands_run` or in its own time.
    """
    now = database_now()
    applied = apply_reports(
        account_id=key.account_id, market_type=key.market_type, reports=reports, source=source, now=now
    )
    unmatched_keep(key=key, reports=applied.unmatched, source=source)
    return applied
