"""Futures money: one margin balance in USDT, positions, leverage, cross margin.

There is no liquidation and no funding: a position may go as deep under water as the price
takes it, and only new orders are refused when the margin is used up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from exchanges.simulator.accounts import to_fee, to_pnl
from exchanges.simulator.types import ZERO, Instrument, Order, Reason, Refusal, Side

DEFAULT_LEVERAGE = 20


@dataclass(slots=True)
class Position:
    """A signed quantity and what it cost; `cost` is signed too, so that entry = cost / amount."""

    amount: Decimal = ZERO
    cost: Decimal = ZERO
    realized_pnl: Decimal = ZERO
    updated_ms: int = 0

    @property
    def entry_price(self) -> Decimal:
        return self.cost / self.amount if self.amount else ZERO

    def unrealized_pnl(self, price: Decimal) -> Decimal:
        return self.amount * price - self.cost

    def apply(self, side: Side, quantity: Decimal, price: Decimal) -> Decimal:
        """Book one fill; return the profit it realised, before fees."""
        signed = quantity if side is Side.BUY else -quantity
        if self.amount * signed >= 0:  # opening or adding
            self.amount += signed
            self.cost += signed * price
            return ZERO
        closed = max(signed, -self.amount) if signed < 0 else min(signed, -self.amount)
        part = self.cost * -closed / self.amount  # cost of what is closed
        profit = to_pnl(-closed * price - part)
        self.amount += closed
        self.cost = self.cost - part if self.amount else ZERO
        rest = signed - closed
        if rest:
            self.amount, self.cost = rest, rest * price
        self.realized_pnl += profit
        return profit


class FuturesWallet:
    """Cross margin in one asset. `price_of` gives the market (= mark) price of a symbol."""

    asset = "USDT"

    def __init__(self, balance: Decimal, price_of: Callable[[Instrument], Decimal]) -> None:
        self.balance = balance
        self.is_hedge_mode = False
        self.positions: dict[tuple[Instrument, str], Position] = {}
        self._leverages: dict[Instrument, int] = {}
        self.margin_types: dict[Instrument, str] = {}
        self._open_notional: dict[Instrument, dict[Side, Decimal]] = {}
        self._price_of = price_of

    def position(self, instrument: Instrument, position_side: str = "BOTH") -> Position:
        found = self.positions.get((instrument, position_side))
        if found is None:
            found = self.positions[(instrument, position_side)] = Position()
        return found

    def leverage(self, instrument: Instrument) -> int:
        return self._leverages.get(instrument, DEFAULT_LEVERAGE)

    def set_leverage(self, instrument: Instrument, leverage: int) -> None:
        """Set it; raises `Refusal` if the margin then needed is not there."""
        before = self.leverage(instrument)
        self._leverages[instrument] = leverage
        if leverage < before and self.available_balance < 0:
            self._leverages[instrument] = before
            raise Refusal(Reason.INSUFFICIENT_FUNDS)

    @property
    def unrealized_pnl(self) -> Decimal:
        return sum(
            (
                position.unrealized_pnl(self._price_of(instrument))
                for (instrument, _), position in self.positions.items()
                if position.amount
            ),
            ZERO,
        )

    @property
    def available_balance(self) -> Decimal:
        """What is left for new orders: balance and open profit less all initial margins."""
        instruments = {instrument for instrument, _ in self.positions} | set(self._open_notional)
        margins = sum((self.initial_margin(instrument) for instrument in instruments), ZERO)
        return self.balance + self.unrealized_pnl - margins

    def initial_margin(self, instrument: Instrument) -> Decimal:
        """Margin that positions and open orders of a symbol hold, in quote asset."""
        notional = self._open_notional.get(instrument)
        if notional is None:
            return self._margin(instrument, ZERO, ZERO)
        return self._margin(instrument, notional[Side.BUY], notional[Side.SELL])

    def position_margin(self, instrument: Instrument) -> Decimal:
        return self._margin(instrument, ZERO, ZERO)

    def admit(self, order: Order, cost: Decimal) -> None:
        if order.reduce_only:
            return
        notional = self._open_notional.get(order.instrument, {})
        buys, sells = notional.get(Side.BUY, ZERO), notional.get(Side.SELL, ZERO)
        before = self._margin(order.instrument, buys, sells)
        if order.side is Side.BUY:
            buys += cost
        else:
            sells += cost
        needed = self._margin(order.instrument, buys, sells) - before
        if needed > 0 and needed > self.available_balance:
            raise Refusal(Reason.INSUFFICIENT_FUNDS)

    def hold(self, order: Order) -> None:
        self._hold(order, order.remaining)

    def release(self, order: Order) -> None:
        self._hold(order, -order.remaining)

    def settle(
        self, order: Order, price: Decimal, quantity: Decimal, fee_rate: Decimal
    ) -> tuple[Decimal, str, Decimal]:
        self._hold(order, -quantity)
        position = self.position(order.instrument, order.position_side)
        profit = position.apply(order.side, quantity, price)
        position.updated_ms = order.updated_ms
        fee = to_fee(price * quantity * fee_rate)
        self.balance += profit - fee
        return fee, self.asset, profit

    def reducible(self, order: Order) -> Decimal:
        position = self.positions.get((order.instrument, order.position_side))
        if position is None or (position.amount > 0) == (order.side is Side.BUY):
            return ZERO
        return min(order.remaining, abs(position.amount))

    def _hold(self, order: Order, quantity: Decimal) -> None:
        if order.reduce_only or order.price is None:
            return
        sides = self._open_notional.get(order.instrument)
        if sides is None:
            sides = self._open_notional[order.instrument] = {Side.BUY: ZERO, Side.SELL: ZERO}
        sides[order.side] += quantity * order.price

    def _margin(self, instrument: Instrument, buys: Decimal, sells: Decimal) -> Decimal:
        """Binance's rule in one-way mode: the larger of both directions the symbol can take."""
        price = self._price_of(instrument)
        if self.is_hedge_mode:
            held = abs(self._held(instrument, "LONG")) + abs(self._held(instrument, "SHORT"))
            return (held * price + buys + sells) / self.leverage(instrument)
        value = self._held(instrument, "BOTH") * price
        return max(abs(value + buys), abs(value - sells)) / self.leverage(instrument)

    def _held(self, instrument: Instrument, position_side: str) -> Decimal:
        position = self.positions.get((instrument, position_side))
        return position.amount if position is not None else ZERO
