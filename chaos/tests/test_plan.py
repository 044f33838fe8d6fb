"""A plan is drawn from its seed alone, and draws from everything that can go wrong."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.plan import BUSY_SECONDS, PRICES, Kind, make_plan
from chaos.system import provision_content
from orders.provisioning import parse_provision
from orders.webhook.serializers import order_specs
from tests.processes import ROOT

SEEDS = st.integers(min_value=0, max_value=10**9)
MANY = range(300)
NEEDS_A_THAW = {"freeze": "thaw", "kill": "start"}


class TestMakePlan:
    @given(seed=SEEDS)
    @settings(max_examples=40, deadline=None)
    def test_is_the_same_for_the_same_seed(self, seed: int) -> None:
        assert make_plan(seed) == make_plan(seed)
        assert make_plan(seed).lines() == make_plan(seed).lines()

    def test_is_the_same_in_another_process(self) -> None:
        command = [sys.executable, "-m", "chaos", "--plan", "--runs", "1", "--seed", "7"]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert told.splitlines() == make_plan(7).lines()

    def test_differs_between_seeds(self) -> None:
        assert len({"".join(make_plan(seed).lines()[1:]) for seed in range(50)}) == 50

    def test_draws_every_kind_of_action_fault_and_process(self) -> None:
        actions = [action for seed in MANY for action in make_plan(seed, workers=2).actions]
        kinds = Counter(action.kind for action in actions)
        assert set(kinds) == set(Kind)
        faults = {action.what["fault"]["kind"] for action in actions if action.kind is Kind.FAULT}
        assert {"drop_answer", "status", "delay_before", "arrive_late", "delay_after", "reject",
                "stream_drop",
                "stream_duplicate", "stream_reorder", "stream_delay", "stream_garble",
                "stream_refuse"} == faults  # fmt: skip
        killed = {action.what["process"] for action in actions if action.kind is Kind.KILL}
        assert {"web-1", "web-2", "streams-1", "streams-2", "worker-1", "worker-2"} == killed
        frozen = {action.what["process"] for action in actions if action.kind is Kind.FREEZE}
        assert frozen == killed | {"redis", "postgres", "simulator"}

    def test_draws_every_order_type(self) -> None:
        types = {
            order["order_type"]
            for seed in MANY
            for action in make_plan(seed).actions
            if action.kind is Kind.WEBHOOK
            for order in action.what["payload"]["orders"]
        }
        assert types == {"LIMIT", "MARKET", "STOP_MARKET", "STOP_LIMIT", "CANCEL_ALL_ORDER"}

    @given(seed=SEEDS)
    @settings(max_examples=60, deadline=None)
    def test_sends_payloads_that_the_webhook_understands(self, seed: int) -> None:
        plan = make_plan(seed)
        markets = {desk.name: desk.market_type for desk in plan.desks}
        for action in plan.actions:
            if action.kind in (Kind.WEBHOOK, Kind.RESEND):
                assert order_specs(action.what["payload"], default_market=markets[action.what["desk"]])

    @given(seed=SEEDS)
    @settings(max_examples=60, deadline=None)
    def test_sets_up_what_provisioning_understands(self, seed: int) -> None:
        file = parse_provision(provision_content(make_plan(seed), is_active=True), environment={})
        assert {account.name for account in file.accounts} == set(make_plan(seed).accounts)

    @given(seed=SEEDS)
    @settings(max_examples=60, deadline=None)
    def test_lets_nothing_stay_frozen_or_dead(self, seed: int) -> None:
        actions = make_plan(seed).actions
        for action in actions:
            if (wanted := NEEDS_A_THAW.get(action.kind)) is not None:
                name = action.what["process"]
                assert any(
                    later.kind == wanted and later.what["process"] == name and later.at >= action.at
                    for later in actions
                )

    @given(seed=SEEDS)
    @settings(max_examples=60, deadline=None)
    def test_is_over_soon(self, seed: int) -> None:
        actions = make_plan(seed).actions
        assert [action.at for action in actions] == sorted(action.at for action in actions)
        assert actions[-1].at < BUSY_SECONDS + 6
        assert all(action.at <= BUSY_SECONDS + 1 for action in actions if action.kind is Kind.WEBHOOK)

    @given(seed=SEEDS)
    @settings(max_examples=60, deadline=None)
    def test_resends_the_very_same_payload(self, seed: int) -> None:
        actions = make_plan(seed).actions
        first = {a.what["number"]: a.what["payload"] for a in actions if a.kind is Kind.WEBHOOK}
        for action in actions:
            if action.kind is Kind.RESEND:
                assert action.what["payload"] == first[action.what["number"]]

    def test_trades_what_the_simulator_lists(self) -> None:
        from exchanges.simulator.instruments import DEFAULT_PRICES  # noqa: PLC0415

        assert {name: DEFAULT_PRICES[name] for name in PRICES} == PRICES
