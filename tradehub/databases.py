"""How each kind of database is opened."""

from __future__ import annotations

from typing import Any

import environ

# journal_mode=WAL: readers never wait for the writer. synchronous=FULL: a committed order survives a
# power cut. Immediate transactions take the write lock when they begin, so none fails half-way to get it.
SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,  # seconds to wait for the write lock
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
}


# Every statement of ours looks up few rows by their keys. Joined with a table whose newest rows are younger
# than its statistics, PostgreSQL takes a walk along the whole index for shorter than it is and merges: with
# 100,000 intents 25 ms instead of 0.1, three times per order that is settled.
#
# A process that is frozen, or whose machine is gone, in the middle of a transaction keeps its locks: every
# order of the books that it holds would wait for it, until TCP notices after hours. None of our transactions
# waits for anything but the database, so one that has been idle for so long (ms) is given up; only `migrate`
# takes its time.
POSTGRESQL_SETTINGS = "-c enable_mergejoin=off -c idle_in_transaction_session_timeout=15000"


PREPARE_FROM = 2  # uses of a statement on a connection: what is rare is not kept


def database_settings(
    url: str, *, pool_min: int = 2, pool_max: int = 20, pooled: bool = True, prepare: bool = True
) -> dict[str, Any]:
    """Return Django's settings of the database that `url` names: SQLite, or PostgreSQL with psycopg's pool.

    `pooled`: a process that forks after it has used the database must not have a pool, because the
    pool's threads do not survive a fork. `prepare`: let the server keep the plans of orders.prepared.
    """
    config: dict[str, Any] = environ.Env.db_url_config(url)
    if config["ENGINE"] == "django.db.backends.sqlite3":
        config["OPTIONS"] = dict(SQLITE_OPTIONS)
        return config
    options = config.setdefault("OPTIONS", {})
    options["options"] = f"{POSTGRESQL_SETTINGS} {options.get('options', '')}".strip()
    options["prepare_threshold"] = PREPARE_FROM if prepare else None
    if pooled:
        options["pool"] = {"min_size": pool_min, "max_size": pool_max, "timeout": 3}
    return config
