"""Where each exchange lives, by market family and environment.

Source: binance/binance-spot-api-docs rest-api.md, web-socket-api.md, testnet/; USDⓈ-M Futures "General
        Info", URLs split by purpose since 2026-04-23. Read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exchanges.adapters.exceptions import UnsupportedOrder
from exchanges.adapters.types import Endpoints, Environment, MarketType


@dataclass(frozen=True, slots=True)
class Hosts:
    """One exchange and market family. `simulator`: its REST mount and what its stream adds to that."""

    environments: Mapping[Environment, Endpoints]
    simulator_mount: str
    simulator_ws_path: str = ""


HOSTS: dict[tuple[str, MarketType], Hosts] = {
    ("binance", MarketType.SPOT): Hosts(
        environments={
            Environment.LIVE: Endpoints(
                rest="https://api.binance.com", ws="wss://ws-api.binance.com:443/ws-api/v3"
            ),
            Environment.TESTNET: Endpoints(
                rest="https://testnet.binance.vision", ws="wss://ws-api.testnet.binance.vision/ws-api/v3"
            ),
        },
        simulator_mount="/binance-spot",
        simulator_ws_path="/ws-api/v3",
    ),
    ("binance", MarketType.FUTURES): Hosts(
        environments={
            Environment.LIVE: Endpoints(rest="https://fapi.binance.com", ws="wss://fstream.binance.com"),
            Environment.TESTNET: Endpoints(
                rest="https://demo-fapi.binance.com", ws="wss://fstream.binancefuture.com"
            ),
        },
        simulator_mount="/binance-futures",
    ),
}


def endpoints_for(
    exchange: str,
    market_type: MarketType,
    environment: Environment,
    *,
    simulator_url: str,
    overrides: Mapping[str, str],
) -> Endpoints:
    """Return the base URLs of one exchange, market and environment, without trailing slashes.

    `overrides` maps `EXCHANGE_URL_<EXCHANGE>_<MARKET>_<REST|WS>`, or the same without the market, to a
    URL; an override wins over the environment, the one with the market over the one without.
    Raises UnsupportedOrder where the exchange has no such market or environment.
    """
    known = HOSTS.get((exchange, market_type))
    if known is None:
        raise UnsupportedOrder(f"{exchange} has no {market_type} market here", venue=exchange)
    if environment is Environment.SIMULATOR:
        base = simulator_url.rstrip("/") + known.simulator_mount
        found = Endpoints(rest=base, ws=base.replace("http", "ws", 1) + known.simulator_ws_path)
    elif environment in known.environments:
        found = known.environments[environment]
    else:
        raise UnsupportedOrder(f"{exchange} has no {environment} environment", venue=exchange)
    return Endpoints(
        rest=_override(exchange, market_type, "REST", overrides) or found.rest,
        ws=_override(exchange, market_type, "WS", overrides) or found.ws,
    )


def _override(exchange: str, market_type: MarketType, kind: str, overrides: Mapping[str, str]) -> str:
    prefix = f"EXCHANGE_URL_{exchange.upper()}"
    url = overrides.get(f"{prefix}_{market_type}_{kind}") or overrides.get(f"{prefix}_{kind}") or ""
    return url.rstrip("/")
