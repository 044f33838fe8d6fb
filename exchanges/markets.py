"""Which markets and kinds of account tradehub can trade at which exchange."""

from __future__ import annotations

from exchanges.adapters.exceptions import UnsupportedOrder
from exchanges.adapters.types import MarketType
from exchanges.models import AccountType
from exchanges.registry import capabilities_of


def has_market(exchange: str, market_type: str) -> bool:
    """Tell whether an adapter serves this market at this exchange."""
    try:
        capabilities_of(exchange, MarketType(market_type))
    except UnsupportedOrder:
        return False
    return True


def account_types_of(exchange: str) -> set[AccountType]:
    """Return the kinds of account that can trade anything at this exchange."""
    return {AccountType.for_market(market) for market in MarketType if has_market(exchange, market)}
