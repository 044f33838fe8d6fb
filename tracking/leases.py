"""Names that one process at a time may hold. Time is the database's: every process shares that clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db.models import Q
from django.db.models.functions import Now

from orders.names import new_owner
from tracking.models import Lease


def lease_acquire(*, name: str, owner: str, seconds: float) -> bool:
    """Take a lease, or make one's own longer. False while somebody else holds it."""
    if _take(name, owner, seconds):
        return True
    if Lease.objects.filter(name=name).exists():
        return False
    Lease.objects.bulk_create([Lease(name=name)], ignore_conflicts=True)
    return _take(name, owner, seconds)


def lease_is_held(name: str) -> bool:
    return Lease.objects.filter(name=name, expires_at__gte=Now()).exclude(owner="").exists()


def lease_release(*, name: str, owner: str) -> None:
    Lease.objects.filter(name=name, owner=owner).update(owner="", expires_at=None)


@contextmanager
def leased(name: str, *, seconds: float) -> Iterator[str | None]:
    """Hold a lease for the length of a block; gives the owner's name, or None if it is somebody else's."""
    owner = new_owner()
    if not lease_acquire(name=name, owner=owner, seconds=seconds):
        yield None
        return
    try:
        yield owner
    finally:
        lease_release(name=name, owner=owner)


def _take(name: str, owner: str, seconds: float) -> bool:
    is_free = Q(owner=owner) | Q(expires_at__isnull=True) | Q(expires_at__lt=Now())
    taken = Lease.objects.filter(is_free, name=name).update(
        owner=owner, expires_at=Now() + timedelta(seconds=seconds)
    )
    return taken > 0
