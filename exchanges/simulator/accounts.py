"""What one account has on one venue: its orders by every key, and a wallet.

The wallets keep the money: `SpotWallet` balances of assets, `FuturesWallet` (positions.py) a
margin balance and positions. Both settle a fill in one call and never round what they move,
except fees and realised profit, which have 8 decimals as on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal
from typing import Protocol

from exchanges.simulator.types import (
    ZERO,
    Fill,
    Instrument,
    Order,
    Reason,
    Refusal,
    Side,
)

_EIGHT_DECIMALS = Decimal("0.00000001")


def to_fee(amount: Decimal) -> Decimal:
    return amount.quantize(_EIGHT_DECIMALS, rounding=ROUND_DOWN)


def to_pnl(amount: Decimal) -> Decimal:
    return amount.quantize(_EIGHT_DECIMALS, rounding=ROUND_HALF_EVEN)


class Wallet(Protocol):
    """How the engine asks for and moves an account's money."""

    def admit(self, order: Order, cost: Decimal) -> None:
        """Raise `Refusal` if the account cannot afford `order`.

        `cost` is what its quantity would cost in quote asset: at its limit, at its stop price,
        or, for a market order, at the prices it would trade at now.
        """

    def hold(self, order: Order) -> None:
        """Set aside what an accepted limit or stop order needs."""

    def release(self, order: Order) -> None:
        """Give back what the unfilled rest of an order had set aside."""

    def settle(
        self, order: Order, price: Decimal, quantity: Decimal, fee_rate: Decimal
    ) -> tuple[Decimal, str, Decimal]:
        """Move the money of one fill; return fee, fee asset and realised profit."""

    def reducible(self, order: Order) -> Decimal:
        """Return how much of a reduce-only order its position still allows."""


@dataclass(slots=True)
class Balance:
    free: Decimal = ZERO
    locked: Decimal = ZERO


class SpotWallet:
    def __init__(self, balances: dict[str, Decimal]) -> None:
        self.balances = {asset: Balance(amount) for asset, amount in balances.items()}

    def balance(self, asset: str) -> Balance:
        found = self.balances.get(asset)
        if found is None:
            found = self.balances[asset] = Balance()
        return found

    def admit(self, order: Order, cost: Decimal) -> None:
        buying = order.side is Side.BUY
        needed = cost if buying else order.quantity
        if self.balance(_paid_asset(order)).free < needed:
            raise Refusal(Reason.INSUFFICIENT_FUNDS)

    def hold(self, order: Order) -> None:
        order.lock_price = order.price if order.price is not None else order.stop_price
        if order.lock_price is not None:
            self._move_to_locked(order, order.remaining)

    def release(self, order: Order) -> None:
        if order.lock_price is not None:
            self._move_to_locked(order, -order.remaining)
            order.lock_price = None

    def settle(
        self, order: Order, price: Decimal, quantity: Decimal, fee_rate: Decimal
    ) -> tuple[Decimal, str, Decimal]:
        if order.lock_price is not None:
            self._move_to_locked(order, -quantity)
        base = self.balance(order.instrument.base)
        quote = self.balance(order.instrument.quote)
        value = price * quantity
        if order.side is Side.BUY:
            fee = to_fee(quantity * fee_rate)
            quote.free -= value
            base.free += quantity - fee
            return fee, order.instrument.base, ZERO
        fee = to_fee(value * fee_rate)
        base.free -= quantity
        quote.free += value - fee
        return fee, order.instrument.quote, ZERO

    def reducible(self, order: Order) -> Decimal:
        return order.remaining  # spot knows no positions

    def _move_to_locked(self, order: Order, quantity: Decimal) -> None:
        assert order.lock_price is not None
        amount = quantity * order.lock_price if order.side is Side.BUY else quantity
        balance = self.balance(_paid_asset(order))
        balance.free -= amount
        balance.locked += amount


class Account:
    """One account's orders on one venue, found by id, by client id or by symbol."""

    def __init__(self, api_key: str, wallet: Wallet) -> None:
        self.api_key = api_key
        self.wallet = wallet
        self.by_id: dict[int, Order] = {}  # all it ever had
        self.open: dict[int, Order] = {}
        self.open_by_client_id: dict[str, Order] = {}
        self.accepted_by_client_id: dict[str, list[Order]] = {}
        self.history: dict[Instrument, list[Order]] = {}
        self.fills: dict[Instrument, list[tuple[Order, Fill]]] = {}
        self.reduce_only: dict[int, Order] = {}
        self._open_counts: dict[Instrument, int] = {}
        self._stop_counts: dict[Instrument, int] = {}

    def open_count(self, instrument: Instrument) -> int:
        return self._open_counts.get(instrument, 0)

    def stop_count(self, instrument: Instrument) -> int:
        return self._stop_counts.get(instrument, 0)

    def add(self, order: Order) -> None:
        self.by_id[order.order_id] = order
        self.open[order.order_id] = order
        self.open_by_client_id[order.client_order_id] = order
        self.accepted_by_client_id.setdefault(order.client_order_id, []).append(order)
        self.history.setdefault(order.instrument, []).append(order)
        if order.reduce_only:
            self.reduce_only[order.order_id] = order
        _count(self._open_counts, order.instrument, 1)
        if order.is_waiting_stop:
            _count(self._stop_counts, order.instrument, 1)

    def note_triggered(self, order: Order) -> None:
        _count(self._stop_counts, order.instrument, -1)

    def note_closed(self, order: Order) -> None:
        if self.open.pop(order.order_id, None) is None:
            return
        if self.open_by_client_id.get(order.client_order_id) is order:
            del self.open_by_client_id[order.client_order_id]
        self.reduce_only.pop(order.order_id, None)
        _count(self._open_counts, order.instrument, -1)
        if order.is_waiting_stop:
            _count(self._stop_counts, order.instrument, -1)

    def note_fill(self, order: Order, fill: Fill) -> None:
        self.fills.setdefault(order.instrument, []).append((order, fill))

    def open_orders(self, instrument: Instrument | None = None) -> list[Order]:
        """Return open orders, oldest first, of one symbol or of all."""
        orders: Iterable[Order] = self.open.values()
        if instrument is not None:
            orders = (order for order in orders if order.instrument is instrument)
        return list(orders)

    def find(self, *, order_id: int | None = None, client_order_id: str = "") -> Order | None:
        """Return an order by id, else the latest that had this client id."""
        if order_id is None:
            with_same_id = self.accepted_by_client_id.get(client_order_id)
            return with_same_id[-1] if with_same_id else None
        return self.by_id.get(order_id)


def _paid_asset(order: Order) -> str:
    return order.instrument.quote if order.side is Side.BUY else order.instrument.base


def _count(counts: dict[Instrument, int], instrument: Instrument, change: int) -> None:
    counts[instrument] = counts.get(instrument, 0) + change
