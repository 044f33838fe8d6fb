"""Before the first webhook: connections, clocks, caches. The first order is then as fast as the next."""

from __future__ import annotations

import gc
import logging
import threading

from django.db import DatabaseError, close_old_connections

from exchanges import access
from exchanges.adapters.exceptions import ExchangeError
from exchanges.instruments import instruments_refresh
from exchanges.models import ConfigVersion, Instrument
from orders.config import instrument_table, strategy_config
from orders.models import StrategyAccount

COLLECT_AFTER = (20_000, 20, 50)  # new objects, and rounds of the younger generations

logger = logging.getLogger(__name__)


def start() -> threading.Thread:
    """Warm up in a thread of its own: a process that waits for an exchange still answers."""
    thread = threading.Thread(target=_warm_up, name="warm-up", daemon=True)
    thread.start()
    return thread


def _warm_up() -> None:
    try:
        warm_up()
    except DatabaseError:
        logger.warning("Could not warm up: the database does not answer", exc_info=True)
    finally:
        close_old_connections()


def warm_up() -> None:
    """Load what webhooks will need, and open what they will use. What fails is logged, nothing stops."""
    followed = StrategyAccount.objects.filter(
        is_active=True, account__is_active=True, strategy__is_active=True
    ).select_related("account", "strategy")
    rows = list(followed)
    for account, market_type in {(row.account, row.strategy.market_type) for row in rows}:
        try:
            access.warm_up(account, market_type)
            known = Instrument.objects.filter(
                exchange=account.exchange, environment=account.environment, market_type=market_type
            )
            if not known.exists():
                instruments_refresh(account=account, market_type=market_type)
        except (ExchangeError, TimeoutError) as exc:
            logger.warning("Account %s (%s) is not ready: %s", account.name, market_type, exc)
    version = ConfigVersion.current()
    for strategy_id in {row.strategy_id for row in rows}:
        config = strategy_config(strategy_id, version=version)
        for follower in config.followers:
            instrument_table(follower.instrument_key(config.market_type), version=version)
    # What lives now lives as long as the process: spare the collector walking it again and again. And a
    # webhook of thirty orders makes thousands of objects, none of them in cycles: it comes less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
