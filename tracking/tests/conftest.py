from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from exchanges import access, registry, runtime
from exchanges.adapters.testing import FakeExchange
from exchanges.models import Account
from exchanges.simulator.testing import SimulatorProcess, simulator, simulator_process

__all__ = ["simulator", "simulator_process"]


class Exchanges:
    """One exchange in memory for each account and market, where the house looks for adapters."""

    def __init__(self) -> None:
        self.by_key: dict[tuple[int, str], FakeExchange] = {}

    def __call__(self, account: Account, market_type: str) -> FakeExchange:
        return self.by_key.setdefault((account.pk, str(market_type)), FakeExchange())

    def of(self, account: Account, market_type: str = "FUTURES") -> FakeExchange:
        return self(account, market_type)


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchanges]:
    fakes = Exchanges()
    monkeypatch.setattr(access, "exchange_for", fakes)
    yield fakes
    runtime.stop()


@pytest.fixture
def on_simulator(simulator: SimulatorProcess, settings: Settings) -> Iterator[SimulatorProcess]:
    """The run's simulator, and the real adapters talking to it."""
    settings.SIMULATOR_URL = simulator.url
    yield simulator
    runtime.stop()
    registry.forget()
