"""Real processes on a real PostgreSQL: a database per test, thrown away afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.processes import Site

CONFIG: dict[str, Any] = {
    "users": [{"username": "trader", "password": "a-long-enough-password-1"}],
    "accounts": [
        {
            "name": name, "user": "trader", "exchange": "binance", "environment": "SIMULATOR",
            "api_key": key, "api_secret": secret,
        }
        for name, key, secret in (("main", "k1", "s1"), ("second", "k2", "s2"))
    ],
}  # fmt: skip
STRATEGIES: list[dict[str, Any]] = [
    {
        "group_name": "one",
        "user": "trader",
        "token": "token-one",
        "market_type": "FUTURES",
        "accounts": [{"account": "main", "allocated_capital": "10000", "leverage": 10}],
    },
    {
        "group_name": "two",
        "user": "trader",
        "token": "token-two",
        "market_type": "FUTURES",
        "accounts": [
            {"account": "main", "allocated_capital": "10000", "leverage": 10},
            {"account": "second", "allocated_capital": "10000", "leverage": 10},
        ],
    },
]

# Every waiting time of the specification, shortened: what is proven is the order of things.
QUICK = {
    "SHORT_TIMES": "true",
    "DELIVERY_LEASE_SECONDS": "2",
    "SUBMIT_WITHIN_SECONDS": "2",
    "EXCHANGE_TIMEOUT_SECONDS": "2",
    "EXCHANGE_VALIDITY_SECONDS": "1",
    "RESOLVE_MARGIN_SECONDS": "1",
}


@pytest.fixture
def mode() -> str:
    """How the strategies' LIMIT and STOP orders go out; a test's own `mode` overrides it."""
    return "QUEUED"


@pytest.fixture
def site(tmp_path: Path, mode: str) -> Iterator[Site]:
    with Site.on_services(tmp_path, **QUICK) as made:
        made.start_simulator("--fixed")
        path = tmp_path / "provision.json"
        path.write_text(
            json.dumps(CONFIG | {"strategies": [s | {"execution_mode": mode} for s in STRATEGIES]})
        )
        made.manage("provision", str(path))
        yield made


Rows = list[dict[str, Any]]


def dsn(site: Site) -> str:
    return site.database_url.replace("postgres://", "postgresql://", 1)


@pytest.fixture
def rows(site: Site) -> Iterator[Callable[..., Rows]]:
    """Read the system's database directly: what is committed, whoever wrote it."""
    with psycopg.connect(dsn(site), autocommit=True, row_factory=psycopg.rows.dict_row) as connection:

        def read(sql: str, *parameters: Any) -> Rows:
            return connection.execute(sql, parameters or None).fetchall()

        yield read


class Gate:
    """Holds every process that is about to mark a delivery as started: committed, nothing sent yet."""

    KEY = 4711
    # Of this database alone: the server's list holds every database's locks, and others may have a gate, too.
    WAITING = """
        SELECT pid FROM pg_locks
         WHERE locktype = 'advisory' AND objid = %s AND NOT granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

    def __init__(self, site: Site) -> None:
        self._holder = psycopg.connect(dsn(site), autocommit=True)
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

    def waiting_count(self) -> int:
        """How many stand at the gate."""
        return len(self._holder.execute(self.WAITING, [self.KEY]).fetchall())

    def waiting(self) -> bool:
        return self.waiting_count() > 0

    def drop_who_waits(self) -> None:
        """End the waiting statements, as the server does for a client that is gone."""
        self._holder.execute(f"SELECT pg_terminate_backend(pid) FROM ({self.WAITING}) AS them", [self.KEY])

    def open(self) -> None:
        self._holder.execute("SELECT pg_advisory_unlock(%s)", [self.KEY])

    def close(self) -> None:
        self._holder.close()

    def remove(self) -> None:
        """Take it away again, for a database that others use after."""
        self.open()
        self._holder.execute("DROP TRIGGER gate ON orders_webhookdelivery; DROP FUNCTION wait_at_gate()")
        self.close()


@pytest.fixture
def gate(site: Site) -> Iterator[Gate]:
    made = Gate(site)
    try:
        yield made
    finally:
        made.close()
