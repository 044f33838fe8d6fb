"""From reports to the ledger."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from exchanges.adapters.types import OrderReport
from orders.clock import database_now
from orders.connections import is_away
from orders.services.applied import Applied
from orders.services.matching import Reports
from orders.services.settlement import apply_reports, apply_reports_together
from tracking.unmatched import unmatched_keep
from tracking.watch import StreamKey

logger = logging.getLogger(__name__)


def reports_apply(
    *,
    key: StreamKey,
    reports: Sequence[OrderReport],
    source: str,
    wait_seconds: float | None = None,
    asked_at: datetime | None = None,
) -> Applied:
    """Apply reports of one stream, in the order given, and keep those that name no placement.

    The caller runs the errands that are left, with `orders.services.queue.errands_run` or in its own time.
    `wait_seconds`: no longer for any lock, on PostgreSQL (OperationalError).
    """
    now = database_now()
    applied = apply_reports(
        account_id=key.account_id,
        market_type=key.market_type,
        reports=reports,
        source=source,
        now=now,
        wait_seconds=wait_seconds,
        asked_at=asked_at,
    )
    unmatched_keep(key=key, reports=applied.unmatched, source=source)
    return applied


def answers_apply(
    *, key: StreamKey, reports: Sequence[OrderReport], source: str, asked_at: datetime
) -> tuple[Applied, list[Exception]]:
    """Apply what an exchange answered about orders of one account; one that cannot be applied stops no other.

    `asked_at`, database clock: what has happened here since is newer than the answers, however late they
    come.
    Returns what was applied, and the errors of those that were not. Raises where the database is away.
    """
    try:
        return reports_apply(key=key, reports=reports, source=source, asked_at=asked_at), []
    except Exception as exc:
        if is_away(exc):
            raise
        if len(reports) < 2:
            logger.exception("Account %s %s: an answer could not be applied", *key)
            return Applied(), [exc]
    total, errors = Applied(), []
    for report in reports:
        applied, failed = answers_apply(key=key, reports=[report], source=source, asked_at=asked_at)
        total.merge(applied)
        errors += failed
    return total, errors


def batches_apply(
    batches: Sequence[tuple[StreamKey, Sequence[OrderReport]]], *, source: str, wait_seconds: float
) -> list[Applied | Exception]:
    """Apply what several streams said, each in its order, in one transaction; see `reports_apply`.

    Raises what the transaction ran into: then nothing was applied. Reports that name no placement are kept
    stream by stream; the error of one that could not be is its own result.
    """
    results: list[Applied | Exception] = []
    together = [Reports(key.account_id, key.market_type, reports) for key, reports in batches]
    done = apply_reports_together(together, source=source, now=database_now(), wait_seconds=wait_seconds)
    for (key, _), applied in zip(batches, done, strict=True):
        try:
            unmatched_keep(key=key, reports=applied.unmatched, source=source)
        except Exception as exc:  # noqa: BLE001 - told to whoever waits for this stream
            results.append(exc)
        else:
            results.append(applied)
    return results
