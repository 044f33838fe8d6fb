"""Django's migrate, that takes the time it needs.

Between two statements of a migration Django works out what comes next: on a busy machine for longer than one
of our transactions may be idle (`tradehub.databases`), and the server would cut it off half-way. Databases of
tests are made with this command too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.commands import migrate
from django.db import connections


@contextmanager
def _unhurried(alias: str) -> Iterator[None]:
    """Let this connection's transactions stand idle for as long as they like."""
    connection = connections[alias]
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SET idle_in_transaction_session_timeout = 0")
    yield  # a migration that fails ends the process: there is nothing to put back
    with connection.cursor() as cursor:
        cursor.execute("RESET idle_in_transaction_session_timeout")


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        with _unhurried(options["database"]):
            super().handle(*args, **options)
