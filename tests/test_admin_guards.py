"""The operators' pages of guards and kill switches."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db.models import Model
from django.test import Client

from exchanges.models import Account
from orders.models import (
    EventType,
    LossTrip,
    OrderEvent,
    Strategy,
    StrategyAccount,
    UserProfile,
)
from orders.services.losses import losses_sweep
from orders.tests.factories import (
    Exchanges,
    limit,
    make_follower,
    make_position,
    make_user,
    post,
)
from orders.tests.test_guards import guard
from tests.test_admin import opened, operator, url

__all__ = ["exchanges", "operator"]

from orders.tests.conftest import exchanges

pytestmark = pytest.mark.django_db


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:  # noqa: F811  the fixture
    return make_follower()


def act(client: Client, model: type[Model], action: str, pk: Any, **fields: str) -> str:
    chosen = {"action": action, "_selected_action": [pk]} | fields
    return client.post(url(model, "changelist"), chosen, follow=True).content.decode()


@pytest.mark.usefixtures("operator")
class TestKillSwitch:
    @pytest.mark.parametrize("model", [User, UserProfile, Strategy, Account])
    def test_is_turned_after_a_question_and_with_a_reason(
        self, client: Client, follower: StrategyAccount, model: type[Model]
    ) -> None:
        UserProfile.objects.create(user=follower.strategy.user)
        row = {
            User: follower.strategy.user, UserProfile: follower.strategy.user,
            Strategy: follower.strategy, Account: follower.account,
        }[model]  # fmt: skip

        def engaged() -> list[bool]:
            rows: Any = UserProfile if model in (User, UserProfile) else model
            return [one.kill_switch for one in rows.objects.filter(pk=row.pk)]

        assert "Why" in act(client, model, "kill_switch_on", row.pk)
        assert engaged() == [False]

        act(client, model, "kill_switch_on", row.pk, confirmed="yes", reason="runs away")
        assert engaged() == [True]
        event = OrderEvent.objects.get(type=EventType.OPERATOR)
        assert event.data == {"by": "operator", "reason": "runs away"}
        assert event.message.startswith("Kill switch of ")
        assert LogEntry.objects.get().change_message == "Kill switch on: runs away"

        act(client, model, "kill_switch_off", row.pk, confirmed="yes", reason="")
        assert engaged() == [False]

    def test_is_not_for_staff_who_may_only_look(self, client: Client, follower: StrategyAccount) -> None:
        client.force_login(make_user("onlooker", is_staff=True))

        act(client, Strategy, "kill_switch_on", follower.strategy_id, confirmed="yes")

        assert Strategy.objects.get().kill_switch is False

    def test_stands_in_the_history_of_the_systems_switch(
        self, client: Client, follower: StrategyAccount
    ) -> None:
        act(client, Strategy, "kill_switch_on", follower.strategy_id, confirmed="yes", reason="runs away")

        page = opened(client, "/admin/orders/killswitch/")

        assert "Kill switch of strategy test1 ON" in page


@pytest.mark.django_db(transaction=True)
class TestCanceling:
    def test_goes_with_the_switch(
        self,
        client: Client,
        operator: User,
        follower: StrategyAccount,
        exchanges: Exchanges,  # noqa: F811
    ) -> None:
        post({"orders": [limit(90_000 - number) for number in range(3)]})

        page = act(client, Strategy, "kill_switch_on_and_cancel", follower.strategy_id, confirmed="yes")

        assert "Asked to cancel 3 orders" in page
        assert len(exchanges.of(follower).cancel_calls) > 0
        assert post(limit()).status == 403


@pytest.mark.usefixtures("operator")
class TestGuards:
    def test_that_tripped_are_named_in_the_list_and_resumed_with_a_reason(
        self, client: Client, follower: StrategyAccount
    ) -> None:
        guard(follower, max_drawdown_percent=Decimal(10))
        make_position(follower, "0", realized_pnl=Decimal(-1_500))
        losses_sweep()
        assert "drawdown of 15 % is at the limit of 10 %" in opened(
            client, url(StrategyAccount, "changelist")
        )

        assert "Why" in act(client, StrategyAccount, "resume_opening", follower.pk)
        assert LossTrip.objects.get().resumed_at is None
        page = act(client, StrategyAccount, "resume_opening", follower.pk, confirmed="yes", reason="seen")

        assert "1 of them were stopped by a drawdown" in page
        trip = LossTrip.objects.get()
        assert (trip.resumed_by, trip.resume_reason) == ("operator", "seen")
        assert trip.resumed_by_user is not None
        assert "drawdown of 15 %" not in opened(client, url(StrategyAccount, "changelist"))
        assert "seen" in opened(client, url(LossTrip, "changelist"))

    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("max_order_notional", "0", "must be above 0; leave it empty for no limit"),
            ("max_position_notional", "-5", "must be above 0"),
            ("daily_loss_limit", "much", "Enter a number"),
            ("max_drawdown_percent", "101", "less than or equal to 100"),
            ("max_symbols", "0", "greater than or equal to 1"),
        ],
    )
    def test_refuse_limits_that_make_no_sense(
        self, client: Client, follower: StrategyAccount, field: str, value: str, words: str
    ) -> None:
        form = {"allocated_capital": "10000", "leverage": "1", "is_active": "on", field: value}

        page = client.post(url(StrategyAccount, "change", follower.pk), form).content.decode()

        assert words in page
        assert getattr(StrategyAccount.objects.get(), field) is None

    def test_are_set_and_taken_away(self, client: Client, follower: StrategyAccount) -> None:
        form = {"allocated_capital": "10000", "leverage": "1", "is_active": "on"}
        address = url(StrategyAccount, "change", follower.pk)

        client.post(address, form | {"max_order_notional": "500", "max_drawdown_percent": "12.5"})
        row = StrategyAccount.objects.get()
        assert (row.max_order_notional, row.max_drawdown_percent) == (500, Decimal("12.5"))
        client.post(address, form)

        assert StrategyAccount.objects.get().max_order_notional is None

    @pytest.mark.parametrize("words", ['"BTC/USDT"', "[1]", '["BINANCE:BTCUSDT"]', '[""]', "{}", "nonsense"])
    def test_refuse_what_is_no_list_of_symbols(
        self, client: Client, follower: StrategyAccount, words: str
    ) -> None:
        client.post(url(Strategy, "change", follower.strategy_id), self.strategy(symbol_allowlist=words))

        assert Strategy.objects.get().symbol_allowlist == []

    @pytest.mark.parametrize("words", ["", "null"])
    def test_take_an_empty_field_for_an_empty_list(
        self, client: Client, follower: StrategyAccount, words: str
    ) -> None:
        form = self.strategy(symbol_allowlist=words, symbol_blocklist=words)

        assert client.post(url(Strategy, "change", follower.strategy_id), form).status_code == 302

        assert (Strategy.objects.get().symbol_allowlist, Strategy.objects.get().symbol_blocklist) == ([], [])

    def test_refuse_an_age_that_no_signal_can_have(self, client: Client, follower: StrategyAccount) -> None:
        form = self.strategy(max_signal_age_seconds="0")

        page = client.post(url(Strategy, "change", follower.strategy_id), form).content.decode()

        assert "0 would refuse every signal" in page
        assert Strategy.objects.get().max_signal_age_seconds is None

    def test_take_a_list_of_symbols(self, client: Client, follower: StrategyAccount) -> None:
        form = self.strategy(symbol_blocklist='["BTC/USDT"]', max_orders_per_minute="")

        assert client.post(url(Strategy, "change", follower.strategy_id), form).status_code == 302

        strategy = Strategy.objects.get()
        assert (strategy.symbol_blocklist, strategy.max_orders_per_minute) == (["BTC/USDT"], None)

    @staticmethod
    def strategy(**fields: str) -> dict[str, str]:
        return {
            "group_name": "test1", "market_type": "FUTURES", "execution_mode": "QUEUED",
            "dedupe_window_seconds": "0", "is_active": "on", "symbol_allowlist": "[]",
            "symbol_blocklist": "[]",
            "max_orders_per_minute": "300", "strategy_accounts-TOTAL_FORMS": "0",
            "strategy_accounts-INITIAL_FORMS": "0",
        } | fields  # fmt: skip


@pytest.mark.usefixtures("operator")
class TestQueueCaps:
    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("queue_limit_cap", "0", "must be at least 1; it is 0"),
            ("queue_limit_cap", "-1", "greater than or equal to"),
            ("queue_limit_cap", "21", "can only lower the cap: at most 20 (QUEUE_LIMIT_CAP); it is 21"),
            (
                "queue_stop_cap",
                "6",
                "can only lower the cap: at most 5 (a quarter of the LIMIT cap); it is 6",
            ),
            ("queue_total_cap", "26", "can only lower the cap: at most 25 (the sum of both); it is 26"),
        ],
    )
    def test_say_what_they_cannot_be(
        self, client: Client, follower: StrategyAccount, field: str, value: str, words: str
    ) -> None:
        form = {"name": "main", "is_active": "on", "max_orders_per_minute": "300", field: value}

        page = client.post(url(Account, "change", follower.account_id), form).content.decode()

        assert words in page
        assert getattr(Account.objects.get(), field) is None

    def test_lower_the_cap(self, client: Client, follower: StrategyAccount) -> None:
        form = {"name": "main", "is_active": "on", "max_orders_per_minute": "60", "queue_limit_cap": "8"}

        client.post(url(Account, "change", follower.account_id), form)

        account = Account.objects.get()
        assert (account.queue_limit_cap, account.max_orders_per_minute) == (8, 60)
