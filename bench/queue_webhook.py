"""A webhook of 30 orders into full books: how long until it is answered, and what the exchange saw of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.figures import Summary
from bench.latency import WebhookFailed, webhook_request
from bench.scenarios import ACCOUNTS, account_key, single_strategy
from bench.stack import HOST, Site, simulators, web_processes
from bench.wire import Connection
from exchanges.simulator.testing import SimulatorProcess

CAP = 20
ORDERS = 30
BETTER = 10
RESTING, WORSE = 50_000, 30_000  # prices; each round's better ones are above all that were there before
MOST_ROUNDS = 64  # of the weight that the exchange allows in a minute


@dataclass(slots=True)
class Swaps:
    """What was measured at one exchange latency. `canceled`, `submitted`: per webhook, at the exchange."""

    latency_ms: int
    answers: list[float] = field(default_factory=list)
    empty: list[float] = field(default_factory=list)  # into an empty book: as many as the cap rest
    canceled: list[int] = field(default_factory=list)
    submitted: list[int] = field(default_factory=list)

    @property
    def allowed_ms(self) -> float:
        return 2 * self.latency_ms + 50

    def summary(self) -> Summary:
        return Summary.of(self.answers)


async def measure(site: Site, *, latency_ms: int, rounds: int) -> Swaps:
    """Measure on a fresh database, a fresh simulator and a fresh, warm web process."""
    found = Swaps(latency_ms)
    with (
        site.databases.copy() as database_url,
        simulators(site, 1) as (simulator,),
        web_processes(site, simulator, number=1, database_url=database_url) as (web,),
    ):
        async with AsyncExitStack() as stack:
            connection = await Connection.open(HOST, web.port)
            stack.callback(connection.close)
            for number in range(ACCOUNTS):  # the exchange is told the leverage once
                await _send(site, connection, number, [RESTING])
                await _send(site, connection, number, [])
            simulator.set_latency(latency_ms)
            for number in range(ACCOUNTS):
                best = [RESTING + each for each in range(CAP)]
                worse = [WORSE - each for each in range(ORDERS - CAP)]
                found.empty.append(await _send(site, connection, number, best + worse))
                if _seen(simulator, number)["resting"] != CAP:
                    raise WebhookFailed(f"of {ORDERS} orders not {CAP} rest")
            for number in range(ACCOUNTS):  # what a web process does for the first time
                await _send(site, connection, number, _prices(0))
            for number in range(rounds):
                await _round(found, site, connection, simulator, number)
    return found


def _prices(turn: int) -> list[int]:
    """Return the prices of an account's webhook number `turn`: ten better than all before, twenty worse."""
    better = RESTING + CAP + turn * BETTER
    return [better + each for each in range(BETTER)] + [WORSE - each for each in range(ORDERS - BETTER)]


async def _round(
    found: Swaps, site: Site, connection: Connection, simulator: SimulatorProcess, number: int
) -> None:
    before = _seen(simulator, number)
    found.answers.append(await _send(site, connection, number, _prices(1 + number // ACCOUNTS)))
    after = _seen(simulator, number)
    found.canceled.append(after["canceled"] - before["canceled"])
    found.submitted.append(after["submitted"] - before["submitted"])


def _seen(simulator: SimulatorProcess, number: int) -> Counter[str]:
    """Return how many orders of an account the exchange has accepted, has canceled, and has resting."""
    rows = simulator.orders(api_key=account_key(number % ACCOUNTS)[0])
    status = Counter(row["status"] for row in rows)
    return Counter(submitted=len(rows), canceled=status["CANCELED"], resting=status["NEW"])


async def _send(site: Site, connection: Connection, number: int, prices: Sequence[int]) -> float:
    """Send LIMIT orders at these prices and return how long the answer took; without any: cancel all."""
    order = {"symbol": "BTC/USDT", "side": "buy", "order_type": "LIMIT", "quantity": "0.005"}
    orders = [order | {"price": str(price)} for price in prices] or [{"order_type": "CANCEL_ALL_ORDER"}]
    token = site.tokens[single_strategy(number)]
    reply = await connection.send(webhook_request(json.dumps({"token": token, "orders": orders}).encode()))
    answer: dict[str, Any] = json.loads(reply.body)
    if reply.status != 200 or answer["summary"]["failed_orders"]:
        raise WebhookFailed(f"status {reply.status}: {json.dumps(answer)[:1000]}")
    return reply.milliseconds
