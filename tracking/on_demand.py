"""Reconciling one account because a person asked: all its markets, a result for each, a line in the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from exchanges.adapters.exceptions import ExchangeError
from exchanges.adapters.types import MarketType
from exchanges.markets import has_market
from exchanges.models import Account, AccountType
from orders.services.switches import operator_log
from orders.side_by_side import side_by_side
from tracking.differences import Difference, Disagreement
from tracking.reconciliation import Reconciled, is_running, reconcile_account
from tracking.resolver import resolve
from tracking.watch import StreamKey, streams_wanted

logger = logging.getLogger(__name__)


class SyncBusy(Exception):
    """A run for the account is going on; nothing was done."""


class NothingToCompare(Exception):
    """We speak to no market of the account; nothing was done."""


@dataclass(frozen=True, slots=True)
class MarketSynced:
    """What became of one market of an account; `error` says why it could not be compared, empty if it was."""

    market_type: str
    found: Reconciled
    error: str = ""

    @property
    def success(self) -> bool:
        return not self.error and not self.found.errors

    @property
    def words(self) -> str:
        if self.error:
            return f"{self.market_type}: {self.error}"
        told = self.as_json()
        found = f"{len(told['differences'])} differences, {told['external_orders']} external orders"
        return ", ".join([f"{self.market_type}: {found}", *self.found.errors])

    def as_json(self) -> dict[str, Any]:
        external = [one for one in self.found.differences if one.kind is Disagreement.EXTERNAL]
        settled = [one for one in self.found.differences if one.kind is not Disagreement.EXTERNAL]
        return {
            "market_type": self.market_type,
            "success": self.success,
            "differences": [_told(one) for one in settled],
            "external_orders": len(external),
            "errors": [self.error] if self.error else list(self.found.errors),
        }


def _told(difference: Difference) -> dict[str, str]:
    named = difference.ours or difference.theirs
    assert named is not None
    return {
        "kind": difference.kind.name,
        "symbol": named.symbol,
        "client_order_id": named.client_order_id,
        "exchange_order_id": named.exchange_order_id,
        "text": str(difference),
    }


def orders_sync(*, account: Account, by: str) -> list[MarketSynced]:
    """Compare an account with its exchange now, in every market that is traded, or in all if none is.

    Orders that nobody knows about and that are due are asked for first. Raises SyncBusy, NothingToCompare.
    """
    keys = markets_of(account)
    if any(is_running(key) for key in keys):
        raise SyncBusy(f"A run for account {account.pk} is going on; ask again in a moment")
    resolve(account_id=account.pk)
    results = side_by_side(_run, keys)
    operator_log(
        f"Reconciled on demand: {'; '.join(one.words for one in results)}", by=by, user_id=account.user_id,
        account_id=account.pk,
    )  # fmt: skip
    return results


def markets_of(account: Account) -> list[StreamKey]:
    """Return the markets where an account trades or has orders; all of its exchange's if there is none.

    Raises NothingToCompare where we have no adapter for any.
    """
    if wanted := sorted(key for key in streams_wanted() if key.account_id == account.pk):
        return wanted
    possible = [
        StreamKey(account.pk, market.value)
        for market in MarketType
        if has_market(account.exchange, market) and AccountType.for_market(market) == account.account_type
    ]
    if not possible:
        who = f"{account.exchange} ({account.account_type})"
        raise NothingToCompare(f"There is nothing to compare: no adapter for {who}")
    return possible


def _run(key: StreamKey) -> MarketSynced:
    market = key.market_type
    try:
        found = reconcile_account(account_id=key.account_id, market_type=market, on_demand=True)
    except ExchangeError as exc:
        return MarketSynced(market, Reconciled(ran=False), exc.message)
    except TimeoutError:
        return MarketSynced(market, Reconciled(ran=False), "The exchange has not answered in time")
    except Exception as exc:  # the other markets must not suffer
        logger.exception("Account %s %s could not be reconciled on demand", *key)
        return MarketSynced(market, Reconciled(ran=False), f"A fault of ours: {type(exc).__name__}")
    if not found.ran:
        return MarketSynced(market, found, "Another run has just begun; ask again in a moment")
    return MarketSynced(market, found)
