"""Is this process alive, and can the installation do its work?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Count, Max
from django.http import HttpRequest, JsonResponse
from redis.exceptions import RedisError

from orders.clock import database_now
from tracking.models import OrderTrackingSession
from tracking.sessions import LEASE_SECONDS
from tracking.watch import streams_wanted
from tradehub.models import Process, ProcessKind
from tradehub.processes import SEEN_WITHIN, WORKER_SEEN_WITHIN

logger = structlog.get_logger(__name__)

NOT_ASKED = "not asked: the database is away"


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


def _workers() -> str:
    """A worker is seen when it has carried out a job."""
    seen_at = Process.objects.filter(kind=ProcessKind.WORKER).aggregate(at=Max("seen_at"))["at"]
    if seen_at is None:
        return "never seen"
    return _seen(database_now() - seen_at, WORKER_SEEN_WITHIN)


def _streams() -> str:
    """A streams process is seen in the leases that it renews: no lease lately, nobody follows anything."""
    wanted = streams_wanted()
    if not wanted:
        return "ok"
    sessions = OrderTrackingSession.objects.filter(account_id__in={key.account_id for key in wanted})
    known = sessions.aggregate(lease_ends_at=Max("lease_expires_at"), count=Count("pk"))
    if known["lease_ends_at"] is None:  # who stops in good order gives every lease back
        return "stopped" if known["count"] else "never seen"
    return _seen(database_now() - known["lease_ends_at"] + timedelta(seconds=LEASE_SECONDS), SEEN_WITHIN)


def _seen(ago: timedelta, within: timedelta) -> str:
    return "ok" if ago <= within else f"not seen for {ago.total_seconds():.0f} s"


CHECKS: dict[str, Callable[[], str]] = {
    "database": _database,
    "migrations": _migrations,
    "channel_layer": async_to_sync(_there_and_back),
    "workers": _workers,
    "streams": _streams,
}
# What a webhook needs; a proxy may ask for no more (`?for=webhooks`), for a web process can send orders
# while Redis is away or no worker lives, and must not be taken out of service then.
FOR_WEBHOOKS = ("database", "migrations")
WITHOUT_DATABASE = ("channel_layer",)


def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 when all that the installation needs is there, else 503 and what is not."""
    names = FOR_WEBHOOKS if request.GET.get("for") == "webhooks" else tuple(CHECKS)
    results: dict[str, str] = {}
    for name in names:
        if results.get("database", "ok") != "ok" and name not in WITHOUT_DATABASE:
            results[name] = NOT_ASKED  # each would wait for its own connection
            continue
        try:
            results[name] = CHECKS[name]()
        except (DatabaseError, InterfaceError, RedisError, OSError, ChannelFull) as error:
            logger.warning("Not ready", check=name, exc_info=True)  # a time-out is an OSError
            results[name] = type(error).__name__
    ready = all(result == "ok" for result in results.values())
    return JsonResponse(
        {"status": "ok" if ready else "unready", "checks": results}, status=200 if ready else 503
    )
