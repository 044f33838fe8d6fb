"""The system under `bench.streams`: many accounts, one streams process, and what processes use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.scenarios import ORDERS_PER_MINUTE
from bench.stack import ROOT, NotReady, Site
from exchanges.simulator.testing import SimulatorProcess, running_simulator

ACCOUNTS_PER_USER = 10
CAPITAL = 100_000
PASSWORD = "bench-password-1"
CONNECT_SECONDS = 90
_TICKS = os.sysconf("SC_CLK_TCK")


def account_key(number: int) -> tuple[str, str]:
    return f"stream-key-{number}", f"stream-secret-{number}"


def user_of(account: int) -> int:
    return account // ACCOUNTS_PER_USER


def users(accounts: int) -> int:
    return user_of(accounts - 1) + 1


def strategy_of(user: int) -> str:
    return f"strategy-{user}"


def provision_file(tokens: dict[str, str], *, accounts: int) -> dict[str, Any]:
    """Return the input of `manage.py provision`: ten accounts follow each user's one strategy."""
    return {
        "users": [{"username": f"user-{user}", "password": PASSWORD} for user in range(users(accounts))],
        "accounts": [
            {
                "name": f"account-{number}",
                "user": f"user-{user_of(number)}",
                "exchange": "binance",
                "account_type": "CRYPTO",
                "environment": "SIMULATOR",
                "api_key": account_key(number)[0],
                "api_secret": account_key(number)[1],
                "max_orders_per_minute": ORDERS_PER_MINUTE,
            }
            for number in range(accounts)
        ],
        "strategies": [
            {
                "group_name": strategy_of(user),
                "user": f"user-{user}",
                "token": tokens[strategy_of(user)],
                "market_type": "FUTURES",
                "execution_mode": "QUEUED",
                "max_orders_per_minute": ORDERS_PER_MINUTE,
                "accounts": [
                    {"account": f"account-{number}", "allocated_capital": str(CAPITAL), "leverage": 10}
                    for number in range(accounts)
                    if user_of(number) == user
                ],
            }
            for user in range(users(accounts))
        ],
    }


@contextmanager
def simulator(site: Site, accounts: int) -> Iterator[SimulatorProcess]:
    """A simulator with fixed prices that knows the accounts; its limits let two hundred accounts warm up."""
    keys = [word for number in range(accounts) for word in ("--account", ":".join(account_key(number)))]
    with running_simulator("--fixed", "--limit-scale", "10", *keys, port=site.ports.take()) as process:
        yield process


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process had used at one moment: seconds of all cores, and of the clock."""

    processor: float
    wall: float

    def share_until(self, later: Usage) -> float:
        return (later.processor - self.processor) / (later.wall - self.wall)


class Streams:
    """`manage.py streams`, started as the Procfile starts it."""

    def __init__(self, site: Site, env: dict[str, str]) -> None:
        self._log = site.folder / "streams.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "streams"],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


@contextmanager
def streams_process(site: Site, *, database_url: str, url: str) -> Iterator[Streams]:
    process = Streams(site, site.environment(database_url, url))
    try:
        yield process
    finally:
        process.stop()


def wait_until_connected(process: Streams, simulator: SimulatorProcess, accounts: int) -> float:
    """Return the seconds until the simulator had that many streams, from now on."""
    began = time.monotonic()
    while (there := len(simulator.state()["streams"])) < accounts:
        if process.process.poll() is not None or time.monotonic() > began + CONNECT_SECONDS:
            raise NotReady(f"{there} of {accounts} streams are connected:\n{process.log()}")
        time.sleep(0.2)
    return time.monotonic() - began


def usage(pid: int) -> Usage:
    """Read what a process and its threads have used of the processor. Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, time.monotonic())


def resident_mib(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process: now, and the most that it ever was."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(rest.split()[0]) / 1024
    return found["VmRSS"], found["VmHWM"]


def rows(database_url: str, question: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url, autocommit=True, connect_timeout=5) as connection:
        return connection.execute(question, values or None).fetchall()
