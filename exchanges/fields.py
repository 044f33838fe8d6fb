"""Two column types that money needs: decimals that stay exact, secrets that stay secret."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


def plain(value: Decimal) -> str:
    """Write a decimal without exponent and without trailing zeros: `0.00010` is `0.0001`."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


class ExactDecimalField(models.DecimalField[Any, Any]):
    """A decimal that both databases store digit by digit.

    PostgreSQL: `numeric`. SQLite has no exact decimals (NUMERIC affinity goes through floating
    point), so there the column is text; order and compare such columns in Python, not in SQL.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_digits", 38)
        kwargs.setdefault("decimal_places", 18)
        super().__init__(*args, **kwargs)

    def get_internal_type(self) -> str:
        # Not "DecimalField": the backends attach their float-minded converters to that name.
        return "ExactDecimalField"

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return "numeric" if connection.vendor == "postgresql" else "text"

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        if value is None or hasattr(value, "resolve_expression"):
            return value
        if not isinstance(value, Decimal):
            value = self.to_python(value)
        return value if connection.vendor == "postgresql" else plain(value)

    def get_db_prep_save(self, value: Any, connection: BaseDatabaseWrapper) -> Any:
        return self.get_db_prep_value(value, connection)

    def from_db_value(self, value: Any, expression: Any, connection: BaseDatabaseWrapper) -> Decimal | None:
        return value if value is None or isinstance(value, Decimal) else Decimal(value)


@lru_cache(maxsize=4)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    if not keys:
        raise ImproperlyConfigured("FIELD_ENCRYPTION_KEYS is empty: credentials cannot be stored")
    return MultiFernet([Fernet(key) for key in keys])


def fernet() -> MultiFernet:
    """The process's cipher: the first of FIELD_ENCRYPTION_KEYS encrypts, all of them decrypt."""
    return _fernet(tuple(settings.FIELD_ENCRYPTION_KEYS))


def encrypt(text: str) -> str:
    return fernet().encrypt(text.encode()).decode() if text else ""


def decrypt(token: str) -> str:
    """Raises cryptography.fernet.InvalidToken when none of the keys made this token."""
    return fernet().decrypt(token.encode()).decode() if token else ""


def reencrypt(token: str) -> str:
    """Return the same secret under the first key. Raises InvalidToken as `decrypt` does."""
    return fernet().rotate(token.encode()).decode() if token else ""
