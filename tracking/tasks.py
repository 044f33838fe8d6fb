"""What the worker does so that nothing depends on a streams process; django-q2 calls these."""

from __future__ import annotations

import logging

from exchanges.adapters.exceptions import ExchangeError
from exchanges.instruments import instruments_refresh
from orders.clock import database_now
from orders.services.deliveries import take_over_expired
from tracking.reconciliation import reconcile_account
from tracking.resolver import gaps_sweep, resolve
from tracking.sessions import sessions_unwatched
from tracking.watch import accounts_by_source, streams_wanted

logger = logging.getLogger(__name__)


def settle() -> None:
    """Take over abandoned webhook deliveries and ask what became of orders nobody knows about."""
    take_over_expired(now=database_now())
    resolve()
    gaps_sweep()


def reconcile_unwatched() -> int:
    """Reconcile the accounts that no living streams process follows; return how many."""
    done = 0
    for key in sorted(sessions_unwatched(streams_wanted())):
        try:
            done += reconcile_account(account_id=key.account_id, market_type=key.market_type).ran
        except (ExchangeError, TimeoutError) as exc:
            logger.warning("Account %s %s could not be reconciled: %s", *key, exc)
    return done


def instruments_load() -> int:
    """Refresh what trades at every exchange in use; return how many instruments changed."""
    changed = 0
    for (exchange, environment, market_type), account in accounts_by_source(streams_wanted()).items():
        try:
            changed += instruments_refresh(account=account, market_type=market_type)
        except (ExchangeError, TimeoutError) as exc:
            logger.warning("Instruments of %s %s %s: %s", exchange, environment, market_type, exc)
    return changed
