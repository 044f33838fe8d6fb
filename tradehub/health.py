"""Is this process alive, and can it do its work?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from redis.exceptions import RedisError

logger = structlog.get_logger(__name__)


def healthz(request: HttpRequest) -> JsonResponse:
    """Answer as long as the process serves requests; asks nobody else."""
    return JsonResponse({"status": "ok"})


def _database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return "ok"


def _migrations() -> str:
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return f"{len(missing)} not applied" if missing else "ok"


async def _there_and_back() -> str:
    layer = get_channel_layer()
    if layer is None:
        return "none configured"
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "ready.probe"})
    await asyncio.wait_for(layer.receive(channel), timeout=2)
    return "ok"


CHECKS: dict[str, Callable[[], str]] = {
    "database": _database,
    "migrations": _migrations,
    "channel_layer": async_to_sync(_there_and_back),
}


def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 when all that a webhook needs is there, else 503 and what is not."""
    results = {}
    for name, check in CHECKS.items():
        try:
            results[name] = check()
        except (DatabaseError, RedisError, OSError, ChannelFull) as error:  # a time-out is an OSError
            logger.warning("Not ready", check=name, exc_info=True)
            results[name] = type(error).__name__
    ready = all(result == "ok" for result in results.values())
    return JsonResponse(
        {"status": "ok" if ready else "unready", "checks": results}, status=200 if ready else 503
    )
