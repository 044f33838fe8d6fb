from __future__ import annotations

from collections.abc import Iterator

import pytest

from exchanges import access, runtime
from exchanges.adapters.testing import FakeExchange
from exchanges.models import Account


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
