"""The checks that an exchange makes before its engine sees an order.

Every refusal names one rule; whether that becomes "Filter failure: LOT_SIZE" or -4023 is the
dialect's business.
"""

from __future__ import annotations

from decimal import Decimal

from exchanges.simulator.types import Instrument, OrderRequest, OrderType, Reason, Refusal, Side


def check_request(request: OrderRequest, quantity: Decimal, market_price: Decimal) -> None:
    """Raise `Refusal` with the first rule that the request breaks.

    `quantity` is the request's, or what its quote quantity buys at the market price.
    """
    instrument = request.instrument
    _check_quantity(instrument, quantity, is_market=request.type is OrderType.MARKET)
    for price in (request.price, request.stop_price):
        if price is not None:
            _check_price(instrument, price)
    if request.price is not None and request.stop_price is None:
        _check_band(instrument, request.side, request.price, market_price)
    reference = request.price or request.stop_price or market_price
    notional = reference * quantity
    if notional < instrument.min_notional and not request.reduce_only:
        raise Refusal(Reason.NOTIONAL_TOO_SMALL)
    if notional > instrument.max_notional:
        raise Refusal(Reason.NOTIONAL_TOO_LARGE)


def _check_quantity(instrument: Instrument, quantity: Decimal, *, is_market: bool) -> None:
    if quantity <= 0:
        raise Refusal(Reason.QUANTITY_NOT_POSITIVE)
    if _is_too_fine(quantity, instrument.quantity_precision):
        raise Refusal(Reason.QUANTITY_PRECISION)
    if quantity < instrument.min_quantity:
        raise Refusal(Reason.QUANTITY_TOO_SMALL)
    if quantity > instrument.max_quantity:
        raise Refusal(Reason.QUANTITY_TOO_LARGE)
    if is_market and quantity > instrument.max_market_quantity:
        raise Refusal(Reason.MARKET_QUANTITY_TOO_LARGE)
    if quantity % instrument.lot_step:
        raise Refusal(Reason.QUANTITY_STEP)


def _check_price(instrument: Instrument, price: Decimal) -> None:
    if price <= 0 or price > instrument.max_price:
        raise Refusal(Reason.PRICE_RANGE)
    if _is_too_fine(price, instrument.price_precision):
        raise Refusal(Reason.PRICE_PRECISION)
    if price % instrument.tick_size:
        raise Refusal(Reason.PRICE_TICK)


def _check_band(instrument: Instrument, side: Side, price: Decimal, market_price: Decimal) -> None:
    low, high = instrument.buy_band if side is Side.BUY else instrument.sell_band
    if price > market_price * high:
        raise Refusal(Reason.PRICE_TOO_HIGH)
    if price < market_price * low:
        raise Refusal(Reason.PRICE_TOO_LOW)


def _is_too_fine(number: Decimal, decimals: int) -> bool:
    """Tell whether a number has more decimals than allowed; trailing zeros do not count."""
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and -exponent <= decimals:
        return False
    exponent = number.normalize().as_tuple().exponent
    return not isinstance(exponent, int) or -exponent > decimals
