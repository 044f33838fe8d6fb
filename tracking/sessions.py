"""The lease on each user stream and what its state is, for other processes and for the page.

Whoever holds a session's lease follows its stream. The lease lives on the database's clock; it is
renewed at half its life, and whoever finds it expired may take it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

from orders.clock import database_now
from orders.events import EventsLogged, publish
from orders.models import EventSource, EventType, OrderEvent
from tracking.models import OrderTrackingSession, SessionStatus
from tracking.watch import StreamKey, streams_wanted

LEASE_SECONDS = settings.STREAM_LEASE_SECONDS
RENEW_SECONDS = LEASE_SECONDS / 2

_ERROR_LENGTH = 500
# Never the lease: it is renewed beside this.
_STATE_FIELDS = (
    "status",
    "connected_at",
    "disconnected_at",
    "last_ping",
    "last_error",
    "reconnect_count",
    "updated_at",
)


def sessions_ensure(keys: Collection[StreamKey]) -> None:
    """Make the rows of streams that nobody has followed yet."""
    if keys:
        OrderTrackingSession.objects.bulk_create(
            [OrderTrackingSession(account_id=key.account_id, market_type=key.market_type) for key in keys],
            ignore_conflicts=True,
        )


def sessions_claim(*, keys: Collection[StreamKey], owner: str, at_most: int | None = None) -> set[StreamKey]:
    """Take every stream of `keys` that nobody follows, or so many; return those that are now `owner`'s."""
    accounts = {key.account_id for key in keys}
    rows = OrderTrackingSession.objects.filter(account_id__in=accounts)
    known = {StreamKey(*pair) for pair in rows.values_list("account_id", "market_type")}
    sessions_ensure(set(keys) - known)
    if not rows.filter(_is_free()).exists():
        return set()  # a standby finds this every time: it must not cost a write lock
    with transaction.atomic():
        # Rows that another process is taking right now are locked: they are its own, not worth a wait.
        free = [
            row.pk
            for row in rows.filter(_is_free())
            .select_for_update(skip_locked=True, of=("self",))
            .order_by("pk")
            if StreamKey(row.account_id, row.market_type) in keys
        ][:at_most]
        if not free:
            return set()
        OrderTrackingSession.objects.filter(pk__in=free).update(owner=owner, lease_expires_at=_lease_end())
        taken = OrderTrackingSession.objects.filter(pk__in=free).values_list("account_id", "market_type")
        return {StreamKey(*pair) for pair in taken}


def sessions_renew(*, owner: str) -> set[StreamKey]:
    """Make every lease of `owner` longer; return what it still holds.

    A lease that ran out but that nobody took is still its owner's.
    """
    mine = OrderTrackingSession.objects.filter(owner=owner)
    with transaction.atomic():
        mine.filter(status=SessionStatus.CONNECTED).update(last_ping=Now(), lease_expires_at=_lease_end())
        mine.exclude(status=SessionStatus.CONNECTED).update(lease_expires_at=_lease_end())
    return {StreamKey(*pair) for pair in mine.values_list("account_id", "market_type")}


def session_release(*, key: StreamKey, owner: str, reason: str) -> None:
    """Give a stream back, so that another process need not wait for the lease to run out.

    That is no fault of the stream: the log tells the reason, and `last_error` says what it said before.
    """
    state_change(key=key, owner=owner, status=SessionStatus.DISCONNECTED, reason=reason, is_fault=False)
    _held(key, owner).update(owner="", lease_expires_at=None)


def state_change(
    *, key: StreamKey, owner: str, status: SessionStatus, reason: str = "", is_fault: bool = True
) -> None:
    """Record a stream's new state and tell the account's owner; nothing if it is not `owner`'s any more."""
    now = database_now()
    with transaction.atomic():
        session = _held(key, owner).select_for_update(of=("self",)).select_related("account").first()
        if session is None or (session.status == status and session.last_error == reason):
            return
        before, session.status = session.status, status
        if status == SessionStatus.CONNECTED:
            session.connected_at = session.last_ping = now
            session.last_error = ""
        elif is_fault:
            session.last_error = reason[:_ERROR_LENGTH] or session.last_error
        if before == SessionStatus.CONNECTED:
            session.disconnected_at = now
            session.reconnect_count += 1
        session.save(update_fields=_STATE_FIELDS)
        if _is_news(before, status):
            OrderEvent.objects.create(
                type=EventType.STREAM,
                source=EventSource.STREAM,
                user_id=session.account.user_id,
                account_id=key.account_id,
                before=before,
                after=status,
                message=reason[:_ERROR_LENGTH],
                data={"market_type": key.market_type},
                created_at=now,
            )
            publish(EventsLogged())


def sessions_unwatched(keys: Collection[StreamKey]) -> set[StreamKey]:
    """Return those streams that no living process follows."""
    watched = OrderTrackingSession.objects.exclude(_is_free()).values_list("account_id", "market_type")
    return set(keys) - {StreamKey(*pair) for pair in watched}


def sessions_wanted(rows: QuerySet[OrderTrackingSession]) -> list[OrderTrackingSession]:
    """Leave out the streams that are not to be followed: their rows stay when an account is paused."""
    wanted = streams_wanted()
    known = rows.filter(account_id__in={key.account_id for key in wanted})
    return [row for row in known if StreamKey(row.account_id, row.market_type) in wanted]


def _is_news(before: str, after: str) -> bool:
    """Trying again and failing again is none: the log would tell nothing else while an exchange is down."""
    return before != after and (SessionStatus.CONNECTED in (before, after) or after == SessionStatus.ERROR)


def _held(key: StreamKey, owner: str) -> QuerySet[OrderTrackingSession]:
    return OrderTrackingSession.objects.filter(
        account_id=key.account_id, market_type=key.market_type, owner=owner
    )


def _is_free() -> Q:
    return Q(owner="") | Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lt=Now())


def _lease_end() -> Combinable:
    return Now() + timedelta(seconds=LEASE_SECONDS)
