from __future__ import annotations

import copy
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from exchanges.models import Account, ConfigVersion
from orders.models import Book, Strategy, StrategyAccount, UserProfile
from orders.provisioning import ProvisionFaults, parse_provision
from orders.services.provision import ProvisionResult, provision

CONTENT: dict[str, Any] = {
    "users": [{"username": "trader", "password": "env:TRADER_PASSWORD", "language": "ko", "is_staff": False}],
    "accounts": [
        {
            "name": "main",
            "user": "trader",
            "exchange": "binance",
            "account_type": "CRYPTO",
            "environment": "SIMULATOR",
            "api_key": "k1",
            "api_secret": "the-api-secret",
        }
    ],
    "strategies": [
        {
            "group_name": "test1",
            "user": "trader",
            "token": "secret-token",
            "market_type": "FUTURES",
            "execution_mode": "QUEUED",
            "accounts": [{"account": "main", "allocated_capital": "10000", "leverage": 10}],
        }
    ],
}
ENVIRONMENT = {"TRADER_PASSWORD": "the-password"}


def run(content: dict[str, Any], *, check_only: bool = False) -> ProvisionResult:
    return provision(parse_provision(content, environment=ENVIRONMENT), check_only=check_only)


def changed(**edits: Any) -> dict[str, Any]:
    """The content with some values of its first entries replaced: `strategies__is_active=False`."""
    content = copy.deepcopy(CONTENT)
    for path, value in edits.items():
        kind, name = path.split("__")
        content[kind][0][name] = value
    return content


def faults_of(content: dict[str, Any]) -> list[str]:
    with pytest.raises(ProvisionFaults) as caught:
        run(content)
    return caught.value.faults


@pytest.mark.django_db
class TestProvision:
    def test_sets_up_everything_that_the_file_names(self) -> None:
        run(CONTENT)

        user = User.objects.get(username="trader")
        assert user.check_password("the-password")
        assert UserProfile.objects.get(user=user).language == "ko"
        account = Account.objects.get(user=user, name="main")
        assert (account.exchange, account.environment, account.credentials.api_secret) == (
            "binance",
            "SIMULATOR",
            "the-api-secret",
        )
        strategy = Strategy.objects.get(group_name="test1")
        assert (strategy.market_type, strategy.execution_mode, strategy.has_token("secret-token")) == (
            "FUTURES",
            "QUEUED",
            True,
        )
        follower = StrategyAccount.objects.get(strategy=strategy, account=account)
        assert (follower.allocated_capital, follower.leverage) == (Decimal(10000), 10)

    def test_changes_nothing_the_second_time(self) -> None:
        run(CONTENT)
        before = ConfigVersion.current()

        assert run(CONTENT).changes == []
        assert ConfigVersion.current() == before

    def test_tells_what_it_changed_without_telling_secrets(self) -> None:
        run(CONTENT)
        content = changed(
            accounts__api_secret="another-secret",
            strategies__token="another-token",
            users__email="t@example.com",
        )
        content["strategies"][0]["accounts"][0]["allocated_capital"] = "12000.50"

        assert [str(change) for change in run(content).changes] == [
            "user trader: email  -> t@example.com",
            "account trader/main: credentials (hidden) -> (hidden)",
            "strategy test1: token_hash (hidden) -> (hidden)",
            "main under test1: allocated_capital 10000 -> 12000.5",
        ]
        assert Account.objects.get().credentials.api_secret == "another-secret"
        assert Strategy.objects.get().has_token("secret-token") is False

    def test_leaves_alone_what_the_file_does_not_say(self) -> None:
        run(CONTENT)
        Strategy.objects.update(is_active=False, dedupe_window_seconds=30)
        User.objects.create(username="somebody-else")

        assert run(CONTENT).changes == []
        assert Strategy.objects.get().is_active is False

    def test_stops_an_account_following_that_the_strategy_no_longer_lists(self) -> None:
        run(CONTENT)
        content = changed(strategies__accounts=[])

        assert [str(change) for change in run(content).changes] == [
            "main under test1: is_active True -> False"
        ]
        assert run(content).changes == []

    def test_sets_the_guards_and_says_what_changed(self) -> None:
        run(CONTENT)
        content = changed(
            strategies__symbol_allowlist=["BTC/USDT"],
            strategies__max_orders_per_minute=None,
            strategies__max_price_deviation_percent="5",
            accounts__max_orders_per_minute=60,
            accounts__queue_limit_cap=8,
        )
        content["strategies"][0]["accounts"][0] |= {
            "max_order_notional": "500", "max_position_notional": "2000.5", "max_symbols": 3,
            "daily_loss_limit": 100, "max_drawdown_percent": "12.5",
        }  # fmt: skip

        assert [str(change) for change in run(content).changes] == [
            "account trader/main: queue_limit_cap None -> 8, max_orders_per_minute 300 -> 60",
            "strategy test1: symbol_allowlist [] -> ['BTC/USDT'], max_orders_per_minute 300 -> None, "
            "max_price_deviation_percent None -> 5",
            "main under test1: max_order_notional None -> 500, max_position_notional None -> 2000.5, "
            "max_symbols None -> 3, daily_loss_limit None -> 100, max_drawdown_percent None -> 12.5",
        ]
        assert run(content).changes == []

    @pytest.mark.parametrize(
        ("cap", "value", "words"),
        [
            ("queue_limit_cap", 21, "can only lower the cap: at most 20 (QUEUE_LIMIT_CAP); it is 21"),
            ("queue_stop_cap", 6, "can only lower the cap: at most 5 (a quarter of the LIMIT cap); it is 6"),
            ("queue_total_cap", 26, "can only lower the cap: at most 25 (the sum of both); it is 26"),
        ],
    )
    def test_refuses_a_cap_that_would_raise_what_it_can_only_lower(
        self, cap: str, value: int, words: str
    ) -> None:
        assert faults_of(changed(**{f"accounts__{cap}": value})) == [f"accounts[0].{cap}: {words}"]
        assert not Account.objects.exists()
        run(changed(**{f"accounts__{cap}": value - 1}))

    @pytest.mark.parametrize("value", [0, -1])
    @pytest.mark.parametrize("cap", ["queue_limit_cap", "queue_stop_cap", "queue_total_cap"])
    def test_refuses_a_cap_below_one(self, cap: str, value: int) -> None:
        (fault,) = faults_of(changed(**{f"accounts__{cap}": value}))

        assert fault == f"accounts[0].{cap}: Input should be greater than or equal to 1"

    def test_writes_nothing_when_it_only_checks(self) -> None:
        result = run(CONTENT, check_only=True)

        assert [str(change) for change in result.changes] == [
            "new user trader",
            "new profile of trader",
            "new account trader/main",
            "new strategy test1",
            "new main under test1",
        ]
        assert (User.objects.count(), Account.objects.count(), Strategy.objects.count()) == (0, 0, 0)


