"""`python -m bench.queue`: what a rebalance costs beside long queues, printed and kept in artifacts/."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import queue_webhook, report
from bench.__main__ import PAGE, say
from bench.figures import Summary, median
from bench.queue_webhook import BETTER, CAP, MOST_ROUNDS, ORDERS, Swaps
from bench.report import milliseconds, section, table
from bench.results import Target, at_most, machine, summary_json
from bench.stack import ROOT, NotReady, Site, ending_in_good_order, running_site, simulators

ROUNDS, QUICK_ROUNDS = 40, 8
PLANS = 4  # of one book, more in each round: it is over in a moment
SWEEPS_EVERY = 4  # rounds: planning a thousand books takes a while
LATENCIES = (0, 20, 50)
# The promises.
LONGEST_TO_SHORTEST = 1.5
QUERIES = 12
TITLES = {
    "plan": "plan a full book, nothing to do",
    "freed": "a slot is free: claim, send, record",
    "better": "webhook with one better order: cancel one, send one",
    "sweep": "plan all books, nothing to do",
}


@dataclass(frozen=True, slots=True)
class Length:
    """A database with `books` books, each full and with `waiting` orders that wait."""

    waiting: int
    books: int = 1

    @property
    def title(self) -> str:
        return f"{self.waiting:,} waiting" + (f" in each of {self.books:,} books" if self.books > 1 else "")


FULL = (Length(100), Length(10_000), Length(100_000), Length(100, 1000))
QUICK = (Length(100), Length(10_000), Length(100, 100))


@dataclass(slots=True)
class Results:
    """`found`: by length and question, what each round measured. `load_average`: before and after."""

    rounds: int
    postgresql: str
    found: dict[Length, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    swaps: list[Swaps] = field(default_factory=list)
    load_average: list[float] = field(default_factory=list)

    def times(self, length: Length, question: str, what: str = "milliseconds") -> list[float]:
        return [float(one[what]) for one in self.found[length][question]]

    def targets(self) -> list[Target]:
        found = [self._growth("plan"), self._growth("freed"), self._queries()]
        for one in self.swaps:
            what = f"answer to {ORDERS} orders, {BETTER} of them better, at {one.latency_ms} ms latency"
            found.append(at_most(what, one.allowed_ms, one.summary().p50, "ms"))
        return [*found, self._moved()]

    def _growth(self, question: str) -> Target:
        single = sorted((one for one in self.found if one.books == 1), key=lambda one: one.waiting)
        ratio = None
        what = f"{TITLES[question]}: the longest queue beside the shortest"
        if len(single) > 1:
            longest, shortest = (median(self.times(one, question)) for one in (single[-1], single[0]))
            ratio = longest / shortest
            what = f"{TITLES[question]}: {single[-1].waiting:,} waiting beside {single[0].waiting:,}"
        return at_most(what, LONGEST_TO_SHORTEST, ratio, "x")

    def _queries(self) -> Target:
        most = [max(self.times(one, "freed", "queries")) for one in self.found]
        return at_most("queries of a rebalance of one book", QUERIES, max(most, default=None), "queries")

    def _moved(self) -> Target:
        seen = sorted({pair for one in self.swaps for pair in zip(one.canceled, one.submitted, strict=True)})
        words = ", ".join(f"{canceled} canceled, {submitted} submitted" for canceled, submitted in seen)
        what = "what the exchange saw of each of these webhooks"
        wanted = f"{BETTER} canceled, {BETTER} submitted"
        return Target(what, wanted, words or None, words == wanted if words else None)

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": machine(),
            "python": platform.python_version(),
            "postgresql": self.postgresql,
            "load_average": self.load_average,
            "rounds": self.rounds,
            "rebalance": [
                {
                    "waiting": length.waiting,
                    "books": length.books,
                    "what": question,
                    "ms": summary_json(Summary.of(self.times(length, question))),
                    "database_ms": summary_json(Summary.of(self.times(length, question, "database"))),
                    "queries": max(one["queries"] for one in measured),
                    "planned_books": max(one["books"] for one in measured),
                }
                for length, asked in self.found.items()
                for question, measured in asked.items()
            ],
            "webhook": [
                {
                    "exchange_latency_ms": one.latency_ms,
                    "allowed_ms": one.allowed_ms,
                    "answer_ms": summary_json(one.summary()),
                    "empty_book_ms": summary_json(Summary.of(one.empty)),
                    "canceled": one.canceled,
                    "submitted": one.submitted,
                }
                for one in self.swaps
            ],
            "targets": [
                {"what": one.what, "wanted": one.wanted, "measured": one.measured, "met": one.met}
                for one in self.targets()
            ],
        }


def as_markdown(results: Results) -> str:
    before, after = results.load_average
    return (
        "\n\n".join(
            [
                f"Machine: {machine()}; Python {platform.python_version()}, PostgreSQL {results.postgresql}. "
                f"Load average {before:.1f} before the run, {after:.1f} after it. {results.rounds} rounds.",
                section("Targets of the queue", report.targets(results.targets())),
                section("One book, by the length of its queue", _rebalances(results)),
                section(
                    f"{ORDERS} orders into a full book of {CAP}, {BETTER} of them better", _swaps(results)
                ),
            ]
        )
        + "\n"
    )


def _rebalances(results: Results) -> str:
    rows = []
    for question in TITLES:
        for length in results.found:
            if not (measured := results.found[length].get(question)):
                continue
            whole = Summary.of(results.times(length, question))
            books = measured[-1]["books"]
            rows.append(
                (
                    TITLES[question],
                    length.title,
                    str(whole.count),
                    milliseconds(whole.minimum),
                    milliseconds(whole.p50),
                    milliseconds(whole.p95),
                    milliseconds(median(results.times(length, question, "database"))),
                    f"{whole.p50 / books:.2f}",
                    str(measured[-1]["queries"]),
                )
            )
    head = ("what", "queue", "n", "min", "p50", "p95", "of it database", "p50 per book", "queries")
    return table(head, rows, words=2)


def _swaps(results: Results) -> str:
    rows = [
        (
            f"{one.latency_ms} ms",
            str(one.summary().count),
            *map(milliseconds, (one.summary().minimum, one.summary().p50, one.summary().p95)),
            milliseconds(one.allowed_ms),
            milliseconds(median(one.empty)),
        )
        for one in results.swaps
    ]
    head = ("exchange latency", "n", "min", "p50", "p95", "2 x latency + 50", "into an empty book, p50")
    return table(head, rows)


# --- measuring ------------------------------------------------------------------------------------------


class Process:
    """A process with a database of its own that measures when it is asked to (bench.queue_process)."""

    def __init__(self, site: Site, length: Length, *, account: int, database_url: str, url: str) -> None:
        self._log = site.folder / f"rounds-{account}.log"
        env = site.environment(database_url, url) | {
            "BENCH_TOKENS": json.dumps(site.tokens),
            "DJANGO_SETTINGS_MODULE": "tradehub.settings",
        }
        numbers = map(str, (account, length.waiting, length.books))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.queue_process", *numbers],
                cwd=ROOT,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            words = self._log.read_text(errors="replace").splitlines()[-30:]
            raise NotReady("a measuring process ended:\n" + "\n".join(words))
        return line

    def ask(self, question: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.hear())
        return answer

    def stop(self) -> None:
        """End the process: its input ends."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


