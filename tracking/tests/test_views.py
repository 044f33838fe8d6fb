from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from exchanges.models import Account
from orders.models import StrategyAccount
from orders.tests.rows import (
    log_event,
    make_failed_order,
    make_open_order,
    make_pending_order,
    make_position,
    make_strategy_account,
    make_trade,
    make_user,
)
from tracking.models import OrderTrackingSession, SessionStatus


@pytest.fixture
def owner(db: None) -> StrategyAccount:
    return make_strategy_account()


@pytest.fixture
def trader(owner: StrategyAccount, client: Client) -> Client:
    client.force_login(owner.strategy.user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def page(client: Client, query: str = "") -> str:
    answer = client.get(f"/positions{query}")
    assert answer.status_code == 200
    return answer.content.decode()


class TestPositionsView:
    def test_asks_a_stranger_to_log_in(self, db: None, client: Client) -> None:
        answer = client.get("/positions")

        assert (answer.status_code, answer["Location"]) == (302, "/login/?next=/positions")

    def test_draws_the_rows_and_says_how_far_it_has_read(
        self, owner: StrategyAccount, trader: Client
    ) -> None:
        make_position(owner)
        order = make_open_order(owner)
        make_trade(owner)
        make_failed_order(owner)
        event = log_event(owner, intent=order.intent)

        text = page(trader)

        for key in ("position-", f"order-{order.pk}", "trade-", "failed-", f"event-{event.pk}"):
            assert f'id="{key}' in text
        assert f'data-last-id="{event.pk}"' in text
        assert 'data-socket="/ws/positions/?lang=en"' in text

    def test_escapes_the_words_of_an_exchange(self, owner: StrategyAccount, trader: Client) -> None:
        make_failed_order(owner, exchange_error="<script>alert(1)</script>")
        log_event(owner, message='"><script>alert(2)</script>')
        OrderTrackingSession.objects.create(
            account=owner.account, market_type="FUTURES", last_error="<script>alert(3)</script>"
        )

        text = page(trader)

        assert re.search(r"<script>alert", text) is None
        assert text.count("&lt;script&gt;alert(") == 3

    def test_has_no_inline_script_or_style(self, owner: StrategyAccount, trader: Client) -> None:
        make_open_order(owner)

        text = page(trader)

        assert re.findall(r"<style|\sstyle=|\son[a-z]+=|<script(?! src=)", text) == []

    def test_shows_only_the_readers_own_rows_whatever_the_filter_says(
        self, owner: StrategyAccount, trader: Client
    ) -> None:
        other = make_strategy_account(user=make_user("other"), group_name="secret-plan")
        make_open_order(other)

        assert "secret-plan" not in page(trader)
        assert "secret-plan" not in page(
            trader, f"?user={other.strategy.user_id}&strategy_account={other.pk}"
        )

    def test_shows_the_failed_orders_that_the_address_asks_for(
        self, owner: StrategyAccount, trader: Client
    ) -> None:
        bitcoin, ether = make_failed_order(owner), make_failed_order(owner, symbol="ETH/USDT")

        text = page(trader, "?symbol=eth/usdt")

        assert f'id="failed-{ether.pk}"' in text
        assert f'id="failed-{bitcoin.pk}"' not in text

    def test_says_what_is_wrong_with_an_address(self, owner: StrategyAccount, trader: Client) -> None:
        failed = make_failed_order(owner)

        text = page(trader, "?error_type=<script>alert(1)</script>")

        assert 'role="alert">There is no such reason.</p>' in text
        assert f'id="failed-{failed.pk}"' in text
        assert "<script>alert" not in text

    def test_lets_staff_filter_by_person(self, owner: StrategyAccount, client: Client) -> None:
        other = make_strategy_account(user=make_user("other"), group_name="other-plan")
        mine, theirs = make_open_order(owner), make_open_order(other)
        staff = make_user("operator", is_staff=True)
        client.force_login(staff, backend="django.contrib.auth.backends.ModelBackend")

        everything = page(client)
        filtered = page(client, f"?user={other.strategy.user_id}")

        assert f"order-{mine.pk}" in everything
        assert f"order-{theirs.pk}" in everything
        assert f"order-{mine.pk}" not in filtered
        assert f'data-socket="/ws/positions/?lang=en&amp;user={other.strategy.user_id}"' in filtered

    def test_costs_the_same_number_of_queries_whatever_there_is_to_show(
        self, owner: StrategyAccount, trader: Client
    ) -> None:
        page(trader)  # the first one learns the reader's language
        counts = []
        for number in (3, 30):
            for serial in range(number):
                make_position(owner, symbol=f"C{number}{serial}/USDT")
                log_event(owner, intent=make_open_order(owner).intent)
                make_trade(owner)
                make_failed_order(owner)
                make_pending_order(owner, symbol=f"C{number}{serial}/USDT")
            with CaptureQueriesContext(connection) as queries:
                page(trader)
            counts.append(len(queries))

        looking_back = 2 if connection.vendor == "postgresql" else 0
        assert counts == [16 + looking_back] * 2


class TestStreams:
    @pytest.mark.parametrize(
        ("status", "lease_in", "disconnected_ago", "state"),
        [
            (SessionStatus.CONNECTED, 10, None, "live"),
            (SessionStatus.CONNECTED, -1, None, "down"),  # its process is dead
            (SessionStatus.CONNECTING, 10, None, "reconnecting"),
            (SessionStatus.DISCONNECTED, 10, 5, "reconnecting"),
            (SessionStatus.ERROR, 10, 61, "down"),
            (SessionStatus.DISCONNECTED, -1, 5, "down"),
        ],
    )
    def test_say_whether_an_account_is_followed(
        self,
        owner: StrategyAccount,
        trader: Client,
        status: SessionStatus,
        lease_in: int,
        disconnected_ago: int | None,
        state: str,
    ) -> None:
        now = timezone.now()
        OrderTrackingSession.objects.create(
            account=owner.account,
            market_type="FUTURES",
            status=status,
            lease_expires_at=now + timedelta(seconds=lease_in),
            connected_at=now - timedelta(minutes=5),
            disconnected_at=now - timedelta(seconds=disconnected_ago) if disconnected_ago else None,
        )

        assert f'class="stream {state}"' in page(trader)

    def test_of_paused_accounts_are_neither_shown_nor_counted(
        self, owner: StrategyAccount, trader: Client
    ) -> None:
        other = make_strategy_account(user=owner.strategy.user, group_name="other", account_name="paused")
        for row in (owner, other):
            OrderTrackingSession.objects.create(account=row.account, market_type="FUTURES", last_error="cut")
        Account.objects.filter(name="paused").update(is_active=False)

        text = page(trader)

        assert text.count('class="stream ') == 1
        assert '<span class="value warn">0/1</span>' in text

    def test_are_shown_to_those_whom_their_account_serves(
        self, owner: StrategyAccount, trader: Client
    ) -> None:
        other = make_strategy_account(user=make_user("other"), group_name="other", account_name="theirs")
        for row in (owner, other):
            OrderTrackingSession.objects.create(account=row.account, market_type="FUTURES")

        text = page(trader)

        assert text.count('class="stream ') == 1
        assert "theirs" not in text
