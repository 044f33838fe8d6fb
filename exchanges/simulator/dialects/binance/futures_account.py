"""Binance USDⓈ-M futures: balances, positions, leverage, margin and position mode."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from exchanges.simulator.dialects.binance import params as read
from exchanges.simulator.dialects.binance.base import Desk, Route, Routes, symbol_of
from exchanges.simulator.dialects.binance.futures_errors import wire_error
from exchanges.simulator.dialects.binance.futures_format import (
    entry_text,
    money_text,
    price_text,
    quantity_text,
)
from exchanges.simulator.positions import FuturesWallet, Position
from exchanges.simulator.types import ZERO, Instrument, Refusal
from exchanges.simulator.wire import Call, WireError

MAX_NOTIONAL = "100000000"
MAINTENANCE = Decimal("0.004")  # share of the notional, in the one bracket there is


class FuturesAccount:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.routes: Routes = {
            ("GET", "/fapi/v2/balance"): Route(self.balance, weight=5),
            ("GET", "/fapi/v3/balance"): Route(self.balance, weight=5),
            ("GET", "/fapi/v2/account"): Route(self.account_v2, weight=5),
            ("GET", "/fapi/v3/account"): Route(self.account_v3, weight=5),
            ("GET", "/fapi/v2/positionRisk"): Route(self.position_risk_v2, weight=5),
            ("GET", "/fapi/v3/positionRisk"): Route(self.position_risk_v3, weight=5),
            ("POST", "/fapi/v1/leverage"): Route(self.set_leverage),
            ("POST", "/fapi/v1/marginType"): Route(self.set_margin_type),
            ("GET", "/fapi/v1/positionSide/dual"): Route(self.position_mode, weight=30),
            ("POST", "/fapi/v1/positionSide/dual"): Route(self.set_position_mode),
            ("GET", "/fapi/v1/multiAssetsMargin"): Route(
                lambda call: {"multiAssetsMargin": False}, weight=30
            ),
            ("GET", "/fapi/v1/commissionRate"): Route(self.commission_rate, weight=20),
            ("GET", "/fapi/v1/leverageBracket"): Route(self.leverage_brackets),
            ("GET", "/fapi/v1/symbolConfig"): Route(self.symbol_config, weight=5),
            ("GET", "/fapi/v1/accountConfig"): Route(self.account_config, weight=5),
        }

    def wallet(self, call: Call) -> FuturesWallet:
        wallet = self._desk.venue.account(call.api_key).wallet
        assert isinstance(wallet, FuturesWallet)
        return wallet

    def balance(self, call: Call) -> list[dict[str, Any]]:
        wallet = self.wallet(call)
        return [
            {
                "accountAlias": "SgsR",
                "asset": wallet.asset,
                "balance": money_text(wallet.balance),
                "crossWalletBalance": money_text(wallet.balance),
                "crossUnPnl": money_text(wallet.unrealized_pnl),
                "availableBalance": money_text(max(ZERO, wallet.available_balance)),
                "maxWithdrawAmount": money_text(max(ZERO, wallet.available_balance)),
                "marginAvailable": True,
                "updateTime": self._desk.now_ms(),
            }
        ]

    def account_v3(self, call: Call) -> dict[str, Any]:
        wallet = self.wallet(call)
        totals = self._totals(wallet)
        asset = {
            "asset": wallet.asset,
            "walletBalance": totals["totalWalletBalance"],
            "unrealizedProfit": totals["totalUnrealizedProfit"],
            "marginBalance": totals["totalMarginBalance"],
            "maintMargin": totals["totalMaintMargin"],
            "initialMargin": totals["totalInitialMargin"],
            "positionInitialMargin": totals["totalPositionInitialMargin"],
            "openOrderInitialMargin": totals["totalOpenOrderInitialMargin"],
            "crossWalletBalance": totals["totalCrossWalletBalance"],
            "crossUnPnl": totals["totalCrossUnPnl"],
            "availableBalance": totals["availableBalance"],
            "maxWithdrawAmount": totals["maxWithdrawAmount"],
            "marginAvailable": True,
            "updateTime": self._desk.now_ms(),
        }
        positions = [
            self._account_position(wallet, instrument, side, position)
            for (instrument, side), position in wallet.positions.items()
            if position.amount
        ]
        return totals | {"assets": [asset], "positions": positions}

    def account_v2(self, call: Call) -> dict[str, Any]:
        """Return the older shape, which lists every symbol."""
        wallet = self.wallet(call)
        rows = [
            self._account_position(wallet, instrument, side, wallet.position(instrument, side))
            for instrument in self._desk.symbols.values()
            for side in _position_sides(wallet)
        ]
        head = {
            "feeTier": 0,
            "canTrade": True,
            "canDeposit": True,
            "canWithdraw": True,
            "updateTime": 0,
            "multiAssetsMargin": False,
            "tradeGroupId": -1,
        }
        return head | self.account_v3(call) | {"positions": rows}

    def position_risk_v3(self, call: Call) -> list[dict[str, Any]]:
        """Return symbols with a position or open orders only."""
        wallet = self.wallet(call)
        with_orders = {order.instrument for order in self._desk.venue.account(call.api_key).open.values()}
        return [
            self._risk_row(wallet, instrument, side, wallet.position(instrument, side))
            for instrument in self._wanted(call)
            for side in _position_sides(wallet)
            if instrument in with_orders or wallet.position(instrument, side).amount
        ]

    def position_risk_v2(self, call: Call) -> list[dict[str, Any]]:
        wallet = self.wallet(call)
        return [
            self._risk_row(wallet, instrument, side, wallet.position(instrument, side))
            | {
                "leverage": str(wallet.leverage(instrument)),
                "marginType": _margin_type(wallet, instrument).lower().removesuffix("ed"),
                "isAutoAddMargin": "false",
                "maxNotionalValue": MAX_NOTIONAL,
                "isolatedWallet": "0",
            }
            for instrument in self._wanted(call)
            for side in _position_sides(wallet)
        ]

    def set_leverage(self, call: Call) -> dict[str, Any]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        leverage = read.integer(call.params, "leverage")
        if leverage is None:
            raise read.missing("leverage")
        if not 1 <= leverage <= instrument.max_leverage:
            raise WireError(400, -4028, f"Leverage {leverage} is not valid")
        try:
            self.wallet(call).set_leverage(instrument, leverage)
        except Refusal as refusal:
            raise wire_error(refusal) from refusal
        symbol = symbol_of(instrument)
        now_ms = self._desk.now_ms()
        self._desk.hub.publish(
            self._desk.venue.name,
            call.api_key,
            {"e": "ACCOUNT_CONFIG_UPDATE", "E": now_ms, "T": now_ms, "ac": {"s": symbol, "l": leverage}},
        )
        return {"leverage": leverage, "maxNotionalValue": MAX_NOTIONAL, "symbol": symbol}

    def set_margin_type(self, call: Call) -> dict[str, Any]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        margin_type = read.required(call.params, "marginType")
        if margin_type not in ("ISOLATED", "CROSSED"):
            raise WireError(400, -4137, "Invalid margin type.")
        wallet = self.wallet(call)
        if _margin_type(wallet, instrument) == margin_type:
            raise WireError(400, -4046, "No need to change margin type.")
        account = self._desk.venue.account(call.api_key)
        if account.open_count(instrument):
            raise WireError(400, -4047, "Margin type cannot be changed if there exists open orders.")
        if any(wallet.position(instrument, side).amount for side in _position_sides(wallet)):
            raise WireError(400, -4048, "Margin type cannot be changed if there exists position.")
        wallet.margin_types[instrument] = margin_type
        return {"code": 200, "msg": "success"}

    def position_mode(self, call: Call) -> dict[str, Any]:
        return {"dualSidePosition": self.wallet(call).is_hedge_mode}

    def set_position_mode(self, call: Call) -> dict[str, Any]:
        read.required(call.params, "dualSidePosition")
        wanted = read.flag(call.params, "dualSidePosition")
        wallet = self.wallet(call)
        if wallet.is_hedge_mode == wanted:
            raise WireError(400, -4059, "No need to change position side.")
        if self._desk.venue.account(call.api_key).open:
            raise WireError(400, -4067, "Position side cannot be changed if there exists open orders.")
        if any(position.amount for position in wallet.positions.values()):
            raise WireError(400, -4068, "Position side cannot be changed if there exists position.")
        wallet.is_hedge_mode = wanted
        wallet.positions.clear()
        return {"code": 200, "msg": "success"}

    def commission_rate(self, call: Call) -> dict[str, Any]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        return {
            "symbol": symbol_of(instrument),
            "makerCommissionRate": str(self._desk.venue.maker_fee),
            "takerCommissionRate": str(self._desk.venue.taker_fee),
        }

    def leverage_brackets(self, call: Call) -> list[dict[str, Any]] | dict[str, Any]:
        rows = [
            {
                "symbol": symbol_of(instrument),
                "notionalCoef": 1.0,
                "brackets": [
                    {
                        "bracket": 1,
                        "initialLeverage": instrument.max_leverage,
                        "notionalCap": int(MAX_NOTIONAL),
                        "notionalFloor": 0,
                        "maintMarginRatio": float(MAINTENANCE),
                        "cum": 0.0,
                    }
                ],
            }
            for instrument in self._wanted(call)
        ]
        return rows[0] if call.params.get("symbol") else rows

    def symbol_config(self, call: Call) -> list[dict[str, Any]]:
        wallet = self.wallet(call)
        return [
            {
                "symbol": symbol_of(instrument),
                "marginType": _margin_type(wallet, instrument),
                "isAutoAddMargin": False,
                "leverage": wallet.leverage(instrument),
                "maxNotionalValue": MAX_NOTIONAL,
            }
            for instrument in self._wanted(call)
        ]

    def account_config(self, call: Call) -> dict[str, Any]:
        return {
            "feeTier": 0,
            "canTrade": True,
            "canDeposit": True,
            "canWithdraw": True,
            "dualSidePosition": self.wallet(call).is_hedge_mode,
            "updateTime": 0,
            "multiAssetsMargin": False,
            "tradeGroupId": -1,
        }

    def _wanted(self, call: Call) -> list[Instrument]:
        symbol = call.params.get("symbol")
        return [self._desk.instrument(symbol)] if symbol else list(self._desk.symbols.values())

    def _totals(self, wallet: FuturesWallet) -> dict[str, Any]:
        instruments = {instrument for instrument, _ in wallet.positions}
        on_positions = sum((wallet.position_margin(instrument) for instrument in instruments), ZERO)
        maintenance = sum(
            (
                abs(position.amount) * self._desk.venue.price(instrument) * MAINTENANCE
                for (instrument, _), position in wallet.positions.items()
            ),
            ZERO,
        )
        available = wallet.available_balance
        profit = wallet.unrealized_pnl
        all_margins = wallet.balance + profit - available
        return {
            "totalInitialMargin": money_text(all_margins),
            "totalMaintMargin": money_text(maintenance),
            "totalWalletBalance": money_text(wallet.balance),
            "totalUnrealizedProfit": money_text(profit),
            "totalMarginBalance": money_text(wallet.balance + profit),
            "totalPositionInitialMargin": money_text(on_positions),
            "totalOpenOrderInitialMargin": money_text(all_margins - on_positions),
            "totalCrossWalletBalance": money_text(wallet.balance),
            "totalCrossUnPnl": money_text(profit),
            "availableBalance": money_text(max(ZERO, available)),
            "maxWithdrawAmount": money_text(max(ZERO, available)),
        }

    def _account_position(
        self, wallet: FuturesWallet, instrument: Instrument, side: str, position: Position
    ) -> dict[str, Any]:
        price = self._desk.venue.price(instrument)
        margin = wallet.position_margin(instrument)
        return {
            "symbol": symbol_of(instrument),
            "initialMargin": money_text(wallet.initial_margin(instrument)),
            "maintMargin": money_text(abs(position.amount) * price * MAINTENANCE),
            "unrealizedProfit": money_text(position.unrealized_pnl(price)),
            "positionInitialMargin": money_text(margin),
            "openOrderInitialMargin": money_text(wallet.initial_margin(instrument) - margin),
            "leverage": str(wallet.leverage(instrument)),
            "isolated": _margin_type(wallet, instrument) == "ISOLATED",
            "entryPrice": entry_text(position),
            "breakEvenPrice": entry_text(position),
            "maxNotional": MAX_NOTIONAL,
            "positionSide": side,
            "positionAmt": quantity_text(instrument, position.amount),
            "notional": money_text(position.amount * price),
            "isolatedMargin": money_text(ZERO),
            "isolatedWallet": "0",
            "updateTime": position.updated_ms,
        }

    def _risk_row(
        self, wallet: FuturesWallet, instrument: Instrument, side: str, position: Position
    ) -> dict[str, Any]:
        price = self._desk.venue.price(instrument)
        margin = wallet.position_margin(instrument)
        return {
            "symbol": symbol_of(instrument),
            "positionSide": side,
            "positionAmt": quantity_text(instrument, position.amount),
            "entryPrice": entry_text(position),
            "breakEvenPrice": entry_text(position),
            "markPrice": price_text(instrument, price),
            "unRealizedProfit": money_text(position.unrealized_pnl(price)),
            "liquidationPrice": "0",
            "isolatedMargin": "0.00000000",
            "notional": money_text(position.amount * price),
            "marginAsset": wallet.asset,
            "isolatedWallet": "0",
            "initialMargin": money_text(margin),
            "maintMargin": money_text(abs(position.amount) * price * MAINTENANCE),
            "positionInitialMargin": money_text(margin),
            "openOrderInitialMargin": money_text(wallet.initial_margin(instrument) - margin),
            "adl": 0,
            "bidNotional": "0",
            "askNotional": "0",
            "updateTime": position.updated_ms,
        }


def _position_sides(wallet: FuturesWallet) -> tuple[str, ...]:
    return ("LONG", "SHORT") if wallet.is_hedge_mode else ("BOTH",)


def _margin_type(wallet: FuturesWallet, instrument: Instrument) -> str:
    return wallet.margin_types.get(instrument, "CROSSED")
