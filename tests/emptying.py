"""Tests that commit (`transaction=True`) leave their database empty, in a tenth of Django's time.

On PostgreSQL Django empties it with TRUNCATE, which gives each of fifty tables and their indexes new files;
deleting the few rows of a test is quicker. What `migrate` writes (content types, permissions, the worker's
schedule) stays, instead of being deleted and written again after each test. Foreign keys are checked at the
commit, so the order does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

KEPT = frozenset({"django_content_type", "auth_permission", "django_q_schedule"})


@pytest.hookimpl(trylast=True)
def pytest_sessionstart() -> None:
    from django.core.management.commands import flush
    from django.db.backends.base.operations import BaseDatabaseOperations
    from django.db.backends.postgresql import base as postgresql
    from django.db.backends.sqlite3 import base as sqlite

    def sql_flush(self: BaseDatabaseOperations, style: Any, tables: Sequence[str], **_: Any) -> list[str]:
        return [f"DELETE FROM {self.quote_name(table)};" for table in tables if table not in KEPT]

    def nothing(*_: Any, **__: Any) -> None:
        """What `migrate` writes is still there."""

    for wrapper in (postgresql.DatabaseWrapper, sqlite.DatabaseWrapper):
        wrapper.ops_class.sql_flush = sql_flush  # type: ignore[method-assign]
    flush.emit_post_migrate_signal = nothing  # type: ignore[attr-defined]
