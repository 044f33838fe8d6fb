"""`make chaos RUNS=25 SEED=1`: so many runs, each from its own seed, one after the other on one fleet."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from bench.stack import ending_in_good_order
from chaos.drive import Driver
from chaos.effects import Effects
from chaos.fleet import Fleet, Servers, Size, running_fleet, running_servers
from chaos.plan import Plan, api_key, api_secret, make_plan
from chaos.report import failure_lines, log_marks, loud_lines, write_report
from chaos.settle import SETTLE_SECONDS, Settled, calm_market, hand_orders_end, make_whole, settle
from chaos.system import System, django_on, session_of_trader, set_up
from chaos.ticking import FastClock
from exchanges.simulator.testing import ControlError
from tests.processes import ROOT, wait_until
from tests.servers import ServerFailed

ARTIFACTS = ROOT / "artifacts" / "chaos"
CONNECTED_SECONDS = 30.0
SLOW_SECONDS = 10.0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass
class Campaign:
    """The runs of one call: a fleet that is kept while all goes well, and made anew after a failure."""

    servers: Servers
    folder: Path
    size: Size
    patience: float = SETTLE_SECONDS
    failed: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    sums: Counter[str] = field(default_factory=Counter)
    effects: Effects = field(default_factory=Effects)
    fleets: int = 0

    def run(self, seeds: range) -> None:
        ahead = list(seeds)
        while ahead:
            self.fleets += 1
            with running_fleet(self.servers, self.folder / f"fleet-{self.fleets}", size=self.size) as fleet:
                _turn_django(fleet)
                clock = FastClock()
                clock.start()
                try:
                    fleet.wait_ready()
                    while ahead:
                        if not self._try(ahead.pop(0), next(iter(ahead), None), fleet):
                            break  # what went wrong may still be there: start from nothing
                finally:
                    clock.stop()

    def _try(self, seed: int, following: int | None, fleet: Fleet) -> bool:
        """Make one run; one that cannot even begin, or be looked at, has failed as well."""
        try:
            return self._one(seed, following, fleet)
        except (AssertionError, OSError, ControlError, ServerFailed, psycopg.Error) as fault:
            self.failed.append(seed)
            self.seconds.append(0.0)
            say(f"seed {seed} FAILED:\n    broke off: {type(fault).__name__} {str(fault)[:1500]}")
            return False

    def _one(self, seed: int, following: int | None, fleet: Fleet) -> bool:
        began = time.monotonic()
        plan = self._plan(seed)
        system = System(fleet.dsn)
        calm_market(fleet)
        _open(plan, fleet)
        if following is not None:
            _open(self._plan(following), fleet)  # its streams connect while this one runs
        fleet.wait_ready()
        wait_until(
            lambda: system.connected(plan.accounts), seconds=CONNECTED_SECONDS,
            what=lambda: "the streams to connect\n" + fleet.tail("streams-1") + fleet.tail("streams-2"),
        )  # fmt: skip
        marks = log_marks(fleet)
        driver = Driver(plan, fleet, system, session_of_trader())
        ready = time.monotonic()
        driver.run()
        drove = time.monotonic()
        self.effects.add(plan.actions, driver.took)
        make_whole(fleet)
        settled = settle(plan, fleet, system, driver, patience=self.patience)
        ok = self._tell(plan, fleet, driver, settled, marks, f"{ready - began:.1f}+{drove - ready:.1f}")
        if ok:
            hand_orders_end(fleet, plan)
            set_up(plan, dsn=fleet.dsn, is_active=False)
        system.close()
        self.seconds.append(time.monotonic() - began)
        return ok

    def _tell(
        self, plan: Plan, fleet: Fleet, driver: Driver, settled: Settled, marks: dict[str, int], spent: str
    ) -> bool:
        if settled.findings:
            self.failed.append(plan.seed)
            where = write_report(ARTIFACTS, plan, fleet, driver, settled, marks)
            say("\n".join(failure_lines(plan, fleet, settled.findings, where)))
            return False
        audit = settled.audit
        assert audit is not None
        loud = loud_lines(fleet, marks)
        with (ARTIFACTS / "loud.txt").open("a") as file:
            file.writelines(f"seed {plan.seed} {line}\n" for line in loud)
        if settled.seconds > SLOW_SECONDS:
            write_report(ARTIFACTS / "slow", plan, fleet, driver, settled, marks)
        counts = {
            "webhooks": len(driver.sent), "intents": len(audit.ours.intents),
            "orders": len(audit.theirs_ours), "fills": len(audit.ours.executions),
        }  # fmt: skip
        self.sums.update(counts)
        self.sums["without an order"] += not audit.theirs_ours
        say(
            f"seed {plan.seed} ok: {_told(counts)};"
            f" {spent}+{settled.seconds:.1f} s{f'; {len(loud)} loud lines' if loud else ''}"
        )
        return True

    def _plan(self, seed: int) -> Plan:
        size = self.size
        return make_plan(seed, webs=size.webs, streams=size.streams, workers=size.workers)


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _open(plan: Plan, fleet: Fleet) -> None:
    for account in plan.accounts:
        fleet.simulator.add_account(api_key(account), api_secret(account))
    set_up(plan, dsn=fleet.dsn)


_is_turned = False


def _turn_django(fleet: Fleet) -> None:
    """Give this process the fleet's settings; the keys are the same for every fleet of a call."""
    global _is_turned  # noqa: PLW0603  Django is set up once
    if not _is_turned:
        django_on(fleet.site.environment)
        _is_turned = True


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next ones count on")
    parser.add_argument("--workers", type=int, default=1, help="worker processes beside 2 web and 2 streams")
    parser.add_argument(
        "--patience", type=float, default=SETTLE_SECONDS, help="seconds that both sides have to agree"
    )
    parser.add_argument("--plan", action="store_true", help="print the plans and do nothing")
    options = parser.parse_args(argv)
    seeds = range(options.seed, options.seed + options.runs)
    size = Size(workers=options.workers)
    if options.plan:
        for seed in seeds:
            say("\n".join(make_plan(seed, workers=size.workers).lines()))
        return 0
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    with ending_in_good_order(), ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tradehub-chaos-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        began = time.monotonic()
        campaign = Campaign(stack.enter_context(running_servers(folder)), folder, size, options.patience)
        try:
            campaign.run(seeds)
        except KeyboardInterrupt:
            say("Stopped.")
        took = time.monotonic() - began
        done = len(campaign.seconds)
        say(f"{done} runs in {took:.0f} s, {len(campaign.failed)} failed{': ' if campaign.failed else ''}"
            + ", ".join(map(str, campaign.failed)))  # fmt: skip
        say(f"The others: {_told(campaign.sums)}.")
        say("\n".join(campaign.effects.lines()))
        return 1 if campaign.failed or campaign.effects.idle or done < options.runs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
