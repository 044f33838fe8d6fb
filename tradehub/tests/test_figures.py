"""Each figure for rows that were made up, as staff read them and as Prometheus does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from exchanges import measures
from exchanges.adapters.exceptions import OutcomeUnknown
from exchanges.adapters.hosts import RoundTrip
from exchanges.models import Account, Breaker
from exchanges.windows import Recorder
from orders.clock import database_now
from orders.models import FailedOrder, FailedStatus, OpenOrder, StrategyAccount, WebhookDelivery
from orders.services.applied import Outcome
from orders.services.settlement import outcomes_apply
from orders.services.switches import kill_switch_set
from orders.services.waiting import pending_for
from orders.tests.factories import (
    make_account,
    make_follower,
    make_placement,
    make_placements,
    make_report,
    make_strategy,
    make_user,
)
from orders.tests.failing import make_failed
from tracking.models import OrderTrackingSession, SessionStatus, UnmatchedReport
from tradehub.models import Process, ProcessKind
from tradehub.processes import Reporter

pytestmark = pytest.mark.django_db
TOKEN = "a-token-of-a-scraper"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def staff(client: Client) -> User:
    user = make_user("operator", is_staff=True)
    client.force_login(user)
    return user


@pytest.fixture
def follower() -> StrategyAccount:
    return make_follower(make_strategy(), make_account())


@pytest.fixture(autouse=True)
def nothing_recent() -> Iterator[None]:
    measures.recent.forget()
    yield
    measures.recent.forget()


@pytest.fixture
def scraper(settings: Settings) -> None:
    settings.METRICS_TOKEN = TOKEN


def figures(client: Client) -> dict[str, Any]:
    answer = client.get("/admin/api/metrics")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def scraped(client: Client) -> dict[str, Metric]:
    answer = client.get("/metrics", headers=BEARER)
    assert answer.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(answer.content.decode())}


def values(family: Metric) -> dict[str, float]:
    """A gauge's values by its one label."""
    return {next(iter(sample.labels.values()), ""): sample.value for sample in family.samples}


def report(kind: ProcessKind = ProcessKind.WEB, *, seconds_ago: float = 0) -> Process:
    """A process that has counted all that this one has."""
    reporter = Reporter(kind)
    reporter._before = reporter._written = {}
    reporter.report()
    row = Process.objects.get(name=reporter.name)
    row.seen_at -= timedelta(seconds=seconds_ago)
    row.save()
    return row


