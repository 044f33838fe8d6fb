"""What an exchange said and nobody could read: kept as it came, and nothing is guessed from it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from exchanges import measures
from exchanges.adapters.secrets import Masker
from exchanges.adapters.types import UnreadableMessage, UnreadableOrder
from exchanges.credentials import masker_for
from exchanges.models import Account
from orders.clock import database_now
from tracking.models import UnmatchedReport
from tracking.watch import StreamKey

logger = logging.getLogger(__name__)

State = UnmatchedReport.State
UNREADABLE_KEPT = 1000  # per account
_TEXT_LENGTH = 20_000


def unreadable_keep(*, key: StreamKey, message: UnreadableMessage) -> None:
    """Store what nobody could read or apply, as it came; nothing is guessed from it.

    Without the account's secrets, cut to a length, and the latest only: an exchange that begins to say
    something new says it all day.
    """
    account = Account.objects.get(pk=key.account_id)
    row = _unreadable(key, message.text, message.error, database_now(), mask=masker_for(account))
    logger.error("A stream message of account %s %s could not be used (%s); kept as it came", *key, row.error)
    _unreadable_store(account, [row])


def unreadable_orders_keep(*, key: StreamKey, listed: Sequence[UnreadableOrder]) -> None:
    """Store rows of a list that nobody could read, as they came; what is stored already says nothing new.

    Reconciliation brings the same list every time.
    """
    if not listed:
        return
    now = database_now()
    names = {one.names[0][:64] for one in listed}
    stored = UnmatchedReport.objects.filter(
        account_id=key.account_id,
        market_type=key.market_type,
        state=State.UNREADABLE,
        exchange_order_id__in=names,
    )
    texts = {report["text"] for report in stored.values_list("report", flat=True)}
    account = Account.objects.get(pk=key.account_id)
    mask = masker_for(account)
    fresh = []
    for one in listed:
        row = _unreadable(key, one.text, one.error, now, mask=mask)
        row.symbol, row.exchange_order_id = one.symbol[:48], one.names[0][:64]
        if row.report["text"] not in texts:
            logger.error(
                "Account %s %s lists an order that cannot be read (%s); kept as it came", *key, row.error
            )
            fresh.append(row)
    if fresh:
        _unreadable_store(account, fresh)


def _unreadable(key: StreamKey, text: str, error: str, now: datetime, *, mask: Masker) -> UnmatchedReport:
    text = mask(text[: 2 * _TEXT_LENGTH], limit=2 * _TEXT_LENGTH)[:_TEXT_LENGTH]
    return UnmatchedReport(
        account_id=key.account_id,
        market_type=key.market_type,
        state=State.UNREADABLE,
        report={"text": text.replace("\0", "\ufffd")},  # PostgreSQL keeps no NUL
        error=mask(error).replace("\0", "\ufffd")[:500],
        received_at=now,
    )


def _unreadable_store(account: Account, rows: list[UnmatchedReport]) -> None:
    UnmatchedReport.objects.bulk_create(rows)
    measures.unreadable(account.exchange, len(rows))
    kept = UnmatchedReport.objects.filter(account=account, state=State.UNREADABLE)
    old = list(kept.order_by("-pk").values_list("pk", flat=True)[UNREADABLE_KEPT : UNREADABLE_KEPT + 1])
    if old:
        kept.filter(pk__lte=old[0]).delete()
