"""The operators' pages: every one opens, none shows a secret, none slows down as rows come in."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from cryptography.fernet import Fernet
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django_q.models import OrmQ, Schedule, Task
from django_q.signing import SignedPackage
from pytest_django.fixtures import Settings

from exchanges.adapters.types import Credentials
from exchanges.administration import HistoryAdmin
from exchanges.models import Account, Ban, Breaker, ConfigVersion, LastPrice
from notifications.models import Alert, BreakerAlert, Chat, GuardAlert, StrangerAlert
from orders.models import (
    FailedOrder,
    KillSwitch,
    LossTrip,
    OrderEvent,
    ProfitPeak,
    Strategy,
    StrategyAccount,
    Trade,
    TradeExecution,
    UserProfile,
)
from orders.services.switches import kill_switch_set
from orders.services.waiting import pending_for
from orders.tests.factories import (
    NOON,
    make_account,
    make_follower,
    make_placement,
    make_position,
    make_strategy,
    make_user,
)
from tracking.models import Lease, OrderTrackingSession, UnmatchedReport
from tradehub.models import Process

MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)
SECRETS = ("key-of-", "secret-of-", "token-of-")


def make_rows(number: int) -> None:
    """One more row of every model that the admin shows, each with relations of its own."""
    name = f"n{number}"
    user = make_user(f"user-{name}")
    UserProfile.objects.create(user=user)
    Group.objects.create(name=name)
    account = make_account(f"account-{name}", user=user)
    follower = make_follower(make_strategy(name, user=user, token=f"token-of-{name}"), account)
    placement = make_placement(follower, symbol=f"{name}/USDT")
    make_position(follower, "1.5", symbol=f"{name}/USDT")
    intent = placement.intent
    pending_for(intent, account_id=account.pk, now=NOON).save()
    common: dict[str, Any] = {
        "intent": intent,
        "strategy_account": follower,
        "market_type": intent.market_type,
        "symbol": intent.symbol,
        "side": "BUY",
        "quantity": Decimal("0.5"),
    }
    TradeExecution.objects.create(
        **common, placement=placement, account=account, exchange_order_id=name, trade_id=name,
        price=Decimal(95_000), executed_at=NOON, recorded_at=NOON,
    )  # fmt: skip
    Trade.objects.create(
        **common, notional=Decimal(47_500), average_price=Decimal(95_000), first_executed_at=NOON,
        last_executed_at=NOON,
    )  # fmt: skip
    FailedOrder.objects.create(
        **common, order_type="LIMIT", reason="no money", uid=intent.uid, created_at=NOON
    )
    OrderEvent.objects.create(
        type="ACCEPTED", source="ANSWER", user_id=user.pk, account=account, strategy_account=follower,
        intent=intent, symbol=intent.symbol, created_at=NOON,
    )  # fmt: skip
    LastPrice.objects.create(
        exchange="binance",
        environment="SIMULATOR",
        market_type="SPOT",
        symbol=name,
        price=Decimal(1),
        seen_at=NOON,
    )
    Ban.objects.create(base_url=f"http://{name}", until=NOON, reason="Too many requests")
    Breaker.objects.create(base_url=f"http://{name}", node="here", exchange="binance", changed_at=NOON)
    BreakerAlert.objects.create(base_url=f"http://{name}", is_down=True, at=NOON)
    OrderTrackingSession.objects.create(account=account, market_type="FUTURES")
    UnmatchedReport.objects.create(account=account, market_type="FUTURES", received_at=NOON)
    Lease.objects.create(name=name)
    Process.objects.create(name=name, kind="web", started_at=NOON, seen_at=NOON)
    Chat.objects.create(name=name, held_until=NOON)
    GuardAlert.objects.create(trip_id=number, outcome="SENT", at=NOON)
    StrangerAlert.objects.create(report_id=number, outcome="SENT", at=NOON)
    LossTrip.objects.create(
        strategy_account=follower, kind="DRAWDOWN", limit=Decimal(10), value=Decimal(11), reason="it fell",
        tripped_at=NOON,
    )  # fmt: skip
    ProfitPeak.objects.create(strategy_account=follower, profit=Decimal(5), seen_at=NOON)
    Alert.objects.create(failed_order_id=number, outcome="SENT", at=NOON)
    AccessAttempt.objects.create(username=name, ip_address="203.0.113.7", failures_since_start=1)
    AccessLog.objects.create(username=name, ip_address="203.0.113.7")
    AccessFailureLog.objects.create(username=name, ip_address="203.0.113.7")
    Schedule.objects.create(name=name, func="math.floor")
    OrmQ.objects.create(
        key="tradehub", payload=SignedPackage.dumps({"id": name, "name": name, "func": "math.floor"})
    )
    for success in (True, False):
        Task.objects.create(
            id=f"{name}-{success}", name=name, func="math.floor", success=success,
            started=NOON, stopped=NOON + timedelta(seconds=1),
        )  # fmt: skip


@pytest.fixture
def operator(client: Client) -> User:
    user = User.objects.create_superuser("operator", password="the-operators-word")
    client.force_login(user)
    return user


@pytest.fixture
def world(operator: User) -> None:
    make_rows(1)
    kill_switch_set(engaged=False, reason="", by="operator")


def url(model: type[Model], page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def opened(client: Client, address: str) -> str:
    answer = client.get(address, follow=True)
    assert answer.status_code == 200, address
    return answer.content.decode()


@pytest.mark.django_db
@pytest.mark.usefixtures("world")
class TestEveryModel:
    def test_has_a_list_that_opens_with_and_without_a_search(self, client: Client) -> None:
        for model in MODELS:
            assert model._default_manager.exists(), f"make_rows makes no {model}"

            pages = opened(client, url(model, "changelist")) + opened(
                client, url(model, "changelist") + "?q=n1"
            )
            assert [word for word in SECRETS if word in pages] == [], model

    def test_has_a_page_per_row_that_opens(self, client: Client) -> None:
        for model in MODELS:
            for row in model._default_manager.all():
                page = opened(client, url(model, "change", row.pk))
                assert [word for word in SECRETS if word in page] == [], model

    def test_can_be_added_to_only_where_people_decide(self, client: Client) -> None:
        statuses = {model._meta.label: client.get(url(model, "add")).status_code for model in MODELS}

        assert {label for label, status in statuses.items() if status == 200} == {
            "auth.Group",
            "auth.User",
            "django_q.Schedule",
            "exchanges.Account",
            "orders.Strategy",
            "orders.StrategyAccount",
            "orders.UserProfile",
        }
        assert set(statuses.values()) == {200, 403}

    def test_keeps_its_history_from_being_changed(self, client: Client) -> None:
        for model in MODELS:
            if isinstance(admin.site._registry[model], HistoryAdmin):
                row = model._default_manager.all()[0]
                assert client.post(url(model, "change", row.pk), {}).status_code == 403, model
                assert client.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403, model

    def test_needs_no_more_queries_for_thirty_rows_than_for_ten(self, client: Client) -> None:
        def queries() -> dict[str, int]:
            found = {}
            for model in MODELS:
                with CaptureQueriesContext(connection) as captured:
                    opened(client, url(model, "changelist"))
                found[model._meta.label] = len(captured)
            return found

        for number in range(2, 11):
            make_rows(number)
        queries()  # what is read once, is read now
        before = queries()
        for number in range(11, 31):
            make_rows(number)

        assert queries() == before


class TestTheAdmin:
    def test_shows_every_model_of_ours(self) -> None:
        from django.apps import apps

        ours = {
            model
            for room in ("exchanges", "orders", "tracking", "notifications", "tradehub")
            for model in apps.get_app_config(room).get_models()
        }

        assert ours - set(MODELS) == set()

    @pytest.mark.django_db
    def test_leads_to_every_model_from_its_sidebar(self, client: Client, operator: User) -> None:
        page = opened(client, reverse("admin:index"))

        assert [model._meta.label for model in MODELS if url(model, "changelist") not in page] == []

    @pytest.mark.django_db
    def test_has_no_script_inside_a_page(self, client: Client, operator: User) -> None:
        make_rows(1)
        for model in MODELS:
            page = opened(client, url(model, "changelist"))
            assert re.findall(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)[^>]*>", page) == [], model
            assert re.findall(r"\son\w+=[\"']", page) == [], model

    @pytest.mark.django_db
    def test_is_closed_to_those_who_are_not_staff(self, client: Client) -> None:
        client.force_login(make_user())

        assert client.get(url(Strategy, "changelist")).status_code == 302


@pytest.mark.django_db
class TestAccounts:
    FORM = {
        "name": "second",
        "exchange": "binance",
        "account_type": "CRYPTO",
        "environment": "SIMULATOR",
        "is_active": "on",
    }

    def test_take_secrets_and_never_show_them(self, client: Client, operator: User) -> None:
        secrets = {"new_api_key": "key-of-second", "new_api_secret": "secret-of-second"}

        answer = client.post(url(Account, "add"), self.FORM | {"user": operator.pk} | secrets)

        assert answer.status_code == 302
        account = Account.objects.get()
        assert account.credentials.api_secret == "secret-of-second"
        page = opened(client, url(Account, "change", account.pk))
        assert [word for word in SECRETS if word in page] == []
        assert account.encrypted_api_secret not in page

    def test_need_secrets_when_they_are_new(self, client: Client, operator: User) -> None:
        answer = client.post(
            url(Account, "add"), self.FORM | {"user": operator.pk, "new_api_key": "key-of-second"}
        )

        assert (answer.status_code, Account.objects.count()) == (200, 0)
        assert "key-of-second" not in answer.content.decode()

    def test_keep_the_secrets_that_are_left_empty(self, client: Client, operator: User) -> None:
        account = make_account("first", user=operator)

        client.post(url(Account, "change", account.pk), {"name": "renamed", "new_api_key": "key-of-renamed"})

        account.refresh_from_db()
        assert (account.name, account.credentials.api_key, account.credentials.api_secret) == (
            "renamed",
            "key-of-renamed",
            "secret-of-first",
        )

    def test_take_new_secrets_where_no_key_reads_the_stored_ones(
        self, client: Client, operator: User, settings: Settings
    ) -> None:
        account = make_account("first", user=operator)
        settings.FIELD_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
        entered = {"new_api_key": "key-of-renewed", "new_api_secret": "secret-of-renewed"}

        answer = client.post(url(Account, "change", account.pk), {"name": "first"} | entered)

        assert answer.status_code == 302
        account.refresh_from_db()
        assert account.credentials == Credentials("key-of-renewed", "secret-of-renewed")

    def test_want_all_secrets_where_no_key_reads_the_stored_ones(
        self, client: Client, operator: User, settings: Settings
    ) -> None:
        account = make_account("first", user=operator)
        settings.FIELD_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]

        answer = client.post(
            url(Account, "change", account.pk), {"name": "renamed", "new_api_key": "key-of-renewed"}
        )

        assert answer.context["adminform"].form.errors == {
            "new_api_secret": ["What is stored cannot be read: enter all that the account has again"]
        }
        assert "key-of-renewed" not in answer.content.decode()
        account.refresh_from_db()
        assert account.name == "first"

    def test_refuse_a_kind_that_the_exchange_does_not_have(self, client: Client, operator: User) -> None:
        form = self.FORM | {
            "user": operator.pk,
            "account_type": "STOCK",
            "new_api_key": "k",
            "new_api_secret": "s",
        }

        answer = client.post(url(Account, "add"), form)

        assert "binance has no STOCK accounts" in answer.content.decode()
        assert Account.objects.count() == 0

    def test_are_paused_after_a_question_and_with_a_reason(self, client: Client, operator: User) -> None:
        account, other = make_account("first"), make_account("other")
        chosen = {"action": "pause", "_selected_action": [account.pk]}
        before = ConfigVersion.current()

        question = client.post(url(Account, "changelist"), chosen)
        assert "Why" in question.content.decode()
        assert Account.objects.filter(is_active=False).count() == 0

        client.post(url(Account, "changelist"), chosen | {"confirmed": "yes", "reason": "key leaked"})
        account.refresh_from_db()
        other.refresh_from_db()
        assert (account.is_active, other.is_active) == (False, True)
        assert ConfigVersion.current() > before
        entry = LogEntry.objects.get()
        assert (entry.user, entry.change_message) == (operator, "Pause accounts: key leaked")


@pytest.mark.django_db
class TestStrategies:
    def test_get_their_token_when_they_are_made_and_show_it_once(
        self, client: Client, operator: User
    ) -> None:
        form = {
            "group_name": "fresh",
            "user": operator.pk,
            "market_type": "FUTURES",
            "execution_mode": "IMMEDIATE",
            "dedupe_window_seconds": "0",
            "is_active": "on",
            "strategy_accounts-TOTAL_FORMS": "0",
            "strategy_accounts-INITIAL_FORMS": "0",
        }

        answer = client.post(url(Strategy, "add"), form)

        strategy = Strategy.objects.get()
        found = re.search(r'<code id="token"[^>]*>([^<]+)</code>', answer.content.decode())
        assert found
        assert strategy.has_token(found[1])
        assert answer["Cache-Control"].startswith("no-store")
        page = opened(client, url(Strategy, "change", strategy.pk))
        assert found[1] not in page
        assert strategy.token_hash not in page

    def test_get_another_token_after_a_question(self, client: Client, operator: User) -> None:
        strategy = make_strategy(token="token-of-old")
        address = reverse("admin:orders_strategy_rotate_token", args=[strategy.pk])

        assert "Rotate" in opened(client, address)
        strategy.refresh_from_db()
        assert strategy.has_token("token-of-old")

        answer = client.post(address)
        strategy.refresh_from_db()
        found = re.search(r'<code id="token"[^>]*>([^<]+)</code>', answer.content.decode())
        assert found
        assert (strategy.has_token(found[1]), strategy.has_token("token-of-old")) == (True, False)
        assert LogEntry.objects.get().change_message == "Token rotated"

    def test_keep_their_token_from_staff_who_may_only_look(self, client: Client) -> None:
        strategy = make_strategy(token="token-of-old")
        client.force_login(make_user("onlooker", is_staff=True))

        assert (
            client.post(reverse("admin:orders_strategy_rotate_token", args=[strategy.pk])).status_code == 403
        )
        strategy.refresh_from_db()
        assert strategy.has_token("token-of-old")

    def test_are_paused_and_resumed_with_a_reason(self, client: Client, operator: User) -> None:
        strategy = make_strategy()
        chosen = {"_selected_action": [strategy.pk], "confirmed": "yes", "reason": "news at noon"}

        client.post(url(Strategy, "changelist"), chosen | {"action": "pause"})
        strategy.refresh_from_db()
        assert strategy.is_active is False
        client.post(url(Strategy, "changelist"), chosen | {"action": "resume"})
        strategy.refresh_from_db()
        assert strategy.is_active is True

        assert OrderEvent.objects.first().data == {"by": "operator", "reason": "news at noon"}
        assert LogEntry.objects.count() == 2

    @pytest.mark.parametrize(
        ("owner", "kind", "words"),
        [
            ("rival", "CRYPTO", "belongs to another user"),
            ("operator", "STOCK", "needs CRYPTO accounts"),
        ],
    )
    def test_refuse_an_account_that_cannot_follow(
        self, client: Client, operator: User, owner: str, kind: str, words: str
    ) -> None:
        strategy = make_strategy(user=operator)
        account = make_account(user=make_user(owner), account_type=kind)
        form = {"strategy": strategy.pk, "account": account.pk, "allocated_capital": "100", "leverage": "1"}

        answer = client.post(url(StrategyAccount, "add"), form)

        assert words in answer.content.decode()
        assert StrategyAccount.objects.count() == 0

    def test_take_capital_to_the_last_digit(self, client: Client, operator: User) -> None:
        follower = make_follower()

        client.post(
            url(StrategyAccount, "change", follower.pk),
            {"allocated_capital": "1234567.8901234567", "leverage": "3", "is_active": "on"},
        )

        follower.refresh_from_db()
        assert (follower.allocated_capital, follower.leverage) == (Decimal("1234567.8901234567"), 3)


@pytest.mark.django_db
class TestKillSwitchPage:
    def test_acts_only_when_confirmed_and_says_who_and_why(self, client: Client, operator: User) -> None:
        address = url(KillSwitch, "changelist")
        client.post(address, {"engage": "yes", "reason": "drill"})
        client.post(address, {"engage": "yes", "confirmed": "on"})
        assert KillSwitch.objects.filter(engaged=True).exists() is False

        client.post(address, {"engage": "yes", "reason": "drill", "confirmed": "on"})

        assert KillSwitch.objects.get().engaged is True
        entry = LogEntry.objects.get()
        assert (entry.user, entry.change_message) == (operator, "Kill switch ON: drill")
        page = opened(client, address)
        assert "Accept webhooks again" in page
        assert "operator: drill" in page

    def test_cannot_be_turned_by_staff_who_may_only_look(self, client: Client) -> None:
        from django.contrib.auth.models import Permission

        onlooker = make_user("onlooker", is_staff=True)
        onlooker.user_permissions.add(Permission.objects.get(codename="view_killswitch"))
        client.force_login(onlooker)

        form = {"engage": "yes", "reason": "mischief", "confirmed": "on"}
        assert client.post(url(KillSwitch, "changelist"), form).status_code == 403
        assert KillSwitch.objects.filter(engaged=True).exists() is False


@pytest.mark.django_db
class TestUsers:
    def test_can_be_made_and_get_their_profile(self, client: Client, operator: User) -> None:
        form = {
            "username": "trader",
            "password1": "long-enough-word",
            "password2": "long-enough-word",
            "usable_password": "true",
        }

        assert client.post(url(User, "add"), form).status_code == 302
        assert User.objects.get(username="trader").check_password("long-enough-word")

    def test_never_show_their_password_hash(self, client: Client, operator: User) -> None:
        page = opened(client, url(User, "change", operator.pk))

        assert operator.password not in page
