"""Binance spot: the engine's refusals as codes and texts. Source: fact sheet A6."""

from __future__ import annotations

from exchanges.simulator.types import Reason, Refusal
from exchanges.simulator.wire import WireError

REFUSALS: dict[Reason, tuple[int, str]] = {
    Reason.INSUFFICIENT_FUNDS: (-2010, "Account has insufficient balance for requested action."),
    Reason.DUPLICATE_CLIENT_ORDER_ID: (-2010, "Duplicate order sent."),
    Reason.WOULD_TAKE: (-2010, "Order would immediately match and take."),
    Reason.WOULD_TRIGGER: (-2010, "Order would trigger immediately."),
    Reason.TOO_MANY_ORDERS: (-1013, "Filter failure: MAX_NUM_ORDERS"),
    Reason.TOO_MANY_STOPS: (-1013, "Filter failure: MAX_NUM_ALGO_ORDERS"),
    Reason.PRICE_PRECISION: (-1111, "Precision is over the maximum defined for this asset."),
    Reason.PRICE_TICK: (-1013, "Filter failure: PRICE_FILTER"),
    Reason.PRICE_RANGE: (-1013, "Filter failure: PRICE_FILTER"),
    Reason.PRICE_TOO_HIGH: (-1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
    Reason.PRICE_TOO_LOW: (-1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
    Reason.QUANTITY_PRECISION: (-1111, "Precision is over the maximum defined for this asset."),
    Reason.QUANTITY_STEP: (-1013, "Filter failure: LOT_SIZE"),
    Reason.QUANTITY_NOT_POSITIVE: (-1013, "Invalid quantity."),
    Reason.QUANTITY_TOO_SMALL: (-1013, "Filter failure: LOT_SIZE"),
    Reason.QUANTITY_TOO_LARGE: (-1013, "Filter failure: LOT_SIZE"),
    Reason.MARKET_QUANTITY_TOO_LARGE: (-1013, "Filter failure: MARKET_LOT_SIZE"),
    Reason.NOTIONAL_TOO_SMALL: (-1013, "Filter failure: NOTIONAL"),
    Reason.NOTIONAL_TOO_LARGE: (-1013, "Filter failure: NOTIONAL"),
    Reason.UNKNOWN_ORDER: (-2011, "Unknown order sent."),
}


def wire_error(refusal: Refusal) -> WireError:
    code, message = REFUSALS[refusal.reason]
    return WireError(400, code, message)
