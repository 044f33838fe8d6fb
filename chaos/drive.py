"""Carrying a plan out: each action at its time, all of them side by side, none waiting for another."""

from __future__ import annotations

import hmac
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

from chaos.effects import kind_of
from chaos.fleet import Fleet
from chaos.plan import Action, Kind, Plan, api_key, api_secret
from chaos.system import System
from exchanges.simulator.testing import ControlError
from tests.servers import ServerFailed

THREADS = 24
ANSWER_SECONDS = 6.0
PATIENCE = (0.2, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # between tries: together longer than a start
FINISH_SECONDS = 20.0
SIGNALS = {Kind.KILL, Kind.FREEZE, Kind.THAW}


class NothingDone(Exception):
    """An action found nothing to act on, or nobody to answer it; says which."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One try to send a webhook, and what its sender heard."""

    webhook_id: str
    desk: str
    status: int | None  # None: no answer
    body: dict[str, Any]
    payload: dict[str, Any]
    began: float  # monotonic seconds
    ended: float


@dataclass
class Driver:
    """Carries out one plan on one fleet; `sent`, `log` and `took` (effect, by kind) tell what came of it."""

    plan: Plan
    fleet: Fleet
    system: System
    session: str  # of the person who owns the accounts and sits at the page
    sent: list[Sent] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    took: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._keys = {f"key-{name}" for name in self.plan.accounts}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def run(self) -> None:
        """Carry out every action; return when the last webhook was answered or given up."""
        self._began = time.monotonic()
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="chaos")
        waiting: list[Future[None]] = []
        for action in self.plan.actions:
            if (early := action.at - self._elapsed()) > 0:
                time.sleep(early)
            if action.kind in SIGNALS:
                self._carry_out(action)  # here and now: what is frozen must not keep it from being thawed
            else:
                waiting.append(pool.submit(self._carry_out, action))
        wait(waiting, timeout=FINISH_SECONDS)
        pool.shutdown(wait=False, cancel_futures=True)
        self._discount_faults()

    def note(self, text: str) -> None:
        with self._lock:
            self.log.append(f"{self._elapsed():7.3f} {text}")

    def _discount_faults(self) -> None:
        """Take back what was counted for faults that still wait for something to hit."""
        idle = [fault["kind"] for fault in self.fleet.simulator.faults() if not fault["hits"]]
        with self._lock:
            self.took.subtract(idle)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _carry_out(self, action: Action) -> None:
        steps: dict[Kind, Callable[..., str | None]] = {
            Kind.WEBHOOK: self._webhook,
            Kind.RESEND: self._webhook,
            Kind.CANCEL_ONE: self._cancel_one,
            Kind.RETRY: self._retry,
            Kind.PRICE: lambda symbol, price: self._control("/price", symbol=symbol, price=price),
            Kind.TICK: lambda steps: self._control("/tick", n=steps),
            Kind.FILL: self._fill,
            Kind.LIQUID: lambda symbol, liquid: self._control("/market", symbol=symbol, liquid=liquid),
            Kind.HAND_CANCEL: self._hand_cancel,
            Kind.HAND_ORDER: self._hand_order,
            Kind.FAULT: lambda fault: self._control("/faults", **fault),
            Kind.CUT: lambda api_key: _effect(self.fleet.simulator.cut_streams(api_key=api_key)),
            Kind.EXPIRE_KEY: lambda api_key: _effect(self.fleet.simulator.expire_listen_key(api_key)),
            Kind.CLOCK: lambda offset_ms: self._control("/clock", offset_ms=offset_ms),
            Kind.LATENCY: lambda ms: self._control("/latency", ms=ms),
            Kind.KILL: lambda process: _effect(self.fleet.kill(process)),
            Kind.START: lambda process: _effect(self.fleet.start(process)),
            Kind.FREEZE: lambda process: _effect(self.fleet.freeze(process)),
            Kind.THAW: lambda process: _effect(self.fleet.thaw(process)),
            Kind.RESTART: self._restart,
        }
        try:
            told = steps[action.kind](**action.what)
            with self._lock:
                self.took[kind_of(action)] += 1
        except NothingDone as reason:
            told = str(reason)
        except (OSError, ControlError, AssertionError, ServerFailed, ValueError) as fault:
            told = f"did not work: {type(fault).__name__} {str(fault)[:200]}"
        self.note(f"{action}{' -> ' + told if told else ''}")

    # --- the sender -----------------------------------------------------------------------------------

    def _webhook(
        self, payload: dict[str, Any], to: str, desk: str, patient: bool = False, **_: Any
    ) -> str | None:
        status = self.post(payload, to=to, desk=desk)
        told = [str(status)]
        if patient:
            for pause in PATIENCE:
                if status is not None and status not in (408, 409, 503):
                    break
                time.sleep(pause)
                to = self._other_web(to)
                status = self.post(payload, to=to, desk=desk)
                told.append(f"{to} {status}")
        return _answered(status, ", ".join(told))

    def post(self, payload: dict[str, Any], *, to: str, desk: str) -> int | None:
        """Send a webhook once; return the status, or None where nothing came back."""
        request = urllib.request.Request(
            f"{self.fleet.url(to)}/api/webhook", data=json.dumps(payload).encode(), method="POST"
        )
        status: int | None = None
        body: dict[str, Any] = {}
        began = time.monotonic()
        try:
            with self._opener.open(request, timeout=ANSWER_SECONDS) as response:
                status, body = response.status, json.load(response)
        except urllib.error.HTTPError as refused:
            status = refused.code
            try:
                body = json.load(refused)
            except ValueError:
                body = {}
        except (OSError, ValueError):  # refused, reset, timed out, broken off
            pass
        one = Sent(payload.get("webhook_id", ""), desk, status, body, payload, began, time.monotonic())
        with self._lock:
            self.sent.append(one)
        return status

    def _other_web(self, name: str) -> str:
        webs = [each for each in self.fleet.names if each.startswith("web")]
        return webs[(webs.index(name) + 1) % len(webs)]

    def _cancel_one(self, desk: str, token: str, pick: int, to: str) -> str | None:
        alive = self.system_of_thread().alive_intents([desk])
        if not alive:
            raise NothingDone("nothing to cancel")
        client_order_id = alive[pick % len(alive)]
        order = {"order_type": "CANCEL", "order_id": client_order_id}
        payload = {"token": token, "webhook_id": f"{desk}c{pick}-{client_order_id[-10:]}", "orders": [order]}
        status = self.post(payload, to=to, desk=desk)
        return _answered(status, f"{client_order_id} {status}")

    def _retry(self, pick: int, to: list[str]) -> str | None:
        """Press retry on one failed order, or on all of them together; two people at the same instant."""
        failed = self.system_of_thread().failed_orders(self.plan.accounts)
        if not failed:
            raise NothingDone("nothing failed")
        one = failed[pick % len(failed)]
        path, body = f"failed-orders/{one}/retry", {}
        if pick % 3 == 0:
            path, body = "failed-orders/bulk", {"action": "retry", "ids": failed[:100]}
        with ThreadPoolExecutor(len(to)) as people:
            heard = list(people.map(lambda web: self._press(web, path, body), to))
        told = f"{len(failed)} failed; {path} {', '.join(map(str, heard))}"
        return _answered(200 if 200 in heard else None, told)

    def _press(self, web: str, path: str, body: dict[str, Any]) -> int | None:
        token = "c" * 32
        headers = {
            "Content-Type": "application/json",
            "Cookie": f"sessionid={self.session}; csrftoken={token}",
            "X-CSRFToken": token,
        }
        url = f"{self.fleet.url(web)}/api/{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=ANSWER_SECONDS) as response:
                return int(response.status)
        except urllib.error.HTTPError as refused:
            return refused.code
        except OSError:  # refused, reset, timed out, broken off
            return None

    def system_of_thread(self) -> System:
        return System(self.fleet.dsn)

    # --- the exchange ---------------------------------------------------------------------------------

    def _control(self, path: str, **body: Any) -> str | None:
        self.fleet.simulator.call("POST", path, body)
        return None

    def _ours_resting(self) -> list[dict[str, Any]]:
        ledger = self.fleet.simulator.ledger()
        rows = [
            row
            for row in ledger["orders"]
            if row["api_key"] in self._keys
            and row["client_order_id"].startswith("th")
            and row["status"] in ("NEW", "PARTIALLY_FILLED")
        ]
        return sorted(rows, key=lambda row: int(row["order_id"]))

    def _fill(self, pick: int, part: str) -> str | None:
        resting = [row for row in self._ours_resting() if row["price"] is not None]
        if not resting:
            raise NothingDone("nothing rests")
        row = resting[pick % len(resting)]
        left = Decimal(row["quantity"]) - Decimal(row["filled"])
        decimals = len(row["quantity"].partition(".")[2])
        step = Decimal(1).scaleb(-min(decimals, 3))
        quantity = max((left * Decimal(part)) // step * step, step)
        body = {"order_id": row["order_id"], "exchange": row["exchange"], "api_key": row["api_key"]}
        self._control("/fill", **body, quantity=str(min(quantity, left)))
        return f"{row['client_order_id']} {quantity} of {left}"

    def _hand_cancel(self, pick: int) -> str | None:
        resting = self._ours_resting()
        if not resting:
            raise NothingDone("nothing rests")
        row = resting[pick % len(resting)]
        body = {"order_id": row["order_id"], "exchange": row["exchange"], "api_key": row["api_key"]}
        self._control("/cancel", **body)
        return str(row["client_order_id"])

    def _hand_order(
        self,
        account: str,
        market_type: str,
        symbol: str,
        side: str,
        quantity: str,
        price: str,
        client_order_id: str,
    ) -> str | None:
        """Place a LIMIT order past tradehub, as a person does on the exchange's own page."""
        order = {
            "symbol": symbol.replace("/", ""), "side": side.upper(), "type": "LIMIT", "timeInForce": "GTC",
            "quantity": quantity, "price": price, "newClientOrderId": client_order_id,
            "recvWindow": 60_000, "timestamp": int(time.time() * 1000),
        }  # fmt: skip
        query = urlencode(order)
        signature = hmac.new(api_secret(account).encode(), query.encode(), sha256).hexdigest()
        base, path = (
            (self.fleet.simulator.futures_url, "/fapi/v1/order")
            if market_type == "FUTURES"
            else (self.fleet.simulator.spot_url, "/api/v3/order")
        )
        request = urllib.request.Request(f"{base}{path}?{query}&signature={signature}", method="POST")
        request.add_header("X-MBX-APIKEY", api_key(account))
        with self._opener.open(request, timeout=ANSWER_SECONDS) as answer:
            return str(answer.status)

    # --- servers --------------------------------------------------------------------------------------

    def _restart(self, server: str, immediately: bool = True) -> str | None:
        if server == "redis":
            self.fleet.restart_redis()
        else:
            self.fleet.restart_postgres(immediately=immediately)
        return None


def _effect(done: int) -> None:
    if not done:
        raise NothingDone("nothing to do it to")


def _answered(status: int | None, told: str) -> str:
    if status != 200:
        raise NothingDone(told)
    return told
