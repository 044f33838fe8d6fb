"""How much an order is for. Pure: no database, no clock, no network.

Units: capital and prices in quote asset, quantities in base asset (or shares), all Decimal.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal

from exchanges.adapters.types import InstrumentSpec, MarketType, OrderType
from exchanges.fields import plain

ZERO = Decimal(0)
# The widest payload number over the finest grid, and some: no quotient is rounded before it is cut.
_WIDE = Context(prec=80)


class SizingError(Exception):
    """The order cannot be sized; the message names the limit in words a trader understands."""


@dataclass(frozen=True, slots=True)
class Sized:
    quantity: Decimal
    price: Decimal | None
    stop_price: Decimal | None


def to_step(value: Decimal, step: Decimal, *, rounding: str) -> Decimal:
    """Round to a whole number of steps; a step of zero means that there is no grid."""
    if step <= 0:
        return value
    steps = _WIDE.divide(value, step).quantize(Decimal(1), rounding=rounding, context=_WIDE)
    # An integer product keeps the step's own digits: 0.001 * 3 is 0.003, not 0.0030000.
    return _WIDE.multiply(steps, step)


def shown(quantity: Decimal) -> str:
    """Write a raw quantity for people: eight decimals tell enough."""
    return plain(quantity.quantize(Decimal("0.00000001"), rounding=ROUND_DOWN))


def price_to_tick(price: Decimal | None, instrument: InstrumentSpec) -> Decimal | None:
    """Round a price to the nearest tick: a chart's close may lie off the exchange's grid."""
    return None if price is None else to_step(price, instrument.tick_size, rounding=ROUND_HALF_UP)


def lot_step_for(order_type: OrderType, instrument: InstrumentSpec) -> Decimal:
    if order_type is OrderType.MARKET and instrument.market_lot_step:
        return max(instrument.lot_step, instrument.market_lot_step)
    return instrument.lot_step


def capital_to_quantity(
    *, capital: Decimal, percent: Decimal, price: Decimal, leverage: int, instrument: InstrumentSpec
) -> Decimal:
    """Return capital × percent / 100 / price × leverage (leverage on futures only), not yet rounded."""
    factor = leverage if instrument.market_type is MarketType.FUTURES else 1
    # One division, and last: 1000 / 30000 * 3 is a hair under 0.1, and would be cut to the lot below.
    return capital * percent * factor / (100 * price * instrument.contract_multiplier)


def fit(
    quantity: Decimal,
    *,
    order_type: OrderType,
    price: Decimal | None,
    stop_price: Decimal | None,
    reference_price: Decimal | None,
    reduce_only: bool,
    instrument: InstrumentSpec,
) -> Sized:
    """Round an order to the exchange's grid and hold it against the exchange's minimums.

    The quantity is rounded down: the sender asked for at most this much.
    `reference_price` is what the notional is judged by where the order has no price of its own.
    Raises: SizingError, naming the minimum or maximum.
    """
    limit = price_to_tick(price, instrument)
    trigger = price_to_tick(stop_price, instrument)
    asset = instrument.base_asset
    for name, rounded in (("price", limit), ("stop price", trigger)):
        if rounded is not None and rounded <= 0:
            raise SizingError(f"the {name} is below the tick of {plain(instrument.tick_size)}")
    rounded_quantity = to_step(quantity, lot_step_for(order_type, instrument), rounding=ROUND_DOWN)
    if rounded_quantity <= 0 or rounded_quantity < instrument.min_quantity:
        raise SizingError(
            f"quantity {shown(quantity)} {asset} is below the minimum of "
            f"{plain(max(instrument.min_quantity, instrument.lot_step))} {asset}"
        )
    maximum = instrument.max_quantity
    if order_type is OrderType.MARKET and instrument.market_max_quantity:
        maximum = min(filter(None, (maximum, instrument.market_max_quantity)))
    if maximum and rounded_quantity > maximum:
        raise SizingError(
            f"quantity {plain(rounded_quantity)} {asset} is above the maximum of {plain(maximum)} {asset}"
        )
    judged_by = limit or trigger or reference_price
    waived = reduce_only and instrument.market_type is MarketType.FUTURES
    if judged_by is not None and not waived:
        notional = rounded_quantity * judged_by * instrument.contract_multiplier
        if notional < instrument.min_notional:
            value = plain(notional.quantize(Decimal("0.01"), rounding=ROUND_DOWN))
            raise SizingError(
                f"order value {value} {instrument.quote_asset} "
                f"is below the minimum of {plain(instrument.min_notional)} {instrument.quote_asset}"
            )
    return Sized(rounded_quantity, limit, trigger)


def closing_quantity(*, position: Decimal, on_their_way: Decimal, percent: Decimal) -> Decimal:
    """Return how much a close of `percent` may take: of the position, less closes still on their way.

    `position` is signed, `on_their_way` is the sum of what earlier closes may still fill.
    Raises: SizingError when nothing is left to close.
    """
    available = abs(position) - on_their_way
    if position == 0:
        raise SizingError("there is no position to close")
    if available <= 0:
        raise SizingError("nothing is left to close: the whole position is already being closed")
    return min(abs(position) * percent / 100, available)
