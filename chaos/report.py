"""What is left of a failed run for the person who looks into it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from chaos.drive import Driver
from chaos.fleet import Fleet
from chaos.plan import Plan
from chaos.settle import Settled
from chaos.verify import Finding


def command_for(seed: int, fleet: Fleet) -> str:
    """The command that repeats a run."""
    size = fleet.size
    more = f" WORKERS={size.workers}" if size.workers != 1 else ""
    return f"make chaos RUNS=1 SEED={seed}{more}"


def write_report(
    folder: Path, plan: Plan, fleet: Fleet, driver: Driver, settled: Settled, marks: dict[str, int]
) -> Path:
    """Write plan, story, findings, both sides' rows and the logs of this run; return the folder."""
    target = folder / f"seed-{plan.seed}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "plan.txt").write_text("\n".join([command_for(plan.seed, fleet), *plan.lines()]) + "\n")
    (target / "story.txt").write_text("\n".join(driver.log) + "\n")
    (target / "findings.txt").write_text("\n".join(map(str, settled.findings)) + "\n")
    (target / "waited_for.txt").write_text("\n".join(settled.waited_for) + "\n")
    answers = [f"{one.desk} {one.webhook_id} {one.status} {json.dumps(one.body)}" for one in driver.sent]
    (target / "answers.txt").write_text("\n".join(answers) + "\n")
    if settled.audit is not None:
        (target / "ours.json").write_text(json.dumps(asdict(settled.audit.ours), default=str, indent=1))
        theirs = {"orders": settled.audit.theirs.orders, "conditional": settled.audit.theirs.conditional}
        (target / "theirs.json").write_text(json.dumps(theirs, default=str, indent=1))
    for name in fleet.names:
        path = fleet.log_path(name)
        if path.exists():
            with path.open("rb") as log:
                log.seek(marks.get(name, 0))
                (target / f"{name}.log").write_bytes(log.read())
    return target


def log_marks(fleet: Fleet) -> dict[str, int]:
    """Where each process's log stands now: a run's part of it begins there."""
    paths = {name: fleet.log_path(name) for name in fleet.names}
    return {name: path.stat().st_size for name, path in paths.items() if path.exists()}


LOUD = re.compile(r"\[(error|critical) *\]|^[\w.]+(Error|Exception|Fault)\b.*|^Traceback", re.MULTILINE)


def loud_lines(fleet: Fleet, marks: dict[str, int]) -> list[str]:
    """What the processes logged as an error since the run began: no finding, but worth a look."""
    found = []
    for name in fleet.names:
        path = fleet.log_path(name)
        if not path.exists():
            continue
        with path.open("rb") as log:
            log.seek(marks.get(name, 0))
            text = log.read().decode(errors="replace")
        found += [f"{name}: {line[:400]}" for line in text.splitlines() if LOUD.search(line)]
    return found


def failure_lines(plan: Plan, fleet: Fleet, findings: Sequence[Finding], where: Path) -> list[str]:
    """What the screen says of a failed run."""
    shown = [f"    {finding}" for finding in findings[:12]]
    more = [f"    and {len(findings) - 12} more"] if len(findings) > 12 else []
    again = f"    again: {command_for(plan.seed, fleet)}    plan and logs: {where}"
    return [f"seed {plan.seed} FAILED:", *shown, *more, again]
