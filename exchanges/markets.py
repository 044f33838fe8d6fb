"""Which markets tradehub can trade at which exchange."""

from __future__ import annotations

from exchanges.adapters.types import CRYPTO_MARKETS, MarketType
from exchanges.models import ExchangeName

_MARKETS: dict[str, frozenset[MarketType]] = {ExchangeName.BINANCE: CRYPTO_MARKETS}


def supported_markets(exchange: str) -> frozenset[MarketType]:
    """Return the market types that an adapter serves at this exchange."""
    return _MARKETS.get(exchange, frozenset())
