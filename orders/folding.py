"""Position arithmetic: fills folded one by one into a position. Pure; everything is Decimal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from exchanges.adapters.types import Side

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class PositionState:
    """Signed quantity (long is positive), average entry (None while flat), realised PnL before fees."""

    quantity: Decimal = ZERO
    average_price: Decimal | None = None
    realized_pnl: Decimal = ZERO


def fold(state: PositionState, *, side: Side, quantity: Decimal, price: Decimal) -> PositionState:
    """Return the position after one fill.

    Adding averages the entry, reducing realises PnL and keeps the average, crossing zero closes
    and opens the rest at the fill's price. PnL is in quote asset per contract multiplier of one.
    """
    signed = quantity if side is Side.BUY else -quantity
    before, after = state.quantity, state.quantity + signed
    entry = state.average_price if state.average_price is not None else price
    if before == 0 or before * signed > 0:
        cost = abs(before) * entry + quantity * price
        return replace(state, quantity=after, average_price=cost / abs(after) if after else None)
    closed = min(quantity, abs(before))
    direction = 1 if before > 0 else -1
    realized = state.realized_pnl + closed * (price - entry) * direction
    if after == 0:
        return PositionState(ZERO, None, realized)
    crossed = before * after < 0
    return PositionState(after, price if crossed else entry, realized)


FoldKey = tuple[datetime, int, str, str]


def fold_key(executed_at: datetime, trade_id: str, exchange_order_id: str = "") -> FoldKey:
    """Order executions by the exchange's time, then by trade id (numbers by value, not by spelling).

    Two of our orders that met each other share time and trade id: there the order id decides.
    """
    return executed_at, len(trade_id), trade_id, exchange_order_id