@pytest.mark.usefixtures("staff", "scraper")
class TestWhatStands:
    def test_orders_in_the_queue(self, client: Client, follower: StrategyAccount) -> None:
        now = database_now()
        for seconds, waits in ((100, None), (20, None), (5, now + timedelta(minutes=1))):
            intent = make_placement(follower).intent
            OpenOrder.objects.filter(intent=intent).delete()
            queued_at = now - timedelta(seconds=seconds)
            row = pending_for(intent, account_id=follower.account_id, now=queued_at, waits_until=waits)
            row.save()

        found = figures(client)["queue"]

        assert (found["waiting"], found["backing_off"], found["books"]) == (3, 1, 1)
        assert 100 <= found["oldest_seconds"] < 110
        metrics = scraped(client)
        assert values(metrics["tradehub_queue_waiting"]) == {"ready": 2, "backing_off": 1}
        assert 100 <= metrics["tradehub_queue_oldest_seconds"].samples[0].value < 110

    def test_open_orders_and_those_that_nobody_knows_of(
        self, client: Client, follower: StrategyAccount
    ) -> None:
        resting, fresh, lost = make_placements(follower, [{}, {}, {}])
        outcomes_apply(
            [Outcome(resting.pk, make_report(resting, "NEW"))], source="ANSWER", now=database_now()
        )
        OpenOrder.objects.filter(placement=fresh).update(submitted_at=database_now())
        OpenOrder.objects.filter(placement=lost).update(submitted_at=database_now() - timedelta(seconds=6))

        found = figures(client)["orders"]

        assert (found["open"], found["unknown"]) == (3, 1)
        assert {name: count for name, count in found["by_status"].items() if count} == {
            "NEW": 1, "SUBMITTING": 2,
        }  # fmt: skip
        metrics = scraped(client)
        assert values(metrics["tradehub_unknown_orders"]) == {"": 1}
        assert values(metrics["tradehub_open_orders"])["SUBMITTING"] == 2
        assert values(metrics["tradehub_open_orders"])["CANCELING"] == 0

    def test_failed_orders_and_how_many_went_well(self, client: Client, follower: StrategyAccount) -> None:
        make_failed(follower)
        removed = make_failed(follower)
        FailedOrder.objects.filter(pk=removed.pk).update(status=FailedStatus.REMOVED)
        good = make_placement(follower)
        outcomes_apply([Outcome(good.pk, make_report(good, "NEW"))], source="ANSWER", now=database_now())
        make_placement(follower)  # nobody knows yet
        WebhookDelivery.objects.update(received_at=database_now())
        old = make_failed(follower)
        long_ago = database_now() - timedelta(hours=25)
        WebhookDelivery.objects.filter(intents=old.intent_id).update(received_at=long_ago)

        found = figures(client)

        assert found["orders"]["failed"] == 2
        assert values(scraped(client)["tradehub_failed_orders"]) == {"": 2}
        success = found["success"]
        assert (success["succeeded"], success["failed"], success["percent"]) == (1, 2, 33.33)

    def test_no_rate_where_nothing_was_ordered(self, client: Client) -> None:
        assert figures(client)["success"]["percent"] is None

    def test_streams(self, client: Client, follower: StrategyAccount) -> None:
        OrderTrackingSession.objects.create(
            account=follower.account, market_type=follower.strategy.market_type, owner="me",
            status=SessionStatus.CONNECTED, lease_expires_at=database_now() + timedelta(seconds=5),
        )  # fmt: skip
        make_follower(make_strategy("s2", token="t2"), make_account("a2"))

        stats = figures(client)["websocket_stats"]

        assert (stats["streams"], stats["by_status"]["connected"], stats["unwatched"]) == (2, 1, 1)
        metrics = scraped(client)
        assert values(metrics["tradehub_streams"]) == {
            "connecting": 0, "connected": 1, "disconnected": 1, "error": 0,
        }  # fmt: skip
        assert values(metrics["tradehub_streams_unwatched"]) == {"": 1}

    def test_how_long_ago_the_last_clean_reconciliation_began(
        self, client: Client, follower: StrategyAccount
    ) -> None:
        assert values(scraped(client)["tradehub_reconcile_age_seconds"]) == {"": 0}

        OrderTrackingSession.objects.create(
            account=follower.account, market_type=follower.strategy.market_type,
            last_reconciled_at=database_now() - timedelta(seconds=130),
        )  # fmt: skip

        assert 130 <= figures(client)["websocket_stats"]["oldest_reconciled_seconds"] < 140
        assert 130 <= values(scraped(client)["tradehub_reconcile_age_seconds"])[""] < 140

    def test_accounts_and_the_kill_switch(self, client: Client, staff: User) -> None:
        make_account("a")
        make_account("b", is_active=False)
        assert figures(client)["accounts"] == {"total": 2, "active": 1, "paused": 1}
        assert values(scraped(client)["tradehub_kill_switch"]) == {"": 0}

        kill_switch_set(engaged=True, reason="drill", by=staff.username)

        assert figures(client)["kill_switch"] is True
        assert values(scraped(client)["tradehub_kill_switch"]) == {"": 1}

    def test_breakers(self, client: Client) -> None:
        common = {"exchange": "binance", "opened_at": database_now(), "changed_at": database_now()}
        for node, state in (("one", "OPEN"), ("two", "CLOSED"), ("three", "CLOSED")):
            Breaker.objects.create(base_url="http://127.0.0.1/x", node=node, state=state, **common)

        found = {one["node"]: (one["exchange"], one["state"]) for one in figures(client)["breakers"]}

        assert found["one"] == ("binance", "OPEN")
        family = scraped(client)["tradehub_breakers"]
        assert {sample.labels["state"]: sample.value for sample in family.samples} == {
            "CLOSED": 2, "OPEN": 1, "HALF_OPEN": 0,
        }  # fmt: skip

    def test_processes(self, client: Client) -> None:
        report(ProcessKind.WEB)
        report(ProcessKind.WEB, seconds_ago=40)
        report(ProcessKind.WORKER, seconds_ago=80)
        report(ProcessKind.PAST)

        found = figures(client)["processes"]

        assert {kind: one["alive"] for kind, one in found.items()} == {"web": 1, "worker": 1, "streams": 0}
        assert 80 <= found["worker"]["last_seen_seconds"] < 90
        assert found["streams"]["last_seen_seconds"] is None
        metrics = scraped(client)
        assert values(metrics["tradehub_processes"]) == {"web": 1, "worker": 1, "streams": 0}
        assert values(metrics["tradehub_process_seen_seconds"]).keys() == {"web", "worker"}

    def test_the_latest_errors(self, client: Client, follower: StrategyAccount) -> None:
        for number in range(8):
            failed = make_failed(follower, symbol="ETH/USDT")
            at = database_now() - timedelta(minutes=number)
            FailedOrder.objects.filter(pk=failed.pk).update(created_at=at, reason=f"reason {number}")
        session = OrderTrackingSession.objects.create(
            account=follower.account,
            market_type="FUTURES",
            status=SessionStatus.ERROR,
            last_error="no such key",
        )
        OrderTrackingSession.objects.filter(pk=session.pk).update(
            updated_at=database_now() - timedelta(seconds=30)
        )

        found = figures(client)["errors"]

        assert [one["text"] for one in found] == [
            "reason 0", "no such key", "reason 1", "reason 2", "reason 3", "reason 4",
        ]  # fmt: skip
        assert found[0]["exchange_error"] == "Account has insufficient balance for requested action."
        assert (found[1]["kind"], found[1]["account"]) == ("stream", "main")

    def test_no_error_of_a_stream_that_is_not_to_be_followed(
        self, client: Client, follower: StrategyAccount
    ) -> None:
        OrderTrackingSession.objects.create(
            account=follower.account, market_type="FUTURES", last_error="no such key"
        )
        Account.objects.update(is_active=False)

        assert figures(client)["errors"] == []

    def test_accounts_that_cannot_be_reconciled_are_among_the_errors(
        self, client: Client, follower: StrategyAccount
    ) -> None:
        paused = make_follower(make_strategy("s2", token="t2"), make_account("a2", is_active=False))
        for one in (follower, paused):
            OrderTrackingSession.objects.create(
                account=one.account, market_type=one.strategy.market_type, status=SessionStatus.CONNECTED,
                reconcile_error="Invalid API-key", reconcile_failed_at=database_now(),
            )  # fmt: skip

        (found,) = figures(client)["errors"]

        assert (found["kind"], found["account"], found["symbol"]) == (
            "reconcile", "main", follower.strategy.market_type,
        )  # fmt: skip
        assert found["text"] == "Cannot be compared with its exchange."
        assert found["exchange_error"] == "Invalid API-key"

    def test_what_could_not_be_read_lately_is_among_the_errors(
        self, client: Client, follower: StrategyAccount
    ) -> None:
        another = make_account("a2")
        now = database_now()
        for account, error, hours in (
            (another, "an account's only one", 3),
            (follower.account, "yesterday's", 25),
            *((follower.account, f"of a flood: {number}", 2) for number in range(10)),
        ):
            UnmatchedReport.objects.create(
                account=account, market_type="FUTURES", state=UnmatchedReport.State.UNREADABLE, error=error,
                received_at=now - timedelta(hours=hours),
            )  # fmt: skip

        found = figures(client)["errors"]

        assert [(one["account"], one["exchange_error"]) for one in found] == [
            ("main", "of a flood: 9"), ("a2", "an account's only one"),
        ]  # fmt: skip
        assert {(one["kind"], one["symbol"], one["text"]) for one in found} == {
            ("unreadable", "FUTURES", "What the exchange said could not be read; it is kept as it came."),
        }  # fmt: skip


