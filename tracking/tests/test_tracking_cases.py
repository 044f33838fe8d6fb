"""The cases of tracking.md that need no process to die, by number, from the webhook to the live page.

The streams process runs in a thread, the exchange and the page's server are processes of their own, and
between them are real sockets. Cases 4, 5, 6, 9 and 12 stand in tests/services/test_tracking_processes.py;
case 13 is the chaos run (chaos/).
"""

from __future__ import annotations

import json
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connection
from pytest_django import DjangoDbBlocker
from pytest_django.fixtures import Settings

from exchanges import access, runtime
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.testing import make_request
from exchanges.adapters.types import OrderRef, OrderReport
from exchanges.simulator.testing import ControlError, SimulatorProcess
from orders.models import (
    EventType,
    FailedOrder,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Placement,
    StrategyPosition,
    Trade,
    TradeExecution,
)
from orders.services.applied import Applied
from orders.services.queue import due_run, sweep
from orders.tests.conftest import _nothing_remembered
from orders.tests.factories import SideBySide, make_follower, post
from orders.webhook.answers import WebhookAnswer
from tests.live_page import LivePage, session_of
from tests.processes import Process, Site
from tracking.applier import Applier
from tracking.models import OrderTrackingSession, SessionStatus, UnmatchedReport
from tracking.reconciliation import reconcile_account
from tracking.resolver import cancels_sweep, gaps_sweep
from tracking.tests.making import wait_until
from tracking.tests.running import streams_process
from tracking.watch import StreamKey

