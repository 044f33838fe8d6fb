from __future__ import annotations

import io

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command

from exchanges.models import ConfigVersion
from orders.models import EventType, KillSwitch, OrderEvent, Strategy
from orders.services.switches import (
    kill_switch_set,
    kill_switch_state,
    strategies_set_active,
    strategy_rotate_token,
)


@pytest.mark.django_db
class TestKillSwitch:
    def test_is_off_until_somebody_turns_it(self) -> None:
        assert kill_switch_state().engaged is False

    def test_says_who_turned_it_and_why(self) -> None:
        user = User.objects.create(username="operator")
        before = ConfigVersion.current()

        kill_switch_set(engaged=True, reason="exchange under maintenance", by="operator", user_id=user.pk)

        assert kill_switch_state().engaged is True
        assert KillSwitch.objects.get().changed_by == user
        event = OrderEvent.objects.get()
        assert (event.type, event.message, event.data) == (
            EventType.OPERATOR,
            "Kill switch ON",
            {"by": "operator", "reason": "exchange under maintenance"},
        )
        assert ConfigVersion.current() > before

    def test_is_turned_from_the_command_line(self) -> None:
        out = io.StringIO()

        call_command("kill_switch", "on", reason="drill", stdout=out)
        call_command("kill_switch", "status", stdout=out)
        call_command("kill_switch", "off", stdout=out)

        assert out.getvalue().splitlines() == [
            "Kill switch ON: drill",
            "Kill switch ON: drill",
            "Kill switch off",
        ]
        assert KillSwitch.objects.count() == 1


@pytest.mark.django_db
class TestPausing:
    def test_a_strategy_and_resuming_it_is_logged_for_its_owner(self) -> None:
        strategy = Strategy.objects.create(user=User.objects.create(username="trader"), group_name="test1")
        before = ConfigVersion.current()

        assert strategies_set_active(strategy_ids=[strategy.pk], active=False, by="operator") == 1
        assert strategies_set_active(strategy_ids=[strategy.pk], active=False, by="operator") == 0
        strategy.refresh_from_db()
        assert (strategy.is_active, ConfigVersion.current() > before) == (False, True)
        assert strategies_set_active(strategy_ids=[strategy.pk], active=True, by="operator") == 1

        assert list(OrderEvent.objects.order_by("pk").values_list("message", "user_id")) == [
            ("Strategy test1 paused", strategy.user_id),
            ("Strategy test1 resumed", strategy.user_id),
        ]


@pytest.mark.django_db
class TestStrategyRotateToken:
    def test_replaces_the_old_token_at_once_and_says_who_did_it(self) -> None:
        strategy = Strategy(user=User.objects.create(username="trader"), group_name="test1")
        strategy.set_token("the-old-token")
        strategy.save()
        before = ConfigVersion.current()

        token = strategy_rotate_token(strategy_id=strategy.pk, by="operator")

        strategy.refresh_from_db()
        assert (strategy.has_token(token), strategy.has_token("the-old-token")) == (True, False)
        assert ConfigVersion.current() > before
        event = OrderEvent.objects.get()
        assert (event.message, event.data["by"]) == ("Token of strategy test1 rotated", "operator")
        assert token not in f"{event.message} {event.data}"
