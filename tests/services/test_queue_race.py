"""Two processes and one book: webhooks of 10 and 15 LIMIT orders at the same instant, again and again.

At the end of every round exactly the best 20 rest on the exchange and the 5 others wait, and whatever the
two did to each other's orders, each placement was accepted once.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.processes import Answer, Process, Site, post_webhook
from tests.services.conftest import dsn

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

ACCOUNTS = 50
# Symbol: the lowest of 25 prices, the step between them, and a quantity that may be traded.
BOOKS = {
    "BTC/USDT": ("90000", "10", "0.001"),
    "ETH/USDT": ("3400", "1", "0.01"),
    "SOL/USDT": ("170", "0.1", "1"),
    "XRP/USDT": ("2.1", "0.001", "100"),
}
ROUNDS = [(number, symbol) for symbol in BOOKS for number in range(ACCOUNTS)]

Rows = list[dict[str, Any]]


def provision(site: Site, directory: Path, accounts: int) -> None:
    """Give every account a strategy of its own: each of the 200 books is touched in one round only."""
    names = [f"desk{number}" for number in range(accounts)]
    config = {
        "users": [{"username": "trader", "password": "a-long-enough-password-1"}],
        "accounts": [
            {"name": name, "user": "trader", "exchange": "binance", "environment": "SIMULATOR",
             "api_key": f"key-{name}", "api_secret": f"secret-{name}"}
            for name in names
        ],
        "strategies": [
            {"group_name": name, "user": "trader", "token": f"token-{name}", "market_type": "FUTURES",
             "accounts": [{"account": name, "allocated_capital": "10000", "leverage": 10}]}
            for name in names
        ],
    }  # fmt: skip
    for name in names:
        site.simulator.add_account(f"key-{name}", f"secret-{name}")
    path = directory / "provision.json"
    path.write_text(json.dumps(config))
    site.manage("provision", str(path))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site.on_services(tmp_path) as made:
        made.start_simulator("--fixed", "--limit-scale", "100")  # hundreds of webhooks from one address
        provision(made, tmp_path, 1)
        yield made


def ladder(symbol: str) -> list[dict[str, Any]]:
    """25 buys, the worst first."""
    lowest, step, quantity = BOOKS[symbol]
    return [
        {"symbol": symbol, "order_type": "LIMIT", "side": "buy", "quantity": quantity,
         "price": str(Decimal(lowest) + each * Decimal(step))}
        for each in range(25)
    ]  # fmt: skip


def start_web(site: Site) -> Process:
    """Start a process that knows this exchange's wide limits: it reads them with the instruments."""
    web = site.start_web()
    unknown = ladder("BTC/USDT")[0] | {"token": "token-desk0", "symbol": "NEW/USDT"}
    assert post_webhook(web, unknown)[0] == 400  # after it looked whether that was listed just now
    return web


class Round:
    """One book, and two webhooks that are sent to it at the same instant, each by its own process."""

    def __init__(self, number: int, symbol: str) -> None:
        self.name, self.symbol = f"desk{number}", symbol
        self.orders = ladder(symbol)
        mixed = random.Random(f"{number} {symbol}").sample(self.orders, 25)  # noqa: S311  the same each time
        self.batches = mixed[:10], mixed[10:]

    def prices(self, orders: Rows) -> list[Decimal]:
        return sorted(Decimal(order["price"]) for order in orders)

    def post(self, webs: tuple[Process, Process], pool: ThreadPoolExecutor) -> list[Answer]:
        start = threading.Barrier(2)

        def send(web: Process, batch: Rows) -> Answer:
            body = json.dumps({"token": f"token-{self.name}", "orders": batch}).encode()
            start.wait(10)
            return post_webhook(web, body)

        return list(pool.map(send, webs, self.batches))

    def check(self, site: Site, read: Callable[..., Rows]) -> None:
        ledger = site.simulator.ledger(api_key=f"key-{self.name}", symbol=self.symbol)
        resting = [row for row in ledger["orders"] if row["status"] == "NEW"]
        assert self.prices(resting) == self.prices(self.orders[5:]), self
        assert Counter(ledger["accepted"]) == {
            row["client_order_id"]: 1
            for row in read(
                "SELECT p.client_order_id FROM orders_placement p JOIN orders_orderintent i"
                " ON i.id = p.intent_id JOIN exchanges_account a ON a.id = p.account_id"
                " WHERE a.name = %s AND i.symbol = %s AND p.outcome = 'PLACED'",
                self.name,
                self.symbol,
            )
        }
        where = (
            " JOIN orders_orderintent i ON i.id = o.intent_id JOIN exchanges_account a ON a.id = o.account_id"
            " WHERE a.name = %s AND i.symbol = %s"
        )
        open_orders = read("SELECT i.price, o.status FROM orders_openorder o" + where, self.name, self.symbol)
        assert {row["status"] for row in open_orders} == {"NEW"}
        assert self.prices(open_orders) == self.prices(self.orders[5:]), self
        waiting = read("SELECT i.price FROM orders_pendingorder o" + where, self.name, self.symbol)
        assert self.prices(waiting) == self.prices(self.orders[:5]), self

    def __repr__(self) -> str:
        return f"{self.name} {self.symbol}: {[self.prices(batch) for batch in self.batches]}"


class TestTwoProcessesOnOneBook:
    def test_leave_the_best_20_resting_and_5_waiting_in_each_of_200_rounds(
        self, site: Site, tmp_path: Path
    ) -> None:
        webs = start_web(site), start_web(site)
        provision(site, tmp_path, ACCOUNTS)  # not before: fifty at once would use up what warming up may ask
        with (
            ThreadPoolExecutor(2) as pool,
            psycopg.connect(dsn(site), autocommit=True, row_factory=psycopg.rows.dict_row) as connection,
        ):

            def read(sql: str, *parameters: Any) -> Rows:
                return connection.execute(sql, parameters).fetchall()

            for number, symbol in ROUNDS:
                one = Round(number, symbol)
                answers = one.post(webs, pool)
                assert [status for status, _ in answers] == [200, 200], answers
                one.check(site, read)
            assert read("SELECT 1 FROM orders_failedorder") == []
            moved = read("SELECT count(*) AS n FROM orders_placement WHERE number > 1")[0]["n"]
            back = read("SELECT count(*) AS n FROM orders_orderevent WHERE type = 'CANCELING'")[0]["n"]
        assert len(ROUNDS) == 200
        assert back > 50  # the two did get into each other's way
        assert moved <= back
