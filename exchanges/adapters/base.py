"""The door to every exchange: one class per exchange and market family behind it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal

from exchanges.adapters.exceptions import ExchangeError, UnsupportedOrder
from exchanges.adapters.types import (
    Balance,
    Capabilities,
    Fill,
    InstrumentSpec,
    ListedOrder,
    OrderRef,
    OrderReport,
    OrderRequest,
    StreamEvent,
    VenuePosition,
)


@dataclass(frozen=True, slots=True)
class ListCost:
    """What `fetch_open_orders` costs of the address's request weight, and how much of that there is."""

    whole: int
    symbol: int
    per_minute: int


class Exchange(ABC):
    """One account at one exchange and market family.

    Stateless apart from its session and caches; speaks our words and Decimals only.
    Every method raises a subclass of ExchangeError and nothing else when the exchange,
    or the way to it, is at fault.
    """

    venue: str  # "binance"
    capabilities: Capabilities

    def check(self, request: OrderRequest) -> None:
        """Raise UnsupportedOrder before any byte leaves, where the exchange cannot do this."""
        if request.order_type not in self.capabilities.order_types:
            raise UnsupportedOrder(f"{self.venue} has no {request.order_type} orders here", venue=self.venue)
        if request.reduce_only and not self.capabilities.reduce_only:
            raise UnsupportedOrder(f"{self.venue} has no reduce-only orders here", venue=self.venue)

    def learn_instruments(self, specs: Sequence[InstrumentSpec]) -> None:
        """Take instruments that are known already (from the database). Any thread may call."""
        return

    def time_there(self) -> float:
        """Return the exchange's time, epoch seconds, by the last look at its clock; else by our own."""
        return time.time()

    def list_cost(self) -> ListCost | None:
        """Return what lists cost; None where the exchange counts no weight. Any thread may call."""
        return None

    async def background_wait(self) -> float:
        """Return for how many seconds the address's budget is left to orders and cancels alone."""
        return 0.0

    @abstractmethod
    async def load_instruments(self) -> list[InstrumentSpec]: ...

    @abstractmethod
    async def place_orders(self, requests: Sequence[OrderRequest]) -> list[OrderReport | ExchangeError]:
        """Place orders; one result per request, in order. Never raises for an order's own sake."""

    @abstractmethod
    async def cancel_orders(self, refs: Sequence[OrderRef]) -> list[OrderReport | ExchangeError]:
        """Cancel orders; one result per ref, in order. "Already gone" is OrderNotFound: fetch then.

        NotSent where a ref's deadline has passed.
        """

    @abstractmethod
    async def fetch_order(self, ref: OrderRef) -> OrderReport:
        """Raises OrderNotFound when the exchange does not know it."""

    @abstractmethod
    async def fetch_open_orders(self, symbol: str | None = None) -> list[ListedOrder]:
        """Each row on its own: one that cannot be read is an UnreadableOrder and hides no other."""

    @abstractmethod
    async def fetch_executions(self, ref: OrderRef) -> list[Fill]:
        """Every fill of one order, oldest first."""

    @abstractmethod
    async def fetch_recent_orders(self, symbol: str, *, since_ms: int) -> list[ListedOrder]:
        """Orders of a symbol, ended ones too, that were made or changed since then (epoch ms); row by row."""

    @abstractmethod
    async def fetch_balances(self) -> list[Balance]: ...

    @abstractmethod
    async def fetch_positions(self) -> list[VenuePosition]: ...

    @abstractmethod
    async def fetch_tickers(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Last traded price by symbol; a symbol that the exchange does not know is left out."""

    @abstractmethod
    async def set_leverage(self, symbol: str, leverage: int) -> None: ...

    @abstractmethod
    async def check_account(self) -> None:
        """Raise, in words a trader understands, when the account cannot be used (bad key, hedge mode)."""

    @abstractmethod
    async def warm_up(self) -> None:
        """Open the connection and learn the server's clock: the first order is as fast as the next."""

    async def follow_symbols(self, symbols: Collection[str]) -> set[str]:
        """Have the user stream hear exactly these symbols; return those that it did not hear until now.

        Only where `capabilities.stream` is SYMBOLS: elsewhere the stream hears every symbol. Never raises for
        a subscription's sake; one that failed is tried again by a later call.
        """
        return set()

    @abstractmethod
    def user_stream(self) -> AsyncGenerator[StreamEvent, None]:
        """Follow the account's orders for ever, reconnecting by itself; close it with `aclose()`."""
