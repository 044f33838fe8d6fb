"""What the worker does so that nothing depends on a streams process; django-q2 calls these."""

from __future__ import annotations

import logging
from collections.abc import Collection

from exchanges.adapters.exceptions import ExchangeError
from exchanges.instruments import instruments_refresh
from orders.clock import database_now
from orders.services.deliveries import take_over_expired
from orders.services.failed_orders import failed_orders_retry_due
from orders.services.losses import losses_sweep
from orders.services.queue import due_run, sweep
from orders.side_by_side import side_by_side
from tracking.reconciliation import reconcile_account
from tracking.resolver import cancels_sweep, gaps_sweep, resolve
from tracking.sessions import sessions_unwatched
from tracking.watch import Source, StreamKey, accounts_by_source, streams_wanted

logger = logging.getLogger(__name__)


def deliveries_take_over() -> int:
    """Take over webhook deliveries whose process died; return how many got their answer."""
    return take_over_expired(now=database_now())


def losses_look() -> int:
    """Look whether a loss guard has tripped since; return how many have."""
    return losses_sweep()


def orders_resolve() -> int:
    """Ask what became of orders nobody knows about, and for fills that were not heard."""
    return resolve() + gaps_sweep() + cancels_sweep()


def queues_rebalance() -> int:
    """Send queued orders whose time has come, and plan every book where any wait; return how many."""
    return due_run() + sweep()


def failed_orders_retry() -> int:
    """Carry out scheduled retries whose time has come; return how many were due."""
    return failed_orders_retry_due()


def reconcile_unwatched() -> int:
    """Reconcile the accounts that no living streams process follows; return how many.

    So many side by side: one whose exchange does not answer holds up no other.
    """
    return sum(side_by_side(_reconcile_one, sorted(sessions_unwatched(streams_wanted()))))


def _reconcile_one(key: StreamKey) -> bool:
    try:
        return reconcile_account(account_id=key.account_id, market_type=key.market_type).ran
    except (ExchangeError, TimeoutError) as exc:
        logger.warning("Account %s %s could not be reconciled: %s", *key, exc)
    except Exception:  # one account's trouble is not the others'
        logger.exception("Account %s %s could not be reconciled", *key)
    return False


def instruments_load(loaded: Collection[Source] = ()) -> set[Source]:
    """Refresh what trades at every exchange in use but those in `loaded`; return which could be asked."""
    done: set[Source] = set()
    for source, account in accounts_by_source(streams_wanted()).items():
        if source in loaded:
            continue
        try:
            instruments_refresh(account=account, market_type=source[2])
        except (ExchangeError, TimeoutError) as exc:
            logger.warning("Instruments of %s %s %s: %s", *source, exc)
        else:
            done.add(source)
    return done
