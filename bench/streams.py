"""`python -m bench.streams`: what following many accounts costs, printed and kept in artifacts/.

One streams process follows 200 accounts at the simulator; each of them hears of a fill of an order of ours
every second. It is measured what the process uses, and how long it takes from the exchange's report to the
frame that tells of it on a live page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench import report
from bench.__main__ import PAGE, say
from bench.figures import Summary
from bench.latency import WebhookFailed
from bench.report import milliseconds, section, table
from bench.results import Target, at_most, machine, summary_json
from bench.stack import HOST, ROOT, NotReady, Site, ending_in_good_order, running_site, web_processes
from bench.streams_load import PART, PARTS, Load, Page, open_page, orders_place
from bench.streams_site import (
    Streams,
    Usage,
    provision_file,
    resident_mib,
    rows,
    simulator,
    strategy_of,
    streams_process,
    usage,
    user_of,
    users,
    wait_until_connected,
)
from bench.wire import Connection

ACCOUNTS = 200
PAGES = 4
SECONDS, QUICK_SECONDS = 60, 15
WARM_UP_SECONDS = 5
SETTLE_SECONDS = 20
# The promises.
MEMORY_MIB = 300
PROCESSOR_SHARE = 0.5
PAGE_MS = 1000


@dataclass(slots=True)
class Results:
    """Shares are of one core, memory in MiB, delays in milliseconds."""

    postgresql: str
    accounts: int
    seconds: int
    pages: int
    connect_seconds: float = 0.0
    idle_share: float = 0.0
    share: float = 0.0
    web_share: float = 0.0
    memory: float = 0.0
    most_memory: float = 0.0
    reports: int = 0
    told: int = 0  # of the reports that pages had to tell of
    unheard: int = 0  # reports that never became an execution
    reconciled: int = 0  # reports that reconciling was faster with than the stream
    late_ms: float = 0.0
    ledger: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    frames: int = 0
    load_average: list[float] = field(default_factory=list)

    def targets(self) -> list[Target]:
        delays = Summary.of(self.delays)
        return [
            at_most("memory of the streams process at its most", MEMORY_MIB, self.most_memory, "MiB"),
            at_most("its share of one core", PROCESSOR_SHARE, self.share, "cores"),
            at_most(
                "from the exchange's report to the page's frame",
                PAGE_MS,
                delays.p50,
                f"ms, p99 {delays.p99:.2f} ms",
            ),
            Target(
                "reports that became executions, each once",
                f"{self.reports}",
                f"{self.reports - self.unheard}",
                self.unheard == 0,
            ),
            Target(
                "reports on the pages' accounts that a frame told of",
                f"{self.told}",
                f"{len(self.delays)}",
                self.told == len(self.delays),
            ),
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": machine(),
            "python": platform.python_version(),
            "postgresql": self.postgresql,
            "load_average": self.load_average,
            "accounts": self.accounts,
            "seconds": self.seconds,
            "pages": self.pages,
            "reports": self.reports,
            "connect_seconds": round(self.connect_seconds, 1),
            "processor_share_idle": round(self.idle_share, 3),
            "processor_share": round(self.share, 3),
            "web_processor_share": round(self.web_share, 3),
            "memory_mib": round(self.memory, 1),
            "most_memory_mib": round(self.most_memory, 1),
            "report_to_writing_ms": summary_json(Summary.of(self.ledger)),
            "report_to_frame_ms": summary_json(Summary.of(self.delays)),
            "frames": self.frames,
            "load_behind_ms": round(self.late_ms, 1),
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
                f"Load average {before:.1f} before the run, {after:.1f} after it. "
                f"{results.accounts} accounts, {results.reports} reports in {results.seconds} s, "
                f"{results.pages} pages open.",
                section("Targets of the streams", report.targets(results.targets())),
                section("What the processes use", _used(results)),
                section("From the exchange's report on", _delays(results)),
            ]
        )
        + "\n"
    )


def _used(results: Results) -> str:
    rows_of = [
        ("streams, all connected, nothing reported: share of a core", f"{results.idle_share:.2f}"),
        ("streams, a report a second from each account: share of a core", f"{results.share:.2f}"),
        ("streams, processor time per report (ms)", f"{results.share * 1000 / results.accounts:.2f}"),
        ("streams, memory at the end (MiB)", f"{results.memory:.0f}"),
        ("streams, memory at its most (MiB)", f"{results.most_memory:.0f}"),
        ("streams, from its start until all are connected (s)", f"{results.connect_seconds:.1f}"),
        ("web, with the pages open: share of a core", f"{results.web_share:.2f}"),
        ("reports that reconciling found before the stream told of them", f"{results.reconciled}"),
        ("reports that left late, at the worst (ms)", f"{results.late_ms:.0f}"),
    ]
    return table(("what", "measured"), rows_of)


def _delays(results: Results) -> str:
    head = ("until", "n", "min", "p50", "p95", "p99")
    found = [
        ("we begin to write it down", Summary.of(results.ledger)),
        ("the page has the frame", Summary.of(results.delays)),
    ]
    figures = (
        (what, str(one.count), *map(milliseconds, (one.minimum, one.p50, one.p95, one.p99)))
        for what, one in found
    )
    return table(head, figures)


# --- measuring ------------------------------------------------------------------------------------------


async def measure(site: Site, results: Results) -> None:
    accounts = results.accounts
    orders = (WARM_UP_SECONDS + results.seconds) // PARTS + 1
    with (
        site.databases.copy() as database_url,
        simulator(site, accounts) as exchange,
        web_processes(site, exchange, number=1, database_url=database_url) as (web,),
    ):
        say(f"placing {orders} orders on each of {accounts} accounts ...")
        await _place(site, accounts, orders, web.port)
        load = Load(exchange, accounts)
        load.find_orders()
        with streams_process(site, database_url=database_url, url=exchange.url) as streams:
            say("connecting ...")
            results.connect_seconds = wait_until_connected(streams, exchange, accounts)
            async with AsyncExitStack() as stack:
                pages = [
                    await stack.enter_async_context(open_page(f"http://{HOST}:{web.port}", user))
                    for user in range(results.pages)
                ]
                await _rounds(results, load, streams, web.process.pid)
                await _settled(database_url, load, pages)
                results.memory, results.most_memory = resident_mib(streams.process.pid)
            _evaluate(results, database_url, load, pages)


async def _place(site: Site, accounts: int, orders: int, port: int) -> None:
    connection = await Connection.open(HOST, port)
    try:
        for user in range(users(accounts)):
            mine = sum(user_of(number) == user for number in range(accounts))
            token = site.tokens[strategy_of(user)]
            await orders_place(connection, token=token, count=orders, accounts=mine)
    finally:
        connection.close()


async def _rounds(results: Results, load: Load, streams: Streams, web_pid: int) -> None:
    pid = streams.process.pid
    say("waiting until it is quiet, then measuring without reports ...")
    await _quiet(pid)
    before = usage(pid)
    await asyncio.sleep(WARM_UP_SECONDS)
    results.idle_share = before.share_until(usage(pid))
    say(f"a report a second from each account, {results.seconds} s ...")
    await load.run(WARM_UP_SECONDS)
    load.late = 0.0
    begin, web_begin = usage(pid), usage(web_pid)
    await load.run(results.seconds)
    results.share = begin.share_until(usage(pid))
    results.web_share = web_begin.share_until(usage(web_pid))
    results.late_ms = load.late * 1000


async def _quiet(pid: int) -> None:
    """Wait until the process has done what it does at its start."""
    deadline = time.monotonic() + SETTLE_SECONDS
    last: Usage = usage(pid)
    while time.monotonic() < deadline:
        await asyncio.sleep(2)
        now = usage(pid)
        if last.share_until(now) < PROCESSOR_SHARE / 2:
            return
        last = now


async def _settled(database_url: str, load: Load, pages: list[Page]) -> None:
    """Wait until every report is an execution, and the pages had the time to be told."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        ((count,),) = rows(database_url, "SELECT count(*) FROM orders_tradeexecution")
        if count >= load.fills:
            break
        await asyncio.sleep(0.2)
    for _ in range(SETTLE_SECONDS):
        seen = sum(len(page.arrived) for page in pages)
        await asyncio.sleep(1)
        if seen == sum(len(page.arrived) for page in pages):
            return


