"""How an exchange spells our symbols. Shared by all accounts at one base URL; any thread may use it."""

from __future__ import annotations

from collections.abc import Iterable

from exchanges.adapters.types import InstrumentSpec


class SymbolTable:
    def __init__(self) -> None:
        self._theirs: dict[str, str] = {}  # BTC/USDT -> BTCUSDT
        self._ours: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._ours)

    def learn(self, specs: Iterable[InstrumentSpec]) -> None:
        for spec in specs:
            self._theirs[spec.symbol] = spec.venue_symbol
            self._ours[spec.venue_symbol] = spec.symbol

    def theirs(self, symbol: str) -> str | None:
        return self._theirs.get(symbol)

    def ours(self, venue_symbol: str) -> str | None:
        return self._ours.get(venue_symbol)