@pytest.mark.django_db
class TestProvisionRefuses:
    def test_an_owner_that_nobody_knows(self) -> None:
        assert faults_of(CONTENT | {"users": []}) == [
            "accounts[0].user: there is no user trader",
            "strategies[0].user: there is no user trader",
        ]

    def test_a_market_that_the_exchange_does_not_have(self) -> None:
        content = changed(strategies__market_type="DOMESTIC_STOCK")

        assert faults_of(content) == [
            "strategies[0].accounts[0].account: "
            "a DOMESTIC_STOCK strategy needs STOCK accounts, main is CRYPTO"
        ]
        assert faults_of(changed(accounts__account_type="STOCK")) == [
            "accounts[0].account_type: binance has no STOCK accounts"
        ]

    def test_an_account_of_another_user(self) -> None:
        content = changed(accounts__user="rival")
        content["users"].append({"username": "rival"})

        assert faults_of(content) == ["strategies[0].accounts[0].account: trader has no account main"]

    def test_a_token_that_another_strategy_has(self) -> None:
        run(CONTENT)

        assert faults_of(changed(strategies__group_name="test2")) == [
            "strategies[0].token: another strategy has this token"
        ]

    def test_a_strategy_of_another_user(self) -> None:
        run(CONTENT)
        content = changed(strategies__user="rival", strategies__accounts=[])
        content["users"].append({"username": "rival"})

        assert faults_of(content) == ["strategies[0].user: strategy test1 belongs to somebody else"]

    def test_to_move_an_account_that_has_traded(self) -> None:
        run(CONTENT)
        assert run(changed(accounts__environment="TESTNET")).changes  # nothing traded yet
        Book.objects.create(account=Account.objects.get(), market_type="FUTURES", symbol="BTC/USDT")

        assert faults_of(changed(accounts__environment="LIVE")) == [
            "accounts[0].environment: main has traded already; make another account"
        ]

    def test_everything_when_anything_is_wrong(self) -> None:
        faults_of(changed(strategies__market_type="DOMESTIC_STOCK"))

        assert (User.objects.count(), Account.objects.count()) == (0, 0)


@pytest.mark.django_db
class TestProvisionCommand:
    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("TRADER_PASSWORD", "the-password")
        path = tmp_path / "house.json"
        path.write_text(json.dumps(CONTENT))
        return path

    def test_exits_with_1_when_a_check_finds_a_difference_and_quietly_when_not(self, file: Path) -> None:
        out = io.StringIO()
        with pytest.raises(CommandError) as caught:
            call_command("provision", file, check=True, stdout=out, stderr=io.StringIO())
        assert (caught.value.returncode, Account.objects.count()) == (1, 0)
        assert "new account trader/main" in out.getvalue()

        call_command("provision", file, stdout=io.StringIO(), stderr=io.StringIO())
        call_command("provision", file, check=True, stdout=out, stderr=io.StringIO())
        assert "Nothing to change." in out.getvalue()

    def test_lists_every_fault_and_changes_nothing(self, file: Path) -> None:
        file.write_text(json.dumps(changed(accounts__exchange="mtgox", strategies__token="x")))

        with pytest.raises(
            CommandError, match=r"accounts\[0\].exchange: (.|\n)*strategies\[0\].token: "
        ) as caught:
            call_command("provision", file)
        assert (caught.value.returncode, User.objects.count()) == (2, 0)

    def test_says_when_there_is_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match="No such file"):
            call_command("provision", tmp_path / "nowhere.json")
