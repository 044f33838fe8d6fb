"""The control API under `/_sim`: what a test or a demo does to the exchange.

Every answer is JSON; a mistake is answered 400 with `{"error": ...}`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Any

from exchanges.simulator.accounts import SpotWallet
from exchanges.simulator.faults import Fault
from exchanges.simulator.instruments import DEFAULT_PRICES
from exchanges.simulator.ledger import account_rows, order_rows
from exchanges.simulator.positions import FuturesWallet
from exchanges.simulator.state import Simulator
from exchanges.simulator.types import Order, Refusal
from exchanges.simulator.wire import Answer, Call, Params, encode

Body = dict[str, Any]


class Control:
    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._routes: dict[tuple[str, str], Callable[[Params, Any], Any]] = {
            ("GET", "/state"): self.state,
            ("GET", "/ledger"): self.ledger,
            ("GET", "/faults"): self.list_faults,
            ("POST", "/faults"): self.add_faults,
            ("DELETE", "/faults"): self.clear_faults,
            ("POST", "/price"): self.set_price,
            ("POST", "/market"): self.set_market,
            ("POST", "/fill"): self.fill,
            ("POST", "/cancel"): self.cancel,
            ("POST", "/tick"): self.tick,
            ("POST", "/streams/cut"): self.cut_streams,
            ("POST", "/streams/send"): self.send_on_streams,
            ("POST", "/listen-keys/expire"): self.expire_listen_keys,
            ("POST", "/clock"): self.set_clock,
            ("POST", "/latency"): self.set_latency,
            ("POST", "/limits"): self.set_limits,
            ("POST", "/accounts"): self.set_account,
            ("POST", "/reset"): self.reset,
        }

    def answer(self, call: Call) -> Answer:
        handler = self._routes.get((call.method, call.path))
        if handler is None:
            return Answer(404, encode({"error": f"no {call.method} {call.path} here"}))
        try:
            body = json.loads(call.body) if call.body else {}
            return Answer(200, encode(handler(call.params, body)))
        except (ValueError, KeyError, TypeError, InvalidOperation) as error:
            return Answer(400, encode({"error": f"{type(error).__name__}: {error}"}))
        except Refusal as refusal:
            return Answer(409, encode({"error": refusal.reason.value}))

    def state(self, params: Params, body: Body) -> Body:
        simulator = self._simulator
        return {
            "prices": {name: str(price) for name, price in simulator.prices.items()},
            "walks": simulator.options.walks,
            "tick_ms": simulator.options.tick_ms,
            "latency_ms": simulator.latency_ms,
            "clock_offset_ms": simulator.clock.offset_ms,
            "server_time_ms": simulator.clock.now_ms(),
            "exchanges": list(simulator.venues),
            "api_keys": list(simulator.secrets),
            "streams": [
                {"exchange": listener.exchange, "api_key": listener.api_key}
                for listener in simulator.hub.listeners()
            ],
            "faults": [asdict(fault) for fault in simulator.faults.active],
            "open_orders": {
                name: sum(len(account.open) for account in venue.accounts.values())
                for name, venue in simulator.venues.items()
            },
        }

    def ledger(self, params: Params, body: Body) -> Body:
        """Return every order ever accepted; filters: exchange, api_key, symbol, client_order_id_prefix."""
        simulator = self._simulator
        symbol = _symbol(params["symbol"]) if params.get("symbol") else ""
        rows = [
            row
            for name, dialect in simulator.dialects.items()
            if params.get("exchange", name) == name
            for row in order_rows(simulator.venues[name], api_key=params.get("api_key", ""), symbol=symbol)
            + dialect.conditional_rows()
            if params.get("api_key", row["api_key"]) == row["api_key"]
            and symbol in ("", row["symbol"])
            and row["client_order_id"].startswith(params.get("client_order_id_prefix", ""))
        ]
        return {
            "orders": [row for row in rows if not row["is_conditional"]],
            "conditional_orders": [row for row in rows if row["is_conditional"]],
            # A triggered conditional order's child is no second order.
            "accepted": Counter(row["client_order_id"] for row in rows if not row["parent_id"]),
            "accounts": {
                name: account_rows(venue, params.get("api_key", ""))
                for name, venue in simulator.venues.items()
                if params.get("exchange", name) == name
            },
            "requests": dict(simulator.requests),
            "held": simulator.held,
        }

    def list_faults(self, params: Params, body: Body) -> Body:
        return {"faults": [asdict(fault) for fault in self._simulator.faults.active]}

    def add_faults(self, params: Params, body: Body | list[Body]) -> Body:
        items = body if isinstance(body, list) else body.get("faults", [body])
        self._simulator.faults.add([Fault.from_json(item) for item in items])
        return self.list_faults(params, {})

    def clear_faults(self, params: Params, body: Body) -> Body:
        self._simulator.faults.clear()
        return {}

    def set_price(self, params: Params, body: Body) -> Body:
        prices = body.get("prices") or {body["symbol"]: body["price"]}
        for symbol, price in _prices(prices).items():
            self._simulator.set_price(symbol, price)
        return {name: str(price) for name, price in self._simulator.prices.items()}

    def set_market(self, params: Params, body: Body) -> Body:
        """Take the synthetic market of a symbol away (`liquid: false`) or bring it back."""
        name = _symbol(body["symbol"])
        for venue in self._simulator.venues.values():
            if body.get("exchange", venue.name) == venue.name:
                venue.books[venue.instruments[name]].liquid = bool(body["liquid"])
                venue.set_price(name, self._simulator.prices[name])
        return {"symbol": name, "liquid": bool(body["liquid"])}

    def fill(self, params: Params, body: Body) -> Body:
        """Fill a resting order whatever the market price, in part if `quantity` says so."""
        exchange, order = self._open_order(body)
        quantity = Decimal(str(body["quantity"])) if "quantity" in body else None
        price = Decimal(str(body["price"])) if "price" in body else None
        self._simulator.venues[exchange].fill(order, quantity, price)
        return {"exchange": exchange, "order_id": order.order_id, "status": order.status.value}

    def cancel(self, params: Params, body: Body) -> Body:
        """Cancel a resting order, as its owner does by hand on the exchange's own page."""
        exchange, order = self._open_order(body)
        self._simulator.venues[exchange].cancel(order)
        return {"exchange": exchange, "order_id": order.order_id, "status": order.status.value}

    def tick(self, params: Params, body: Body) -> Body:
        for _ in range(int(body.get("n", 1))):
            self._simulator.step()
        return {name: str(price) for name, price in self._simulator.prices.items()}

    def cut_streams(self, params: Params, body: Body) -> Body:
        cut = self._simulator.hub.cut(exchange=body.get("exchange", ""), api_key=body.get("api_key", ""))
        return {"cut": cut}

    def send_on_streams(self, params: Params, body: Body) -> Body:
        """Say anything on matching streams: a `text` frame, a `binary` one, or `bytes` outside any frame.

        The last two in hexadecimal. `times` repeats the content, for frames that are too long.
        """
        (kind,) = {"text", "binary", "bytes"} & set(body)
        content = body[kind] if kind == "text" else bytes.fromhex(body[kind])
        content *= int(body.get("times", 1))
        found = self._simulator.hub.listeners(
            exchange=body.get("exchange", ""), api_key=body.get("api_key", "")
        )
        for subscription in found:
            if kind == "bytes":
                subscription.connection.write(content)
            else:
                subscription.connection.send(content)
        return {"sent": len(found)}

    def expire_listen_keys(self, params: Params, body: Body) -> Body:
        return {"expired": self._simulator.futures.expire_listen_key(body["api_key"])}

    def set_clock(self, params: Params, body: Body) -> Body:
        self._simulator.clock.offset_ms = int(body["offset_ms"])
        return {"server_time_ms": self._simulator.clock.now_ms()}

    def set_latency(self, params: Params, body: Body) -> Body:
        self._simulator.latency_ms = float(body["ms"])
        return {"latency_ms": self._simulator.latency_ms}

    def set_limits(self, params: Params, body: Body) -> Body:
        """Enforce rate limits or not; may also set what an exchange allows."""
        for name, dialect in self._simulator.dialects.items():
            if body.get("exchange", name) == name:
                limits = dialect.limits
                limits.enforce = bool(body.get("enforce", limits.enforce))
                limits.tell = bool(body.get("tell", limits.tell))
                limits.weight_per_minute = int(body.get("weight_per_minute", limits.weight_per_minute))
                limits.orders.update({k: int(v) for k, v in body.get("orders", {}).items()})
        return {name: asdict(dialect.limits) for name, dialect in self._simulator.dialects.items()}

    def set_account(self, params: Params, body: Body) -> Body:
        """Make a key known with its secret, and set balances: `{exchange: {asset: amount}}`."""
        api_key = str(body["api_key"])
        if "secret" in body:
            self._simulator.secrets[api_key] = str(body["secret"])
        for exchange, balances in body.get("balances", {}).items():
            wallet = self._simulator.venues[exchange].account(api_key).wallet
            for asset, amount in balances.items():
                if isinstance(wallet, SpotWallet):
                    wallet.balance(asset).free = Decimal(str(amount))
                elif isinstance(wallet, FuturesWallet) and asset == wallet.asset:
                    wallet.balance = Decimal(str(amount))
                else:
                    raise ValueError(f"{exchange} holds no {asset}")
        return {"api_key": api_key}

    def reset(self, params: Params, body: Body) -> Body:
        seed = int(body["seed"]) if "seed" in body else None
        self._simulator.reset(seed=seed, prices=_prices(body.get("prices", {})))
        return self.state(params, body)

    def _open_order(self, body: Body) -> tuple[str, Order]:
        client_order_id = body.get("client_order_id")
        order_id = body.get("order_id")
        if client_order_id is None and order_id is None:
            raise ValueError("client_order_id or order_id is needed")
        for name, venue in self._simulator.venues.items():
            if body.get("exchange", name) != name:
                continue
            for account in venue.accounts.values():
                if body.get("api_key", account.api_key) != account.api_key:
                    continue
                order = (
                    account.open.get(int(order_id))
                    if order_id is not None
                    else account.open_by_client_id.get(str(client_order_id))
                )
                if order is not None:
                    return name, order
        raise ValueError(f"no open order {client_order_id or order_id}")


def _symbol(text: str) -> str:
    """Return `BASE/QUOTE` from `BTC/USDT`, `BTCUSDT` or `BTC/USDT:USDT`."""
    plain = text.split(":")[0].replace("/", "").upper()
    for name in DEFAULT_PRICES:
        if name.replace("/", "") == plain:
            return name
    raise ValueError(f"unknown symbol {text}")


def _prices(items: dict[str, Any]) -> dict[str, Decimal]:
    prices = {_symbol(symbol): Decimal(str(price)) for symbol, price in items.items()}
    for symbol, price in prices.items():
        if not price.is_finite() or price <= 0:
            raise ValueError(f"{symbol} cannot cost {price}")
    return prices
