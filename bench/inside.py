"""Inside one process: what a webhook asks of the database, and where its time goes.

Run by the benchmark as a process of its own, `python -m bench.inside SCENARIO ROUNDS OUTPUT`, because it
needs Django set up on a database and wraps functions of the application.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import median
from bench.scenarios import SCENARIOS, Scenario

OTHER = "rest: read, authenticate, answer with rows"
# Where a function of the application begins a phase; what it calls itself may begin another.
PHASES: tuple[tuple[str, str], ...] = (
    ("authenticate (first query)", "orders.webhook.authentication:authenticate"),
    ("plan (prices, sizes)", "orders.services.intake:make_plan"),
    ("write and commit", "orders.services.intake:accept"),
    ("mark as started", "orders.services.deliveries:delivery_start"),
    ("sign, send, wait for the exchange", "orders.services.submission:dispatch"),
    ("settle the outcomes", "orders.services.submission:outcomes_apply"),
    ("record the answer", "orders.services.deliveries:delivery_answer"),
)


@dataclass(slots=True)
class Phase:
    """What one webhook spent in one phase, without the phases inside it. Times in milliseconds."""

    total: float = 0.0
    processor: float = 0.0  # of this thread
    database: float = 0.0  # in psycopg, from the statement to its rows
    queries: int = 0  # round trips, without BEGIN and COMMIT
    statements: int = 0
    transactions: int = 0


@dataclass(slots=True)
class Meter:
    """Books time, statements and transactions to the phase that is running."""

    phases: dict[str, Phase] = field(default_factory=lambda: defaultdict(Phase))
    running: list[str] = field(default_factory=lambda: [OTHER])
    since: float = 0.0
    worked_since: float = 0.0

    def begin(self) -> None:
        self.phases.clear()
        self.since, self.worked_since = time.perf_counter(), time.thread_time()

    def switch(self) -> None:
        now, worked = time.perf_counter(), time.thread_time()
        phase = self.phases[self.running[-1]]
        phase.total += (now - self.since) * 1000
        phase.processor += (worked - self.worked_since) * 1000
        self.since, self.worked_since = now, worked

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.switch()
        self.running.append(name)
        try:
            yield
        finally:
            self.switch()
            self.running.pop()

    def statement(self, execute: Callable[..., Any], *arguments: Any) -> Any:
        """Count a statement: a wrapper for `connection.execute_wrapper`."""
        phase = self.phases[self.running[-1]]
        phase.queries += 1
        phase.statements += 1 + str(arguments[0]).count("; ")  # several may travel together
        began = time.perf_counter()
        try:
            return execute(*arguments)
        finally:
            phase.database += (time.perf_counter() - began) * 1000

    def commit(self, function: Callable[[], None]) -> None:
        phase = self.phases[self.running[-1]]
        phase.transactions += 1
        began = time.perf_counter()
        function()
        phase.database += (time.perf_counter() - began) * 1000


def wrap(meter: Meter) -> None:
    """Let the meter hear when a phase begins and ends, and when a transaction is committed."""
    from django.db.backends.base.base import BaseDatabaseWrapper

    for name, place in PHASES:
        module_name, _, attribute = place.partition(":")
        module = importlib.import_module(module_name)
        setattr(module, attribute, _in_phase(meter, name, getattr(module, attribute)))
    commit = BaseDatabaseWrapper._commit  # type: ignore[attr-defined]  # all that sends COMMIT, and not public

    def counted(self: Any) -> None:
        meter.commit(lambda: commit(self))

    BaseDatabaseWrapper._commit = counted  # type: ignore[attr-defined]


def _in_phase(meter: Meter, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    main = threading.get_ident()

    def timed(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != main:
            return function(*args, **kwargs)
        with meter.phase(name):
            return function(*args, **kwargs)

    return timed


def observe(scenario: Scenario, *, rounds: int, tokens: dict[str, str], meter: Meter) -> dict[str, Any]:
    """Return queries per webhook and, per phase, medians over the rounds."""
    from django.db import close_old_connections, connection

    from orders.services.intake import Incoming, webhook_receive

    seen: list[dict[str, Phase]] = []
    io_clock, io_ms = _io_clock(), []
    for number in range(scenario.turns + rounds):
        body = scenario.webhook(number, token=tokens[scenario.strategy(number)])
        io_before = time.clock_gettime(io_clock)
        with connection.execute_wrapper(meter.statement):
            meter.begin()
            answer = webhook_receive(Incoming(body, "127.0.0.1"))
            meter.switch()
        io_ms.append((time.clock_gettime(io_clock) - io_before) * 1000)
        if answer.status != 200:
            raise SystemExit(f"{scenario.key}: {answer.status} {str(answer.body)[:500]}")
        close_old_connections()  # as after every webhook
        seen.append(dict(meter.phases))
    measured = seen[scenario.turns :]
    return {
        "orders": scenario.total,
        "books": scenario.books,
        "queries": sum(phase.queries for phase in measured[-1].values()),
        "statements": sum(phase.statements for phase in measured[-1].values()),
        "transactions": sum(phase.transactions for phase in measured[-1].values()),
        "phases": {
            name: _medians([one.get(name, Phase()) for one in measured])
            for name in (*(name for name, _ in PHASES), OTHER)
        },
        "total_ms": median(sum(phase.total for phase in one.values()) for one in measured),
        "io_processor_ms": median(io_ms[scenario.turns :]),
    }


def _medians(phases: Sequence[Phase]) -> dict[str, float]:
    return {
        "ms": median(phase.total for phase in phases),
        "fastest_ms": min(phase.total for phase in phases),
        "processor_ms": median(phase.processor for phase in phases),
        "database_ms": median(phase.database for phase in phases),
        "queries": phases[-1].queries,
        "statements": phases[-1].statements,
        "transactions": phases[-1].transactions,
    }


def _io_clock() -> int:
    """Return the clock that counts the processor time of the exchanges' I/O thread."""
    from exchanges import runtime

    async def ident() -> int:
        return threading.get_ident()

    return time.pthread_getcpuclockid(runtime.run(ident()))


def main(scenario: Scenario, rounds: int, output: Path) -> None:
    import django

    django.setup()
    from orders.services.warmup import warm_up

    tokens = json.loads(os.environ["BENCH_TOKENS"])
    warm_up()
    meter = Meter()
    wrap(meter)
    output.write_text(json.dumps(observe(scenario, rounds=rounds, tokens=tokens, meter=meter)))


if __name__ == "__main__":
    (wanted,) = (scenario for scenario in SCENARIOS if scenario.key == sys.argv[1])
    main(wanted, int(sys.argv[2]), Path(sys.argv[3]))
