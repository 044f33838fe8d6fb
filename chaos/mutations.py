"""Does the chaos run catch what it is there for? Break the code on purpose, and count the runs that tell.

    python -m chaos.mutations --runs 10 --seed 1

Each mutation is a change of a few words, made in a copy of the working tree below the temporary folder. What
is expected is in docs/chaos.md; a mutation whose words are not in the code any more fails a test.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.stack import ending_in_good_order
from tests.processes import ROOT

PATIENCE_SECONDS = "12"
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "var", "artifacts", "__pycache__", ".*_cache", ".hypothesis"
)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A way to break the code. `changes`: file, what stands there, what is put in its place."""

    name: str
    what: str
    changes: tuple[tuple[str, str, str], ...]


MUTATIONS = (
    Mutation(
        "believes too soon",
        "the resolver takes an order for never placed the first time that it is not found, without waiting",
        (
            ("tracking/resolver.py", "TIMES_NOT_FOUND = 2", "TIMES_NOT_FOUND = 1"),
            (
                "tracking/resolver.py",
                "    return asked_at >= counts_from(case.placement, validity)",
                "    return True",
            ),
            (
                "tracking/resolver.py",
                "    rows = OpenOrder.objects.filter(ask_at__lte=now)",
                "    rows = OpenOrder.objects.filter(ask_at__isnull=False)",
            ),
        ),
    ),
    Mutation(
        "resends unknown outcomes",
        "an order whose outcome is unknown goes back to be sent again, nobody asks what became of it",
        (
            (
                "orders/services/settlement.py",
                "isinstance(result, OutcomeUnknown | DuplicateClientOrderId)",
                "isinstance(result, DuplicateClientOrderId)",
            ),
            ("orders/services/putting_off.py", "        case NotSent() | CircuitOpen():", "        case _:"),
            (
                "orders/services/putting_off.py",
                "UNREACHABLE_WAIT_SECONDS = 5.0",
                "UNREACHABLE_WAIT_SECONDS = 0.1",
            ),
        ),
    ),
    Mutation(
        "counts fills again",
        "a fill that is known already is booked once more, under another trade id",
        (
            (
                "orders/services/settlement.py",
                "                continue  # whatever order id it came under: a triggered stop has two",
                "                fill = replace(fill, trade_id=f'{fill.trade_id}x{len(known)}')",
            ),
            (
                "orders/services/settlement.py",
                "from dataclasses import dataclass",
                "from dataclasses import dataclass, replace",
            ),
        ),
    ),
    Mutation(
        "forgets fills",
        "nobody fetches the fills that a stream did not bring",
        (
            ("orders/services/gaps.py", "    if not gaps:\n", "    if gaps or not gaps:\n"),
            (
                "tracking/fetching.py",
                "    if (report.filled_quantity or _ZERO) <= question.booked:",
                "    if True:",
            ),
        ),
    ),
    Mutation(
        "forgets cancels",
        "an order whose cancel was asked for while it was on its way is not canceled when it turns up",
        (
            (
                "orders/services/settlement.py",
                "            if placement.intent.cancel_requested:\n"
                "                self.applied.to_cancel.append(placement.intent_id)",
                "            if False:\n                pass",
            ),
            (
                "tracking/resolver.py",
                "    rows = OpenOrder.objects.filter(status__in=RESTING, intent__cancel_requested=True)",
                "    rows = OpenOrder.objects.none()",
            ),
        ),
    ),
    Mutation(
        "places after a cancel",
        "the queue claims orders whose cancel was asked for, and a cancel leaves them in the queue",
        (
            (
                "orders/services/cancellation.py",
                "    waiting = [intent for intent in fresh if intent.home == Home.QUEUE]",
                "    waiting = []",
            ),
        ),
    ),
    Mutation(
        "ignores the lease",
        "a webhook that another process is working on is taken over all the same",
        (
            (
                "orders/services/deliveries.py",
                "(state=DeliveryState.WORKING, lease_expires_at__lt=at)",
                "(state=DeliveryState.WORKING)",
            ),
            (
                "orders/services/deliveries.py",
                "state=DeliveryState.WORKING, lease_expires_at__lt=now\n",
                "state=DeliveryState.WORKING\n",
            ),
            (
                "orders/services/deliveries.py",
                " AND started_at IS NULL AND id = %s AND lease_owner = %s",
                " AND id = %s AND %s <> ''",
            ),
        ),
    ),
    Mutation(
        "claims without the lock",
        "books and intents are planned without being locked",
        (
            (
                "orders/locks.py",
                '        Book.objects.select_for_update(of=("self",), no_key=True)\n',
                "        Book.objects.all()\n",
            ),
            (
                "orders/locks.py",
                'OrderIntent.objects.select_for_update(of=("self",), no_key=True).filter',
                "OrderIntent.objects.filter",
            ),
        ),
    ),
    Mutation(
        "sends late",
        "nobody looks at the deadline before the first byte, and signatures never grow old",
        (
            (
                "exchanges/adapters/departure.py",
                "        return call.send_by is not None and (now",
                "        return False and (now",
            ),
            ("exchanges/adapters/binance/auth.py", "recvWindow={self._recv_window_ms}&", "recvWindow=60000&"),
        ),
    ),
    Mutation(
        "never reconciles",
        "streams are followed, but nothing is compared after a break",
        (("tracking/differences.py", "    index = _Index(ours)\n", "    return []\n"),),
    ),
    Mutation(
        "queues before it knows",
        "an order goes back to the queue although fills of it are not booked yet",
        (
            (
                "orders/services/settlement.py",
                "        if placement.has_gap:\n            # It is over there",
                "        if False:\n            # It is over there",
            ),
        ),
    ),
)


