"""How many webhooks a second are answered when many send at once."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.figures import Summary
from bench.latency import checked, webhook_request
from bench.scenarios import ACCOUNTS, LIMIT, LONE_STRATEGY, single_strategy
from bench.stack import HOST, Site, simulators, web_processes
from bench.wire import Connection

# Senders -> webhooks in all.
FULL = {1: 100, 8: 300, 32: 400}
QUICK = {1: 20, 8: 60, 32: 96}


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement. `one_book`: all senders trade the same symbol in the same account."""

    processes: int
    senders: int
    webhooks: int
    one_book: bool
    per_second: float
    answer: Summary  # milliseconds


async def measure(site: Site, *, processes: int, webhooks: dict[int, int]) -> list[Load]:
    """Measure every number of senders against so many web processes, at no exchange latency."""
    found = []
    with (
        site.databases.copy() as database_url,
        simulators(site, 1) as (simulator,),
        web_processes(site, simulator, number=processes, database_url=database_url) as webs,
    ):
        async with AsyncExitStack() as stack:
            connections = []
            for number in range(max(webhooks)):
                connection = await Connection.open(HOST, webs[number % processes].port)
                stack.callback(connection.close)
                connections.append(connection)
            await _send(site, connections, total=4 * len(connections), strategy=single_strategy)
            for senders, total in webhooks.items():
                seconds, times = await _send(
                    site, connections[:senders], total=total, strategy=single_strategy
                )
                found.append(Load(processes, senders, total, False, total / seconds, Summary.of(times)))
            most = max(webhooks)
            total = min(webhooks[most], 160)  # the exchange takes 200 open orders per symbol
            seconds, times = await _send(site, connections, total=total, strategy=lambda _: LONE_STRATEGY)
            found.append(Load(processes, most, total, True, total / seconds, Summary.of(times)))
    return found


async def _send(
    site: Site, connections: list[Connection], *, total: int, strategy: Callable[[int], str]
) -> tuple[float, list[float]]:
    """Send `total` webhooks over these connections side by side; return seconds and answer times."""
    numbers = itertools.count()
    times: list[float] = []

    async def sender(connection: Connection) -> None:
        while (number := next(numbers)) < total:
            body = LIMIT.webhook(number, token=site.tokens[strategy(number % ACCOUNTS)])
            reply = await connection.send(webhook_request(body))
            checked(reply.status, reply.body, orders=1)
            times.append(reply.milliseconds)

    began = time.perf_counter()
    await asyncio.gather(*(sender(connection) for connection in connections))
    return time.perf_counter() - began, times
