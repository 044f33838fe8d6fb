"""Reads of what the streams are doing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.db.models import Q

from orders.selectors import Visible
from tracking.models import OrderTrackingSession, SessionStatus

DOWN_AFTER = timedelta(seconds=60)  # reconnecting for longer than this is being down


class StreamState(StrEnum):
    LIVE = "live"
    RECONNECTING = "reconnecting"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class StreamRow:
    key: str
    account: str
    exchange: str
    environment: str
    market_type: str
    state: StreamState
    since: datetime | None  # None: it was never connected
    reconnect_count: int
    last_error: str


def stream_states(visible: Visible, *, now: datetime) -> list[StreamRow]:
    """Each followed account's stream, as far as the account serves what the reader may see."""
    sessions = OrderTrackingSession.objects.select_related("account")
    if visible.user_id is not None:
        sessions = sessions.filter(
            Q(account__user_id=visible.user_id)
            | Q(account__strategy_accounts__strategy__user_id=visible.user_id)
        )
    if visible.strategy_account_id is not None:
        sessions = sessions.filter(account__strategy_accounts=visible.strategy_account_id)
    sessions = sessions.order_by("account__name", "market_type", "pk").distinct()
    return [_stream_row(row, now=now) for row in sessions]


def _stream_row(session: OrderTrackingSession, *, now: datetime) -> StreamRow:
    lease = session.lease_expires_at
    followed = lease is not None and lease > now
    if followed and session.status == SessionStatus.CONNECTED:
        state, since = StreamState.LIVE, session.connected_at
    else:
        # A process that died leaves its last word standing; then the lease's end tells since when.
        said_connected = session.status == SessionStatus.CONNECTED
        since = lease if said_connected else session.disconnected_at
        recent = since is not None and since > now - DOWN_AFTER
        first_try = since is None and session.status == SessionStatus.CONNECTING
        state = StreamState.RECONNECTING if followed and (recent or first_try) else StreamState.DOWN
    return StreamRow(
        key=f"stream-{session.pk}",
        account=session.account.name,
        exchange=session.account.get_exchange_display(),
        environment=session.account.get_environment_display(),
        market_type=session.market_type,
        state=state,
        since=since,
        reconnect_count=session.reconnect_count,
        last_error="" if state == StreamState.LIVE else session.last_error,
    )
