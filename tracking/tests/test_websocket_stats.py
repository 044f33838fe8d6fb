from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from pytest_django import DjangoAssertNumQueries

from exchanges.models import Account
from orders.clock import database_now
from orders.models import EventSource, EventType, OrderEvent
from tracking.models import OrderTrackingSession, SessionStatus
from tracking.sessions import sessions_claim, state_change
from tracking.tests.making import FUTURES, key_of, make_account
from tracking.websocket_stats import websocket_stats

pytestmark = pytest.mark.django_db(transaction=True)


class TestWebsocketStats:
    def test_says_zero_where_there_is_nothing(self) -> None:
        assert websocket_stats() == {
            "streams": 0,
            "by_status": {"connecting": 0, "connected": 0, "disconnected": 0, "error": 0},
            "unwatched": 0,
            "processes": [],
            "reconnects": 0,
            "oldest_last_ping_seconds": None,
            "oldest_reconciled_seconds": None,
            "lag_seconds": {"count": 0, "p50": None, "p99": None, "max": None},
        }

    def test_counts_streams_by_status_and_by_process(self) -> None:
        accounts = [make_account() for _ in range(5)]
        keys = [key_of(account) for account in accounts]
        sessions_claim(keys=set(keys[:3]), owner="a")
        sessions_claim(keys={keys[3]}, owner="b")
        for key in keys[:2]:
            state_change(key=key, owner="a", status=SessionStatus.CONNECTED)
        state_change(key=keys[3], owner="b", status=SessionStatus.ERROR, reason="no such key")
        OrderTrackingSession.objects.filter(account=accounts[0]).update(
            reconnect_count=7, last_ping=Now() - timedelta(seconds=90)
        )

        found = websocket_stats()

        assert found["streams"] == 5
        assert found["by_status"] == {"connecting": 0, "connected": 2, "disconnected": 2, "error": 1}
        assert found["unwatched"] == 1
        assert found["processes"] == [
            {"process": "a", "streams": 3, "connected": 2},
            {"process": "b", "streams": 1, "connected": 0},
        ]
        assert found["reconnects"] == 7
        assert 89 < found["oldest_last_ping_seconds"] < 100

    def test_takes_a_stream_whose_lease_ran_out_for_unwatched(self) -> None:
        key = key_of(make_account())
        sessions_claim(keys={key}, owner="a")
        state_change(key=key, owner="a", status=SessionStatus.CONNECTED)
        OrderTrackingSession.objects.update(lease_expires_at=Now() - timedelta(seconds=1))

        found = websocket_stats()

        assert (found["by_status"]["connected"], found["unwatched"], found["processes"]) == (0, 1, [])
        assert found["oldest_last_ping_seconds"] is None

    def test_tells_how_long_ago_the_account_was_compared_that_waits_longest(self) -> None:
        first, second = (make_account() for _ in range(2))
        paused = make_account(is_active=False)
        ago = ((first, 10), (second, 70), (paused, 900))
        for account, seconds in ago:
            OrderTrackingSession.objects.create(
                account=account, market_type=FUTURES, last_reconciled_at=Now() - timedelta(seconds=seconds)
            )

        assert 70 <= websocket_stats()["oldest_reconciled_seconds"] < 80

    def test_counts_from_when_the_account_was_made_where_it_never_was_compared(self) -> None:
        account = make_account()
        sessions_claim(keys={key_of(account)}, owner="a")
        Account.objects.update(created_at=Now() - timedelta(seconds=300))

        assert 300 <= websocket_stats()["oldest_reconciled_seconds"] < 310

    def test_leaves_out_what_is_not_followed_any_more(self) -> None:
        account = make_account()
        sessions_claim(keys={key_of(account)}, owner="a")
        account.is_active = False
        account.save()

        assert websocket_stats()["streams"] == 0

    def test_measures_the_lag_of_what_streams_said(self) -> None:
        account, now = make_account(), database_now()
        for milliseconds, source in ((200, "STREAM"), (100, "STREAM"), (9000, "RECONCILIATION")):
            OrderEvent.objects.create(
                type=EventType.FILLED,
                source=EventSource(source),
                account=account,
                occurred_at=now - timedelta(milliseconds=milliseconds),
                created_at=now,
            )
        OrderEvent.objects.create(
            type=EventType.FILLED,
            source=EventSource.STREAM,
            occurred_at=now - timedelta(hours=2),
            created_at=now - timedelta(hours=1),
        )

        assert websocket_stats()["lag_seconds"] == {"count": 2, "p50": 0.1, "p99": 0.2, "max": 0.2}

    def test_costs_the_same_queries_for_any_number_of_streams(
        self, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        keys = {key_of(make_account()) for _ in range(20)}
        sessions_claim(keys=keys, owner="a")

        clock = 1 if connection.vendor == "postgresql" else 0
        with django_assert_num_queries(clock + 4):
            websocket_stats()