def _evaluate(results: Results, database_url: str, load: Load, pages: list[Page]) -> None:
    results.reports = load.fills
    ((count, quantity),) = rows(
        database_url, "SELECT count(*), coalesce(sum(quantity), 0) FROM orders_tradeexecution"
    )
    ((held,),) = rows(database_url, "SELECT coalesce(sum(quantity), 0) FROM orders_strategyposition")
    if held != quantity or abs(quantity - load.fills * type(quantity)(PART)) != 0:
        raise WebhookFailed(f"{load.fills} fills of {PART}: executions {quantity}, positions {held}")
    results.unheard = load.fills - count
    told = rows(
        database_url,
        "SELECT e.id, e.user_id, e.occurred_at, e.created_at, e.source, u.username FROM orders_orderevent e"
        " JOIN auth_user u ON u.id = e.user_id"
        " WHERE e.type IN ('PARTIALLY_FILLED', 'FILLED') ORDER BY e.id",
    )
    told = told[load.accounts * WARM_UP_SECONDS :]
    by_user = {f"user-{page.user}": page for page in pages}
    results.reconciled = sum(row[4] != "STREAM" for row in told)
    results.ledger = [(row[3] - row[2]).total_seconds() * 1000 for row in told]
    of_pages = [row for row in told if row[5] in by_user]
    results.told = len(of_pages)
    results.delays = [
        (by_user[row[5]].arrived[row[0]] - row[2].timestamp()) * 1000
        for row in of_pages
        if row[0] in by_user[row[5]].arrived
    ]
    results.frames = sum(page.frames for page in pages)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.streams", description="Measure the streams process.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS} s only")
    parser.add_argument("--accounts", type=int, default=ACCOUNTS)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--pages", type=int, default=PAGES, help="live pages that are open, of one user each")
    parser.add_argument("--first-port", type=int, default=0, help="take ports from here on; 0: any free ones")
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "bench-streams.json")
    parser.add_argument("--write-docs", action="store_true", help=f"put the tables into {PAGE.name}")
    found = parser.parse_args()
    found.seconds = found.seconds or (QUICK_SECONDS if found.quick else SECONDS)
    found.pages = min(found.pages, users(found.accounts))
    return found


def main() -> int:
    wanted = arguments()
    database_url = os.environ.get("DATABASE_URL", "")
    if not database_url.startswith(("postgres://", "postgresql://")) or not os.environ.get("REDIS_URL"):
        say(
            "DATABASE_URL must name a PostgreSQL server on which databases may be created, REDIS_URL a Redis."
        )
        return 2
    try:
        with (
            ending_in_good_order(),
            running_site(
                database_url,
                first_port=wanted.first_port,
                cap=100,
                strategies=[strategy_of(user) for user in range(users(wanted.accounts))],
                provision=partial(provision_file, accounts=wanted.accounts),
            ) as site,
        ):
            results = Results(site.databases.version(), wanted.accounts, wanted.seconds, wanted.pages)
            results.load_average.append(os.getloadavg()[0])
            asyncio.run(measure(site, results))
            results.load_average.append(os.getloadavg()[0])
    except (NotReady, WebhookFailed) as error:
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
        report.write_into(PAGE, text, command="bench-streams")
    if missed := [one.what for one in results.targets() if one.met is False]:
        say(f"Not met: {'; '.join(missed)}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