@pytest.mark.usefixtures("staff", "scraper")
class TestWhatHappened:
    def test_latencies_of_all_processes_together(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for milliseconds in range(1, 100):
            measures.departure(milliseconds / 1000)
        report(ProcessKind.WEB)
        monkeypatch.setattr(measures, "recent", Recorder())
        measures.departure(0.1)
        measures.rebalance(0.25)
        report(ProcessKind.WEB)

        found = figures(client)["latency_ms"]

        assert found["webhook_to_exchange"]["count"] == 100
        for percent in (50, 95, 99):
            assert percent <= found["webhook_to_exchange"][f"p{percent}"] <= percent * 1.06
        assert found["rebalance"]["count"] == 1
        assert 250 <= found["rebalance"]["p50"] <= 265
        assert found["exchange_to_ledger"] == {"count": 0, "p50": None, "p95": None, "p99": None}

    def test_submissions_by_outcome_and_requests_by_exchange(self, client: Client) -> None:
        measures.submissions("binance", [OutcomeUnknown("lost")] * 3)
        measures.round_trip(RoundTrip("binance", "POST", "/fapi/v1/order", 0.1, None))
        report()

        found = figures(client)

        assert (found["submissions"]["unknown"], found["submissions"]["total"]) == (3, 3)
        assert found["latency_ms"]["exchange_request"]["binance"]["count"] == 1

    def test_counters_and_histograms_as_sums(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def sums() -> tuple[float, float]:
            metrics = scraped(client)
            webhooks = {
                sample.labels["status"]: sample.value
                for sample in metrics["tradehub_webhook_seconds"].samples
                if sample.name.endswith("_count")
            }
            lost = [
                sample.value
                for sample in metrics["tradehub_submissions"].samples
                if sample.labels == {"exchange": "binance", "outcome": "unknown"}
            ]
            return webhooks.get("418", 0), sum(lost)

        measures.webhook(status=418, seconds=0.03)
        measures.submissions("binance", [OutcomeUnknown("lost")])
        report()
        once = sums()
        report()  # a second process with the same counts

        assert once[0] >= 1
        assert sums() == (once[0] * 2, once[1] * 2)

    def test_histograms_that_a_reader_can_read(self, client: Client) -> None:
        measures.webhook(status=299, seconds=0.03)
        report()
        report()

        family = scraped(client)["tradehub_webhook_seconds"]

        buckets = [
            (float(sample.labels["le"]), sample.value)
            for sample in family.samples
            if sample.name.endswith("_bucket") and sample.labels["status"] == "299"
        ]
        assert family.type == "histogram"
        assert [le for le, _ in buckets] == sorted({le for le, _ in buckets})
        assert buckets[-1] == (float("inf"), 2)
        assert dict(buckets)[0.05] == 2
        assert dict(buckets).get(0.025, 0) == 0

    def test_every_metric_is_there_before_anything_happened(self, client: Client) -> None:
        known = {metric.name for metric in measures.REGISTRY.collect()}

        assert known <= scraped(client).keys()

    def test_nothing_but_words_from_short_lists_in_labels(self, client: Client) -> None:
        report()

        labels = {
            (name, value)
            for family in scraped(client).values()
            for sample in family.samples
            for name, value in sample.labels.items()
        }

        assert {name for name, _ in labels} <= {
            "status", "exchange", "endpoint", "outcome", "kind", "state", "le",
        }  # fmt: skip


@pytest.mark.usefixtures("scraper")
class TestQueries:
    @pytest.mark.parametrize("path", ["/admin/api/metrics", "/metrics", "/admin/"])
    def test_are_as_many_for_many_rows(
        self, client: Client, staff: User, follower: StrategyAccount, path: str
    ) -> None:
        User.objects.filter(pk=staff.pk).update(is_superuser=True)

        def queries() -> int:
            with CaptureQueriesContext(connection) as captured:
                assert client.get(path, headers=BEARER).status_code == 200
            return len(captured)

        queries()
        make_failed(follower)
        report()
        before = queries()
        for number in range(6):
            another = make_follower(
                make_strategy(f"s{number}", token=f"t{number}"), make_account(f"a{number}")
            )
            make_placements(another, [{}, {}, {}])
            make_failed(another)
            report()

        assert queries() == before
        assert before < 40


class TestWhoMaySee:
    def test_staff_alone_see_the_json(self, client: Client) -> None:
        assert client.get("/admin/api/metrics").status_code == 403
        client.force_login(make_user("trader"))
        answer = client.get("/admin/api/metrics")
        assert (answer.status_code, answer.json()["success"], answer.json()["code"]) == (
            403, False, "staff_only",
        )  # fmt: skip

        client.force_login(make_user("gone", is_staff=True, is_active=False))
        assert client.get("/admin/api/metrics").status_code == 403

        client.force_login(make_user("operator", is_staff=True))
        assert client.get("/admin/api/metrics").status_code == 200
        assert client.post("/admin/api/metrics").status_code == 405

    def test_there_is_no_metrics_page_without_a_token(self, client: Client, settings: Settings) -> None:
        settings.METRICS_TOKEN = ""
        for headers in ({}, {"Authorization": "Bearer "}, BEARER):
            assert client.get("/metrics", headers=headers).status_code == 404

    @pytest.mark.parametrize(
        "shown", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer ü"]
    )
    def test_a_scraper_without_the_token_sees_nothing(
        self, client: Client, scraper: None, shown: str | None
    ) -> None:
        answer = client.get("/metrics", headers={} if shown is None else {"Authorization": shown})

        assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
        assert b"tradehub_" not in answer.content

    def test_staff_need_the_token_too(self, client: Client, scraper: None, staff: User) -> None:
        assert client.get("/metrics").status_code == 401

    def test_secrets_and_names_are_not_among_the_metrics(
        self, client: Client, scraper: None, follower: StrategyAccount
    ) -> None:
        make_failed(follower)
        report()
        text = client.get("/metrics", headers=BEARER).content.decode()

        for word in (TOKEN, follower.account.name, follower.strategy.group_name, "BTC", "key-of"):
            assert word not in text
