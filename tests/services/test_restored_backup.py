"""What docs/operations.md says of a restored backup: what was traded since is found or shown."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.processes import ROOT, Site, post_webhook, wait_until
from tests.services.conftest import dsn

pytestmark = [pytest.mark.services, pytest.mark.timeout(200)]
Rows = Callable[..., list[dict[str, Any]]]


def signal(name: str, *orders: dict[str, Any]) -> dict[str, Any]:
    return {"token": "token-one", "symbol": "BTC/USDT", "webhook_id": name, "orders": list(orders)}


def buy(price: int, quantity: str = "0.01") -> dict[str, Any]:
    return {"order_type": "LIMIT", "side": "buy", "price": str(price), "quantity": quantity}


def client(name: str) -> str:
    """pg_dump and psql of this machine."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))[-1:]
    found = shutil.which(name) or (str(newest[0]) if newest else None)
    assert found, f"{name} is missing: apt-get install postgresql-client"
    return found


def dump(site: Site, file: Path) -> None:
    subprocess.run([client("pg_dump"), "--format=plain", f"--file={file}", dsn(site)], check=True, timeout=60)


def restore(site: Site, file: Path) -> None:
    with psycopg.connect(dsn(site), autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    command = [client("psql"), "--quiet", "--set=ON_ERROR_STOP=1", f"--file={file}", dsn(site)]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)


def check(site: Site) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", "reconcile", "--check"]
    return subprocess.run(
        command, cwd=ROOT, env=site.environment, check=False, capture_output=True, text=True, timeout=60
    )


class TestRestoredBackup:
    def test_finds_what_became_of_its_orders_and_shows_those_that_it_does_not_know(
        self, site: Site, rows: Rows, tmp_path: Path
    ) -> None:
        web = site.start_web()
        assert post_webhook(web, signal("before", *(buy(90_000 + n) for n in range(21))))[0] == 200
        assert len(rows("SELECT 1 FROM orders_pendingorder")) == 1
        dump(site, tmp_path / "backup.sql")
        # What the backup knows nothing of: a fill, the waiting order's move to the exchange, another signal.
        filled = site.simulator.orders()[0]["client_order_id"]
        streams = site.start_streams()
        site.simulator.fill(filled)
        wait_until(lambda: not rows("SELECT 1 FROM orders_pendingorder"), what="the slot to be taken")
        eth = {"symbol": "ETH/USDT", "quantity": "0.05"}
        bought = {"order_type": "MARKET", "side": "buy"} | eth
        assert post_webhook(web, signal("after", buy(2_900) | eth, bought))[0] == 200
        web.stop()
        streams.stop()
        placed = {row["client_order_id"]: row["status"] for row in site.simulator.orders()}

        restore(site, tmp_path / "backup.sql")
        site.manage("kill_switch", "on", "--reason", "restored")
        site.start_streams()

        # Its own order's fill is found.
        wait_until(
            lambda: rows("SELECT 1 FROM orders_trade WHERE quantity::numeric = 0.01"),
            what="the fill to be booked",
            seconds=40,
        )
        # Orders that it never made and that live are external, with an alert, and none is touched.
        known = {row["client_order_id"] for row in rows("SELECT client_order_id FROM orders_placement")}
        strange = {name for name, status in placed.items() if name not in known and status == "NEW"}
        assert len(strange) == 2

        def shown() -> bool:
            found = rows("SELECT client_order_id FROM tracking_unmatchedreport WHERE state = 'EXTERNAL'")
            return {row["client_order_id"] for row in found} == strange

        wait_until(shown, what="the strange orders to be shown", seconds=40)
        alerts = rows("SELECT 1 FROM orders_orderevent WHERE type = 'EXTERNAL' AND (data->>'alert')::boolean")
        assert len(alerts) == 2
        # With the kill switch on nothing leaves: what waited in the backup waits.
        assert len(rows("SELECT 1 FROM orders_pendingorder")) == 1
        assert Counter(row["client_order_id"] for row in site.simulator.orders()) == Counter(placed.keys())
        # One that has ended since is seen nowhere but in the position.
        told = check(site)
        assert told.returncode == 1
        assert "ETH/USDT: position 0 here, 0.05 there" in told.stdout
        assert "BTC/USDT: position" not in told.stdout

        site.manage("kill_switch", "on", "--reason", "restored", "--cancel-orders")

        wait_until(lambda: not rows("SELECT 1 FROM orders_openorder"), what="all to be canceled", seconds=40)
        assert rows("SELECT 1 FROM orders_pendingorder") == []
        alive = {row["client_order_id"] for row in site.simulator.orders() if row["status"] == "NEW"}
        assert alive == strange
