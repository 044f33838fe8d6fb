"""For tests and benchmarks: a simulator in its own process, and a client for its control API.

    with running_simulator("--fixed") as simulator:
        simulator.url                        # http://127.0.0.1:PORT
        simulator.set_price("BTC/USDT", 94000)

Blocking on purpose: it works in plain, asyncio and Django tests alike. In pytest, a conftest
imports the fixtures: `from exchanges.simulator.testing import simulator, simulator_process`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 5

Row = dict[str, Any]
Number = Decimal | int | str


class ControlError(Exception):
    """The control API refused; the text says why."""


class SimulatorProcess:
    """A running simulator. `url` is where it listens; dialects stand under their names."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        # No proxy of the environment may stand between a test and its loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ws_url(self) -> str:
        return self.url.replace("http://", "ws://", 1)

    @property
    def futures_url(self) -> str:
        return f"{self.url}/binance-futures"

    @property
    def futures_ws_url(self) -> str:
        return f"{self.ws_url}/binance-futures"

    @property
    def spot_url(self) -> str:
        return f"{self.url}/binance-spot"

    @property
    def spot_ws_url(self) -> str:
        """The address of the spot WebSocket API."""
        return f"{self.ws_url}/binance-spot/ws-api/v3"

    # -- control ---------------------------------------------------------------------------

    def state(self) -> Row:
        return self.call("GET", "/state")

    def ledger(self, **filters: str) -> Row:
        """Return the ledger; filters: exchange, api_key, symbol, client_order_id_prefix."""
        return self.call("GET", f"/ledger?{urlencode(filters)}")

    def orders(self, **filters: str) -> list[Row]:
        rows: list[Row] = self.ledger(**filters)["orders"]
        return rows

    def order(self, client_order_id: str) -> Row:
        """Return the one order that was accepted under this client id; fails if not exactly one."""
        found = [row for row in self.orders() if row["client_order_id"] == client_order_id]
        assert len(found) == 1, f"{len(found)} orders were accepted as {client_order_id}"
        return found[0]

    def set_price(self, symbol: str, price: Number) -> None:
        self.call("POST", "/price", {"symbol": symbol, "price": str(price)})

    def set_market(self, symbol: str, *, liquid: bool) -> None:
        self.call("POST", "/market", {"symbol": symbol, "liquid": liquid})

    def fill(
        self,
        client_order_id: str,
        *,
        quantity: Number | None = None,
        price: Number | None = None,
        exchange: str | None = None,
    ) -> Row:
        body = {"client_order_id": client_order_id}
        if quantity is not None:
            body["quantity"] = str(quantity)
        if price is not None:
            body["price"] = str(price)
        if exchange is not None:
            body["exchange"] = exchange
        return self.call("POST", "/fill", body)

    def cancel(self, client_order_id: str) -> Row:
        """Cancel a resting order by hand; its children and stops of the algo API are not found here."""
        return self.call("POST", "/cancel", {"client_order_id": client_order_id})

    def add_fault(self, kind: str, *, match: Row | None = None, **settings: Any) -> None:
        self.call("POST", "/faults", {"kind": kind, "match": match or {}} | settings)

    def faults(self) -> list[Row]:
        found: list[Row] = self.call("GET", "/faults")["faults"]
        return found

    def clear_faults(self) -> None:
        self.call("DELETE", "/faults")

    def cut_streams(self, *, api_key: str = "", exchange: str = "") -> int:
        return int(self.call("POST", "/streams/cut", {"api_key": api_key, "exchange": exchange})["cut"])

    def say(
        self,
        content: str | bytes,
        *,
        api_key: str = "",
        exchange: str = "",
        times: int = 1,
        framed: bool = True,
    ) -> int:
        """Send anything on matching streams, `times` over in one frame; return how many streams heard it.

        A str is a text frame, bytes a binary one, or no frame at all if not `framed`.
        """
        body: Row = {"api_key": api_key, "exchange": exchange, "times": times}
        if isinstance(content, str):
            body["text"] = content
        else:
            body["binary" if framed else "bytes"] = content.hex()
        return int(self.call("POST", "/streams/send", body)["sent"])

    def expire_listen_key(self, api_key: str) -> bool:
        return bool(self.call("POST", "/listen-keys/expire", {"api_key": api_key})["expired"])

    def set_clock_offset(self, milliseconds: int) -> None:
        self.call("POST", "/clock", {"offset_ms": milliseconds})

    def set_latency(self, milliseconds: float) -> None:
        self.call("POST", "/latency", {"ms": milliseconds})

    def set_limits(self, **limits: Any) -> Row:
        return self.call("POST", "/limits", limits)

    def add_account(self, api_key: str, secret: str, balances: Row | None = None) -> None:
        self.call("POST", "/accounts", {"api_key": api_key, "secret": secret, "balances": balances or {}})

    def set_balances(self, api_key: str, balances: dict[str, dict[str, str]]) -> None:
        """Set free balances, as `{"binance-spot": {"USDT": "100"}}`."""
        self.call("POST", "/accounts", {"api_key": api_key, "balances": balances})

    def tick(self, steps: int = 1) -> None:
        self.call("POST", "/tick", {"n": steps})

    def reset(self, *, seed: int | None = None, prices: Row | None = None) -> None:
        body: Row = {"prices": prices or {}}
        if seed is not None:
            body["seed"] = seed
        self.call("POST", "/reset", body)

    def call(self, method: str, path: str, body: Any = None) -> Row:
        """Call the control API; raises ControlError with its words."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_sim{path}", data=data, method=method)
        try:
            with self._opener.open(request, timeout=10) as response:
                answer: Row = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            raise ControlError(error.read().decode()) from error

    def wait_for(self, condition: Callable[[Row], bool], *, seconds: float = 10) -> Row:
        """Return the ledger as soon as `condition(ledger)` holds; fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            ledger = self.ledger()
            if condition(ledger):
                return ledger
            assert time.monotonic() < deadline, f"not within {seconds} s: {ledger}"
            time.sleep(0.02)

    def stop(self) -> None:
        """End the process, by its own id, and wait until it is gone."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()


def start_simulator(*arguments: str, port: int = 0) -> SimulatorProcess:
    """Start `python -m exchanges.simulator` and return when it listens.

    Raises RuntimeError with its output if it ends instead.
    """
    command = [sys.executable, "-m", "exchanges.simulator", "--port", str(port), *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if " listening on " not in line:
        process.kill()
        process.wait(STOP_SECONDS)
        raise RuntimeError(f"the simulator did not start: {line!r}")
    return SimulatorProcess(process, line.split(" listening on ")[1].strip())


@contextmanager
def running_simulator(*arguments: str, port: int = 0) -> Iterator[SimulatorProcess]:
    """Run a simulator for the length of a `with` block."""
    process = start_simulator(*arguments, port=port)
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="session")
def simulator_process() -> Iterator[SimulatorProcess]:
    """One simulator with fixed prices for all tests of a run."""
    with running_simulator("--fixed") as process:
        yield process


@pytest.fixture
def simulator(simulator_process: SimulatorProcess) -> SimulatorProcess:
    """The run's simulator, as good as new."""
    simulator_process.reset()
    return simulator_process