@contextmanager
def processes(site: Site, lengths: Sequence[Length]) -> Iterator[dict[Length, Process]]:
    """One process per length, filled and warm. They are filled one after the other."""
    with ExitStack() as stack:
        (simulator,) = stack.enter_context(simulators(site, 1))
        found = {}
        for account, length in enumerate(lengths):
            say(f"filling a database: {length.title} ...")
            database_url = stack.enter_context(site.databases.copy())
            process = Process(site, length, account=account, database_url=database_url, url=simulator.url)
            stack.callback(process.stop)
            process.hear()
            found[length] = process
        yield found


def measure(site: Site, results: Results, lengths: Sequence[Length]) -> None:
    """Let all lengths take turns, round by round: a busy machine slows all of them alike."""
    with processes(site, lengths) as working:
        results.found = {length: {} for length in lengths}
        say("rebalancing ...")
        for number in range(-1, results.rounds):  # the first round only warms up
            for question in (*["plan"] * PLANS, *TITLES):
                for length, process in working.items():
                    if question == "sweep" and (length.books == 1 or number % SWEEPS_EVERY):
                        continue
                    measured = process.ask(question)
                    if number >= 0:
                        results.found[length].setdefault(question, []).append(measured)


def run(site: Site, wanted: argparse.Namespace) -> Results:
    results = Results(wanted.rounds, site.databases.version())
    results.load_average.append(os.getloadavg()[0])
    measure(site, results, QUICK if wanted.quick else FULL)
    for latency_ms in wanted.latency:
        say(f"{ORDERS} orders into full books, {latency_ms} ms exchange latency ...")
        swaps = queue_webhook.measure(site, latency_ms=latency_ms, rounds=min(wanted.rounds, MOST_ROUNDS))
        results.swaps.append(asyncio.run(swaps))
    results.load_average.append(os.getloadavg()[0])
    return results


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.queue", description="Measure the queue's rebalance.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter queues")
    parser.add_argument("--rounds", type=int)
    parser.add_argument(
        "--latency", action="append", type=int, metavar="MS", help="only this one (repeatable)"
    )
    parser.add_argument("--first-port", type=int, default=0, help="take ports from here on; 0: any free ones")
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "bench-queue.json")
    parser.add_argument("--write-docs", action="store_true", help=f"put the tables into {PAGE.name}")
    found = parser.parse_args()
    found.rounds = found.rounds or (QUICK_ROUNDS if found.quick else ROUNDS)
    found.latency = found.latency or ([50] if found.quick else list(LATENCIES))
    return found


def main() -> int:
    wanted = arguments()
    database_url = os.environ.get("DATABASE_URL", "")
    if not database_url.startswith(("postgres://", "postgresql://")):
        say("DATABASE_URL must name a PostgreSQL server on which databases may be created.")
        return 2
    try:
        with (
            ending_in_good_order(),
            running_site(database_url, first_port=wanted.first_port, cap=CAP) as site,
        ):
            results = run(site, wanted)
    except NotReady as error:
        say(f"The benchmark cannot run: {error}")
        return 1
    except KeyboardInterrupt:
        say("Ended; everything that was started is gone.")
        return 130
    text = as_markdown(results)
    sys.stdout.write(text)
    wanted.output.parent.mkdir(parents=True, exist_ok=True)
    wanted.output.write_text(json.dumps(results.as_json(), indent=2) + "\n")
    if wanted.write_docs:
        report.write_into(PAGE, text, command="bench-queue")
    return 0


if __name__ == "__main__":
    sys.exit(main())
