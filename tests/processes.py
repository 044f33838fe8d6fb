"""A whole tradehub for tests: real processes on free ports, with a database of their own.

    with Site.on_sqlite(directory) as site:
        site.manage("provision", "users.json")
        web = site.start_web()
        web.kill()                                # as by a power cut
        site.start_web(port=web.port)

What is started here ends here, by its own process id; what the processes said stands in the site's
directory, one `<name>.log` each, and in the message of every wait that was in vain.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis
from psycopg import sql

from exchanges.simulator.testing import SimulatorProcess, running_simulator

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
STOP_SECONDS = 10.0
FIRST_PORT = 15_000
DATABASE_SERVER = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres")
REDIS_SERVER = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/5")
NAME_PREFIX = os.environ.get("TEST_DATABASE_PREFIX", "th_processes")

T = TypeVar("T")
Answer = tuple[int, dict[str, Any]]


def wait_until(
    condition: Callable[[], T | None], *, seconds: float = 15.0, what: str | Callable[[], str] = ""
) -> T:
    """Return the first true value of `condition`; fail after `seconds`, saying `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.02)
    return value


def free_port() -> int:
    """A port that nobody listens on right now.

    None that the kernel gives to outgoing connections: whoever restarts there would find it taken by one.
    """
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        port = FIRST_PORT + secrets.randbelow(first_given - FIRST_PORT)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port between {FIRST_PORT} and {first_given}")


class Process:
    """One running program. Signals go to its own process id and, at the end, to its children."""

    def __init__(
        self, name: str, command: list[str], *, environment: Mapping[str, str], log: Path, port: int = 0
    ) -> None:
        self.name = name
        self.port = port
        self._log = log
        with log.open("ab") as output:
            # A session of its own: qcluster forks, and what it forked must end with it.
            self._popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """End it without a chance to say goodbye (SIGKILL), its children too."""
        self._signal_all(signal.SIGKILL)
        self._popen.wait(STOP_SECONDS)

    def freeze(self) -> None:
        """Stop its time (SIGSTOP): it holds what it holds and notices nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end (SIGTERM); kill what does not."""
        if self.is_alive:
            os.kill(self.pid, signal.SIGCONT)  # a frozen process hears nothing
            os.kill(self.pid, signal.SIGTERM)
            try:
                self._popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._signal_all(signal.SIGKILL)
                self._popen.wait(STOP_SECONDS)
        self._signal_all(signal.SIGKILL)

    def wait_ready(self, is_ready: Callable[[], bool], *, seconds: float = 30.0) -> Self:
        def ready_or_dead() -> bool:
            return not self.is_alive or is_ready()

        wait_until(ready_or_dead, seconds=seconds, what=lambda: f"{self.name} is ready\n{self.log()}")
        assert self.is_alive, f"{self.name} ended:\n{self.log()}"
        return self

    def _signal_all(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)  # the session that we made for it, so the group is its own
        except ProcessLookupError:
            pass


@dataclass
class Site:
    """One installation: a database, perhaps Redis, and the processes that share them."""

    directory: Path
    database_url: str
    redis_url: str = ""
    settings: dict[str, str] = field(default_factory=dict)

    simulator: SimulatorProcess = field(init=False)

    def __post_init__(self) -> None:
        self._stack = ExitStack()
        self._names: dict[str, int] = {}
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            "PYTHONUNBUFFERED": "1",
            "DOTENV": os.devnull,
            "DJANGO_SETTINGS_MODULE": "tradehub.settings",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "FIELD_ENCRYPTION_KEYS": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "HTTPS": "false",
            "LOG_JSON": "false",
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            **self.settings,
        }

    @classmethod
    @contextmanager
    def on_sqlite(cls, directory: Path, **settings: str) -> Iterator[Site]:
        """A site in one file, without Redis: what the demo runs on."""
        file = directory / "site.sqlite3"
        migrated_file(file)
        with cls(directory, f"sqlite:///{file}", settings=settings) as site:
            yield site

    @classmethod
    @contextmanager
    def on_services(cls, directory: Path, **settings: str) -> Iterator[Site]:
        """A site on PostgreSQL and Redis, in a database that is dropped at the end."""
        with (
            migrated_database() as url,
            cls(directory, url, redis_url=REDIS_SERVER, settings=settings) as site,
        ):
            redis.Redis.from_url(REDIS_SERVER, socket_timeout=5).flushdb()
            yield site

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def manage(self, *arguments: str, stdin: str = "") -> str:
        """Run a management command to its end and return what it printed; fail if it failed."""
        return self.run(sys.executable, "manage.py", *arguments, stdin=stdin)

    def run(self, *command: str, stdin: str = "") -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, input=stdin, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, name: str, *command: str, port: int = 0) -> Process:
        """Start a program that ends with the site. A second one of a name is `<name>-2`."""
        number = self._names[name] = self._names.get(name, 0) + 1
        label = name if number == 1 else f"{name}-{number}"
        log = self.directory / f"{label}.log"
        process = Process(label, list(command), environment=self.environment, log=log, port=port)
        self._stack.callback(process.stop)
        return process

    def start_web(self, *, port: int = 0) -> Process:
        """Start daphne and wait until it is ready to serve."""
        port = port or free_port()
        daphne = ("daphne", "--bind", HOST, "--port", str(port), "--no-server-name")
        web = self.start("web", sys.executable, "-m", *daphne, "tradehub.asgi:application", port=port)
        return web.wait_ready(lambda: answers(f"{web.url}/readyz?for=webhooks"))

    def start_worker(self) -> Process:
        """Start qcluster and wait until it takes jobs."""
        worker = self.start("worker", sys.executable, "manage.py", "qcluster")
        return worker.wait_ready(lambda: " running." in worker.log())

    def start_streams(self) -> Process:
        """Start `manage.py streams`. Which accounts it follows stands in OrderTrackingSession."""
        return self.start("streams", sys.executable, "manage.py", "streams")

    def start_simulator(self, *arguments: str) -> SimulatorProcess:
        """Start a simulated exchange; processes that start after it use it."""
        simulator = self._stack.enter_context(running_simulator(*arguments))
        self.simulator, self.environment["SIMULATOR_URL"] = simulator, simulator.url
        return simulator


def post_webhook(web: Process, payload: Mapping[str, Any] | bytes, *, seconds: float = 20) -> Answer:
    """Send a webhook; return its status and body. Raises OSError when the connection breaks."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    request = urllib.request.Request(f"{web.url}/api/webhook", data=body, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=seconds) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def answers(url: str) -> bool:
    """Tell whether a GET of this URL is answered with 200."""
    # No proxy of the environment may stand between a test and its loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


# --- migrated databases: made once per process of the test run, copied from then on ---------------------


@contextmanager
def migrated_database() -> Iterator[str]:
    """A migrated, empty database on the PostgreSQL of the tests, dropped at the end; yields its URL."""
    name = f"{NAME_PREFIX}_{secrets.token_hex(4)}"
    _on_server("CREATE DATABASE {} TEMPLATE {}", name, _template_database())
    try:
        yield _url_of(name)
    finally:
        _on_server("DROP DATABASE {} WITH (FORCE)", name)


def migrated_file(path: Path) -> None:
    """Write a migrated, empty SQLite database."""
    shutil.copyfile(_template_file(), path)


def drop_templates() -> None:
    """Take away what the functions above have made to copy from."""
    if _template_database.cache_info().currsize:
        _on_server("DROP DATABASE IF EXISTS {} WITH (FORCE)", _template_database())
        _template_database.cache_clear()
    if _template_file.cache_info().currsize:
        shutil.rmtree(_template_file().parent, ignore_errors=True)
        _template_file.cache_clear()


@cache
def _template_database() -> str:
    name = f"{NAME_PREFIX}_template_{secrets.token_hex(4)}"
    _on_server("CREATE DATABASE {}", name)
    _migrate(_url_of(name))
    return name


@cache
def _template_file() -> Path:
    file = Path(tempfile.mkdtemp(prefix="tradehub-migrated-")) / "site.sqlite3"
    _migrate(f"sqlite:///{file}")
    return file


def _migrate(database_url: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder), database_url) as site:
        site.manage("migrate", "--verbosity=0")


def _url_of(name: str) -> str:
    return urlunsplit(urlsplit(DATABASE_SERVER)._replace(path=f"/{name}"))


def _on_server(statement: str, *names: str) -> None:
    server = DATABASE_SERVER.replace("postgres://", "postgresql://", 1)
    with psycopg.connect(server, autocommit=True, connect_timeout=5) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
