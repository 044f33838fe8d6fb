"""Database connections that died: how one tells, and reading once more on another one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connection

T = TypeVar("T")
logger = logging.getLogger(__name__)


# PostgreSQL ended a transaction that nobody went on with: its process was frozen, and has been thawed since.
_SLEPT_TOO_LONG = "25P03"


def is_away(exc: BaseException) -> bool:
    """Tell whether it is the database, or the way to it, that fails, and not what was asked of it."""
    if isinstance(exc, InternalError):
        return getattr(exc.__cause__, "sqlstate", None) == _SLEPT_TOO_LONG
    return isinstance(exc, OperationalError | InterfaceError)


def with_live_connection(read: Callable[[], T]) -> T:
    """Return what `read` finds; once more, on a new connection, where the one at hand turns out to be dead.

    After a restart of the database every pooled connection is dead, and whoever takes one finds out with its
    first statement. `read` must change nothing and must be that first statement, outside any transaction.
    """
    try:
        return read()
    except (OperationalError, InterfaceError) as exc:
        if connection.in_atomic_block:
            raise
        logger.warning("A database connection had died, another one is taken: %s", exc)
        connection.close()
        if (pool := getattr(connection, "pool", None)) is not None:
            pool.check()  # the others that lie idle have died with it
    return read()
