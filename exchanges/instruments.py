"""What trades at an exchange, brought from there into our `Instrument` rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import fields

from django.db import transaction

from exchanges import access, runtime
from exchanges.adapters.types import InstrumentSpec
from exchanges.models import Account, Instrument

logger = logging.getLogger(__name__)

LOAD_SECONDS = 30.0
_KEY = ("exchange", "environment", "market_type", "symbol")
_GRID = tuple(spec.name for spec in fields(InstrumentSpec) if spec.name not in ("market_type", "symbol"))
_ROWS_PER_STATEMENT = 500


def instruments_refresh(*, account: Account, market_type: str) -> int:
    """Load an exchange's instruments and write those that changed; return how many did.

    Any account of the exchange and environment will do: instruments are the exchange's, not the
    account's. One that the exchange no longer lists stays, marked as not trading: orders name it.
    Nothing is written, and no cache anywhere is invalidated, when nothing changed.

    Raises ExchangeError when the exchange cannot be asked, TimeoutError after 30 s.
    """
    exchange = access.exchange_for(account, market_type)
    specs = runtime.run(exchange.load_instruments(), timeout=LOAD_SECONDS)
    if not specs:
        # An exchange without a single instrument is a broken answer, not a closed exchange.
        logger.error("%s %s listed no instruments; ours stay as they are", account.exchange, market_type)
        return 0
    known = {
        row.symbol: row
        for row in Instrument.objects.filter(
            exchange=account.exchange, environment=account.environment, market_type=market_type
        )
    }
    listed = [spec for spec in specs if spec.market_type == market_type]
    changed = [*_changed(account, market_type, listed, known), *_gone(listed, known)]
    if changed:
        with transaction.atomic():
            _write(changed)
        logger.info("%s of %s %s instruments changed", len(changed), account.exchange, market_type)
    return len(changed)


def _write(changed: list[Instrument]) -> None:
    for row in changed:
        row.pk = None  # two processes may both have found it missing: the symbol decides, not the id
    Instrument.objects.bulk_create(
        changed,
        batch_size=_ROWS_PER_STATEMENT,
        update_conflicts=True,
        update_fields=[*_GRID, "updated_at"],
        unique_fields=_KEY,
    )


def _changed(
    account: Account, market_type: str, specs: Iterable[InstrumentSpec], known: dict[str, Instrument]
) -> list[Instrument]:
    changed = []
    for spec in specs:
        row = known.get(spec.symbol)
        grid = {name: getattr(spec, name) for name in _GRID}
        if row is None:
            row = Instrument(
                exchange=account.exchange,
                environment=account.environment,
                market_type=market_type,
                symbol=spec.symbol,
            )
        elif all(getattr(row, name) == value for name, value in grid.items()):
            continue
        for name, value in grid.items():
            setattr(row, name, value)
        changed.append(row)
    return changed


def _gone(specs: Iterable[InstrumentSpec], known: dict[str, Instrument]) -> list[Instrument]:
    listed = {spec.symbol for spec in specs}
    gone = [row for symbol, row in known.items() if symbol not in listed and row.is_trading]
    for row in gone:
        row.is_trading = False
    return gone
