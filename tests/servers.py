"""A PostgreSQL and a Redis of one's own, for tests that restart and kill them.

    with own_postgres() as postgres, own_redis() as redis_server:
        site = Site(directory, postgres.create_database("tradehub"), redis_url=redis_server.url)
        postgres.stop(immediately=True)           # as by a power cut
        postgres.start()
        redis_server.kill()                       # kill -9, what it held is gone
        redis_server.start()

Each has a folder below the system's temporary one and a free port of loopback, which it keeps over
restarts. Both are children of this process and end with the `with` block; servers that were there before
are never touched. PostgreSQL's programs are looked for on the PATH and where Debian keeps them; as root
they run as the user `postgres`, because PostgreSQL refuses root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psycopg
import redis
from psycopg import sql

from tests.processes import HOST, free_port

START_SECONDS = 30.0
STOP_SECONDS = 20.0
DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")


class ServerFailed(Exception):
    """A server did not start; the message has its last words."""


class Server(ABC):
    """One server program: started, ended and started again, on one port and one folder."""

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> Self:
        """Start it and return when it answers; raises ServerFailed with its log otherwise."""
        assert not self.is_running, f"{self.name} runs already"
        with (self.directory / "server.log").open("ab") as log:
            self._popen = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on
                user=_user(),
                group=_group(),
                extra_groups=_extra_groups(),
            )
        self._wait(self._answers, START_SECONDS)
        return self

    def freeze(self) -> None:
        """Stop its time (SIGSTOP): who asks it waits."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")

    def end(self) -> None:
        """End it whatever its state; what is still there after that is killed."""
        if self.is_running:
            self.thaw()
            self._signal(self._orderly)
        if self._popen is not None and self.is_running:
            self._popen.kill()
            self._popen.wait(STOP_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass

    def _wait(self, answers: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not answers():
            if not self.is_running or time.monotonic() > deadline:
                self.end()
                raise ServerFailed(f"{self.name} does not answer:\n{self.log()[-4000:]}")
            time.sleep(0.02)

    _orderly: signal.Signals

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...


class PostgresServer(Server):
    """A cluster made by initdb. Without `fsync` it is quick and survives a kill, but no power cut."""

    name = "PostgreSQL"
    _orderly = signal.SIGINT  # "fast": the sessions are ended, nothing is lost

    def __init__(self, directory: Path, *, fsync: bool = False) -> None:
        super().__init__(directory)
        self._fsync = fsync
        self._programs = _postgres_programs()
        done = subprocess.run(
            [self._programs / "initdb", "-D", directory / "data", "-U", "postgres", "-A", "trust",
             "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"],
            cwd=directory, capture_output=True, text=True, check=False,
            user=_user(), group=_group(), extra_groups=_extra_groups(),
        )  # fmt: skip
        if done.returncode:
            raise ServerFailed(f"initdb failed:\n{done.stdout}{done.stderr}")

    def url(self, database: str = "postgres") -> str:
        return f"postgres://postgres@{HOST}:{self.port}/{database}"

    def dsn(self, database: str = "postgres") -> str:
        """The address as psycopg wants it."""
        return self.url(database).replace("postgres://", "postgresql://", 1)

    def create_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def stop(self, *, immediately: bool = False) -> None:
        """Stop it as `pg_ctl -m fast` does, or `immediately`, as by a crash: it recovers when it starts."""
        self._signal(signal.SIGQUIT if immediately else self._orderly)
        assert not self.is_running, f"PostgreSQL did not stop:\n{self.log()[-2000:]}"

    def restart(self, *, immediately: bool = False) -> None:
        self.stop(immediately=immediately)
        self.start()

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": str(self.directory),
            "max_connections": "300",
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [
            str(self._programs / "postgres"),
            "-D", str(self.directory / "data"), "-p", str(self.port), *options,
        ]  # fmt: skip

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.dsn(), connect_timeout=2) as connection:
                found = connection.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError:
            return False
        return found == (str(self.directory / "data"),)  # or else another one has our port


class RedisServer(Server):
    """A Redis in memory: what it held is gone after `kill`, unless `durable` (append-only file)."""

    name = "Redis"
    _orderly = signal.SIGTERM

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        super().__init__(directory)
        self._durable = durable

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def kill(self) -> None:
        """kill -9: no goodbye to its clients."""
        self._signal(signal.SIGKILL)

    def restart(self) -> None:
        self.kill()
        self.start()

    def _command(self) -> list[str]:
        program = shutil.which("redis-server")
        if program is None:
            raise ServerFailed("redis-server is not installed (Debian: apt-get install redis-server)")
        return [
            program, "--port", str(self.port), "--bind", HOST, "--dir", str(self.directory),
            "--save", "", "--appendonly", "yes" if self._durable else "no",
        ]  # fmt: skip

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2) as client:
                return bool(client.info("server")["process_id"] == self.pid)  # or another one has our port
        except (redis.RedisError, OSError):
            return False


@contextmanager
def own_postgres(*, fsync: bool = False) -> Iterator[PostgresServer]:
    """A running PostgreSQL that nobody else uses; gone with its folder at the end."""
    with _folder("tradehub-postgresql-") as directory:
        server = PostgresServer(directory, fsync=fsync)
        try:
            yield server.start()
        finally:
            server.end()


@contextmanager
def own_redis(*, durable: bool = False) -> Iterator[RedisServer]:
    """A running Redis that nobody else uses; gone with its folder at the end."""
    with _folder("tradehub-redis-") as directory:
        server = RedisServer(directory, durable=durable)
        try:
            yield server.start()
        finally:
            server.end()


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        if (user := _user()) is not None:
            os.chown(directory, user, _group() or -1)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _postgres_programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [path.parent for path in DEBIAN_PROGRAMS.glob("*/bin/initdb")]
    if not versions:
        raise ServerFailed("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return max(versions, key=lambda programs: int(programs.parent.name))


def _user() -> int | None:
    return pwd.getpwnam("postgres").pw_uid if os.getuid() == 0 else None


def _group() -> int | None:
    return pwd.getpwnam("postgres").pw_gid if os.getuid() == 0 else None


def _extra_groups() -> list[int] | None:
    return [] if os.getuid() == 0 else None
