"""What is sent: the same orders as a webhook and as an exchange client's calls.

LIMIT orders rest far below the market, so that none fills; MARKET orders buy and sell in turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

ACCOUNTS = 8  # rounds take turns at them, or the exchange's order limits per account would be measured
PAIRS = ACCOUNTS // 2
PERCENT = 1  # of each account's capital
CAPITAL = Decimal(10_000)
LEVERAGE = 10
ORDERS_PER_MINUTE = 100_000  # the guard counts, and never holds anything back
# Far below the simulator's fixed prices; (price, quantity) of about the notional that PERCENT buys.
LEVELS: dict[str, tuple[Decimal, Decimal]] = {
    "BTC/USDT": (Decimal(57000), Decimal("0.017")),
    "ETH/USDT": (Decimal(2100), Decimal("0.476")),
    "SOL/USDT": (Decimal(108), Decimal("9.25")),
}
MARKET_HINT = Decimal(95000)


@dataclass(frozen=True, slots=True)
class Order:
    """One order of a round, in the exchange's own terms. `account` counts within the scenario."""

    symbol: str
    kind: str  # MARKET or LIMIT
    side: str
    quantity: Decimal
    price: Decimal | None
    account: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """`orders` per account, spread over `symbols`, for each of `accounts`."""

    key: str
    title: str
    kind: str
    orders: int
    symbols: tuple[str, ...]
    accounts: int

    @property
    def total(self) -> int:
        """Orders that reach the exchange in one round."""
        return self.orders * self.accounts

    @property
    def books(self) -> int:
        return len(self.symbols) * self.accounts

    @property
    def turns(self) -> int:
        """Rounds until every account has had its turn."""
        return ACCOUNTS // self.accounts

    def round_orders(self, number: int) -> list[Order]:
        """Return what an exchange client sends in round `number`."""
        one = [self._order(index, number) for index in range(self.orders)]
        return [
            Order(order.symbol, order.kind, order.side, order.quantity, order.price, account)
            for account in range(self.accounts)
            for order in one
        ]

    def webhook(self, number: int, *, token: str) -> bytes:
        """Return the payload of round `number`; a single order is sent in the single form."""
        orders = [self._webhook_order(self._order(index, number)) for index in range(self.orders)]
        body = orders[0] if len(orders) == 1 else {"orders": orders}
        return json.dumps({"token": token} | body).encode()

    def strategy(self, number: int) -> str:
        """Return the strategy whose turn round `number` is."""
        return single_strategy(number) if self.accounts == 1 else pair_strategy(number)

    def _order(self, index: int, number: int) -> Order:
        symbol = self.symbols[index % len(self.symbols)]
        price, quantity = LEVELS[symbol]
        if self.kind == "MARKET":
            # Each account's turn comes every ACCOUNTS rounds: what one buys, its next sells.
            return Order(symbol, "MARKET", "SELL" if number // ACCOUNTS % 2 else "BUY", quantity, None)
        return Order(symbol, "LIMIT", "BUY", quantity, price + index)

    def _webhook_order(self, order: Order) -> dict[str, object]:
        # For MARKET the price is the hint to size by, as TradingView's {{close}} gives it.
        price = MARKET_HINT if order.price is None else order.price
        return {
            "symbol": order.symbol,
            "side": order.side.lower(),
            "order_type": order.kind,
            "price": str(price),
            "qty_per": PERCENT,
        }


MARKET = Scenario("market", "1 MARKET", "MARKET", 1, ("BTC/USDT",), 1)
LIMIT = Scenario("limit", "1 LIMIT", "LIMIT", 1, ("BTC/USDT",), 1)
LIMIT_30 = Scenario("limit-30", "30 LIMIT, one symbol", "LIMIT", 30, ("BTC/USDT",), 1)
LIMIT_60 = Scenario("limit-60", "30 LIMIT, 3 symbols x 2 accounts (60 orders)", "LIMIT", 30, tuple(LEVELS), 2)
SCENARIOS = (MARKET, LIMIT, LIMIT_30, LIMIT_60)


def account_key(number: int) -> tuple[str, str]:
    """Return API key and secret of one of the accounts; the simulator is told the same."""
    return f"bench-key-{number}", f"bench-secret-{number}"


def single_strategy(number: int) -> str:
    return f"single-{number % ACCOUNTS}"


def pair_strategy(number: int) -> str:
    return f"pair-{number % PAIRS}"


LONE_STRATEGY = "lone"  # alone with its account: every sender into the same book
STRATEGIES: dict[str, tuple[int, ...]] = {
    **{single_strategy(n): (n,) for n in range(ACCOUNTS)},
    **{pair_strategy(n): (2 * n, 2 * n + 1) for n in range(PAIRS)},
    LONE_STRATEGY: (ACCOUNTS,),
}


def provision_file(tokens: dict[str, str]) -> dict[str, Any]:
    """Return the input of `manage.py provision`: accounts, and strategies whose orders pass the queue."""
    user = "bench"
    return {
        "users": [{"username": user}],
        "accounts": [
            {
                "name": f"account-{number}",
                "user": user,
                "exchange": "binance",
                "account_type": "CRYPTO",
                "environment": "SIMULATOR",
                "api_key": account_key(number)[0],
                "api_secret": account_key(number)[1],
                "max_orders_per_minute": ORDERS_PER_MINUTE,
            }
            for number in range(ACCOUNTS + 1)
        ],
        "strategies": [
            {
                "group_name": name,
                "user": user,
                "token": tokens[name],
                "market_type": "FUTURES",
                "execution_mode": "QUEUED",
                "max_orders_per_minute": ORDERS_PER_MINUTE,
                "accounts": [
                    {"account": f"account-{number}", "allocated_capital": str(CAPITAL), "leverage": LEVERAGE}
                    for number in numbers
                ],
            }
            for name, numbers in STRATEGIES.items()
        ],
    }
