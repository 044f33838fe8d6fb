"""The processes of a chaos run, alive over many runs: servers of their own, a simulator, tradehub itself."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from exchanges.simulator.testing import SimulatorProcess, running_simulator
from tests.processes import HOST, Process, Site, answers, free_port, wait_until
from tests.servers import PostgresServer, RedisServer, own_postgres, own_redis

TEMPLATE = "chaos_template"
READY_SECONDS = 60.0

# Every waiting time of the system, shortened: what is tried is the order of things, not our patience.
QUICK = {
    "SHORT_TIMES": "true",
    "DELIVERY_LEASE_SECONDS": "1.5",
    "SUBMIT_WITHIN_SECONDS": "1",
    "EXCHANGE_TIMEOUT_SECONDS": "1.2",
    "EXCHANGE_CONNECT_TIMEOUT_SECONDS": "1",
    "EXCHANGE_VALIDITY_SECONDS": "1",
    "RESOLVE_MARGIN_SECONDS": "0.4",
    "EXCHANGE_BREAKER_SECONDS": "0.4",
    "RESOLVE_AGAIN_SECONDS": "0.4",
    "RESOLVE_CLAIM_SECONDS": "3",
    "STREAM_LEASE_SECONDS": "2",
    "RECONCILE_SECONDS": "3",
    "RECONCILE_DOWN_SECONDS": "1",
    "SWEEP_SECONDS": "1",
    "WEBHOOK_TIMEOUT_SECONDS": "3",
    "WORKERS": "1",
    "LOG_LEVEL": "INFO",
    "DATABASE_POOL_MAX": "12",
}


class FleetFailed(Exception):
    """Something did not come up; the message says what, with its last lines."""


@dataclass(frozen=True, slots=True)
class Size:
    webs: int = 2
    streams: int = 2
    workers: int = 1


@dataclass
class Servers:
    """What outlives a fleet: PostgreSQL with a migrated template, and Redis."""

    postgres: PostgresServer
    redis: RedisServer
    databases: int = 0
    # The same for every fleet of a call: the process that sets accounts up has them from the first one.
    secrets: dict[str, str] = field(
        default_factory=lambda: {
            "SECRET_KEY": secrets.token_urlsafe(50),
            "FIELD_ENCRYPTION_KEYS": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
    )

    def fresh_database(self) -> str:
        """Make a migrated, empty database and return its name."""
        self.databases += 1
        name = f"chaos_{self.databases}"
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
        return name


@contextmanager
def running_servers(folder: Path) -> Iterator[Servers]:
    with own_postgres() as postgres, own_redis() as redis_server:
        servers = Servers(postgres, redis_server)
        site = Site(folder, postgres.create_database(TEMPLATE), redis_url=redis_server.url)
        site.manage("migrate", "--verbosity=0")
        yield servers


@dataclass
class Fleet:
    """tradehub's processes by name: web-1, web-2, streams-1, streams-2, worker-1, and their servers."""

    site: Site
    servers: Servers
    simulator: SimulatorProcess
    database: str
    size: Size
    processes: dict[str, Process] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)
    _frozen: set[str] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _restarting: threading.Lock = field(default_factory=threading.Lock)  # two power cuts come one by one

    @property
    def names(self) -> list[str]:
        return [
            *(f"web-{number}" for number in range(1, self.size.webs + 1)),
            *(f"streams-{number}" for number in range(1, self.size.streams + 1)),
            *(f"worker-{number}" for number in range(1, self.size.workers + 1)),
        ]

    @property
    def dsn(self) -> str:
        return self.servers.postgres.dsn(self.database)

    def url(self, name: str) -> str:
        return f"http://{HOST}:{self._ports[name]}"

    def log_path(self, name: str) -> Path:
        return self.site.directory / f"{name}.log"

    # --- one process ----------------------------------------------------------------------------------

    def start(self, name: str) -> bool:
        """Start a process unless it runs, and tell whether; does not wait until it is ready."""
        with self._lock:
            running = self.processes.get(name)
            if running is not None and running.is_alive:
                return False
            port = self._ports.setdefault(name, free_port() if name.startswith("web") else 0)
            command = _command(name.split("-")[0], port)
            self.processes[name] = Process(
                name, command, environment=self.site.environment, log=self.log_path(name), port=port
            )
            self._frozen.discard(name)
            return True

    def kill(self, name: str) -> bool:
        """kill -9, by its own id; tell whether it ran."""
        with self._lock:
            process = self.processes.get(name)
            ran = process is not None and process.is_alive
            if process is not None and ran:
                process.kill()
            self._frozen.discard(name)
            return ran

    def freeze(self, name: str) -> bool:
        """Stop a process where it stands; tell whether it ran."""
        with self._lock:
            ran = self._signal(name, signal.SIGSTOP)
            if ran:
                self._frozen.add(name)
            return ran

    def thaw(self, name: str) -> bool:
        """Let a process go on; tell whether it was frozen."""
        with self._lock:
            was_frozen = name in self._frozen
            self._signal(name, signal.SIGCONT)
            self._frozen.discard(name)
            return was_frozen

    def thaw_all(self) -> None:
        for name in list(self._frozen):
            self.thaw(name)

    def start_all(self) -> None:
        for name in self.names:
            self.start(name)

    def dead(self) -> list[str]:
        """Names of processes that ended although nobody killed them, or were killed and not started again."""
        return [name for name in self.names if name in self.processes and not self.processes[name].is_alive]

    def _signal(self, name: str, number: signal.Signals) -> bool:
        pids = self._pids(name)
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return bool(pids)

    def _pids(self, name: str) -> list[int]:
        """A process's own id and its children's: qcluster works in them. Empty when it does not run."""
        match name:
            case "simulator":
                return [self.simulator.pid]
            case "redis":
                return [self.servers.redis.pid] if self.servers.redis.is_running else []
            case "postgres":
                return _with_children(self.servers.postgres.pid) if self.servers.postgres.is_running else []
        process = self.processes.get(name)
        if process is None or not process.is_alive:
            return []
        return _with_children(process.pid)

    # --- servers --------------------------------------------------------------------------------------

    def restart_redis(self) -> None:
        """Kill Redis and start it empty: the broker's jobs, the caches and the live events are gone."""
        self._frozen.discard("redis")
        with self._restarting:
            self.servers.redis.restart()

    def restart_postgres(self, *, immediately: bool) -> None:
        self.thaw("postgres")
        with self._restarting:
            self.servers.postgres.restart(immediately=immediately)

    def servers_up(self) -> None:
        with self._restarting:
            if not self.servers.redis.is_running:
                self.servers.redis.start()
            if not self.servers.postgres.is_running:
                self.servers.postgres.start()

    # --- all ------------------------------------------------------------------------------------------

    def wait_ready(self) -> None:
        """Wait until every web process answers /readyz."""

        def ready(name: str) -> Callable[[], bool]:
            return lambda: self.processes[name].is_alive and answers(f"{self.url(name)}/readyz?for=webhooks")

        for name in self.names:
            if name.startswith("web"):
                wait_until(ready(name), seconds=READY_SECONDS, what=partial(self.tail, name))

    def tail(self, name: str, lines: int = 40) -> str:
        path = self.log_path(name)
        if not path.exists():
            return ""
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        self.thaw_all()
        for process in self.processes.values():
            if process.is_alive:
                process.kill()  # nothing of it is kept: no need to say goodbye


