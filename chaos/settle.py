"""After the storm: everything is whole again, and the system has so long to agree with the exchange."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from chaos.drive import Driver
from chaos.fleet import Fleet
from chaos.plan import PRICES, Plan
from chaos.rows import audit_of
from chaos.system import System
from chaos.verify import Audit, Finding
from exchanges.simulator.testing import ControlError

SETTLE_SECONDS = 25.0
CANCEL_SECONDS = 15.0
LOOK_SECONDS = 0.15


@dataclass(slots=True)
class Settled:
    """What was left to find after all was quiet, and how long that took."""

    findings: list[Finding]
    seconds: float
    audit: Audit | None
    waited_for: list[str] = field(default_factory=list)  # what was wrong when, until it was not


def make_whole(fleet: Fleet) -> None:
    """Take every fault away: servers up, processes thawed and running, the exchange as new."""
    fleet.thaw_all()
    fleet.servers_up()
    fleet.start_all()
    simulator = fleet.simulator
    simulator.clear_faults()
    simulator.set_clock_offset(0)
    simulator.set_latency(0)
    for symbol in PRICES:
        simulator.set_market(symbol, liquid=True)


def calm_market(fleet: Fleet) -> None:
    """Prices where each run begins, with nothing in the way."""
    make_whole(fleet)
    for symbol, price in PRICES.items():
        fleet.simulator.set_price(symbol, price)


def settle(
    plan: Plan, fleet: Fleet, system: System, driver: Driver, *, patience: float = SETTLE_SECONDS
) -> Settled:
    """Wait until both sides agree, then cancel everything and wait until nothing lives any more."""
    began = time.monotonic()
    first = _agree(plan, fleet, system, driver, is_over=False, seconds=patience)
    if first.findings:
        return first
    _cancel_everything(plan, fleet, driver)
    last = _agree(plan, fleet, system, driver, is_over=True, seconds=min(CANCEL_SECONDS, patience))
    last.seconds = time.monotonic() - began
    last.waited_for = [*first.waited_for, "all is canceled", *last.waited_for]
    return last


def _agree(
    plan: Plan, fleet: Fleet, system: System, driver: Driver, *, is_over: bool, seconds: float
) -> Settled:
    began = time.monotonic()
    waited_for: list[str] = []
    while True:
        fleet.start_all()  # what was killed last comes back
        audit = audit_of(plan, fleet, system, driver.sent, is_over=is_over)
        findings = audit.findings()
        took = time.monotonic() - began
        if not findings or any(finding.final for finding in findings) or took > seconds:
            return Settled(findings, took, audit, waited_for)
        waited_for += [f"{took:6.2f} {finding}" for finding in findings]
        time.sleep(LOOK_SECONDS)


def _cancel_everything(plan: Plan, fleet: Fleet, driver: Driver) -> None:
    """Send CANCEL_ALL_ORDER for every strategy until each was answered."""
    for number, desk in enumerate(plan.desks):
        order: dict[str, Any] = {"order_type": "CANCEL_ALL_ORDER"}
        payload = {"token": desk.token, "webhook_id": f"r{plan.seed}end{number}", "orders": [order]}
        deadline = time.monotonic() + CANCEL_SECONDS
        webs = [name for name in fleet.names if name.startswith("web")]
        while time.monotonic() < deadline:
            for name in webs:
                if driver.post(payload, to=name, desk=desk.name) == 200:
                    break
            else:
                time.sleep(0.2)
                continue
            break


def hand_orders_end(fleet: Fleet, plan: Plan) -> None:
    """Cancel what the run placed by hand, so that nothing of it is left on the exchange."""
    keys = {f"key-{name}" for name in plan.accounts}
    for row in fleet.simulator.orders():
        if row["api_key"] in keys and row["status"] in ("NEW", "PARTIALLY_FILLED"):
            try:
                fleet.simulator.call(
                    "POST", "/cancel", {"order_id": row["order_id"], "exchange": row["exchange"]}
                )
            except ControlError:
                continue  # it has ended meanwhile
