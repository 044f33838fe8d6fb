"""Which adapter speaks for which exchange and market: one literal dict."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import replace

from exchanges import runtime
from exchanges.adapters.base import Exchange
from exchanges.adapters.binance.adapter import BinanceExchange
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.binance.spot import BinanceSpot
from exchanges.adapters.exceptions import UnsupportedOrder
from exchanges.adapters.http import CONNECT_SECONDS, REQUEST_SECONDS
from exchanges.adapters.symbols import SymbolTable
from exchanges.adapters.types import Capabilities, Credentials, Endpoints, MarketType

ADAPTERS: dict[tuple[str, MarketType], type[BinanceExchange]] = {
    ("binance", MarketType.SPOT): BinanceSpot,
    ("binance", MarketType.FUTURES): BinanceFutures,
}

_Key = tuple[str, MarketType, Endpoints, str, tuple[float, ...]]
_adapters: dict[_Key, Exchange] = {}
_symbols: dict[str, SymbolTable] = {}
_lock = threading.Lock()


def capabilities_of(exchange: str, market_type: MarketType) -> Capabilities:
    """What an exchange and market can do, without an account. Raises UnsupportedOrder for an unknown one."""
    return _adapter_class(exchange, market_type).capabilities


def adapter_for(
    exchange: str,
    market_type: MarketType,
    *,
    credentials: Credentials,
    endpoints: Endpoints,
    timeout_seconds: float = REQUEST_SECONDS,
    connect_timeout_seconds: float = CONNECT_SECONDS,
    validity_seconds: float = 5.0,
    rate_share: float = 1.0,
) -> Exchange:
    """Return the one adapter of these keys at these URLs, made on first use and kept.

    One adapter per set of keys is one order budget per account, and one memory of its leverage.
    `rate_share` is this process's part of the exchange's limits, which all processes share.
    Raises UnsupportedOrder for an exchange or market that no adapter speaks for.
    """
    adapter_class = _adapter_class(exchange, market_type)
    account = _fingerprint(credentials)
    options = (timeout_seconds, connect_timeout_seconds, validity_seconds, rate_share)
    key = (exchange, market_type, endpoints, account, options)
    adapter = _adapters.get(key)
    if adapter is None:
        with _lock:
            adapter = _adapters.get(key)
            if adapter is None:
                adapter = _adapters[key] = adapter_class(
                    credentials,
                    endpoints,
                    hosts=runtime.hosts,
                    account=account,
                    rules=replace(adapter_class.rules, share=rate_share),
                    symbols=_symbols.setdefault(endpoints.rest, SymbolTable()),
                    timeout_seconds=timeout_seconds,
                    connect_timeout_seconds=connect_timeout_seconds,
                    validity_seconds=validity_seconds,
                )
    return adapter


def _adapter_class(exchange: str, market_type: MarketType) -> type[BinanceExchange]:
    adapter_class = ADAPTERS.get((exchange, market_type))
    if adapter_class is None:
        raise UnsupportedOrder(f"{exchange} has no {market_type} market here", venue=exchange)
    return adapter_class


def _fingerprint(credentials: Credentials) -> str:
    text = "\0".join((credentials.api_key, credentials.api_secret, credentials.passphrase))
    return hashlib.sha256(text.encode()).hexdigest()


def forget() -> None:
    """Drop every adapter: after a fork they belong to the parent's loop."""
    global _lock
    _lock = threading.Lock()
    _adapters.clear()
    _symbols.clear()


os.register_at_fork(after_in_child=forget)
