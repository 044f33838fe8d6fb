"""What a reconciliation left behind for people: when the last clean one began, and why none was since.

Whoever ran it, a streams process, the worker or a person. A run that says nothing new writes nothing but
`last_reconciled_at`.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import DatabaseError, InterfaceError
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce, Now

from exchanges import measures
from exchanges.adapters.exceptions import ExchangeError
from exchanges.credentials import masker_for
from exchanges.models import Account
from tracking.models import OrderTrackingSession
from tracking.sessions import sessions_ensure
from tracking.watch import StreamKey, streams_wanted

logger = logging.getLogger(__name__)

_ERROR_LENGTH = 500


def run_clean(*, key: StreamKey, began: datetime) -> None:
    """Note that everything could be compared, as of `began` (database clock)."""
    fields = {"last_reconciled_at": began, "reconcile_error": "", "reconcile_failed_at": None}
    if not _row(key).update(**fields) and _make_row(key):
        _row(key).update(**fields)


def run_failed(*, key: StreamKey, account: Account, reason: str) -> None:
    """Count a run that could not compare everything, and note why. Never raises for the database's sake."""
    measures.reconcile_failed(account.exchange)
    text = masker_for(account)(reason).replace("\0", "\ufffd")[:_ERROR_LENGTH]  # PostgreSQL keeps no NUL
    try:
        _note(key, text)
    except (DatabaseError, InterfaceError) as exc:  # what failed before it has to be heard of, not this
        logger.warning("Why account %s %s was not reconciled could not be noted: %s", *key, exc)


def reason_of(error: Exception) -> str:
    match error:
        case ExchangeError():
            return error.message
        case TimeoutError():
            return "the exchange has not answered in time"
        case _:
            return f"{type(error).__name__}: {error}"


def _note(key: StreamKey, text: str) -> None:
    known = _row(key).values_list("reconcile_error", flat=True).first()
    if known == text or (known is None and not _make_row(key)):
        return
    _row(key).update(reconcile_error=text, reconcile_failed_at=Coalesce(F("reconcile_failed_at"), Now()))


def _row(key: StreamKey) -> QuerySet[OrderTrackingSession]:
    return OrderTrackingSession.objects.filter(account_id=key.account_id, market_type=key.market_type)


def _make_row(key: StreamKey) -> bool:
    """Make the row of an account that nobody follows yet, but should: others show no stream to anybody."""
    if key not in streams_wanted():
        return False
    sessions_ensure([key])
    return True
