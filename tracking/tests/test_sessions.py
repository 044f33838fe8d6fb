from __future__ import annotations

from datetime import timedelta

import pytest
from django.conf import settings
from django.db.models.functions import Now

from exchanges.models import Account
from orders.models import EventType, OrderEvent, Strategy, StrategyAccount
from tracking.models import OrderTrackingSession, SessionStatus
from tracking.sessions import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    session_release,
    sessions_claim,
    sessions_ensure,
    sessions_renew,
    sessions_unwatched,
    state_change,
)
from tracking.tests.conftest import Exchanges
from tracking.tests.making import key_of, make_account, make_resting
from tracking.watch import StreamKey, accounts_by_source, streams_wanted

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def account() -> Account:
    return make_account()


def expire() -> None:
    OrderTrackingSession.objects.update(lease_expires_at=Now() - timedelta(milliseconds=5))


class TestStreamsWanted:
    def test_wants_what_an_active_strategy_trades(self, account: Account) -> None:
        assert streams_wanted() == {StreamKey(account.pk, "FUTURES")}

    def test_wants_nothing_of_an_account_that_is_switched_off(self, account: Account) -> None:
        Account.objects.update(is_active=False)

        assert streams_wanted() == set()

    @pytest.mark.parametrize("model", [Strategy, StrategyAccount])
    def test_wants_an_active_account_whose_strategy_or_following_is_paused(
        self, account: Account, model: type[Strategy] | type[StrategyAccount]
    ) -> None:
        model._default_manager.update(is_active=False)

        assert streams_wanted() == {key_of(account)}

    def test_keeps_an_account_that_was_switched_off_until_its_last_order_has_ended(
        self, account: Account, exchanges: Exchanges
    ) -> None:
        make_resting(account)
        Account.objects.update(is_active=False)

        assert streams_wanted() == {key_of(account)}


class TestAccountsBySource:
    def test_names_one_account_for_all_that_share_an_exchange(self, account: Account) -> None:
        other = make_account()

        found = accounts_by_source({key_of(account), key_of(other)})

        assert found == {("binance", "SIMULATOR", "FUTURES"): account}


class TestSessionsClaim:
    def test_takes_what_nobody_follows(self, account: Account) -> None:
        assert sessions_claim(keys={key_of(account)}, owner="a") == {key_of(account)}

        assert sessions_claim(keys={key_of(account)}, owner="b") == set()
        assert OrderTrackingSession.objects.get().owner == "a"

    def test_takes_over_what_a_dead_process_followed(self, account: Account) -> None:
        sessions_claim(keys={key_of(account)}, owner="a")
        expire()

        assert sessions_claim(keys={key_of(account)}, owner="b") == {key_of(account)}
        assert sessions_renew(owner="a") == set()

    def test_takes_what_is_free_and_leaves_what_is_held(self, account: Account) -> None:
        free = key_of(make_account())
        sessions_claim(keys={key_of(account)}, owner="a")

        assert sessions_claim(keys={key_of(account), free}, owner="b") == {free}

        assert sessions_renew(owner="a") == {key_of(account)}

    def test_takes_only_the_market_that_was_asked_for(self, account: Account) -> None:
        sessions_ensure([StreamKey(account.pk, "SPOT")])

        sessions_claim(keys={key_of(account)}, owner="a")

        assert OrderTrackingSession.objects.get(market_type="SPOT").owner == ""


