from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction

from exchanges.adapters.types import Credentials
from exchanges.models import Account, AccountType, ConfigVersion, Instrument

KEY, SECRET, PASSPHRASE = "the-api-key-in-clear", "the-api-secret-in-clear", "the-passphrase-in-clear"


def make_account(name: str = "main", **overrides: Any) -> Account:
    user, _ = User.objects.get_or_create(username="trader")
    account = Account(user=user, name=name, exchange="binance", **overrides)
    account.credentials = Credentials(api_key=KEY, api_secret=SECRET, passphrase=PASSPHRASE)
    account.save()
    return account


def make_instrument(symbol: str = "BTC/USDT", **overrides: Any) -> Instrument:
    fields = {
        "exchange": "binance",
        "environment": "SIMULATOR",
        "market_type": "SPOT",
        "venue_symbol": symbol.replace("/", ""),
        "base_asset": symbol.partition("/")[0],
        "quote_asset": symbol.partition("/")[2],
        "tick_size": Decimal("0.01"),
        "lot_step": Decimal("0.001"),
        "min_quantity": Decimal("0.001"),
    } | overrides
    return Instrument(symbol=symbol, **fields)


@pytest.mark.django_db
class TestAccountCredentials:
    def test_come_back_as_they_went_in(self) -> None:
        account = Account.objects.get(pk=make_account().pk)

        assert account.credentials == Credentials(api_key=KEY, api_secret=SECRET, passphrase=PASSPHRASE)

    def test_are_nowhere_in_clear_in_the_raw_row(self) -> None:
        account = make_account()

        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM exchanges_account WHERE id = %s", [account.pk])
            row = repr(cursor.fetchone())

        assert [word for word in (KEY, SECRET, PASSPHRASE) if word in row] == []
        assert "gAAAA" in row  # what every Fernet token begins with

    def test_are_not_in_the_words_an_account_is_shown_with(self) -> None:
        account = make_account()

        assert SECRET not in f"{account!r} {account} {account.credentials!r}"


WAYS_OF_WRITING: dict[str, Callable[[Account], object]] = {
    "save": lambda account: account.save(),
    "save of one field": lambda account: account.save(update_fields=["is_active"]),
    "delete": lambda account: account.delete(),
    "create": lambda account: Account.objects.create(user=account.user, name="second", exchange="binance"),
    "update": lambda account: Account.objects.filter(pk=account.pk).update(is_active=False),
    "delete of a set": lambda account: Account.objects.filter(pk=account.pk).delete(),
    "bulk_create": lambda account: Instrument.objects.bulk_create([make_instrument()]),
    "bulk_update": lambda account: Account.objects.bulk_update([account], ["is_active"]),
    "update_or_create": lambda account: Account.objects.update_or_create(
        user=account.user, name="main", defaults={"is_active": False}
    ),
    "get_or_create of a new one": lambda account: Account.objects.get_or_create(
        user=account.user, name="third", defaults={"exchange": "binance"}
    ),
    "through the owner": lambda account: account.user.accounts.update(is_active=False),
}


@pytest.mark.django_db
class TestConfigVersion:
    @pytest.mark.parametrize("way", WAYS_OF_WRITING)
    def test_grows_with_each_way_of_writing(self, way: str) -> None:
        account = make_account()
        before = ConfigVersion.current()

        WAYS_OF_WRITING[way](account)

        assert ConfigVersion.current() > before

    def test_stands_while_nothing_is_written(self) -> None:
        account = make_account()
        before = ConfigVersion.current()

        Account.objects.get(pk=account.pk)
        Account.objects.get_or_create(user=account.user, name="main")

        assert ConfigVersion.current() == before

    def test_goes_back_with_the_transaction_it_was_part_of(self) -> None:
        account = make_account()
        before = ConfigVersion.current()

        with transaction.atomic():
            account.save()
            transaction.set_rollback(True)

        assert ConfigVersion.current() == before


class TestAccountType:
    @pytest.mark.parametrize(
        ("market", "kind"),
        [
            ("SPOT", AccountType.CRYPTO),
            ("FUTURES", AccountType.CRYPTO),
            ("DOMESTIC_STOCK", AccountType.STOCK),
            ("OVERSEAS_STOCK", AccountType.STOCK),
            ("DOMESTIC_FUTUREOPTION", AccountType.STOCK),
            ("OVERSEAS_FUTUREOPTION", AccountType.STOCK),
        ],
    )
    def test_follows_from_the_market(self, market: str, kind: AccountType) -> None:
        assert AccountType.for_market(market) == kind
