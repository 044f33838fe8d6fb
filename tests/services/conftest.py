"""Real processes on a real PostgreSQL: a database per test, thrown away afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.processes import System, running_system

CONFIG: dict[str, Any] = {
    "users": [{"username": "trader", "password": "a-long-enough-password-1"}],
    "accounts": [
        {
            "name": name, "user": "trader", "exchange": "binance", "environment": "SIMULATOR",
            "api_key": key, "api_secret": secret,
        }
        for name, key, secret in (("main", "k1", "s1"), ("second", "k2", "s2"))
    ],
    "strategies": [
        {
            "group_name": "one", "user": "trader", "token": "token-one", "market_type": "FUTURES",
            "execution_mode": "IMMEDIATE",
            "accounts": [{"account": "main", "allocated_capital": "10000", "leverage": 10}],
        },
        {
            "group_name": "two", "user": "trader", "token": "token-two", "market_type": "FUTURES",
            "execution_mode": "IMMEDIATE",
            "accounts": [
                {"account": "main", "allocated_capital": "10000", "leverage": 10},
                {"account": "second", "allocated_capital": "10000", "leverage": 10},
            ],
        },
    ],
}  # fmt: skip

# Every waiting time of the specification, shortened: what is proven is the order of things.
QUICK = {
    "DELIVERY_LEASE_SECONDS": "2",
    "SUBMIT_WITHIN_SECONDS": "2",
    "EXCHANGE_TIMEOUT_SECONDS": "2",
    "EXCHANGE_VALIDITY_SECONDS": "1",
    "RESOLVE_MARGIN_SECONDS": "1",
}


@pytest.fixture
def database_url() -> Iterator[str]:
    """A new, empty PostgreSQL database beside the one of DATABASE_URL."""
    base = os.environ.get("DATABASE_URL", "")
    assert base.startswith("postgres"), "these tests need PostgreSQL: run them with `make test-services`"
    name = f"tradehub_system_{uuid.uuid4().hex[:10]}"
    parts = urlsplit(base)
    with psycopg.connect(base, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlunsplit(parts._replace(path=f"/{name}"))
        finally:
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def system(database_url: str, tmp_path: Path) -> Iterator[System]:
    redis_url = os.environ.get("REDIS_URL", "")
    options = ("--fixed", "--account", "k1:s1", "--account", "k2:s2")
    with running_system(
        tmp_path, database_url=database_url, redis_url=redis_url, simulator_options=options, **QUICK
    ) as running:
        running.provision(CONFIG)
        yield running


Rows = list[dict[str, Any]]


@pytest.fixture
def rows(database_url: str) -> Iterator[Callable[..., Rows]]:
    """Read the system's database directly: what is committed, whoever wrote it."""
    with psycopg.connect(database_url, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:

        def read(sql: str, *parameters: Any) -> Rows:
            return connection.execute(sql, parameters or None).fetchall()

        yield read


class Gate:
    """Holds every process that is about to mark a delivery as started: committed, nothing sent yet."""

    KEY = 4711

    def __init__(self, database_url: str) -> None:
        self._holder = psycopg.connect(database_url, autocommit=True)
        self._holder.execute(
            f"""
            CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
              PERFORM pg_advisory_xact_lock_shared({self.KEY});
              RETURN NEW;
            END $$;
            CREATE TRIGGER gate BEFORE UPDATE OF started_at ON orders_webhookdelivery
              FOR EACH ROW WHEN (OLD.started_at IS NULL AND NEW.started_at IS NOT NULL)
              EXECUTE FUNCTION wait_at_gate();
            """
        )
        self._holder.execute("SELECT pg_advisory_lock(%s)", [self.KEY])

    def waiting(self) -> bool:
        found = self._holder.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted", [self.KEY]
        )
        return found.fetchone() is not None

    def drop_who_waits(self) -> None:
        """End the waiting statements, as the server does for a client that is gone."""
        self._holder.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE locktype = 'advisory' AND objid = %s AND NOT granted",
            [self.KEY],
        )

    def open(self) -> None:
        self._holder.execute("SELECT pg_advisory_unlock(%s)", [self.KEY])

    def close(self) -> None:
        self._holder.close()


@contextmanager
def _gate(database_url: str) -> Iterator[Gate]:
    gate = Gate(database_url)
    try:
        yield gate
    finally:
        gate.close()


@pytest.fixture
def gate(system: System, database_url: str) -> Iterator[Gate]:
    with _gate(database_url) as made:
        yield made