def mutate(folder: Path, mutation: Mutation) -> None:
    """Change the copy's files. Raises LookupError where the words do not stand there exactly once."""
    for name, before, after in mutation.changes:
        path = folder / name
        text = path.read_text()
        if text.count(before) != 1:
            raise LookupError(f"{mutation.name}: {name} has {before!r} {text.count(before)} times")
        path.write_text(text.replace(before, after))


def runs_of(mutation: Mutation, *, runs: int, seed: int) -> tuple[int, int, list[str]]:
    """Run a broken copy; return how many runs were made, how many caught it, and by which rules."""
    with tempfile.TemporaryDirectory(prefix="tradehub-mutation-") as parent:
        folder = Path(parent) / "copy"
        shutil.copytree(ROOT, folder, ignore=_LEFT_OUT)
        mutate(folder, mutation)
        command = [sys.executable, "-m", "chaos", "--runs", str(runs), "--seed", str(seed)]
        out, err = output([*command, "--patience", PATIENCE_SECONDS], folder)
        failed = set(re.findall(r"^seed (\d+) FAILED", out, re.MULTILINE))
        fine = set(re.findall(r"^seed (\d+) ok", out, re.MULTILINE))
        if not failed and not fine:
            raise RuntimeError(f"{mutation.name}: no run came to its end\n{out}\n{err}")
        rules = sorted(set(re.findall(r"^    ([a-z ]+): ", out, re.MULTILINE)) - {"again"})
        return len(failed | fine), len(failed), rules


def output(command: list[str], folder: Path) -> tuple[str, str]:
    """Return what a run writes. Told to end, so is the run, which ends its processes: a kill would not."""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            return run.communicate()
        except BaseException:
            run.terminate()
            run.communicate()
            raise


def _all(options: argparse.Namespace) -> list[str]:
    """Run the mutations that were asked for, a row of a table each; return those that nothing caught."""
    missed = []
    for mutation in MUTATIONS:
        if options.only not in mutation.name:
            continue
        made, caught, rules = runs_of(mutation, runs=options.runs, seed=options.seed)
        sys.stdout.write(f"| {mutation.name} | {mutation.what} | {caught} of {made} | {', '.join(rules)} |\n")
        sys.stdout.flush()
        if not caught:
            missed.append(mutation.name)
    return missed


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.mutations", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a mutation's name")
    options = parser.parse_args(argv)
    with ending_in_good_order():
        missed = _all(options)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
