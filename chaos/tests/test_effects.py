"""A campaign tells what of its plans took effect, and fails when a kind of it never did."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from chaos.drive import Driver
from chaos.effects import ENOUGH, Effects, kind_of
from chaos.fleet import Fleet
from chaos.plan import Action, Kind, Plan
from chaos.system import System
from exchanges.simulator.testing import ControlError

FILL = Action(0.0, Kind.FILL, {"pick": 3, "part": "1"})
DROP = Action(0.0, Kind.FAULT, {"fault": {"kind": "stream_drop", "times": 1}})


class TestEffects:
    def test_names_what_was_planned_often_and_never_took_effect(self) -> None:
        effects = Effects()
        for took in ({"fill": 1}, {}):
            effects.add([FILL, DROP] * (ENOUGH // 2), Counter(took))

        assert effects.idle == ["stream_drop"]
        assert effects.lines() == [
            "Actions that took effect: fill 1 of 20.",
            "Faults that hit something: stream_drop 0 of 20.",
            "FAILED: stream_drop was planned 20 times, never with effect",
        ]

    def test_says_nothing_of_what_was_planned_seldom(self) -> None:
        effects = Effects()
        effects.add([DROP] * (ENOUGH - 1), Counter())
        assert effects.idle == []


class TestKindOf:
    def test_tells_faults_apart(self) -> None:
        assert (kind_of(FILL), kind_of(DROP)) == ("fill", "stream_drop")


class FakeExchange:
    """The simulator's control, as far as these actions ask it."""

    def __init__(self) -> None:
        self.hits = 0

    def call(self, method: str, path: str, body: Any) -> dict[str, Any]:
        if path == "/price":
            raise ControlError("no such symbol")
        return {}

    def cut_streams(self, *, api_key: str) -> int:
        return int(api_key == "key-a")

    def ledger(self) -> dict[str, Any]:
        return {"orders": []}

    def faults(self) -> list[dict[str, Any]]:
        return [{"kind": "stream_drop", "hits": self.hits}]


class FakeFleet:
    def __init__(self) -> None:
        self.simulator = FakeExchange()

    def kill(self, name: str) -> bool:
        return name == "web-1"


def drive(*actions: Action, fleet: FakeFleet | None = None) -> Driver:
    plan = Plan(1, ("a",), 2, 1, (), actions)
    driver = Driver(plan, cast(Fleet, fleet or FakeFleet()), cast(System, None), "")
    driver.run()
    return driver


class TestDriver:
    def test_counts_what_took_effect(self) -> None:
        driver = drive(
            Action(0.0, Kind.KILL, {"process": "web-1"}),
            Action(0.0, Kind.KILL, {"process": "web-2"}),  # does not run
            Action(0.0, Kind.CUT, {"api_key": "key-a"}),
            Action(0.0, Kind.CUT, {"api_key": "key-b"}),  # has no stream
            Action(0.0, Kind.PRICE, {"symbol": "?", "price": "1"}),  # refused
            Action(0.0, Kind.TICK, {"steps": 1}),
            FILL,  # nothing rests
        )

        assert +driver.took == Counter({"kill": 1, "cut": 1, "tick": 1})
        assert any(line.endswith("-> nothing rests") for line in driver.log)
        assert any("did not work: ControlError" in line for line in driver.log)

    def test_counts_a_fault_only_when_it_hit_something(self) -> None:
        fleet = FakeFleet()
        assert +drive(DROP, DROP, fleet=fleet).took == Counter({"stream_drop": 1})
        fleet.simulator.hits = 1
        assert +drive(DROP, DROP, fleet=fleet).took == Counter({"stream_drop": 2})
