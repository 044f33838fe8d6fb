from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.core.management.commands import migrate
from django.db import connection

ROOMS = ("exchanges", "orders", "tracking", "tradehub")


def our_tables() -> set[str]:
    return {table for table in connection.introspection.table_names() if table.split("_")[0] in ROOMS}


@pytest.fixture
def migrated_again() -> Iterator[None]:
    """Whatever happens, the tests after this one find every table."""
    yield
    call_command("migrate", verbosity=0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("migrated_again")
class TestMigrations:
    def test_go_back_to_nothing_and_forward_again(self) -> None:
        before = our_tables()

        for room in reversed(ROOMS):
            call_command("migrate", room, "zero", verbosity=0)
        assert our_tables() == set()

        call_command("migrate", verbosity=0)
        assert our_tables() == before

    def test_are_complete(self) -> None:
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)


@pytest.mark.django_db(transaction=True)
class TestMigrate:
    def test_may_stand_idle_in_a_transaction_where_nothing_else_may(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_postgresql = connection.vendor == "postgresql"  # SQLite ends no transaction by itself
        query = "SHOW idle_in_transaction_session_timeout" if on_postgresql else "SELECT 'never'"
        seen = []

        def look(*args: object, **options: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute(query)
                seen.append(cursor.fetchone()[0])

        monkeypatch.setattr(migrate.Command, "handle", look)
        call_command("migrate")
        look()

        assert seen == (["0", "15s"] if on_postgresql else ["never", "never"])
