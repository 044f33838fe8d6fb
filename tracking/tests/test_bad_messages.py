"""What no exchange should say on a stream, said over a real socket: it harms nothing, and it is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from exchanges.adapters import streaming
from exchanges.adapters.types import Credentials, UnreadableMessage
from exchanges.simulator.testing import SimulatorProcess
from orders.models import OrderEvent, StrategyPosition, TradeExecution
from orders.states import OrderStatus
from tracking import unreadable
from tracking.models import OrderTrackingSession, SessionStatus, UnmatchedReport
from tracking.tests.making import key_of, make_account, make_orders, open_order, send, wait_until
from tracking.tests.running import streams_process

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(90)]
DIALECT = {"FUTURES": "binance-futures", "SPOT": "binance-spot"}


class Heard:
    """An account that is followed, with an order that rests, and what its stream can be made to say."""

    def __init__(self, simulator: SimulatorProcess, market_type: str) -> None:
        self.simulator = simulator
        self.market_type = market_type
        number = time.time_ns()
        credentials = Credentials(f"RECOGNISABLE-key-{number}", f"RECOGNISABLE-secret-{number}")
        self.account = make_account(market_type=market_type, credentials=credentials)
        keys = self.account.credentials
        money = {DIALECT[market_type]: {"USDT": "10000000"}}
        simulator.add_account(keys.api_key, keys.api_secret, money)
        (self.placement,) = make_orders(self.account, [{}], market_type=market_type)
        send(self.account, [self.placement])
        self.placement.refresh_from_db()
        assert self.placement.exchange_order_id

    def report(self, **words: Any) -> dict[str, Any]:
        """The exchange's message of a part fill of the order, with some of its words changed."""
        order = {
            "s": "BTCUSDT", "i": int(self.placement.exchange_order_id), "c": self.placement.client_order_id,
            "S": "BUY", "o": "LIMIT", "x": "TRADE", "X": "PARTIALLY_FILLED", "q": "1", "p": "90000",
            "l": "0.4", "z": "0.4", "L": "90000", "t": 4711, "T": 1_790_000_000_000, "m": True, "n": "0",
            "N": "USDT",
        }  # fmt: skip
        if self.market_type == "FUTURES":
            order |= {"ap": "90000", "sp": "0", "rp": "0", "R": False}
            return {"e": "ORDER_TRADE_UPDATE", "E": 1, "T": order["T"], "o": order | words}
        order |= {"C": "", "P": "0", "Z": "36000", "r": "NONE", "w": True, "e": "executionReport"}
        return {"subscriptionId": 0, "event": order | words}

    def knows(self, words: dict[str, Any]) -> bool:
        """Tell whether this market's messages have such words."""
        message = self.report()
        known: dict[str, Any] = message.get("o") or message["event"]
        return words.keys() <= known.keys()

    def say(self, content: str | bytes, **how: Any) -> None:
        keys = self.account.credentials
        assert self.simulator.say(content, api_key=keys.api_key, **how) == 1

    def session(self) -> OrderTrackingSession:
        return OrderTrackingSession.objects.get(account=self.account)

    def is_up(self) -> bool:
        row = OrderTrackingSession.objects.filter(account=self.account).first()
        return (
            row is not None and row.status == SessionStatus.CONNECTED and row.last_reconciled_at is not None
        )

    def kept(self) -> UnmatchedReport:
        """Return the one message that was kept as it came."""
        (row,) = self.kept_of(1)
        return row

    def kept_of(self, count: int) -> list[UnmatchedReport]:
        """Return what was kept as it came, the oldest first, when it is so many."""
        rows = UnmatchedReport.objects.filter(account=self.account, state=UnmatchedReport.State.UNREADABLE)
        wait_until(lambda: rows.count() >= count)
        found = list(rows.order_by("pk"))
        assert len(found) == count
        return found

    def assert_goes_on(self, *, reconnects: int = 0) -> None:
        """The order stands as it stood, and its real fill is heard on this stream."""
        order = open_order(self.placement)
        assert order is not None
        assert order.status == OrderStatus.NEW
        assert not TradeExecution.objects.exists()
        # The reconciliation that an unreadable message asks for may be the first to see a fill; a second one
        # so soon after it is not.
        sources = []
        for filled in (Decimal("0.25"), Decimal("0.5")):
            self.simulator.fill(
                self.placement.client_order_id, quantity="0.25", exchange=DIALECT[self.market_type]
            )
            wait_until(StrategyPosition.objects.filter(quantity=filled).exists)
            told = OrderEvent.objects.filter(intent=self.placement.intent_id).latest("pk")
            assert told.type == "PARTIALLY_FILLED"
            sources.append(told.source)
        assert "STREAM" in sources
        assert self.session().reconnect_count == reconnects


