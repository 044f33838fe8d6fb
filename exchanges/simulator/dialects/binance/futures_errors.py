"""Binance USDⓈ-M futures: the engine's refusals as codes and texts. Source: fact sheet B4."""

from __future__ import annotations

from exchanges.simulator.types import Reason, Refusal
from exchanges.simulator.wire import WireError

REFUSALS: dict[Reason, tuple[int, str]] = {
    Reason.INSUFFICIENT_FUNDS: (-2019, "Margin is insufficient."),
    Reason.DUPLICATE_CLIENT_ORDER_ID: (-4116, "ClientOrderId is duplicated."),
    Reason.WOULD_TAKE: (
        -5022,
        "Due to the order could not be executed as maker, the Post Only order will be rejected. "
        "The order will not be recorded in the order history",
    ),
    Reason.WOULD_TRIGGER: (-2021, "Order would immediately trigger."),
    Reason.FOK_UNFILLABLE: (
        -5021,
        "Due to the order could not be filled immediately, the FOK order has been rejected. "
        "The order will not be recorded in the order history",
    ),
    Reason.REDUCE_ONLY: (-2022, "ReduceOnly Order is rejected."),
    Reason.POSITION_SIDE: (-4061, "Order's position side does not match user's setting."),
    Reason.TOO_MANY_ORDERS: (-2025, "Reach max open order limit."),
    Reason.TOO_MANY_STOPS: (-4045, "Reach max stop order limit."),
    Reason.PRICE_PRECISION: (-1111, "Precision is over the maximum defined for this asset."),
    Reason.PRICE_TICK: (-4014, "Price not increased by tick size."),
    Reason.PRICE_RANGE: (-4002, "Price greater than max price."),
    Reason.PRICE_TOO_HIGH: (-4016, "Limit price can't be higher than mark price's cap."),
    Reason.PRICE_TOO_LOW: (-4024, "Limit price can't be lower than mark price's floor."),
    Reason.QUANTITY_PRECISION: (-1111, "Precision is over the maximum defined for this asset."),
    Reason.QUANTITY_STEP: (-4023, "Qty not increased by step size."),
    Reason.QUANTITY_NOT_POSITIVE: (-4003, "Quantity less than or equal to zero."),
    Reason.QUANTITY_TOO_SMALL: (-4004, "Quantity less than min quantity."),
    Reason.QUANTITY_TOO_LARGE: (-4005, "Quantity greater than max quantity."),
    Reason.MARKET_QUANTITY_TOO_LARGE: (-4005, "Quantity greater than max quantity."),
    Reason.NOTIONAL_TOO_SMALL: (
        -4164,
        "Order's notional must be no smaller than 5 (unless you choose reduce only).",
    ),
    Reason.NOTIONAL_TOO_LARGE: (-2027, "Exceeded the maximum allowable position at current leverage."),
    Reason.UNKNOWN_ORDER: (-2011, "Unknown order sent."),
}


def wire_error(refusal: Refusal) -> WireError:
    code, message = REFUSALS[refusal.reason]
    return WireError(400, code, message)
