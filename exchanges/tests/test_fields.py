from __future__ import annotations

from decimal import Decimal

import pytest
from cryptography.fernet import Fernet, InvalidToken
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.utils import timezone
from pytest_django.fixtures import Settings

from exchanges.fields import decrypt, encrypt, plain
from exchanges.models import LastPrice

# 17 significant digits and more: a double keeps 15 for sure.
EXACT = [
    Decimal("1234567.8901234567"),
    Decimal("0.12345678901234567"),
    Decimal("98765432109876543"),
    Decimal("-1.0000000000000001"),
    Decimal("12345678901234567890.123456789012345678"),
    Decimal("0.000000000000000001"),
]


def make_price(price: Decimal, symbol: str = "BTC/USDT") -> LastPrice:
    return LastPrice(
        exchange="binance",
        environment="SIMULATOR",
        market_type="SPOT",
        symbol=symbol,
        price=price,
        seen_at=timezone.now(),
    )


@pytest.mark.django_db
class TestExactDecimalField:
    @pytest.mark.parametrize("value", EXACT, ids=str)
    def test_reads_back_every_digit_that_save_wrote(self, value: Decimal) -> None:
        row = make_price(value)
        row.save()

        row.refresh_from_db()

        assert row.price == value

    def test_reads_back_every_digit_that_bulk_create_wrote(self) -> None:
        LastPrice.objects.bulk_create(make_price(value, symbol=f"S{n}") for n, value in enumerate(EXACT))

        assert list(LastPrice.objects.order_by("pk").values_list("price", flat=True)) == EXACT

    @pytest.mark.parametrize("value", EXACT, ids=str)
    def test_reads_back_every_digit_that_update_wrote(self, value: Decimal) -> None:
        make_price(Decimal(1)).save()

        LastPrice.objects.update(price=value)

        assert LastPrice.objects.get().price == value

    def test_reads_back_every_digit_that_bulk_update_wrote(self) -> None:
        rows = LastPrice.objects.bulk_create(
            make_price(Decimal(1), symbol=f"S{n}") for n in range(len(EXACT))
        )
        for row, value in zip(rows, EXACT, strict=True):
            row.price = value

        LastPrice.objects.bulk_update(rows, ["price"])

        assert list(LastPrice.objects.order_by("pk").values_list("price", flat=True)) == EXACT

    def test_finds_a_row_by_its_exact_value_however_it_is_spelled(self) -> None:
        make_price(Decimal("0.10")).save()

        assert LastPrice.objects.filter(price=Decimal("0.1000")).exists()
        assert LastPrice.objects.filter(price=Decimal("0.1000000000000000001")).exists() is False

    def test_is_text_on_sqlite_and_numeric_on_postgresql(self) -> None:
        column = next(
            column
            for column in connection.introspection.get_table_description(
                connection.cursor(), LastPrice._meta.db_table
            )
            if column.name == "price"
        )

        kind = connection.introspection.get_field_type(column.type_code, column)
        assert kind == ("DecimalField" if connection.vendor == "postgresql" else "TextField")


class TestPlain:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("0.00010", "0.0001"),
            ("1E+3", "1000"),
            ("1E-18", "0.000000000000000001"),
            ("-0.0", "0"),
            ("100", "100"),
        ],
    )
    def test_writes_no_exponent_and_no_needless_zeros(self, value: str, text: str) -> None:
        assert plain(Decimal(value)) == text


class TestEncrypt:
    def test_writes_with_the_first_key_and_reads_with_all(self, settings: Settings) -> None:
        old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
        settings.FIELD_ENCRYPTION_KEYS = [old]
        token = encrypt("api-secret")

        settings.FIELD_ENCRYPTION_KEYS = [new, old]
        assert decrypt(token) == "api-secret"
        assert Fernet(new).decrypt(encrypt("another")) == b"another"

        settings.FIELD_ENCRYPTION_KEYS = [new]
        with pytest.raises(InvalidToken):
            decrypt(token)

    def test_makes_a_new_token_each_time(self) -> None:
        assert encrypt("api-secret") != encrypt("api-secret")

    def test_needs_a_key(self, settings: Settings) -> None:
        settings.FIELD_ENCRYPTION_KEYS = []

        with pytest.raises(ImproperlyConfigured):
            encrypt("api-secret")