@pytest.fixture(params=sorted(DIALECT))
def heard(request: pytest.FixtureRequest, on_simulator: SimulatorProcess) -> Iterator[Heard]:
    found = Heard(on_simulator, request.param)
    with streams_process():
        wait_until(found.is_up)
        yield found


class TestUnreadable:
    def test_malformed(self, heard: Heard) -> None:
        heard.say("this is no JSON {")

        assert heard.kept().report == {"text": "this is no JSON {"}
        heard.assert_goes_on()

    def test_truncated(self, heard: Heard) -> None:
        text = json.dumps(heard.report())[:-20]
        heard.say(text)

        assert heard.kept().report == {"text": text}
        heard.assert_goes_on()

    def test_of_another_shape(self, heard: Heard) -> None:
        shapes = ["[]", "null", "17", '"word"', "{}", '{"e": 1}', '{"event": []}']
        for text in shapes:
            heard.say(text)

        assert [row.report["text"] for row in heard.kept_of(len(shapes))] == shapes
        heard.assert_goes_on()

    def test_nested_without_end(self, heard: Heard) -> None:
        heard.say("[", times=100_000)

        kept = heard.kept()
        assert "RecursionError" in kept.error
        assert len(kept.report["text"]) <= streaming._RAW_LENGTH + 1
        heard.assert_goes_on()

    def test_of_an_unknown_kind(self, heard: Heard) -> None:
        message = {"e": "ORDER_WAS_FORGOTTEN", "o": {}}
        text = json.dumps(message if heard.market_type == "FUTURES" else {"event": message})
        heard.say(text)

        kept = heard.kept()
        assert kept.report == {"text": text}
        assert "ORDER_WAS_FORGOTTEN" in kept.error
        heard.assert_goes_on()

    def test_binary(self, heard: Heard) -> None:
        heard.say(b"\x00\xff\x00 binary")

        kept = heard.kept()
        assert "binary" in kept.report["text"]
        assert "BINARY" in kept.error
        heard.assert_goes_on()

    def test_a_character_that_postgresql_does_not_keep(self, heard: Heard) -> None:
        heard.say("nul \x00 here")

        assert heard.kept().report["text"] == "nul � here"
        heard.assert_goes_on()


class TestOversized:
    def test_is_kept_in_part_and_not_parsed(self, heard: Heard) -> None:
        heard.say('{"e": "A"} ', times=100_000)  # 1.1 MB

        kept = heard.kept()
        assert "1100000 characters" in kept.error
        assert len(kept.report["text"]) <= streaming._RAW_LENGTH + 1
        heard.assert_goes_on()

    def test_beyond_all_bounds_costs_the_connection_and_nothing_else(self, heard: Heard) -> None:
        heard.say("0123456789", times=500_000)  # 5 MB

        assert "WebSocketError" in heard.kept().error
        wait_until(lambda: heard.session().reconnect_count == 1 and heard.is_up())
        heard.assert_goes_on(reconnects=1)


class TestBrokenFrame:
    def test_costs_the_connection_and_nothing_else(self, heard: Heard) -> None:
        heard.say(b"\x8f\x05hello", framed=False)  # an opcode that does not exist

        assert "WebSocketError" in heard.kept().error
        wait_until(lambda: heard.session().reconnect_count == 1 and heard.is_up())
        heard.assert_goes_on(reconnects=1)

    def test_reconciles_what_was_not_heard_because_of_it(self, heard: Heard) -> None:
        heard.simulator.add_fault("stream_drop", match={"exchange": DIALECT[heard.market_type]}, times=None)
        heard.simulator.fill(
            heard.placement.client_order_id, quantity="0.25", exchange=DIALECT[heard.market_type]
        )
        heard.say(b"\x8f\x05hello", framed=False)

        wait_until(lambda: StrategyPosition.objects.filter(quantity=Decimal("0.25")).exists())


