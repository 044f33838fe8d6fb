"""The cases of tracking.md in which processes die, freeze or lose their database, by number.

Two web, two worker and two streams processes work together, on a PostgreSQL and a Redis of their own that are
stopped and started under them. Every test has accounts of its own, and leaves the fleet whole.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from chaos.fleet import QUICK, Fleet, Size, running_fleet, running_servers
from exchanges.simulator.testing import ControlError
from tests.live_page import LivePage, log_in
from tests.processes import Answer, Process, answers, post_webhook, wait_until
from tests.services.conftest import Gate

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]

FUTURES = "binance-futures"
PASSWORD = "a-long-enough-password-1"
DESKS = 14
LIVE = {"NEW", "PARTIALLY_FILLED"}
PLACING = ("/fapi/v1/order", "/fapi/v1/batchOrders", "/fapi/v1/algoOrder")
# What a case names a time for stays as it is shipped; the rest is short.
SETTINGS = QUICK | {
    "STREAM_LEASE_SECONDS": "10",
    "RECONCILE_SECONDS": "29",
    "RECONCILE_DOWN_SECONDS": "10",
    "WEBHOOK_TIMEOUT_SECONDS": "5",
    "EXCHANGE_BREAKER_SECONDS": "1",
    # Long enough that a busy machine sends in time: what is held back is placed later, as another placement.
    "SUBMIT_WITHIN_SECONDS": "4",
    "EXCHANGE_TIMEOUT_SECONDS": "3",
}

LIMIT = {"symbol": "BTC/USDT", "order_type": "LIMIT", "side": "buy", "price": "90000", "quantity": "0.01"}
MARKET = {"symbol": "ETH/USDT", "order_type": "MARKET", "side": "buy", "quantity": "0.01"}
STOP = {
    "symbol": "SOL/USDT",
    "order_type": "STOP_MARKET",
    "side": "buy",
    "stop_price": "190",
    "quantity": "1",
}
BATCH = [
    {"symbol": "XRP/USDT", "order_type": "LIMIT", "side": "buy", "price": f"2.10{each}", "quantity": "10"}
    for each in range(7)
]
# Every kind of webhook that a process may die over, each in a symbol of its own.
KINDS: dict[str, list[dict[str, str]]] = {
    "limit": [LIMIT],
    "market": [MARKET],
    "stop": [STOP],
    "batch": BATCH,
}
ORDERS = sum(map(len, KINDS.values()))

Rows = list[dict[str, Any]]


class Site:
    """The fleet as the tests see it: people's accounts, webhooks, and both sides' records."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.simulator = fleet.simulator
        self._desks = iter(range(DESKS))

    def provision(self, directory: Path) -> None:
        names = [f"desk{number}" for number in range(DESKS)]
        config = {
            "users": [{"username": "trader", "password": PASSWORD}],
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
            self.simulator.add_account(f"key-{name}", f"secret-{name}", {FUTURES: {"USDT": "10000000"}})
        path = directory / "provision.json"
        path.write_text(json.dumps(config))
        self.fleet.site.manage("provision", str(path))

    def desk(self) -> Desk:
        """An account and its strategy that no other test uses."""
        return Desk(self, f"desk{next(self._desks)}")

    def process(self, name: str) -> Process:
        return self.fleet.processes[name]

    def read(self, sql: str, *parameters: Any) -> Rows:
        """What is committed, whoever wrote it."""
        with psycopg.connect(self.fleet.dsn, autocommit=True, connect_timeout=5) as connection:
            return connection.cursor(row_factory=dict_row).execute(sql, parameters or None).fetchall()

    def make_whole(self) -> None:
        self.fleet.thaw_all()
        self.fleet.servers_up()
        self.simulator.clear_faults()
        self.fleet.start_all()
        self.fleet.wait_ready()

    def pids(self) -> dict[str, int]:
        assert not self.fleet.dead()
        return {name: process.pid for name, process in self.fleet.processes.items()}


@dataclass
class Desk:
    """One strategy with one account."""

    site: Site
    name: str

    @property
    def api_key(self) -> str:
        return f"key-{self.name}"

    # --- webhooks ---------------------------------------------------------------------------------

    def payload(self, *orders: dict[str, str], webhook_id: str = "w1") -> dict[str, Any]:
        return {"token": f"token-{self.name}", "webhook_id": webhook_id, "orders": list(orders)}

    def post(self, *orders: dict[str, str], web: str = "web-1", webhook_id: str = "w1") -> Answer:
        return post_webhook(self.site.process(web), self.payload(*orders, webhook_id=webhook_id))

    def fault(self, kind: str, **options: Any) -> None:
        """Let something happen to this account's orders on their way."""
        for path in PLACING:
            match = {"api_key": self.api_key, "method": "POST", "path": path}
            self.site.simulator.add_fault(kind, match=match, times=None, **options)

    # --- what is there ----------------------------------------------------------------------------

    def ledger(self) -> Rows:
        told = self.site.simulator.ledger(api_key=self.api_key)
        rows: Rows = told["orders"] + told["conditional_orders"]
        return rows

    def fills(self) -> dict[str, Decimal]:
        rows = self.site.simulator.orders(api_key=self.api_key)
        return {str(fill["trade_id"]): Decimal(fill["quantity"]) for row in rows for fill in row["fills"]}

    def position_there(self) -> Decimal:
        wallet = self.site.simulator.ledger(api_key=self.api_key)["accounts"][FUTURES][self.api_key]
        return sum((Decimal(one["quantity"]) for one in wallet["positions"]), Decimal(0))

    # --- what is here -----------------------------------------------------------------------------

    def rows(self, table: str, columns: str = "*") -> Rows:
        """This account's rows of a table that names the account or the intent."""
        join = "JOIN exchanges_account a ON a.id = t.account_id"
        if table == "orders_orderintent":
            join = "JOIN orders_book b ON b.id = t.book_id JOIN exchanges_account a ON a.id = b.account_id"
        if table in ("orders_failedorder", "orders_trade"):
            join = (
                "JOIN orders_orderintent i ON i.id = t.intent_id"
                " JOIN orders_book b ON b.id = i.book_id JOIN exchanges_account a ON a.id = b.account_id"
            )
        picked = ", ".join(f"t.{column.strip()}" for column in columns.split(","))
        return self.site.read(f"SELECT {picked} FROM {table} t {join} WHERE a.name = %s", self.name)

    def position(self) -> Decimal:
        return sum((row["quantity"] for row in self.rows("orders_strategyposition")), Decimal(0))

    def unsettled(self) -> list[str]:
        """Orders whose fate is not known here."""
        return [
            row["status"]
            for row in self.rows("orders_openorder")
            if row["status"] in ("SUBMITTING", "CANCELING")
        ]

    def differences(self) -> str:
        """What the two sides do not agree about; empty when all is well."""
        theirs = {row["client_order_id"] for row in self.ledger() if row["status"] in LIVE}
        open_here = {row["placement_id"] for row in self.rows("orders_openorder", "placement_id")}
        placements = self.rows("orders_placement", "id, client_order_id")
        ours = {row["client_order_id"] for row in placements if row["id"] in open_here}
        booked = {row["trade_id"]: row["quantity"] for row in self.rows("orders_tradeexecution")}
        found = []
        if theirs != ours:
            found.append(f"open there {sorted(theirs - ours)}, open here {sorted(ours - theirs)}")
        if booked != self.fills():
            found.append(f"booked {booked}, filled {self.fills()}")
        if self.position() != self.position_there():
            found.append(f"position {self.position()} here, {self.position_there()} there")
        return "; ".join([*found, *self.unsettled()])

    def agrees(self, *, seconds: float = 30) -> None:
        """Ours equals the exchange's, no order was accepted twice and no intent has two."""
        wait_until(
            lambda: not self.differences(), seconds=seconds, what=lambda: f"{self.name}: {self.differences()}"
        )
        accepted = self.site.simulator.ledger(api_key=self.api_key)["accepted"]
        assert set(accepted.values()) <= {1}, accepted
        living = Counter(row["client_order_id"][:28] for row in self.ledger() if row["status"] in LIVE)
        assert set(living.values()) <= {1}, living
        executions = self.rows("orders_tradeexecution")
        assert len({row["trade_id"] for row in executions}) == len(executions)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two of each process, on servers of their own."""
    directory = tmp_path_factory.mktemp("fleet")
    size = Size(webs=2, streams=2, workers=2)

    with (
        running_servers(directory) as servers,
        running_fleet(
            servers,
            directory,
            size=size,
            settings=SETTINGS,
            prepare=lambda fleet: Site(fleet).provision(directory),
        ) as started,
    ):
        made = Site(started)
        started.wait_ready()
        wait_until(lambda: len(connected(made)) == DESKS, seconds=90, what="all streams to be up")
        yield made


@pytest.fixture
def site(fleet: Site) -> Iterator[Site]:
    yield fleet
    fleet.make_whole()


def connected(site: Site) -> Rows:
    return site.read(
        "SELECT 1 FROM tracking_ordertrackingsession WHERE status = 'connected'"
        " AND last_reconciled_at IS NOT NULL AND lease_expires_at > now()"
    )


class Background:
    """Calls that go on beside the test; what breaks in them breaks the test."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._pool = ThreadPoolExecutor(32)
        self._calls: list[Future[Any]] = []

    def start(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future = self._pool.submit(call, *arguments)
        self._calls.append(future)
        return future

    def end(self) -> None:
        self.stopped.set()
        for call in self._calls:
            call.result(60)
        self._pool.shutdown()


@pytest.fixture
def background() -> Iterator[Background]:
    made = Background()
    try:
        yield made
    finally:
        made.stopped.set()
        made._pool.shutdown(wait=True)


def post_or_be_cut_off(desk: Desk, kind: str, web: str) -> None:
    try:
        desk.post(*KINDS[kind], web=web, webhook_id=kind)
    except OSError:
        pass  # the process was killed under it, as the test wants


class TestCase4:
    """`kill -9` of a streams process while fills arrive."""

    def follower(self, site: Site, desk: Desk) -> str:
        """The name of the process that follows the account, empty while none does."""
        (row,) = desk.rows("tracking_ordertrackingsession", "owner, status, lease_expires_at")
        alive = site.read("SELECT 1 WHERE %s > now()", row["lease_expires_at"])
        if row["status"] != "connected" or not alive:
            return ""
        pid = int(row["owner"].split(":")[-2])
        names = [name for name, process in site.fleet.processes.items() if process.pid == pid]
        return names[0] if names else ""

    def test_another_or_its_restart_ends_with_the_exchanges_position(
        self, site: Site, background: Background
    ) -> None:
        desk = site.desk()
        assert desk.post(LIMIT | {"quantity": "10"})[0] == 200
        (order,) = desk.ledger()
        filled = itertools.count(1)

        def fill() -> None:
            while not background.stopped.wait(0.05):
                site.simulator.fill(order["client_order_id"], quantity=Decimal("0.01"), exchange=FUTURES)
                next(filled)

        background.start(fill)
        wait_until(lambda: desk.position() > Decimal("0.1"), what="fills to be booked")
        first = self.follower(site, desk)
        (other,) = {"streams-1", "streams-2"} - {first}

        site.fleet.kill(first)
        killed_at = time.monotonic()
        wait_until(lambda: self.follower(site, desk) == other, seconds=20, what="the other to take over")
        assert time.monotonic() - killed_at < 15
        booked = desk.position()
        wait_until(lambda: desk.position() > booked, seconds=5, what="fills to be booked again")

        site.fleet.kill(other)  # and now nobody listens
        site.fleet.start(first)
        wait_until(lambda: self.follower(site, desk) == first, seconds=25, what="the restarted to take over")
        background.end()
        site.simulator.fill(order["client_order_id"], exchange=FUTURES)

        desk.agrees()
        assert desk.position() == desk.position_there() == 10
        executions = desk.rows("orders_tradeexecution", "trade_id")
        assert len(executions) == len(desk.fills()) == next(filled)
        (trade,) = desk.rows("orders_trade", "quantity")
        assert trade["quantity"] == 10


def assert_outcome(desk: Desk, *, there: bool) -> None:
    """Of each kind: what is there was adopted; what is not was placed anew, but for the MARKET order."""
    failed = Counter[str]() if there else Counter({"ETH/USDT": 1})  # it is never silently sent again
    placed = Counter[tuple[str, str]]()
    for orders in KINDS.values():
        symbol = orders[0]["symbol"]
        if not failed[symbol]:
            placed[symbol, "0001" if there else "0002"] = len(orders)

    def failures() -> Counter[str]:
        return Counter(row["symbol"] for row in desk.rows("orders_failedorder", "symbol"))

    wait_until(
        lambda: (
            not desk.differences() and failures() == failed and len(desk.ledger()) == sum(placed.values())
        ),
        seconds=40,
        what=lambda: f"there: {there}: {desk.differences()}, failed {failures()}, ledger {desk.ledger()}",
    )
    desk.agrees()
    numbers = Counter((row["symbol"], row["client_order_id"][-4:]) for row in desk.ledger())
    assert numbers == placed
    reasons = {row["reason"] for row in desk.rows("orders_failedorder", "reason")}
    assert reasons <= {"Never placed on the exchange"}
    assert len(desk.rows("orders_orderintent", "id")) == ORDERS  # nothing is lost, nothing was made twice


class TestCase5:
    """`kill -9` of a web process between the exchange's acceptance of an order and our recording it."""

    def test_what_is_there_is_adopted_and_none_is_placed_twice(
        self, site: Site, background: Background
    ) -> None:
        there, lost = site.desk(), site.desk()
        there.fault("delay_after", seconds=30)
        lost.fault("delay_before", seconds=30)
        for kind in KINDS:
            background.start(post_or_be_cut_off, there, kind, "web-1")
            background.start(post_or_be_cut_off, lost, kind, "web-1")
        wait_until(lambda: len(there.ledger()) == ORDERS, what="the exchange to accept everything")
        wait_until(lambda: sent(site, lost) == len(KINDS), what="all requests to leave")

        site.fleet.kill("web-1")
        site.simulator.clear_faults()

        assert {row["status"] for row in lost.rows("orders_openorder")} == {"SUBMITTING"}
        assert lost.ledger() == []
        assert_outcome(there, there=True)
        assert_outcome(lost, there=False)
        background.end()


def sent(site: Site, desk: Desk) -> int:
    """How many of this desk's webhooks are on their way to the exchange."""
    marked = site.read(
        "SELECT 1 FROM orders_webhookdelivery d JOIN orders_strategy s ON s.id = d.strategy_id"
        " WHERE s.group_name = %s AND d.started_at IS NOT NULL",
        desk.name,
    )
    return len(marked)


class TestCase6:
    """The exchange accepts an order and the answer is lost."""

    FAULTS: dict[str, tuple[dict[str, Any], bool]] = {
        "no answer, accepted": ({"kind": "drop_answer", "stage": "after"}, True),
        "no answer, never arrived": ({"kind": "drop_answer", "stage": "before"}, False),
        "503, accepted": ({"kind": "status", "status": 503, "stage": "after"}, True),
    }

    def test_it_is_adopted_and_none_is_placed_twice(self, site: Site, background: Background) -> None:
        desks = {name: site.desk() for name in self.FAULTS}
        for name, desk in desks.items():
            desk.fault(**self.FAULTS[name][0])

        def post(name: str, kind: str, web: str) -> Answer:
            return desks[name].post(*KINDS[kind], web=web, webhook_id=kind)

        webs = itertools.cycle(("web-1", "web-2"))
        calls = [background.start(post, name, kind, next(webs)) for name in desks for kind in KINDS]
        for call in calls:
            status, body = call.result(30)
            assert status in (200, 408), body
            if status == 200:  # nobody knows, or the stream has told by now; none is called a failure
                told = [bool(one.get("resolving") or one["success"]) for one in body["results"]]
                assert all(told), json.dumps(body)
        site.simulator.clear_faults()

        for name, desk in desks.items():
            assert_outcome(desk, there=self.FAULTS[name][1])
        background.end()


class Sender:
    """Posts webhooks one after the other, and each again until it is carried out, as a good sender does."""

    def __init__(self, desk: Desk, background: Background, *, web: str) -> None:
        self.desk, self.web = desk, web
        self.answers: list[tuple[float, str, int, dict[str, Any], float]] = []
        self.carried_out: set[str] = set()
        self._background = background
        background.start(self._run)

    def _run(self) -> None:
        for number in itertools.count(1):
            if self._background.stopped.wait(0.15):
                return
            self._send(f"{self.web}-{number}", number)

    def _send(self, webhook_id: str, number: int) -> None:
        order = MARKET if number % 2 else LIMIT | {"price": str(80_000 + number % 10)}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            began = time.monotonic()
            status, body = self.desk.post(order, web=self.web, webhook_id=webhook_id)
            self.answers.append((began, webhook_id, status, body, time.monotonic() - began))
            if status == 200:
                self.carried_out.add(webhook_id)
                return
            time.sleep(0.3)
        raise AssertionError(f"{webhook_id} was never carried out: {self.answers[-3:]}")

    def since(self, moment: float) -> int:
        return sum(status == 200 and began > moment for began, _, status, _, _ in self.answers)


def fill_what_rests(desk: Desk, background: Background) -> None:
    """Let the desk's orders fill, part by part, all the time."""
    while not background.stopped.wait(0.1):
        for row in desk.ledger():
            if row["status"] in LIVE:
                fill_if_open(desk, row["client_order_id"])
                break


def fill_if_open(desk: Desk, client_order_id: str) -> None:
    try:
        desk.site.simulator.fill(client_order_id, quantity=Decimal("0.005"), exchange=FUTURES)
    except ControlError:
        pass  # it was moved back to the queue a moment ago


@contextmanager
def busy(site: Site, background: Background) -> Iterator[list[Sender]]:
    """Webhooks to both web processes and fills at the exchange; afterwards nothing may be lost or doubled."""
    senders = [Sender(site.desk(), background, web=web) for web in ("web-1", "web-2")]
    for sender in senders:
        background.start(fill_what_rests, sender.desk, background)
    wait_until(
        lambda: all(len(sender.carried_out) >= 4 for sender in senders),
        what=lambda: f"webhooks to flow: {[sender.answers[-3:] for sender in senders]}",
    )
    pids = site.pids()
    yield senders
    background.end()
    assert site.pids() == pids  # nobody was restarted
    for sender in senders:
        sender.desk.agrees(seconds=40)
        intents = sender.desk.rows("orders_orderintent", "delivery_id")
        assert len(intents) == len(sender.carried_out)  # each webhook's order, once
        homes = {row["home"] for row in sender.desk.rows("orders_orderintent", "home")}
        assert homes <= {"DONE", "EXCHANGE", "QUEUE"}, sender.desk.rows("orders_failedorder")


def worked_since(site: Site, moment: Any) -> bool:
    """Whether the worker has carried out a scheduled job since."""
    return bool(site.read("SELECT 1 FROM django_q_task WHERE success AND started > %s LIMIT 1", moment))


class TestCase9:
    """The database goes away for 20 s and comes back."""

    AWAY_SECONDS = 20.0

    def test_all_recover_on_their_own_and_nothing_is_lost(self, site: Site, background: Background) -> None:
        never = site.desk()
        session = log_in(site.process("web-2").url, "trader", PASSWORD)
        with (
            LivePage(site.process("web-2").url, session=session) as page,
            busy(site, background) as senders,
        ):
            site.fleet.servers.postgres.stop(immediately=True)
            gone_at = time.monotonic()
            refused: list[Answer] = []
            while time.monotonic() < gone_at + self.AWAY_SECONDS:
                web = random.choice(("web-1", "web-2"))
                refused.append(never.post(MARKET, web=web, webhook_id=f"never-{len(refused)}"))
                time.sleep(0.5)
            connections = page.connections
            site.fleet.servers.postgres.start()
            back_at = time.monotonic()

            # Those who are told that nothing was done can rely on it.
            assert {status for status, _ in refused} == {503}
            assert all(not body["success"] and "nothing was done" in body["error"] for _, body in refused)
            assert never.ledger() == []
            assert never.rows("orders_orderintent") == []
            wait_until(
                lambda: all(sender.since(back_at) >= 5 for sender in senders),
                seconds=20,
                what="webhooks to flow again",
            )
            told = [answer for sender in senders for answer in sender.answers if answer[0] > gone_at]
            assert {status for _, _, status, _, _ in told} <= {200, 408, 409, 503}, told
            assert max(seconds for *_, seconds in told) < 8
            page.wait_for(lambda: page.connections > connections or page.events, seconds=20)
            (now,) = site.read("SELECT now() AS now")
            wait_until(lambda: worked_since(site, now["now"]), seconds=45, what="the workers to work again")
            wait_until(lambda: len(connected(site)) == DESKS, seconds=30, what="all streams to be up again")

    def test_redis_goes_away_and_nobody_minds(self, site: Site, background: Background) -> None:
        with busy(site, background) as senders:
            site.fleet.servers.redis.kill()
            gone_at = time.monotonic()
            wait_until(
                lambda: all(sender.since(gone_at) >= 10 for sender in senders),
                what="webhooks to go on without",
            )
            fresh = site.desk()
            assert fresh.post(MARKET)[0] == 200
            wait_until(lambda: fresh.position() == Decimal("0.01"), what="fills to be booked without")
            for web in ("web-1", "web-2"):  # a proxy that asks must not take it out
                assert answers(f"{site.process(web).url}/readyz?for=webhooks")
            wait_until(lambda: time.monotonic() > gone_at + 8)
            site.fleet.servers.redis.start()
            told = [answer for sender in senders for answer in sender.answers if answer[0] > gone_at]
            assert {status for _, _, status, _, _ in told} == {200}, told
            (now,) = site.read("SELECT now() AS now")
            # A job of our own: the schedule would come within half a minute, too.
            words = "from django_q.tasks import async_task; async_task('tracking.tasks.orders_resolve')"
            site.fleet.site.manage("shell", "--verbosity=0", "-c", words)
            wait_until(lambda: worked_since(site, now["now"]), seconds=45, what="the workers to work again")


class TestCase12:
    """A process is frozen before it sends, and thawed when its orders have been settled."""

    def test_it_sends_nothing(self, site: Site, background: Background) -> None:
        desk = site.desk()
        gate = Gate(site.fleet.site)
        try:
            for kind in KINDS:
                background.start(post_or_be_cut_off, desk, kind, "web-1")
            wait_until(
                lambda: gate.waiting_count() == len(KINDS), what="all to stand between commit and send"
            )
            site.fleet.freeze("web-1")
            gate.open()  # the marks are written; the process does not get to hear of it
            assert_outcome(desk, there=False)
            before = self.requests(site)

            site.fleet.thaw("web-1")

            background.end()  # all are answered
            assert self.requests(site) == before
            assert_outcome(desk, there=False)
        finally:
            gate.remove()

    def requests(self, site: Site) -> dict[str, int]:
        """How often the exchange was asked to place something."""
        told: dict[str, int] = site.simulator.ledger()["requests"]
        return {name: number for name, number in told.items() if " POST " in name and name.endswith(PLACING)}