__all__ = ["_nothing_remembered"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

FUTURES = "binance-futures"
LIVE = {"NEW", "PARTIALLY_FILLED"}
FILL = {"event": "ORDER_TRADE_UPDATE"}  # what a stream says of an order
LIST = {"method": "GET", "path": "/fapi/v1/openOrders"}
PATIENCE = 15.0  # seconds, where a case names no time


def order(side: str, price: int | None, quantity: str = "1") -> dict[str, Any]:
    """A LIMIT order, or a MARKET one without a price."""
    kind = {"order_type": "MARKET"} if price is None else {"order_type": "LIMIT", "price": str(price)}
    return {"symbol": "BTC/USDT", "side": side, "quantity": quantity} | kind


def buy(price: int | None, quantity: str = "1") -> dict[str, Any]:
    return order("buy", price, quantity)


def sell(price: int | None, quantity: str = "1") -> dict[str, Any]:
    return order("sell", price, quantity)


class Desk:
    """One strategy, its account at the simulator, and what the two sides say of it."""

    def __init__(self, simulator: SimulatorProcess) -> None:
        self.simulator = simulator
        self.follower = make_follower()
        self.account = self.follower.account
        self.api_key = self.account.credentials.api_key
        simulator.add_account(
            self.api_key, self.account.credentials.api_secret, {FUTURES: {"USDT": "100000000"}}
        )

    def post(self, *orders: dict[str, Any]) -> WebhookAnswer:
        answer = post({"orders": list(orders)})
        assert answer.status == 200, answer.body
        return answer

    def place(self, one: dict[str, Any]) -> Placement:
        """Send an order by webhook; return its placement, which the exchange has accepted."""
        self.post(one)
        placement = Placement.objects.latest("pk")
        assert placement.exchange_order_id, placement.exchange_words
        return placement

    # --- what happens at the exchange ------------------------------------------------------------

    def fill(self, placement: Placement, quantity: str | None = None, *, price: int | None = None) -> float:
        """Let an order fill; return the monotonic time just before."""
        at = time.monotonic()
        part = None if quantity is None else Decimal(quantity)
        self.simulator.fill(placement.client_order_id, quantity=part, price=price, exchange=FUTURES)
        return at

    def _exchange(self) -> Any:
        return access.exchange_for(self.account, "FUTURES")

    def cancel_by_hand(self, placement: Placement) -> float:
        at = time.monotonic()
        ref = OrderRef(symbol="BTC/USDT", exchange_order_id=placement.exchange_order_id)
        (ended,) = runtime.run(self._exchange().cancel_orders([ref]), timeout=5)
        assert isinstance(ended, OrderReport), ended
        return at

    def place_by_hand(self, client_order_id: str, price: int) -> None:
        request = make_request(client_order_id, price=Decimal(price), quantity=Decimal("0.5"))
        (placed,) = runtime.run(self._exchange().place_orders([request]), timeout=5)
        assert isinstance(placed, OrderReport), placed

    def cut(self) -> None:
        """Break the stream, and refuse another until the faults are cleared."""
        self.simulator.add_fault("stream_refuse", status=503, times=None)
        assert self.simulator.cut_streams(api_key=self.api_key) == 1
        wait_until(lambda: not is_connected())

    def heal(self) -> None:
        self.simulator.clear_faults()
        wait_until(is_connected)

    # --- the exchange's word ----------------------------------------------------------------------

    def ledger(self) -> list[dict[str, Any]]:
        return self.simulator.orders(api_key=self.api_key, exchange=FUTURES)

    def living(self) -> list[str]:
        return [row["client_order_id"] for row in self.ledger() if row["status"] in LIVE]

    def bought(self, intent: OrderIntent) -> Decimal:
        """What the exchange has filled of an intent, over all of its placements."""
        rows = self.simulator.orders(api_key=self.api_key, client_order_id_prefix=f"th{intent.uid}")
        return sum((Decimal(fill["quantity"]) for row in rows for fill in row["fills"]), Decimal(0))

    def agrees(self) -> None:
        """Orders, executions and position are the exchange's; each order was accepted once."""
        ledger = self.simulator.ledger(api_key=self.api_key)
        assert set(ledger["accepted"].values()) <= {1}, ledger["accepted"]
        ours = [row for row in ledger["orders"] if row["client_order_id"].startswith("th")]
        there = sorted(str(fill["trade_id"]) for row in ours for fill in row["fills"])
        assert sorted(TradeExecution.objects.values_list("trade_id", flat=True)) == there
        open_here = OpenOrder.objects.filter(status__in=LIVE)
        assert sorted(open_here.values_list("placement__client_order_id", flat=True)) == sorted(
            row["client_order_id"] for row in ours if row["status"] in LIVE
        )
        wallet = ledger["accounts"][FUTURES][self.api_key]
        assert position() == sum((Decimal(one["quantity"]) for one in wallet["positions"]), Decimal(0))


def is_connected() -> bool:
    row = OrderTrackingSession.objects.first()
    return row is not None and row.status == SessionStatus.CONNECTED and row.last_reconciled_at is not None


def position() -> Decimal:
    return StrategyPosition.objects.values_list("quantity", flat=True).first() or Decimal(0)


def books() -> tuple[Any, ...]:
    """Everything that a fill changes, without ids and times."""
    placement = Placement.objects.get()
    return (
        set(TradeExecution.objects.values_list("price", "quantity", "fee")),
        list(Trade.objects.values_list("side", "quantity", "average_price", "realized_pnl")),
        list(StrategyPosition.objects.values_list("quantity", "average_price", "realized_pnl")),
        (placement.exchange_status, placement.filled_quantity, placement.intent.home),
        OpenOrder.objects.count(),
        FailedOrder.objects.count(),
    )


@pytest.fixture
def desk(on_simulator: SimulatorProcess) -> Desk:
    return Desk(on_simulator)


@pytest.fixture
def followed(desk: Desk) -> Iterator[Desk]:
    """A desk whose stream is up and whose account was reconciled."""
    with streams_process():
        wait_until(is_connected)
        yield desk


@pytest.fixture(scope="module")
def web(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    """A web process on the tests' own database: the live page is asked of it."""
    database = connection.settings_dict
    url = (
        f"sqlite:///{database['NAME']}"
        if connection.vendor == "sqlite"
        else "postgres://{USER}@{HOST}:{PORT}/{NAME}".format_map(database)
    )
    settings = {
        "DEBUG": "true",
        "SECRET_KEY": django_settings.SECRET_KEY,
        "FIELD_ENCRYPTION_KEYS": ",".join(django_settings.FIELD_ENCRYPTION_KEYS),
        "DATABASE_POOL_MAX": "4",
    }
    directory: Path = tmp_path_factory.mktemp("page")
    with Site(directory, url, redis_url=os.environ.get("REDIS_URL", ""), settings=settings) as site:
        yield site.start_web()
    # It has outlived the last test, after which the database was emptied, and reported its own end.
    with django_db_blocker.unblock():
        call_command("flush", interactive=False, verbosity=0)


@pytest.fixture
def page(web: Process, desk: Desk) -> Iterator[LivePage]:
    """The live page of the desk's owner."""
    with LivePage(web.url, session=session_of(desk.follower.strategy.user)) as shown:
        yield shown


def quantities(page: LivePage, section: str, label: str = "Quantity") -> list[Decimal]:
    return [Decimal(text) for text in page.cells(section, label)]


class TestCase1:
    """Part fill, then full fill by stream."""

    def test_the_page_shows_both_within_a_second(self, page: LivePage, followed: Desk) -> None:
        delays = [delay for number in (1, 2, 3) for delay in self.fill_in_two(page, followed, number)]
        # A machine that is busy with other tests may be late now and then, a slow page always is.
        assert statistics.median_low(delays) < 1, delays
        assert max(delays) < 3, delays
        followed.agrees()

    def fill_in_two(self, page: LivePage, desk: Desk, number: int) -> tuple[float, float]:
        """Let the order fill in two parts; return how long it took until the page showed each."""
        placement = desk.place(buy(90_000))
        page.wait_for(lambda: quantities(page, "orders", "Filled") == [0], seconds=PATIENCE)

        part_at = desk.fill(placement, "0.4")
        part_shown_at = page.wait_for(
            lambda: (
                quantities(page, "orders", "Filled") == [Decimal("0.4")]
                and quantities(page, "positions") == [number - 1 + Decimal("0.4")]
            ),
            seconds=PATIENCE,
        )
        (resting,) = OpenOrder.objects.all()
        assert (resting.status, resting.placement.filled_quantity) == ("PARTIALLY_FILLED", Decimal("0.4"))

        rest_at = desk.fill(placement)
        shown_at = page.wait_for(
            lambda: (
                page.rows("orders") == []
                and quantities(page, "positions") == [number]
                and quantities(page, "trades") == [1] * number
            ),
            seconds=PATIENCE,
        )
        fills = TradeExecution.objects.filter(placement=placement).order_by("pk")
        assert list(fills.values_list("quantity", flat=True)) == [Decimal("0.4"), Decimal("0.6")]
        trade = Trade.objects.get(intent=placement.intent)
        assert (trade.quantity, trade.average_price) == (1, 90_000)
        held = StrategyPosition.objects.get()
        assert (held.quantity, held.average_price, held.realized_pnl) == (number, 90_000, 0)
        assert not OpenOrder.objects.exists()
        return part_shown_at - part_at, shown_at - rest_at


class TestCase2:
    """The same two messages twice, and in the wrong order."""

    FIRST, SECOND = Decimal("0.4"), Decimal("0.6")
    FAULTS: dict[str, tuple[list[tuple[str, int | None]], list[Decimal]]] = {  # and what is heard then
        "as they come": ([], [FIRST, SECOND]),
        "each twice": ([("stream_duplicate", None)], [FIRST, FIRST, SECOND, SECOND]),
        "the second first": ([("stream_reorder", 1)], [SECOND, FIRST]),
        "the second twice, then the first": (
            [("stream_reorder", 1), ("stream_duplicate", 1)],
            [SECOND, SECOND, FIRST],
        ),
    }

    @pytest.fixture(autouse=True)
    def _nothing_but_the_stream(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No gap is fetched and nothing reconciled meanwhile: what is counted, these messages brought."""
        monkeypatch.setattr("tracking.follower.GAP_GRACE_SECONDS", 30.0)

    @pytest.fixture
    def heard(self, monkeypatch: pytest.MonkeyPatch) -> list[Decimal]:
        """The quantities of the fills that the stream tells of, in the order in which it does."""
        found: list[Decimal] = []
        apply = Applier.apply

        async def listening(self: Applier, key: StreamKey, reports: Sequence[OrderReport]) -> Applied:
            found.extend(fill.quantity for report in reports for fill in report.fills)
            return await apply(self, key, reports)

        monkeypatch.setattr(Applier, "apply", listening)
        return found

    @pytest.mark.parametrize(("faults", "order_heard"), FAULTS.values(), ids=FAULTS)
    def test_the_result_is_the_same(
        self,
        heard: list[Decimal],
        followed: Desk,
        faults: list[tuple[str, int | None]],
        order_heard: list[Decimal],
    ) -> None:
        placement = followed.place(buy(90_000))
        for kind, times in faults:
            followed.simulator.add_fault(kind, match=FILL, times=times)
        followed.fill(placement, "0.4", price=89_990)
        followed.fill(placement, price=90_000)

        wait_until(lambda: not OpenOrder.objects.exists(), seconds=PATIENCE)
        followed.simulator.clear_faults()
        followed.place_by_hand("marker", 70_000)  # heard after everything else
        wait_until(lambda: UnmatchedReport.objects.filter(client_order_id="marker"), seconds=PATIENCE)
        assert not UnmatchedReport.objects.filter(state="UNREADABLE")  # each could be applied
        assert heard == order_heard

        average = Decimal("89996")
        fees = [Decimal(fill["fee"]) for row in followed.ledger() for fill in row["fills"]]
        assert books() == (
            {(Decimal(89_990), Decimal("0.4"), fees[0]), (Decimal(90_000), Decimal("0.6"), fees[1])},
            [("BUY", 1, average, 0)],
            [(1, average, 0)],
            ("FILLED", 1, Home.DONE),
            0,
            0,
        )
        followed.agrees()


class TestCase3:
    """The stream is cut, and the exchange fills."""

    @pytest.fixture(autouse=True)
    def _back_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """How long a stream stays away is not the point."""
        monkeypatch.setattr("exchanges.adapters.streaming.LONGEST_DELAY_SECONDS", 1.0)

    def test_the_page_shows_it_within_ten_seconds_and_nothing_is_counted_twice(
        self, page: LivePage, followed: Desk
    ) -> None:
        placement = followed.place(buy(90_000))
        followed.cut()  # right after a reconciliation: with the stream up, the next would be in 29 s

        filled_at = followed.fill(placement, "0.4")
        shown_at = page.wait_for(lambda: quantities(page, "positions") == [Decimal("0.4")], seconds=40)
        assert shown_at - filled_at < 10
        assert not is_connected()

        filled_at = followed.fill(placement, "0.3")  # right after a reconciliation again
        shown_at = page.wait_for(lambda: quantities(page, "positions") == [Decimal("0.7")], seconds=40)
        assert shown_at - filled_at < 10
        assert not is_connected()

        followed.heal()
        followed.fill(placement)
        page.wait_for(lambda: page.rows("orders") == [], seconds=PATIENCE)
        assert (TradeExecution.objects.count(), position()) == (3, Decimal(1))
        followed.agrees()

    def test_the_realized_pnl_is_right_when_the_older_fill_is_heard_last(
        self, page: LivePage, followed: Desk
    ) -> None:
        first, second = followed.place(buy(80_000)), followed.place(buy(90_000))
        followed.fill(first)
        wait_until(lambda: position() == 1)
        followed.cut()
        followed.fill(second)  # the older one: nobody hears it
        sold = followed.place(sell(None))  # its fill is known at once, at 95,000
        wait_until(lambda: TradeExecution.objects.filter(placement=sold).exists())
        page.wait_for(lambda: quantities(page, "positions") == [0], seconds=PATIENCE)
        assert StrategyPosition.objects.get().realized_pnl == 15_000  # as far as we know

        page.wait_for(lambda: quantities(page, "positions") == [1], seconds=10)

        held = StrategyPosition.objects.get()
        assert (held.quantity, held.average_price) == (
            Decimal(1),
            Decimal(85_000),
        )  # both buys came before the sale
        assert held.realized_pnl == 95_000 - 85_000
        assert Trade.objects.get(side="SELL").realized_pnl == 10_000
        followed.heal()
        followed.agrees()


class TestCase7:
    """An order is cancelled by hand on the exchange."""

    @pytest.mark.waits
    @pytest.mark.parametrize("is_heard", [True, False], ids=["heard", "not heard"])
    def test_it_leaves_the_page_within_29_seconds_and_is_a_failed_order(
        self, page: LivePage, followed: Desk, is_heard: bool
    ) -> None:
        placement = followed.place(buy(90_000))
        page.wait_for(lambda: quantities(page, "orders") == [1], seconds=PATIENCE)
        followed.fill(placement, "0.4")
        page.wait_for(lambda: quantities(page, "orders", "Filled") == [Decimal("0.4")], seconds=PATIENCE)
        if not is_heard:
            followed.simulator.add_fault("stream_drop", match=FILL, times=None)

        canceled_at = followed.cancel_by_hand(placement)
        gone_at = page.wait_for(
            lambda: page.rows("orders") == [] and page.cells("failed", "Status") == ["Canceled"], seconds=40
        )

        assert gone_at - canceled_at < (5 if is_heard else 29)
        failed = FailedOrder.objects.get()
        assert (failed.status, failed.quantity) == ("canceled", Decimal("0.6"))
        assert (position(), Trade.objects.get().quantity) == (Decimal("0.4"), Decimal("0.4"))
        followed.agrees()


class TestCase8:
    """An order is placed by hand."""

    def test_it_is_shown_as_external_and_never_canceled_by_the_queue(
        self, page: LivePage, followed: Desk, settings: Settings
    ) -> None:
        settings.QUEUE_LIMIT_CAP = 3
        followed.place_by_hand("by-hand", 70_000)  # worse than all that come
        page.wait_for(lambda: any("Not our order" in line for line in page.events), seconds=PATIENCE)
        reconcile_account(account_id=followed.account.pk, market_type="FUTURES")

        followed.post(*[buy(80_000 + each, "0.01") for each in range(4)])  # it takes one slot of three
        assert len(followed.living()) == 3
        followed.post(buy(85_000, "0.01"))  # a better one takes the place of the worst of ours
        assert set(PendingOrder.objects.values_list("intent__price", flat=True)) == {80_000, 80_001, 80_002}
        assert "by-hand" in followed.living()
        followed.post({"order_type": "CANCEL_ALL_ORDER"})
        wait_until(lambda: followed.living() == ["by-hand"], seconds=PATIENCE)

        followed.simulator.fill("by-hand", exchange=FUTURES)
        wait_until(lambda: followed.living() == [])
        page.wait_for(lambda: page.rows("orders") == [], seconds=PATIENCE)
        words = "An order that is not ours filled 0.5 at 70000"
        page.wait_for(lambda: sum(words in line for line in page.events) == 1, seconds=PATIENCE)
        told = OrderEvent.objects.filter(type=EventType.EXTERNAL)
        assert {event.data["client_order_id"] for event in told} == {"by-hand"}
        assert UnmatchedReport.objects.filter(state="EXTERNAL").count() == 1
        assert not StrategyPosition.objects.exists()
        assert not TradeExecution.objects.exists()


class TestCase10:
    """A demotion's cancel races a fill, and the acknowledgement says nothing of it."""

    def lost(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """The answer never comes."""
        desk.simulator.add_fault("drop_answer", match={"method": "DELETE"})

    def mute(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """It comes, and there is nothing to read in it."""
        body = json.dumps({"orderId": 1})
        desk.simulator.add_fault("status", match={"method": "DELETE"}, status=200, body=body, stage="after")

    def bare(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says canceled, and nothing of quantities, as other exchanges' do."""
        cancel = BinanceFutures._cancel_plain

        async def without_quantities(self: BinanceFutures, refs: list[OrderRef]) -> list[Any]:
            told = await cancel(self, refs)
            return [
                replace(one, filled_quantity=None) if isinstance(one, OrderReport) else one for one in told
            ]

        monkeypatch.setattr(BinanceFutures, "_cancel_plain", without_quantities)

    @pytest.mark.parametrize("answer", [lost, mute, bare], ids=["lost", "mute", "bare"])
    @pytest.mark.parametrize("is_heard", [True, False], ids=["fill heard", "fill not heard"])
    def test_never_more_than_was_meant_is_bought(
        self,
        followed: Desk,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        answer: Callable[[Any, Desk, pytest.MonkeyPatch], None],
        is_heard: bool,
    ) -> None:
        settings.QUEUE_LIMIT_CAP = 1
        worst = followed.place(buy(90_000))
        wait_until(lambda: OrderEvent.objects.filter(type=EventType.ACCEPTED).exists())
        delete = {"method": "DELETE"}
        followed.simulator.add_fault("delay_before", match=delete, seconds=0.7)
        answer(self, followed, monkeypatch)
        if not is_heard:
            followed.simulator.add_fault("stream_drop", match=FILL, times=None)

        with SideBySide() as threads:
            better = threads.start(lambda: followed.post(buy(94_000, "0.01")))
            wait_until(lambda: OpenOrder.objects.filter(status="CANCELING").exists())
            followed.fill(worst, "0.4")
            better.result(20)

        intent = worst.intent
        wait_until(lambda: followed.living() and followed.living()[0][:28] != f"th{intent.uid}", seconds=30)
        (pending,) = PendingOrder.objects.all()
        assert (pending.intent_id, pending.intent.remaining_quantity) == (intent.pk, Decimal("0.6"))
        followed.simulator.clear_faults()
        followed.post({"order_type": "CANCEL", "order_id": Placement.objects.latest("pk").client_order_id})
        wait_until(lambda: f"th{intent.uid}0002" in followed.living(), seconds=PATIENCE)
        again = Placement.objects.get(intent=intent, number=2)
        assert again.quantity == Decimal("0.6")
        followed.fill(again)
        wait_until(lambda: position() == 1, seconds=PATIENCE)
        wait_until(lambda: not OpenOrder.objects.exists(), seconds=PATIENCE)

        assert followed.bought(intent) == 1
        assert not PendingOrder.objects.exists()
        assert not FailedOrder.objects.exists()
        followed.agrees()


class TestCase11:
    """CANCEL_ALL_ORDER while orders are SUBMITTING, CANCELING and waiting, and while a slot frees."""

    CAP = 4
    CANCEL_ALL = {"order_type": "CANCEL_ALL_ORDER"}
    WANTED = ("SUBMITTING", "CANCELING", "waiting", "NEW")

    @pytest.fixture(autouse=True)
    def _few_slots(self, settings: Settings) -> None:
        settings.QUEUE_LIMIT_CAP = self.CAP

    def test_none_lives_and_none_comes_back(self, followed: Desk) -> None:
        """Every state at once, held there until the cancel has been accepted."""
        followed.post(*[buy(90_000 + each, "0.01") for each in range(self.CAP + 3)])
        best = OpenOrder.objects.get(intent__price=90_000 + self.CAP + 2).placement
        for method in ("POST", "DELETE"):
            followed.simulator.add_fault("delay_before", match={"method": method}, seconds=1.5, times=None)

        with SideBySide() as threads:
            ladder = threads.start(
                lambda: followed.post(*[buy(92_000 + each, "0.01") for each in range(2)], buy(None, "0.01"))
            )
            wait_until(lambda: states() >= {"SUBMITTING", "CANCELING", "NEW", "waiting"})
            cancel = threads.start(lambda: followed.post(self.CANCEL_ALL))
            wait_until(lambda: not OrderIntent.objects.filter(cancel_requested=False).exists())
            followed.fill(best)  # a slot frees while all of this is on its way
            followed.simulator.clear_faults()
            ladder.result(30)
            cancel.result(30)

        self.settle(followed)
        market = OrderIntent.objects.get(order_type="MARKET")
        assert market.home == Home.DONE  # whatever became of it, it rests nowhere
        assert position() == Decimal("0.01") + market.filled_quantity
        followed.agrees()

    @pytest.mark.parametrize("seed", [1, 2])
    def test_whatever_happens_at_the_same_time(self, followed: Desk, seed: int) -> None:
        """Random rounds: webhooks, fills, cuts of the stream and slow answers around each cancel."""
        chance = random.Random(seed)  # noqa: S311  the same each time
        seen: set[str] = set()
        for number in range(ROUNDS):
            seen |= self.round(followed, chance, number)
        assert set(self.WANTED) <= seen
        followed.agrees()

    def round(self, desk: Desk, chance: random.Random, number: int) -> set[str]:
        """One cancel in the middle of everything; return the states that it met."""
        start = 80_000 + 10 * number
        desk.post(*[buy(start + each, "0.01") for each in range(self.CAP + 2)])
        resting = list(Placement.objects.filter(open_order__status="NEW"))
        for method in ("POST", "DELETE"):
            seconds = chance.uniform(0.1, 0.4)
            stage = chance.choice(["delay_before", "delay_after"])
            desk.simulator.add_fault(stage, match={"method": method}, seconds=seconds, times=3)
        if chance.random() < 0.3:
            desk.simulator.add_fault("stream_duplicate", match=FILL, times=3)
        if chance.random() < 0.2:
            desk.simulator.add_fault("drop_answer", match={"method": "DELETE"}, times=1)
        before, met = Pause(chance), set[str]()

        def fill() -> None:
            before()
            for placement in chance.sample(resting, 2):
                fill_if_open(desk, placement)

        def better(price: int) -> None:
            before()
            desk.post(*[buy(price + each, "0.01") for each in range(3)])

        def cancel() -> int:
            before()
            nonlocal met
            wanted, until = self.WANTED[number % len(self.WANTED)], time.monotonic() + 1
            while wanted not in (met := states()) and time.monotonic() < until:
                time.sleep(0.01)
            desk.post(self.CANCEL_ALL)
            return OrderIntent.objects.filter(cancel_requested=False, home__in=("QUEUE", "EXCHANGE")).count()

        with SideBySide() as threads:
            calls: list[Future[Any]] = [threads.start(fill)]
            calls += [threads.start(lambda each=each: better(start + 100 * each)) for each in (1, 2)]  # type: ignore[misc]  # a default binds the loop's value
            calls.append(threads.start(cancel))
            for call in calls:
                call.result(60)
        desk.simulator.clear_faults()
        # What a webhook brought after the cancel lives rightly, and is canceled by a second one.
        canceled = set(OrderIntent.objects.filter(cancel_requested=True).values_list("uid", flat=True))
        wait_until(lambda: not self.alive(desk, canceled), seconds=30)
        desk.post(self.CANCEL_ALL)
        self.settle(desk)
        return met

    def alive(self, desk: Desk, uids: set[str]) -> set[str]:
        """Those of these intents that rest at the exchange, or wait or live here."""
        homes = OrderIntent.objects.filter(uid__in=uids, home__in=(Home.QUEUE, Home.EXCHANGE))
        there = {client_id[2:28] for client_id in desk.living()}
        return set(homes.values_list("uid", flat=True)) | (uids & there)

    def settle(self, desk: Desk) -> None:
        """None lives, here or there; and whatever looks for free slots brings none back."""
        uids = set(OrderIntent.objects.values_list("uid", flat=True))
        wait_until(lambda: not self.alive(desk, uids), seconds=30)
        placed = Placement.objects.count()
        accepted = len(desk.ledger())
        for look in (sweep, due_run, gaps_sweep, cancels_sweep):
            look()
        reconcile_account(account_id=desk.account.pk, market_type="FUTURES")
        assert (Placement.objects.count(), len(desk.ledger())) == (placed, accepted)
        assert not self.alive(desk, uids)
        assert not PendingOrder.objects.exists()
        assert not OpenOrder.objects.exists()
        assert not FailedOrder.objects.exists()


ROUNDS = 8


def states() -> set[str]:
    """The states of our orders right now."""
    waiting = {"waiting"} if PendingOrder.objects.exists() else set[str]()
    return waiting | set(OpenOrder.objects.values_list("status", flat=True))


def fill_if_open(desk: Desk, placement: Placement) -> None:
    """Fill an order, unless it was canceled a moment ago."""
    try:
        desk.fill(placement)
    except ControlError:
        pass


class Pause:
    """A moment before each of several threads goes on, not the same for all and never the same."""

    def __init__(self, chance: random.Random) -> None:
        self._moments = iter([chance.uniform(0, 0.15) for _ in range(8)])
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            seconds = next(self._moments)
        time.sleep(seconds)
