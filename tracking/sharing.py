"""Sharing streams out evenly between the processes that follow them.

Each streams process says that it is alive, with a name in the lease table that lives as long as the leases
on its streams. Everybody counts those names, and the streams that are to be followed: a process takes free
streams up to its share, and one that has more gives some back, a few at a time. Whoever has room takes them
within a second, and reconciles after it has connected: what nobody heard in between is not lost.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from django.db.models.functions import Now

from tracking.leases import lease_acquire
from tracking.models import Lease
from tracking.sessions import LEASE_SECONDS
from tracking.watch import StreamKey

HANDED_OVER_AT_ONCE = 10  # streams: each connects anew and is reconciled
LEFT_OVER_SECONDS = 3.0  # what nobody has taken by then is taken beyond the share
KEPT_SECONDS = 60.0  # then those that seemed idle may have them again
_FORGOTTEN_AFTER = timedelta(hours=1)
_PREFIX = "streams:"


def presence_renew(*, owner: str) -> None:
    """Say that this process is alive and takes its share."""
    lease_acquire(name=_PREFIX + owner, owner=owner, seconds=LEASE_SECONDS)


def presence_end(*, owner: str) -> None:
    """Say that this process takes no share any more; clear away processes that never said so."""
    names = Lease.objects.filter(name__startswith=_PREFIX)
    names.filter(name=_PREFIX + owner).delete()
    names.filter(expires_at__lt=Now() - _FORGOTTEN_AFTER).delete()


def processes_alive() -> int:
    return Lease.objects.filter(name__startswith=_PREFIX, expires_at__gte=Now()).count()


def fair_share(streams: int, processes: int) -> int:
    """Return how many streams one of so many processes follows at the most."""
    return -(-streams // max(processes, 1))


def to_hand_over(held: Collection[StreamKey], share: int) -> set[StreamKey]:
    """Return the streams to give back now: what is beyond the share, not too many at once."""
    surplus = max(len(held) - share, 0)
    return set(sorted(held, reverse=True)[: min(surplus, HANDED_OVER_AT_ONCE)])