@contextmanager
def running_fleet(
    servers: Servers,
    folder: Path,
    *,
    size: Size,
    settings: Mapping[str, str] = QUICK,
    prepare: Callable[[Fleet], None] = lambda fleet: None,
) -> Iterator[Fleet]:
    """Start everything on a fresh database and a fresh simulator; what was started ends with the block.

    `prepare` is called with the fleet before its processes start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = servers.fresh_database()
    with ExitStack() as stack:
        # So many accounts of one address would use up what the exchange allows it.
        simulator = stack.enter_context(running_simulator("--fixed", "--limit-scale", "1000"))
        site = Site(
            folder,
            servers.postgres.url(name),
            redis_url=servers.redis.url,
            settings={**settings, **servers.secrets},
        )
        site.environment["SIMULATOR_URL"] = simulator.url
        # What the runs before have used says nothing of this one: our side's own pacing stays.
        simulator.set_limits(tell=False)
        fleet = Fleet(site, servers, simulator, name, size)
        stack.callback(fleet.stop)
        prepare(fleet)
        fleet.start_all()
        yield fleet


def _command(role: str, port: int) -> list[str]:
    match role:
        case "web":
            daphne = ["daphne", "--bind", HOST, "--port", str(port), "--no-server-name", "--verbosity", "0"]
            return [sys.executable, "-m", *daphne, "tradehub.asgi:application"]
        case "streams":
            return [sys.executable, "manage.py", "streams"]
        case "worker":
            return [sys.executable, "manage.py", "qcluster"]
    raise ValueError(f"no process is called {role}")


def _with_children(pid: int) -> list[int]:
    """Return a process's id and those of all that it forked (Linux: /proc)."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue  # it has ended meanwhile
        children.setdefault(parent, []).append(int(status.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found
