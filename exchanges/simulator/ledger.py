"""The ledger: everything the exchange ever accepted, as the control API shows it.

Numbers are strings, exact. `accepted_at` is epoch milliseconds with microseconds; `received_ns`,
`accepted_ns` and `ended_ns` (0 while open) are epoch nanoseconds of this machine's clock.
"""

from __future__ import annotations

from typing import Any

from exchanges.simulator.accounts import SpotWallet
from exchanges.simulator.engine import Venue
from exchanges.simulator.positions import FuturesWallet
from exchanges.simulator.types import Fill, Order

Row = dict[str, Any]


def order_rows(venue: Venue, *, api_key: str = "", symbol: str = "") -> list[Row]:
    """Return every order ever accepted; of one account, of one symbol where these are given."""
    return [
        order_row(venue.name, order)
        for order in venue.orders.values()
        if api_key in ("", order.api_key) and symbol in ("", order.instrument.name)
    ]


def order_row(exchange: str, order: Order) -> Row:
    return {
        "exchange": exchange,
        "api_key": order.api_key,
        "symbol": order.instrument.name,
        "order_id": order.order_id,
        "client_order_id": order.client_order_id,
        "is_conditional": False,
        "parent_id": order.wire.get("parent", ""),
        "side": order.side.value,
        "position_side": order.position_side,
        "type": order.wire.get("type", order.type.value),
        "time_in_force": order.wire.get("timeInForce", order.time_in_force.value),
        "reduce_only": order.reduce_only,
        "status": order.status.value,
        "expiry_reason": order.expiry_reason.value,
        "price": _text(order.price),
        "stop_price": _text(order.stop_price),
        "quantity": str(order.quantity),
        "filled": str(order.filled),
        "average_price": str(order.average_price) if order.filled else None,
        "accepted_at": milliseconds(order.accepted_ns),
        "accepted_ns": order.accepted_ns,
        "ended_ns": order.ended_ns,
        "received_ns": order.received_ns,
        "created_ms": order.created_ms,
        "updated_ms": order.updated_ms,
        "fills": [_fill_row(fill) for fill in order.fills],
    }


def account_rows(venue: Venue, api_key: str) -> Row:
    """Return balances and positions of one account, or of all if `api_key` is empty."""
    return {
        key: _wallet_row(account.wallet) for key, account in venue.accounts.items() if api_key in ("", key)
    }


def milliseconds(nanoseconds: int) -> str:
    return f"{nanoseconds // 1_000_000}.{nanoseconds // 1000 % 1000:03d}"


def _wallet_row(wallet: object) -> Row:
    if isinstance(wallet, SpotWallet):
        return {
            "balances": {
                asset: {"free": str(balance.free), "locked": str(balance.locked)}
                for asset, balance in wallet.balances.items()
            },
            "positions": [],
        }
    assert isinstance(wallet, FuturesWallet)
    return {
        "balances": {wallet.asset: {"free": str(wallet.available_balance), "wallet": str(wallet.balance)}},
        "positions": [
            {
                "symbol": instrument.name,
                "position_side": side,
                "quantity": str(position.amount),
                "entry_price": str(position.entry_price),
                "realized_pnl": str(position.realized_pnl),
                "leverage": wallet.leverage(instrument),
            }
            for (instrument, side), position in wallet.positions.items()
        ],
    }


def _fill_row(fill: Fill) -> Row:
    return {
        "trade_id": fill.trade_id,
        "price": str(fill.price),
        "quantity": str(fill.quantity),
        "fee": str(fill.fee),
        "fee_asset": fill.fee_asset,
        "is_maker": fill.is_maker,
        "realized_pnl": str(fill.realized_pnl),
        "time_ms": fill.time_ms,
    }


def _text(number: object) -> str | None:
    return None if number is None else str(number)
