"""What a chaos run reads from the system's database, and how it sets accounts and strategies up.

The rows are read with plain SQL, past the code that is on trial. Setting up goes through the system's own
provisioning: one Django in this process, turned to the fleet's database.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row

from chaos.plan import Plan, api_key, api_secret

Row = dict[str, Any]
T = TypeVar("T")
AGAIN_SECONDS = 20.0
TRADER = "trader"


class System:
    """The fleet's database, over its restarts."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[Row] | None = None

    def rows(self, query: str, *parameters: Any) -> list[Row]:
        """Read; a database that is away is tried again for a while. Raises psycopg.OperationalError."""
        return self._surely(
            lambda connection: connection.execute(query.encode(), parameters or None).fetchall()
        )

    def snapshot(self, queries: Mapping[str, str], parameters: Row) -> dict[str, list[Row]]:
        """Read all of it as it stood at one moment."""

        def read(connection: psycopg.Connection[Row]) -> dict[str, list[Row]]:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                return {
                    name: connection.execute(query.encode(), parameters).fetchall()
                    for name, query in queries.items()
                }

        return self._surely(read)

    def _surely(self, read: Callable[[psycopg.Connection[Row]], T]) -> T:
        deadline = time.monotonic() + AGAIN_SECONDS
        while True:
            try:
                if self._connection is None:
                    self._connection = psycopg.connect(
                        self._dsn, autocommit=True, row_factory=dict_row, connect_timeout=5
                    )
                return read(self._connection)
            except psycopg.OperationalError:
                self.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def alive_intents(self, strategies: Iterable[str]) -> list[str]:
        """Return the last client order ids of what is queued or on the exchange, always in the same order."""
        found = self.rows(
            "SELECT DISTINCT ON (i.id) p.client_order_id FROM orders_orderintent i"
            " JOIN orders_placement p ON p.intent_id = i.id"
            " JOIN orders_webhookdelivery d ON d.id = i.delivery_id"
            " JOIN orders_strategy s ON s.id = d.strategy_id"
            " WHERE s.group_name = ANY(%s) AND i.home IN ('QUEUE', 'EXCHANGE') ORDER BY i.id, p.number DESC",
            list(strategies),
        )
        return [row["client_order_id"] for row in found]

    def failed_orders(self, accounts: Iterable[str]) -> list[int]:
        """Return the ids of the failed orders that still stand, the oldest first."""
        found = self.rows(
            "SELECT f.id FROM orders_failedorder f JOIN orders_strategyaccount sa"
            " ON sa.id = f.strategy_account_id JOIN exchanges_account a ON a.id = sa.account_id"
            " WHERE a.name = ANY(%s) ORDER BY f.id",
            list(accounts),
        )
        return [row["id"] for row in found]

    def connected(self, accounts: Iterable[str]) -> bool:
        """Tell whether each stream of these accounts is connected."""
        found = self.rows(
            "SELECT s.status FROM tracking_ordertrackingsession s JOIN exchanges_account a"
            " ON a.id = s.account_id WHERE a.name = ANY(%s)",
            list(accounts),
        )
        return bool(found) and all(row["status"] == "connected" for row in found)


def django_on(environment: Mapping[str, str]) -> None:
    """Set Django up in this process, with the fleet's keys. Once per process."""
    import django  # noqa: PLC0415  after the environment is there

    os.environ.update(environment)
    django.setup()
    logging.getLogger("orders").setLevel(logging.WARNING)  # provisioning tells every change
    logging.getLogger("django-q").setLevel(logging.CRITICAL)
    from django.conf import settings  # noqa: PLC0415

    settings.DATABASES["default"]["OPTIONS"].pop("pool", None)


def set_up(plan: Plan, *, dsn: str, is_active: bool = True) -> None:
    """Make the accounts and strategies of a plan, or switch them off when it is done."""
    from django.db import connection  # noqa: PLC0415

    from orders.provisioning import parse_provision  # noqa: PLC0415
    from orders.services.provision import provision  # noqa: PLC0415

    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    where = {"NAME": parts["dbname"], "HOST": parts["host"], "PORT": parts["port"], "USER": parts["user"]}
    if any(str(connection.settings_dict[name]) != str(value) for name, value in where.items()):
        connection.close()
        connection.settings_dict.update(where)
    connection.close_if_unusable_or_obsolete()
    provision(parse_provision(provision_content(plan, is_active=is_active), environment={}))


def session_of_trader() -> str:
    """Log the owner of all accounts in; return the session's key for the cookie."""
    from django.contrib.auth import (  # noqa: PLC0415  Django has to be set up
        BACKEND_SESSION_KEY,
        HASH_SESSION_KEY,
        SESSION_KEY,
        get_user_model,
    )
    from django.contrib.sessions.backends.db import SessionStore  # noqa: PLC0415

    user = get_user_model().objects.get(username=TRADER)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


def provision_content(plan: Plan, *, is_active: bool) -> Row:
    """What a provision file says of a plan's accounts and strategies."""
    user = {"username": TRADER, "password": "a-long-enough-password-1"}
    accounts = [
        {
            "name": name,
            "user": TRADER,
            "exchange": "binance",
            "environment": "SIMULATOR",
            "api_key": api_key(name),
            "api_secret": api_secret(name),
            "queue_limit_cap": plan.limit_cap,
            "queue_stop_cap": plan.stop_cap,
            "max_orders_per_minute": None,
            "is_active": is_active,
        }
        for name in plan.accounts
    ]
    strategies = [
        {
            "group_name": desk.name,
            "user": TRADER,
            "token": desk.token,
            "market_type": desk.market_type,
            "execution_mode": desk.execution_mode,
            "max_orders_per_minute": None,
            "accounts": [
                {"account": name, "allocated_capital": "100000", "leverage": 10} for name in desk.accounts
            ],
        }
        for desk in plan.desks
    ]
    return {"users": [user], "accounts": accounts, "strategies": strategies}
