from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from django.db import OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.test.utils import CaptureQueriesContext

from orders.clock import database_now
from orders.tests.factories import make_account, make_follower, make_strategy
from tracking.models import OrderTrackingSession
from tradehub import health
from tradehub.models import Process, ProcessKind


def worker_seen(seconds_ago: float) -> None:
    at = database_now() - timedelta(seconds=seconds_ago)
    Process.objects.create(name="worker", kind=ProcessKind.WORKER, started_at=at, seen_at=at)


def account_followed(*, lease_ends_in: float | None) -> None:
    follower = make_follower(make_strategy(), make_account())
    if lease_ends_in is not None:
        OrderTrackingSession.objects.create(
            account=follower.account,
            market_type=follower.strategy.market_type,
            owner="somebody",
            lease_expires_at=database_now() + timedelta(seconds=lease_ends_in),
        )


def asked(client: Client, question: str = "") -> tuple[int, dict[str, str]]:
    answer = client.get(f"/readyz{question}")
    return answer.status_code, answer.json()["checks"]


class TestHealthz:
    # Without the mark `django_db` a look at the database fails the test.
    def test_answers_without_a_database(self, client: Client) -> None:
        assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.django_db
class TestReadyz:
    def test_is_ready_when_everybody_is_seen(self, client: Client) -> None:
        worker_seen(10)
        account_followed(lease_ends_in=5)

        answer = client.get("/readyz")

        checks = dict.fromkeys(("database", "migrations", "channel_layer", "workers", "streams"), "ok")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "checks": checks})

    def test_names_an_unapplied_migration(self, client: Client) -> None:
        worker_seen(1)
        recorder = MigrationRecorder(connection)
        latest = recorder.migration_qs.filter(app="tradehub").order_by("-pk")[0]
        recorder.record_unapplied(latest.app, latest.name)

        status, checks = asked(client)

        assert (status, checks.pop("migrations")) == (503, "1 not applied")
        assert set(checks.values()) == {"ok"}

    def test_names_the_database_and_asks_nothing_else_of_it(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails() -> str:
            raise OperationalError("connection refused at 10.0.0.1 for user secret")

        monkeypatch.setitem(health.CHECKS, "database", fails)

        assert asked(client) == (
            503,
            {
                "database": "OperationalError",
                "migrations": health.NOT_ASKED,
                "channel_layer": "ok",
                "workers": health.NOT_ASKED,
                "streams": health.NOT_ASKED,
            },
        )

    @pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError(), ChannelFull()])
    def test_names_the_channel_layer(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        worker_seen(1)

        class Away:
            async def new_channel(self) -> str:
                raise error

        monkeypatch.setattr(health, "get_channel_layer", Away)

        status, checks = asked(client)

        assert (status, checks.pop("channel_layer")) == (503, type(error).__name__)
        assert set(checks.values()) == {"ok"}

    @pytest.mark.parametrize(
        ("see", "words"),
        [(lambda: None, "never seen"), (lambda: worker_seen(100), "not seen for 100 s")],
    )
    def test_names_workers_that_are_not_seen(
        self, client: Client, see: Callable[[], Any], words: str
    ) -> None:
        see()

        status, checks = asked(client)

        assert (status, checks.pop("workers")) == (503, words)
        assert set(checks.values()) == {"ok"}

    @pytest.mark.parametrize(("lease_ends_in", "words"), [(None, "never seen"), (-50, "not seen for 60 s")])
    def test_names_streams_that_are_not_seen(
        self, client: Client, lease_ends_in: float | None, words: str
    ) -> None:
        worker_seen(1)
        account_followed(lease_ends_in=lease_ends_in)

        status, checks = asked(client)

        assert (status, checks.pop("streams")) == (503, words)
        assert set(checks.values()) == {"ok"}

    def test_names_streams_that_were_stopped_in_good_order(self, client: Client) -> None:
        account_followed(lease_ends_in=5)
        OrderTrackingSession.objects.update(owner="", lease_expires_at=None)

        status, checks = asked(client)

        assert (status, checks["streams"]) == (503, "stopped")

    def test_asks_only_for_what_a_webhook_needs_if_told_so(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account_followed(lease_ends_in=None)  # neither worker nor streams, and no channel layer
        monkeypatch.setattr(health, "get_channel_layer", lambda: None)

        assert asked(client, "?for=webhooks") == (200, {"database": "ok", "migrations": "ok"})

    def test_costs_the_same_for_many_accounts(self, client: Client) -> None:
        def queries() -> int:
            with CaptureQueriesContext(
                connection,
            ) as captured:
                asked(client)
            return len(captured)

        worker_seen(1)
        account_followed(lease_ends_in=5)
        before = queries()
        for number in range(5):
            make_follower(make_strategy(f"s{number}", token=f"t{number}"), make_account(f"a{number}"))

        assert queries() == before
