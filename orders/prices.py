"""The last traded price, for sizing: from memory, from the table, else from the exchange."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from decimal import Decimal

from django.utils import timezone

from exchanges import access, runtime
from exchanges.adapters.exceptions import ExchangeError
from exchanges.models import Account, LastPrice

logger = logging.getLogger(__name__)

FRESH_SECONDS = 31  # the ticker refresh is never slower than this
MEMORY_SECONDS = 1.0
FETCH_SECONDS = 3.0

PriceKey = tuple[str, str, str, str]  # exchange, environment, market type, symbol


@dataclass(frozen=True, slots=True)
class _Remembered:
    at: float
    price: Decimal | None
    asked: bool  # the exchange too, not the table alone


_memory: dict[PriceKey, _Remembered] = {}


def last_price(account: Account, market_type: str, symbol: str, *, may_ask: bool = True) -> Decimal | None:
    """Return the last traded price in quote asset, or None when nobody knows it.

    Not for use inside a transaction: it may ask the exchange.
    """
    key = account.exchange, account.environment, market_type, symbol
    remembered = _memory.get(key)
    if remembered is not None and time.monotonic() - remembered.at < MEMORY_SECONDS:
        if remembered.price is not None or remembered.asked or not may_ask:
            return remembered.price
    price = _stored(key)
    if price is None and may_ask:
        price = _fetched(account, market_type, symbol)
    # Also that there is none: thirty orders look, or ask a dead exchange, once.
    _memory[key] = _Remembered(time.monotonic(), price, asked=may_ask)
    return price


def forget() -> None:
    _memory.clear()


def _stored(key: PriceKey) -> Decimal | None:
    exchange, environment, market_type, symbol = key
    row = LastPrice.objects.filter(
        exchange=exchange, environment=environment, market_type=market_type, symbol=symbol
    ).first()
    if row is None or (timezone.now() - row.seen_at).total_seconds() > FRESH_SECONDS:
        return None
    price: Decimal = row.price
    return price


def _fetched(account: Account, market_type: str, symbol: str) -> Decimal | None:
    try:
        exchange = access.exchange_for(account, market_type)
        return runtime.run(exchange.fetch_tickers([symbol]), FETCH_SECONDS).get(symbol)
    except (ExchangeError, TimeoutError) as exc:
        logger.warning("No last price of %s: %s", symbol, exc)
        return None