# What is changed of a good report, and what is said of it.
IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"X": "HALF_DONE"}, "a status that we do not know: HALF_DONE"),
    ({"s": "NOSUCHCOIN"}, "NOSUCHCOIN is not among the instruments"),
    ({"l": "NaN"}, ""),
    ({"l": "Infinity", "z": "Infinity"}, "Infinity is no quantity"),
    ({"z": "1e9999999999999999999"}, ""),
    ({"l": "1e200", "z": "1e200", "q": "1e200"}, "1E+200 is no quantity"),
    ({"l": "-0.4"}, "below zero"),
    ({"z": "500"}, "500 filled of "),
    ({"l": "50"}, "50 filled of "),
    ({"L": "-90000"}, "below zero"),
    ({"L": "0"}, "for nothing"),
    ({"rp": "NaN"}, "NaN is no quantity or price"),
    ({"S": "HOLD"}, "HOLD"),
    ({"T": 10**30}, ""),
    ({"q": None}, ""),
    ({"t": None}, "None is no id"),
    ({"t": []}, "[] is no id"),
    ({"t": ""}, "'' is no id"),
    ({"t": True}, "True is no id"),
    ({"i": None}, "None is no id"),
    ({"i": {}}, "{} is no id"),
]


class TestReport:
    def test_that_cannot_be_is_kept_and_nothing_is_guessed(self, heard: Heard) -> None:
        impossible = [(words, error) for words, error in IMPOSSIBLE if heard.knows(words)]
        texts = [json.dumps(heard.report(**words)) for words, _ in impossible]
        for text in texts:
            heard.say(text)

        rows = heard.kept_of(len(texts))
        assert [json.loads(row.report["text"]) for row in rows] == [json.loads(text) for text in texts]
        for row, (_, error) in zip(rows, impossible, strict=True):
            assert error in row.error
        heard.assert_goes_on()

    def test_of_which_nothing_is_wrong_is_booked(self, heard: Heard) -> None:
        """The messages above differ from a good one in nothing else."""
        heard.say(json.dumps(heard.report()))

        wait_until(lambda: TradeExecution.objects.filter(trade_id="4711").exists())
        assert not UnmatchedReport.objects.exists()

    def test_that_the_database_cannot_take_is_kept(self, heard: Heard) -> None:
        """Read well, and refused by PostgreSQL: SQLite takes it, so there it is external at the most."""
        heard.say(json.dumps(heard.report(i=99, c="nul\0", t="\0")))

        row = wait_until(UnmatchedReport.objects.first)
        on_postgresql = connection.vendor == "postgresql"
        assert (row.state == UnmatchedReport.State.UNREADABLE) == on_postgresql
        heard.assert_goes_on()

    def test_of_an_order_whose_name_makes_no_sense_becomes_external_at_the_most(self, heard: Heard) -> None:
        words = {"i": 99, "c": "x" * 5000, "t": 5}
        heard.say(json.dumps(heard.report(**words)))

        row = wait_until(UnmatchedReport.objects.first)
        assert row.state in (UnmatchedReport.State.WAITING, UnmatchedReport.State.EXTERNAL)
        heard.assert_goes_on()


class TestSecrets:
    def test_are_not_kept(self, heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
        keys = heard.account.credentials
        heard.say(f'{{"e": "ECHO", "who": "{keys.api_key}", "of": "{keys.api_secret}" ')

        kept = heard.kept()
        for text in (json.dumps(kept.report), kept.error, caplog.text):
            assert "RECOGNISABLE" not in text
        assert "ECHO" in kept.report["text"]


class TestUnreadableKeep:
    def test_keeps_the_latest_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unreadable, "UNREADABLE_KEPT", 3)
        account, other = make_account(), make_account()
        for one in (account, other):
            for number in range(5):
                unreadable.unreadable_keep(key=key_of(one), message=UnreadableMessage(f"{number}", "why"))

        for one in (account, other):
            rows = UnmatchedReport.objects.filter(account=one).order_by("pk")
            assert [row.report["text"] for row in rows] == ["2", "3", "4"]
