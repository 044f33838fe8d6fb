"""What every test of this room starts with: nothing remembered, and no way to a real exchange."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.cache import cache

from exchanges import access
from orders import config, prices
from orders.services import acceptance
from orders.tests.factories import Exchanges
from orders.webhook import planning


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    """Memories of rows must not outlive the rows: a test's database is emptied, its ids come again."""

    def forget() -> None:
        acceptance.forget_books()
        config.cache.clear()
        prices.forget()
        planning._refreshed.clear()
        cache.clear()

    forget()
    yield
    forget()


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> Exchanges:
    """Exchanges in memory, in place of the adapters."""
    fakes = Exchanges()
    monkeypatch.setattr(access, "exchange_for", fakes)
    return fakes
