"""The kill switch of each scope: what it refuses, holds back and cancels, and who is named for it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from exchanges.models import Account, ConfigVersion
from orders.models import (
    EventType,
    FailedOrder,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Strategy,
    StrategyAccount,
    UserProfile,
)
from orders.services.kill_switches import Scope, kill_switches_set, orders_cancel
from orders.services.switches import kill_switch_set, stop_reasons
from orders.tests.factories import (
    LIMIT,
    Exchanges,
    Queries,
    limit,
    make_account,
    make_follower,
    make_strategy,
    make_user,
    post,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def command(*words: str, **options: Any) -> str:
    out = io.StringIO()
    call_command("kill_switch", *words, stdout=out, **options)
    return out.getvalue().strip()


class TestRefusal:
    @pytest.mark.parametrize("scope", [Scope.USER, Scope.STRATEGY])
    def test_is_403_for_a_user_and_a_strategy(
        self, follower: StrategyAccount, exchanges: Exchanges, scope: Scope
    ) -> None:
        pk = follower.strategy_id if scope is Scope.STRATEGY else follower.strategy.user_id
        post(LIMIT)

        kill_switches_set(scope, [pk], engaged=True, by="operator", reason="drill")
        assert (post(LIMIT).status, post(LIMIT).body["code"]) == (403, "kill_switch")
        assert exchanges.all_calls() == 1

        kill_switches_set(scope, [pk], engaged=False, by="operator", reason="")
        assert post(LIMIT).status == 200

    def test_fails_the_orders_of_one_account_and_sends_the_others(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        other = make_follower(follower.strategy, make_account("second"))

        kill_switches_set(Scope.ACCOUNT, [follower.account_id], engaged=True, by="operator", reason="")
        answer = post(LIMIT)

        assert (answer.status, answer.body["summary"]["accounts"]) == (200, 2)
        failed = FailedOrder.objects.get()
        assert (failed.strategy_account, failed.error_type) == (follower, "risk_limit")
        assert failed.reason == f"The kill switch of account {follower.account.name} is on"
        assert failed.quantity > 0
        assert len(exchanges.of(follower).submitted) == 0
        assert len(exchanges.of(other).submitted) == 1
        kill_switches_set(Scope.ACCOUNT, [other.account_id], engaged=True, by="operator", reason="")
        assert (post(LIMIT).status, post(LIMIT).body["code"]) == (403, "kill_switch")

    def test_leaves_a_line_that_says_who_and_why(self, follower: StrategyAccount) -> None:
        ids = [follower.strategy_id]
        before = ConfigVersion.current()

        assert kill_switches_set(Scope.STRATEGY, ids, engaged=True, by="operator", reason="drill") == [
            "test1"
        ]
        assert kill_switches_set(Scope.STRATEGY, ids, engaged=True, by="operator", reason="again") == []

        event = OrderEvent.objects.get()
        assert (event.type, event.message, event.user_id, event.data) == (
            EventType.OPERATOR,
            "Kill switch of strategy test1 ON",
            follower.strategy.user_id,
            {"by": "operator", "reason": "drill"},
        )
        assert ConfigVersion.current() > before

    def test_works_for_a_user_without_a_profile(self, follower: StrategyAccount) -> None:
        user_id = follower.strategy.user_id

        kill_switches_set(Scope.USER, [user_id], engaged=True, by="operator", reason="")

        assert UserProfile.objects.get(pk=user_id).kill_switch is True
        assert post(LIMIT).status == 403


class TestStopReasons:
    def test_cost_one_query(self, follower: StrategyAccount) -> None:
        with Queries() as queries:
            assert stop_reasons([follower.pk]) == {}
        assert queries.count == 1

    @pytest.mark.parametrize("scope", Scope)
    def test_name_every_switch(self, follower: StrategyAccount, scope: Scope) -> None:
        ids = {
            Scope.USER: follower.strategy.user_id, Scope.STRATEGY: follower.strategy_id,
            Scope.ACCOUNT: follower.account_id,
        }  # fmt: skip
        if scope is Scope.SYSTEM:
            kill_switch_set(engaged=True, reason="", by="operator")
        else:
            kill_switches_set(scope, [ids[scope]], engaged=True, by="operator", reason="")

        assert stop_reasons([follower.pk]) == {
            follower.pk: "the kill switch was on when the order was to be sent"
        }


class TestOrdersCancel:
    @pytest.fixture
    def both(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> tuple[StrategyAccount, StrategyAccount]:
        """Two users' strategies, each with 20 orders that rest and 5 that wait."""
        rival = make_user("rival")
        other = make_follower(
            make_strategy("other", user=rival, token="another-token-of-ours"),
            make_account("theirs", user=rival),
        )
        orders = {"orders": [limit(90_000 - number) for number in range(25)]}
        assert post(orders).body["summary"]["remaining_in_queue"] == 5
        assert post(orders | {"group_name": "other", "token": "another-token-of-ours"}).status == 200
        return follower, other

    @pytest.mark.parametrize("scope", Scope)
    def test_ends_what_rests_and_what_waits_and_nothing_of_others(
        self, both: tuple[StrategyAccount, StrategyAccount], exchanges: Exchanges, scope: Scope
    ) -> None:
        follower, other = both
        ids = {
            Scope.USER: [follower.strategy.user_id], Scope.STRATEGY: [follower.strategy_id],
            Scope.ACCOUNT: [follower.account_id], Scope.SYSTEM: [],
        }  # fmt: skip
        everybody = scope is Scope.SYSTEM

        assert orders_cancel(scope, ids[scope]) == (50 if everybody else 25)

        assert OrderIntent.objects.filter(strategy_account=follower).exclude(home=Home.DONE).count() == 0
        left = 0 if everybody else 25
        assert OrderIntent.objects.filter(strategy_account=other).exclude(home=Home.DONE).count() == left
        assert (OpenOrder.objects.count(), PendingOrder.objects.count()) == ((0, 0) if everybody else (20, 5))
        asked = OrderEvent.objects.filter(type=EventType.CANCEL_REQUESTED, source="OPERATOR")
        assert asked.count() == (50 if everybody else 25)

    def test_works_in_portions(
        self,
        both: tuple[StrategyAccount, StrategyAccount],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("orders.services.kill_switches.AT_ONCE", 7)

        assert orders_cancel(Scope.STRATEGY, [both[0].strategy_id]) == 25
        assert OpenOrder.objects.filter(strategy_account=both[0]).count() == 0

    def test_asks_nothing_twice(self, both: tuple[StrategyAccount, StrategyAccount]) -> None:
        orders_cancel(Scope.SYSTEM, [])

        assert orders_cancel(Scope.SYSTEM, []) == 0


class TestCommand:
    @pytest.mark.parametrize(
        ("option", "name", "scope"),
        [
            ("--user", "trader", "user"),
            ("--strategy", "test1", "strategy"),
            ("--account", "trader/main", "account"),
        ],
    )
    def test_turns_the_switch_of_one_scope(
        self, follower: StrategyAccount, option: str, name: str, scope: str
    ) -> None:
        assert command("on", option, name, "--reason", "drill") == f"Kill switch of {scope} {name} ON"
        assert post(LIMIT).status == 403
        assert command("status", option, name) == f"Kill switch of {scope} {name} ON"
        assert command("off", option, name) == f"Kill switch of {scope} {name} off"
        assert post(LIMIT).status == 200
        event = OrderEvent.objects.filter(type=EventType.OPERATOR).order_by("pk")[0]
        assert event.data["reason"] == "drill"
        assert event.data["by"].endswith(" on the command line")

    def test_cancels_what_is_open_and_what_waits(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        post({"orders": [limit(90_000 - number) for number in range(25)]})

        told = command("on", "--strategy", "test1", "--cancel-orders")

        assert told == "Kill switch of strategy test1 ON\nAsked to cancel 25 orders"
        assert (OpenOrder.objects.count(), PendingOrder.objects.count()) == (0, 0)
        assert len(exchanges.of(follower).submitted) == 20  # no freed slot was taken

    @pytest.mark.parametrize(
        ("words", "fault"),
        [
            (("on", "--user", "nobody"), "There is no user nobody"),
            (("on", "--strategy", "none"), "There is no strategy none"),
            (("on", "--account", "trader/none"), "There is no account trader/none"),
            (("on", "--account", "main"), "--account takes USER/NAME; main names no user"),
            (
                ("off", "--cancel-orders"),
                "--cancel-orders goes with on: orders that may be sent are not canceled",
            ),
            (("on", "--user", "trader", "--strategy", "test1"), "not allowed with argument"),
            (("on", "--reason", "x" * 201), "--reason takes 200 characters at most"),
        ],
    )
    def test_says_what_is_wrong_and_changes_nothing(
        self, follower: StrategyAccount, words: tuple[str, ...], fault: str
    ) -> None:
        with pytest.raises(CommandError, match=fault):
            command(*words)

        assert not OrderEvent.objects.exists()
        assert not Strategy.objects.filter(kill_switch=True).exists()
        assert not Account.objects.filter(kill_switch=True).exists()