class TestSessionsRenew:
    def test_comes_at_half_the_life_of_a_lease(self) -> None:
        assert RENEW_SECONDS * 2 == LEASE_SECONDS == settings.STREAM_LEASE_SECONDS

    def test_makes_the_lease_longer(self, account: Account) -> None:
        sessions_claim(keys={key_of(account)}, owner="a")
        expire()

        assert sessions_renew(owner="a") == {key_of(account)}
        assert sessions_claim(keys={key_of(account)}, owner="b") == set()

    def test_says_when_a_connected_stream_was_last_alive(self, account: Account) -> None:
        sessions_claim(keys={key_of(account)}, owner="a")
        sessions_renew(owner="a")
        assert OrderTrackingSession.objects.get().last_ping is None
        state_change(key=key_of(account), owner="a", status=SessionStatus.CONNECTED)
        first = OrderTrackingSession.objects.get().last_ping

        sessions_renew(owner="a")

        renewed = OrderTrackingSession.objects.get().last_ping
        assert first is not None
        assert renewed is not None
        assert renewed >= first - timedelta(milliseconds=1)  # SQLite's own clock counts milliseconds


class TestStateChange:
    def test_tells_the_accounts_owner(self, account: Account) -> None:
        sessions_claim(keys={key_of(account)}, owner="a")

        state_change(key=key_of(account), owner="a", status=SessionStatus.CONNECTED)
        state_change(key=key_of(account), owner="a", status=SessionStatus.DISCONNECTED, reason="cut")

        told = OrderEvent.objects.filter(type=EventType.STREAM).order_by("pk")
        assert [(event.user_id, event.after, event.message) for event in told] == [
            (account.user_id, "connected", ""),
            (account.user_id, "disconnected", "cut"),
        ]
        session = OrderTrackingSession.objects.get()
        assert (session.last_error, session.reconnect_count) == ("cut", 1)
        assert session.connected_at is not None
        assert session.disconnected_at is not None

    def test_does_not_fill_the_log_while_an_exchange_is_down(self, account: Account) -> None:
        sessions_claim(keys={key_of(account)}, owner="a")
        for _ in range(5):
            state_change(key=key_of(account), owner="a", status=SessionStatus.CONNECTING)
            state_change(key=key_of(account), owner="a", status=SessionStatus.DISCONNECTED, reason="refused")

        assert OrderEvent.objects.exists() is False
        assert OrderTrackingSession.objects.get().last_error == "refused"

    def test_changes_nothing_for_one_who_lost_the_lease(self, account: Account) -> None:
        sessions_claim(keys={key_of(account)}, owner="a")
        expire()
        sessions_claim(keys={key_of(account)}, owner="b")

        state_change(key=key_of(account), owner="a", status=SessionStatus.CONNECTED)

        assert OrderTrackingSession.objects.get().status == SessionStatus.DISCONNECTED
        assert OrderEvent.objects.exists() is False


class TestSessionRelease:
    def test_lets_another_have_the_stream_at_once(self, account: Account) -> None:
        sessions_claim(keys={key_of(account)}, owner="a")

        session_release(key=key_of(account), owner="a", reason="The process stopped")

        assert sessions_claim(keys={key_of(account)}, owner="b") == {key_of(account)}

    def test_tells_why_and_calls_it_no_error(self, account: Account) -> None:
        sessions_claim(keys={key_of(account)}, owner="a")
        state_change(key=key_of(account), owner="a", status=SessionStatus.CONNECTED)

        session_release(key=key_of(account), owner="a", reason="The process stopped")

        session = OrderTrackingSession.objects.get()
        assert (session.status, session.last_error) == (SessionStatus.DISCONNECTED, "")
        assert OrderEvent.objects.latest("pk").message == "The process stopped"

    def test_lets_an_error_that_came_before_stand(self, account: Account) -> None:
        sessions_claim(keys={key_of(account)}, owner="a")
        state_change(key=key_of(account), owner="a", status=SessionStatus.ERROR, reason="no such key")

        session_release(key=key_of(account), owner="a", reason="Another process has room for it")

        assert OrderTrackingSession.objects.get().last_error == "no such key"


class TestSessionsUnwatched:
    def test_names_what_no_living_process_follows(self, account: Account) -> None:
        never, dead = make_account(), make_account()
        sessions_claim(keys={key_of(dead)}, owner="a")
        expire()
        sessions_claim(keys={key_of(account)}, owner="b")

        assert sessions_unwatched(streams_wanted()) == {key_of(never), key_of(dead)}
