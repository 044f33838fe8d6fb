"""Tests that run side by side (`pytest -n 2`): what they must not share, and who may run beside whom.

A plugin, not a conftest: it has to be there before Django's settings are read.
"""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit, urlunsplit

import pytest

BROWSER = "/browser/"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1, …; empty: one after the other


def _database_of_its_own(name: str) -> None:
    """Give each worker a Redis database; PostgreSQL's it gets from pytest-django."""
    url = urlsplit(os.environ.get(name, ""))
    if url.scheme and WORKER:
        number = int(url.path.strip("/") or 0) + int(WORKER.removeprefix("gw"))
        os.environ[name] = urlunsplit(url._replace(path=f"/{number}"))


for variable in ("REDIS_URL", "TEST_REDIS_URL"):
    _database_of_its_own(variable)


def pytest_sessionfinish() -> None:
    if (processes := sys.modules.get("tests.processes")) is not None:
        processes.drop_templates()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run those that start processes one at a time, and first: they take longest, and want a core.

    Races only want their processes to go on, however slowly: they run beside those that count seconds.
    """
    strays = [
        item.nodeid for item in items if item.get_closest_marker("browser") and BROWSER not in str(item.path)
    ]
    if strays:  # `make test-browser` collects that folder only
        raise pytest.UsageError(f"Browser tests belong in tests{BROWSER}: {', '.join(strays)}")
    heavy = [
        item for item in items if item.get_closest_marker("services") and "/tests/services/" in str(item.path)
    ]
    for item in heavy:
        is_race = item.path.name.endswith("_race.py")
        item.add_marker(pytest.mark.xdist_group("races" if is_race else "processes"))
    chosen = set(heavy)
    rest = [item for item in items if item not in chosen]
    items[:] = [*heavy, *sorted(rest, key=lambda item: item.get_closest_marker("waits") is None)]
