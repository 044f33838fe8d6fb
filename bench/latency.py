"""How long a webhook takes at one exchange latency, in turns with the clients beside it."""

from __future__ import annotations

import gc
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.clients import CLIENTS, Client
from bench.figures import Summary, median
from bench.scenarios import Scenario
from bench.stack import HOST, Site, simulators, web_processes
from bench.wire import Connection, post
from exchanges.simulator.testing import SimulatorProcess

OURS = "tradehub"


class WebhookFailed(Exception):
    """A webhook was not answered as it should be: its times would mean nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One round, in milliseconds since it began: the answer, the first and last order at the exchange."""

    answer: float
    first: float
    last: float


@dataclass(slots=True)
class Cell:
    """Everything measured of one scenario at one exchange latency."""

    scenario: Scenario
    latency_ms: int
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    timings: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def summary(self, who: str, what: str) -> Summary:
        """Summarise `what` (answer, first, last) of `who`, in milliseconds."""
        return Summary.of(getattr(sample, what) for sample in self.samples[who])

    def ratio(self, who: str, *, to: str = "floor") -> float:
        """Return the ratio of two medians of the answer time."""
        return self.summary(who, "answer").p50 / self.summary(to, "answer").p50

    def timing_medians(self) -> dict[str, float]:
        """Return the medians of the answer's own `timing` field, in milliseconds."""
        return {name: median(values) for name, values in self.timings.items()}


@dataclass(frozen=True, slots=True)
class _Sent:
    """A webhook whose orders are looked up in the ledger afterwards."""

    sent_ns: int
    answer_ms: float
    client_order_ids: list[str]


async def measure(site: Site, scenario: Scenario, *, latency_ms: int, rounds: int) -> Cell:
    """Measure one cell on a fresh database, fresh simulators and a fresh, warm web process."""
    cell = Cell(scenario, latency_ms)
    with (
        site.databases.copy() as database_url,
        simulators(site, 2) as (theirs, others),
        web_processes(site, theirs, number=1, database_url=database_url) as (web,),
    ):
        async with AsyncExitStack() as stack:
            clients = [client() for client in CLIENTS if client().fits(scenario)]
            for client in clients:
                stack.push_async_callback(client.close)
                await client.open(others)
            connection = await Connection.open(HOST, web.port)
            stack.callback(connection.close)
            sent = await _rounds(cell, site, connection, clients, theirs=theirs, others=others, rounds=rounds)
        _look_up(cell, sent, theirs)
    return cell


async def _rounds(
    cell: Cell,
    site: Site,
    connection: Connection,
    clients: list[Client],
    *,
    theirs: SimulatorProcess,
    others: SimulatorProcess,
    rounds: int,
) -> list[_Sent]:
    for simulator in (theirs, others):
        simulator.set_latency(cell.latency_ms)
    warm_up = cell.scenario.turns  # every account's turn comes once: leverage is set, caches are filled
    for number in range(warm_up):
        await _webhook(cell, site, connection, number)
    cell.timings.clear()
    for client in clients:
        await _client_round(cell, client, 0, others)
    cell.samples.clear()
    gc.collect()
    gc.freeze()  # our own collector stays out of the times
    sent = []
    for number in range(rounds):
        sent.append(await _webhook(cell, site, connection, warm_up + number))
        for client in clients:
            if _takes_part(client.share, number):
                await _client_round(cell, client, number, others)
    gc.unfreeze()
    return sent


def _takes_part(share: float, number: int) -> bool:
    """Spread a client's share evenly over the rounds, the first one always among them."""
    return number == 0 or int(number * share) != int((number - 1) * share)


async def _webhook(cell: Cell, site: Site, connection: Connection, number: int) -> _Sent:
    scenario = cell.scenario
    body = scenario.webhook(number, token=site.tokens[scenario.strategy(number)])
    reply = await connection.send(webhook_request(body))
    answer = checked(reply.status, reply.body, orders=scenario.total)
    for name, value in answer["timing"].items():
        cell.timings[name].append(value)
    ids = [result["result"]["client_order_id"] for result in answer["results"]]
    return _Sent(reply.sent_ns, reply.milliseconds, ids)


async def _client_round(cell: Cell, client: Client, number: int, simulator: SimulatorProcess) -> None:
    orders = cell.scenario.round_orders(number)
    ids = client.ids(len(orders))
    began_ns = time.time_ns()
    await client.place(orders, ids)
    answer_ms = (time.time_ns() - began_ns) / 1e6
    reached = {row["client_order_id"]: row["received_ns"] for row in simulator.orders()}
    cell.samples[client.key].append(_sample(began_ns, answer_ms, ids, reached))
    simulator.reset()  # or its cap of open orders would be measured
    simulator.set_latency(cell.latency_ms)


def _look_up(cell: Cell, sent: list[_Sent], simulator: SimulatorProcess) -> None:
    reached = {row["client_order_id"]: row["received_ns"] for row in simulator.orders()}
    for webhook in sent:
        cell.samples[OURS].append(
            _sample(webhook.sent_ns, webhook.answer_ms, webhook.client_order_ids, reached)
        )


def _sample(began_ns: int, answer_ms: float, ids: list[str], reached: Mapping[str, int]) -> Sample:
    times = [(reached[name] - began_ns) / 1e6 for name in ids]
    return Sample(answer_ms, min(times), max(times))


def webhook_request(body: bytes) -> bytes:
    return post("/api/webhook", body, host="127.0.0.1", headers={"Content-Type": "application/json"})


def checked(status: int, body: bytes, *, orders: int) -> dict[str, Any]:
    """Return the answer if every order reached the exchange. Raises WebhookFailed."""
    answer: dict[str, Any] = json.loads(body)
    if status != 200 or sum(result.get("executed", False) for result in answer["results"]) != orders:
        raise WebhookFailed(f"status {status}: {json.dumps(answer)[:1000]}")
    return answer
