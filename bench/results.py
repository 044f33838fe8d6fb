"""Everything that one run measured, and how it compares with what was promised."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.figures import Summary
from bench.latency import OURS, Cell
from bench.scenarios import LIMIT, LIMIT_30, LIMIT_60
from bench.throughput import Load

MOST_SENDERS = 32
# The first targets; medians, in milliseconds where nothing else is said.
FIRST_ORDER_MS = 10.0
LAST_OF_30_MS = 20.0
LIMIT_MS = 18.0
LIMIT_30_MS = 40.0
LIMIT_RATIO = 1.3
LIMIT_30_RATIO = 1.5
QUERIES_ONE_BOOK = 14
QUERIES_PER_FURTHER_BOOK = 4
WEBHOOKS_PER_SECOND = 90.0


@dataclass(frozen=True, slots=True)
class Target:
    """One promise. `measured` is None where this run did not look."""

    what: str
    wanted: str
    measured: str | None
    met: bool | None


@dataclass(slots=True)
class Results:
    """`inside`: by scenario, what `bench.inside` found. `load_average`: before and after the run."""

    rounds: int
    postgresql: str
    cells: list[Cell] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    inside: dict[str, dict[str, Any]] = field(default_factory=dict)
    load_average: list[float] = field(default_factory=list)

    def cell(self, scenario: str, latency_ms: int) -> Cell | None:
        for cell in self.cells:
            if (cell.scenario.key, cell.latency_ms) == (scenario, latency_ms):
                return cell
        return None

    def targets(self) -> list[Target]:
        """Return every target with what was measured for it."""
        return [
            self._reached(LIMIT.key, "first", FIRST_ORDER_MS, "first order at the exchange, 1 LIMIT"),
            self._reached(LIMIT_30.key, "first", FIRST_ORDER_MS, "first order at the exchange, 30 LIMIT"),
            self._reached(LIMIT_30.key, "last", LAST_OF_30_MS, "last order at the exchange, 30 LIMIT"),
            self._answer(LIMIT.key, LIMIT_MS, "answer to 1 LIMIT, 0 ms latency"),
            self._answer(LIMIT_30.key, LIMIT_30_MS, "answer to 30 LIMIT, 0 ms latency"),
            self._ratio(LIMIT.key, LIMIT_RATIO, "answer to 1 LIMIT, 50 ms latency"),
            self._ratio(LIMIT_30.key, LIMIT_30_RATIO, "answer to 30 LIMIT, 50 ms latency"),
            self._queries(),
            self._further_queries(),
            self._throughput(),
        ]

    def _reached(self, scenario: str, which: str, limit: float, what: str) -> Target:
        found = [cell.summary(OURS, which).p50 for cell in self.cells if cell.scenario.key == scenario]
        return at_most(what, limit, max(found) if found else None, "ms, at the slowest latency")

    def _answer(self, scenario: str, limit: float, what: str) -> Target:
        cell = self.cell(scenario, 0)
        return at_most(what, limit, None if cell is None else cell.summary(OURS, "answer").p50, "ms")

    def _ratio(self, scenario: str, limit: float, what: str) -> Target:
        cell = self.cell(scenario, 50)
        return at_most(what, limit, None if cell is None else cell.ratio(OURS), "x floor")

    def _queries(self) -> Target:
        found = [one["queries"] for one in self.inside.values() if one["books"] == 1]
        return at_most(
            "queries of a webhook that touches one book",
            QUERIES_ONE_BOOK,
            max(found, default=None),
            "queries",
        )

    def _further_queries(self) -> Target:
        one, many = self.inside.get(LIMIT_30.key), self.inside.get(LIMIT_60.key)
        more = None
        if one and many:
            more = (many["queries"] - one["queries"]) / (many["books"] - one["books"])
        return at_most("queries per further book", QUERIES_PER_FURTHER_BOOK, more, "queries")

    def _throughput(self) -> Target:
        cores = os.cpu_count() or 1
        found = [
            load.per_second
            for load in self.loads
            if load.senders == MOST_SENDERS and load.processes == cores and not load.one_book
        ]
        return Target(
            f"{MOST_SENDERS} concurrent senders, a process per core",
            f"at least {WEBHOOKS_PER_SECOND:g} webhooks/s",
            f"{found[0]:.0f} webhooks/s" if found else None,
            found[0] >= WEBHOOKS_PER_SECOND if found else None,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": machine(),
            "python": platform.python_version(),
            "postgresql": self.postgresql,
            "load_average": self.load_average,
            "rounds": self.rounds,
            "latency": [_cell_json(cell) for cell in self.cells],
            "throughput": [
                {
                    "processes": load.processes,
                    "senders": load.senders,
                    "webhooks": load.webhooks,
                    "one_book": load.one_book,
                    "per_second": round(load.per_second, 1),
                    "answer_ms": summary_json(load.answer),
                }
                for load in self.loads
            ],
            "inside": self.inside,
            "targets": [
                {"what": one.what, "wanted": one.wanted, "measured": one.measured, "met": one.met}
                for one in self.targets()
            ],
        }


def machine() -> str:
    """Name the machine by what matters here, and by nothing else."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB memory"


def at_most(what: str, limit: float, measured: float | None, unit: str) -> Target:
    wanted = f"at most {limit:g} {unit.split(',')[0]}"
    if measured is None:
        return Target(what, wanted, None, None)
    return Target(what, wanted, f"{measured:.2f} {unit}", measured <= limit)


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {
        "scenario": cell.scenario.key,
        "exchange_latency_ms": cell.latency_ms,
        "clients": {
            who: {f"{what}_ms": summary_json(cell.summary(who, what)) for what in ("answer", "first", "last")}
            | {"ratio_to_floor": round(cell.ratio(who), 3)}
            for who in cell.samples
        },
        "timing_medians_ms": cell.timing_medians(),
    }


def summary_json(summary: Summary) -> dict[str, float]:
    values: Iterable[tuple[str, float]] = (
        ("count", summary.count),
        ("min", summary.minimum),
        ("p50", summary.p50),
        ("p95", summary.p95),
        ("p99", summary.p99),
    )
    return {name: round(value, 3) for name, value in values}
