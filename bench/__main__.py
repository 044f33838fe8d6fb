"""`python -m bench`: run it all, print the tables, keep the figures in artifacts/bench.json."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from bench import latency, report, throughput
from bench.results import Results
from bench.scenarios import LIMIT_60, SCENARIOS, Scenario
from bench.stack import ROOT, NotReady, Site, ending_in_good_order, look_inside, running_site

PARTS = ("latency", "throughput", "inside")
LATENCIES = (0, 20, 50)
ROUNDS = 40
QUICK_ROUNDS = 10
# The exchange's request weight of one minute, which the web process respects, is enough for these.
MOST_ROUNDS = 40
MOST_ROUNDS_OF_60 = 24
ROOM = 1000  # slots per book: nothing of what is compared with other clients has to wait
PAGE = ROOT / "docs" / "benchmarks.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure the way from webhook to exchange.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no 20 ms latency")
    parser.add_argument("--rounds", type=int, help=f"webhooks per figure, at most {MOST_ROUNDS}")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {PARTS}"
    )
    keys = [scenario.key for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=keys, help="only this one (repeatable)")
    parser.add_argument(
        "--latency", action="append", type=int, metavar="MS", help="only this one (repeatable)"
    )
    parser.add_argument("--first-port", type=int, default=0, help="take ports from here on; 0: any free ones")
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "bench.json")
    parser.add_argument("--write-docs", action="store_true", help=f"put the tables into {PAGE.name}")
    found = parser.parse_args()
    found.rounds = min(found.rounds or (QUICK_ROUNDS if found.quick else ROUNDS), MOST_ROUNDS)
    found.latency = found.latency or ([0, 50] if found.quick else list(LATENCIES))
    found.scenario = [one for one in SCENARIOS if one.key in (found.scenario or keys)]
    return found


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def run(site: Site, wanted: argparse.Namespace) -> Results:
    results = Results(wanted.rounds, site.databases.version())
    results.load_average.append(os.getloadavg()[0])
    parts: dict[str, Callable[[Site, argparse.Namespace, Results], None]] = {
        "latency": _latency,
        "throughput": _throughput,
        "inside": _inside,
    }
    for name in PARTS:
        if name in wanted.parts:
            parts[name](site, wanted, results)
    results.load_average.append(os.getloadavg()[0])
    return results


def _rounds(scenario: Scenario, wanted: argparse.Namespace) -> int:
    return min(wanted.rounds, MOST_ROUNDS_OF_60) if scenario is LIMIT_60 else int(wanted.rounds)


def _latency(site: Site, wanted: argparse.Namespace, results: Results) -> None:
    for milliseconds in wanted.latency:
        for scenario in wanted.scenario:
            say(f"{scenario.title}, {milliseconds} ms exchange latency ...")
            rounds = _rounds(scenario, wanted)
            cell = latency.measure(site, scenario, latency_ms=milliseconds, rounds=rounds)
            results.cells.append(asyncio.run(cell))


def _throughput(site: Site, wanted: argparse.Namespace, results: Results) -> None:
    webhooks = throughput.QUICK if wanted.quick else throughput.FULL
    for processes in sorted({1, os.cpu_count() or 1}):
        say(f"throughput of {processes} web process{'es' if processes > 1 else ''} ...")
        results.loads += asyncio.run(throughput.measure(site, processes=processes, webhooks=webhooks))


def _inside(site: Site, wanted: argparse.Namespace, results: Results) -> None:
    for scenario in wanted.scenario:
        say(f"looking inside: {scenario.title} ...")
        results.inside[scenario.key] = look_inside(site, scenario, rounds=_rounds(scenario, wanted))


def main() -> int:
    wanted = arguments()
    database_url = os.environ.get("DATABASE_URL", "")
    if not database_url.startswith(("postgres://", "postgresql://")):
        say("DATABASE_URL must name a PostgreSQL server on which databases may be created.")
        return 2
    try:
        with (
            ending_in_good_order(),
            running_site(database_url, first_port=wanted.first_port, cap=ROOM) as site,
        ):
            results = run(site, wanted)
    except NotReady as error:
        say(f"The benchmark cannot run: {error}")
        return 1
    except KeyboardInterrupt:
        say("Ended; everything that was started is gone.")
        return 130
    text = report.as_markdown(results)
    sys.stdout.write(text)
    wanted.output.parent.mkdir(parents=True, exist_ok=True)
    wanted.output.write_text(json.dumps(results.as_json(), indent=2) + "\n")
    if wanted.write_docs:
        report.write_into(PAGE, text, command="bench")
    return 0


if __name__ == "__main__":
    sys.exit(main())
