"""Last prices of what is traded: unrealised PnL and sizing read them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from exchanges import access, runtime
from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import ExchangeError
from exchanges.models import Account, LastPrice
from orders.clock import database_now
from orders.models import FailedOrder, FailedStatus, OpenOrder, OrderIntent, StrategyPosition
from tracking.watch import Source

logger = logging.getLogger(__name__)

FETCH_SECONDS = 10.0
STALE_AFTER = timedelta(seconds=20)  # an unchanged price is written again, to show that it was looked at
RECENT_INTENTS = 500
RECENT_FAILED = 500
RECENTLY = timedelta(hours=1)

Prices = dict[str, Decimal]


def tickers_refresh() -> int:
    """Fetch the prices of everything held, resting, failed or recently traded; return how many were written.

    One call per exchange, environment and market, whatever the number of accounts and symbols. A
    price that did not change is not written, unless the row would look abandoned.
    """
    accounts, symbols = _wanted()
    if not symbols:
        return 0
    exchanges = {source: access.exchange_for(accounts[source], source[2]) for source in symbols}
    fetched = runtime.run(_fetch_all(exchanges, symbols), timeout=FETCH_SECONDS * 2)
    return sum(_write(source, prices, database_now()) for source, prices in fetched.items())


def _wanted() -> tuple[dict[Source, Account], dict[Source, set[str]]]:
    pairs: set[tuple[int, str, str]] = set()
    held = StrategyPosition.objects.exclude(quantity=Decimal(0))
    pairs.update(held.values_list("account_id", "market_type", "symbol"))
    pairs.update(OpenOrder.objects.values_list("account_id", "book__market_type", "book__symbol").distinct())
    recent = OrderIntent.objects.order_by("-pk").values_list(
        "book__account_id", "market_type", "symbol", "created_at"
    )[:RECENT_INTENTS]
    since = database_now() - RECENTLY
    pairs.update((account, market, symbol) for account, market, symbol, made in recent if made >= since)
    # The page shows the market's price beside what a retry would ask for.
    failed = FailedOrder.objects.exclude(status=FailedStatus.REMOVED).order_by("-pk")
    pairs.update(failed.values_list("strategy_account__account_id", "market_type", "symbol")[:RECENT_FAILED])
    by_id = Account.objects.in_bulk({account_id for account_id, _, _ in pairs})
    accounts: dict[Source, Account] = {}
    symbols: dict[Source, set[str]] = defaultdict(set)
    for account_id, market_type, symbol in pairs:
        account = by_id[account_id]
        source = account.exchange, account.environment, market_type
        accounts[source] = account
        symbols[source].add(symbol)
    return accounts, symbols


async def _fetch_all(
    exchanges: dict[Source, Exchange], symbols: dict[Source, set[str]]
) -> dict[Source, Prices]:
    results = await asyncio.gather(
        *(_fetch(exchange, sorted(symbols[source])) for source, exchange in exchanges.items())
    )
    return dict(zip(exchanges, results, strict=True))


async def _fetch(exchange: Exchange, symbols: Sequence[str]) -> Prices:
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            return await exchange.fetch_tickers(symbols)
    except (ExchangeError, TimeoutError) as exc:
        logger.warning("No prices from %s: %s", exchange.venue, exc)
        return {}


def _write(source: Source, prices: Prices, now: datetime) -> int:
    exchange, environment, market_type = source
    known = {
        row.symbol: row
        for row in LastPrice.objects.filter(
            exchange=exchange, environment=environment, market_type=market_type, symbol__in=prices
        )
    }
    rows = [
        LastPrice(
            exchange=exchange,
            environment=environment,
            market_type=market_type,
            symbol=symbol,
            price=price,
            seen_at=now,
        )
        for symbol, price in prices.items()
        if symbol not in known or known[symbol].price != price or known[symbol].seen_at < now - STALE_AFTER
    ]
    if rows:
        LastPrice.objects.bulk_create(
            rows,
            update_conflicts=True,
            update_fields=["price", "seen_at"],
            unique_fields=["exchange", "environment", "market_type", "symbol"],
        )
    return len(rows)
