"""Which account may follow which strategy."""

from __future__ import annotations

from exchanges.markets import has_market
from exchanges.models import Account, AccountType


def reason_against_following(account: Account, *, market_type: str) -> str | None:
    """Return why orders of this market cannot go to this account, in words, or None."""
    needed = AccountType.for_market(market_type)
    if account.account_type != needed:
        return f"a {market_type} strategy needs {needed.value} accounts, {account} is {account.account_type}"
    if not has_market(account.exchange, market_type):
        return f"{account.exchange} has no {market_type} market"
    return None
