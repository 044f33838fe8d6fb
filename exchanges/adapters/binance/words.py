"""Binance's words in ours, one literal table each. An unlisted status raises: better loud than out of step.

Source: spot rest-api.md and enums.md; USDⓈ-M "Common Definition", "Event: Order Update", "New Algo Order".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from exchanges.adapters.types import OrderType, VenueOrderStatus

T = TypeVar("T")
Row = Mapping[str, Any]
UNREADABLE = (KeyError, ValueError, TypeError, ArithmeticError, AttributeError)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Statuses(dict[str, T]):
    def __missing__(self, word: str) -> T:
        raise KeyError(f"a status that we do not know: {word}")


ORDER_STATUS: Mapping[str, VenueOrderStatus] = _Statuses(
    {
        "NEW": VenueOrderStatus.NEW,
        "PENDING_NEW": VenueOrderStatus.NEW,  # a leg that waits for another order
        "PARTIALLY_FILLED": VenueOrderStatus.PARTIALLY_FILLED,
        "FILLED": VenueOrderStatus.FILLED,
        "CANCELED": VenueOrderStatus.CANCELED,
        "REJECTED": VenueOrderStatus.REJECTED,
        "EXPIRED": VenueOrderStatus.EXPIRED,
        "EXPIRED_IN_MATCH": VenueOrderStatus.EXPIRED,  # self-trade prevention
    }
)
# A conditional order's status, and whether it has triggered: from then on its child tells the rest.
ALGO_STATUS: Mapping[str, tuple[VenueOrderStatus, bool]] = _Statuses(
    {
        "NEW": (VenueOrderStatus.NEW, False),
        "TRIGGERING": (VenueOrderStatus.NEW, True),
        "TRIGGERED": (VenueOrderStatus.NEW, True),
        "FINISHED": (VenueOrderStatus.NEW, True),  # the child has ended: how, only the child says
        "CANCELED": (VenueOrderStatus.CANCELED, False),
        "REJECTED": (VenueOrderStatus.REJECTED, False),
        "EXPIRED": (VenueOrderStatus.EXPIRED, False),
    }
)
# Order types in our coarser words: enough to know which lane an order placed by hand takes up.
# A type that is not listed (LIQUIDATION, say) has no word of ours and is None.
SPOT_TYPE = {
    "MARKET": OrderType.MARKET,
    "LIMIT": OrderType.LIMIT,
    "LIMIT_MAKER": OrderType.LIMIT,
    "STOP_LOSS": OrderType.STOP_MARKET,
    "STOP_LOSS_LIMIT": OrderType.STOP_LIMIT,
    "TAKE_PROFIT": OrderType.STOP_MARKET,
    "TAKE_PROFIT_LIMIT": OrderType.STOP_LIMIT,
}
SPOT_CONDITIONAL = frozenset({"STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"})
FUTURES_TYPE = {
    "MARKET": OrderType.MARKET,
    "LIMIT": OrderType.LIMIT,
    "STOP_MARKET": OrderType.STOP_MARKET,
    "STOP": OrderType.STOP_LIMIT,
    "TAKE_PROFIT_MARKET": OrderType.STOP_MARKET,
    "TAKE_PROFIT": OrderType.STOP_LIMIT,
    "TRAILING_STOP_MARKET": OrderType.STOP_MARKET,
}


def moment(milliseconds: int | Decimal | str) -> datetime:
    return _EPOCH + timedelta(milliseconds=int(milliseconds))


def identifier(value: object) -> str:
    """An id as text. Raises ValueError for what names nothing: two fills without ids would be one."""
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f"{value!r} is no id")
    return str(value)


def number(text: object) -> Decimal | None:
    """A Decimal, or None where Binance writes 0 for "there is none"."""
    return Decimal(str(text)) or None
