"""Database, simulators and web processes of a benchmark: started here, ended here, by their own ids."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from bench.scenarios import ACCOUNTS, STRATEGIES, Scenario, account_key, provision_file
from exchanges.simulator.testing import SimulatorProcess, running_simulator

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
READY_SECONDS = 60
STOP_SECONDS = 5
Provision = Callable[[dict[str, str]], dict[str, Any]]
KEPT_VARIABLES = ("HOME", "LANG", "LC_ALL", "TMPDIR", "PATH", "REDIS_URL")


class NotReady(Exception):
    """Something did not come up; the message says what, with its last lines."""


@contextmanager
def ending_in_good_order() -> Iterator[None]:
    """Make SIGINT, SIGTERM and SIGHUP end the run through every `finally`."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Ports:
    """Free ports from a first one on, or any free ones when it is 0."""

    def __init__(self, first: int) -> None:
        self._next = first

    def take(self) -> int:
        while True:
            wanted = self._next
            if wanted:
                self._next += 1
            with socket.socket() as probe, suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((HOST, wanted))
                return int(probe.getsockname()[1])


class Databases:
    """Copies of one migrated and provisioned database, all on the server that `url` names."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._prefix = f"th_bench_{os.getpid()}"
        self.base = f"{self._prefix}_base"
        self._copies = 0

    def url(self, name: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))

    def create(self, name: str, *, template: str = "template1") -> None:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def drop(self, name: str) -> None:
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextmanager
    def copy(self) -> Iterator[str]:
        """A fresh copy for the length of a `with` block; yields its URL."""
        self._copies += 1
        name = f"{self._prefix}_{self._copies}"
        try:
            self.create(name, template=self.base)
            yield self.url(name)
        finally:
            self.drop(name)

    def version(self) -> str:
        with self._connect() as connection:
            return str(connection.info.server_version // 10000)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        url = urlunsplit(urlsplit(self._url)._replace(scheme="postgresql", path="/postgres"))
        return psycopg.connect(url, autocommit=True, connect_timeout=5)

    def _execute(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.execute(statement)


class Site:
    """What all measurements share: secrets, the base database, the folder for logs."""

    def __init__(
        self,
        databases: Databases,
        ports: Ports,
        folder: Path,
        *,
        cap: int,
        strategies: Iterable[str] = STRATEGIES,
        provision: Provision = provision_file,
    ) -> None:
        self.databases = databases
        self.ports = ports
        self.folder = folder
        self.cap = cap  # LIMIT orders that rest per book
        self.tokens = {name: secrets.token_urlsafe(16) for name in strategies}
        self.provision = provision(self.tokens)
        self._secrets = {
            "SECRET_KEY": secrets.token_urlsafe(50),
            "FIELD_ENCRYPTION_KEYS": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }

    def environment(self, database_url: str, simulator_url: str) -> dict[str, str]:
        """Return production's settings, without TLS: nothing of the caller's own comes through."""
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        return (
            kept
            | self._secrets
            | {
                "DOTENV": os.devnull,
                "DEBUG": "false",
                "HTTPS": "false",
                "LOG_LEVEL": "WARNING",
                "PYTHONUNBUFFERED": "1",
                "DATABASE_URL": database_url,
                "SIMULATOR_URL": simulator_url,
                "QUEUE_LIMIT_CAP": str(self.cap),
            }
        )

    def prepare(self) -> None:
        """Make the base database: migrations, accounts, strategies."""
        name = self.databases.base
        self.databases.drop(name)
        self.databases.create(name)
        env = self.environment(self.databases.url(name), "http://127.0.0.1:9")
        file = self.folder / "provision.json"
        file.write_text(json.dumps(self.provision))
        manage("migrate", "--verbosity", "0", env=env)
        manage("provision", str(file), env=env)


@contextmanager
def running_site(
    database_url: str,
    *,
    first_port: int,
    cap: int,
    strategies: Iterable[str] = STRATEGIES,
    provision: Provision = provision_file,
) -> Iterator[Site]:
    """A prepared site; its databases are dropped at the end. `cap`: LIMIT orders that rest per book.

    `provision` makes the input of `manage.py provision` of the tokens of `strategies`.
    """
    with tempfile.TemporaryDirectory(prefix="tradehub-bench-") as folder:
        databases, ports = Databases(database_url), Ports(first_port)
        site = Site(databases, ports, Path(folder), cap=cap, strategies=strategies, provision=provision)
        try:
            site.prepare()
            yield site
        finally:
            site.databases.drop(site.databases.base)


def manage(*arguments: str, env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotReady(f"manage.py {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def simulators(site: Site, number: int) -> Iterator[list[SimulatorProcess]]:
    """So many simulators with fixed prices that know the benchmark's accounts."""
    accounts = [":".join(account_key(n)) for n in range(ACCOUNTS + 1)]
    options = ["--fixed", *(word for account in accounts for word in ("--account", account))]
    with ExitStack() as stack:
        yield [
            stack.enter_context(running_simulator(*options, port=site.ports.take())) for _ in range(number)
        ]


class Web:
    """One web process, started as the Procfile starts it."""

    def __init__(self, site: Site, env: dict[str, str]) -> None:
        self.port = site.ports.take()
        self._log = site.folder / f"web-{self.port}.log"
        command = [sys.executable, "-m", "daphne", "--bind", HOST, "--port", str(self.port)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--no-server-name", "tradehub.asgi:application"],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def check(self) -> None:
        """Raise NotReady when the process has ended."""
        if self.process.poll() is not None:
            raise NotReady(f"the web process ended:\n{self.log()}")

    def answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{HOST}:{self.port}/readyz?for=webhooks", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def log(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_SECONDS)


@contextmanager
def web_processes(
    site: Site, simulator: SimulatorProcess, *, number: int, database_url: str
) -> Iterator[list[Web]]:
    """So many web processes on one database, warmed up."""
    env = site.environment(database_url, simulator.url)
    webs: list[Web] = []
    try:
        for _ in range(number):
            webs.append(Web(site, env))
            # One after the other: the first fills the table of instruments for all.
            _wait_until_warm(webs, simulator, accounts=len(site.provision["accounts"]))
        yield webs
    finally:
        for web in webs:
            web.stop()


def _wait_until_warm(webs: list[Web], simulator: SimulatorProcess, *, accounts: int) -> None:
    """Wait until the last web process has looked at every account, which ends its warm-up."""
    wanted = accounts * len(webs)
    question = "binance-futures GET /fapi/v1/positionSide/dual"
    deadline = time.monotonic() + READY_SECONDS
    while True:
        webs[-1].check()
        asked = simulator.ledger(client_order_id_prefix="none")["requests"].get(question, 0)
        if asked >= wanted and webs[-1].answers():
            return
        if time.monotonic() > deadline:
            raise NotReady(f"the web process is not warm after {READY_SECONDS} s:\n{webs[-1].log()}")
        time.sleep(0.1)


def look_inside(site: Site, scenario: Scenario, *, rounds: int) -> dict[str, Any]:
    """Run `bench.inside` on a fresh database and simulator; return what it found."""
    output = site.folder / "inside.json"
    with site.databases.copy() as database_url, simulators(site, 1) as (simulator,):
        env = site.environment(database_url, simulator.url) | {
            "BENCH_TOKENS": json.dumps(site.tokens),
            "DJANGO_SETTINGS_MODULE": "tradehub.settings",
        }
        command = [sys.executable, "-m", "bench.inside", scenario.key, str(rounds), str(output)]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReady(f"looking inside failed:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(output.read_text())
    return found
