"""From an account row to the adapter that speaks for it."""

from __future__ import annotations

from django.conf import settings

from exchanges.adapters.base import Exchange
from exchanges.adapters.types import Environment, MarketType
from exchanges.metadata import endpoints_for
from exchanges.models import Account
from exchanges.registry import adapter_for


def exchange_for(account: Account, market_type: str) -> Exchange:
    """Return the adapter of one account and market; the registry keeps and shares them.

    Raises UnsupportedOrder when the exchange has no such market.
    """
    market = MarketType(market_type)
    return adapter_for(
        account.exchange,
        market,
        credentials=account.credentials,
        endpoints=endpoints_for(
            account.exchange,
            market,
            Environment(account.environment),
            simulator_url=settings.SIMULATOR_URL,
            overrides=settings.EXCHANGE_URLS,
        ),
        timeout_seconds=settings.EXCHANGE_TIMEOUT_SECONDS,
        connect_timeout_seconds=settings.EXCHANGE_CONNECT_TIMEOUT_SECONDS,
        validity_seconds=settings.EXCHANGE_VALIDITY_SECONDS,
    )
