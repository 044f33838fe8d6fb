"""Reads of what the streams are doing, and of orders that are not ours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from django.db.models import Model, Q, QuerySet

from orders.models import StrategyAccount
from orders.selectors import Visible
from tracking.models import OrderTrackingSession, SessionStatus, UnmatchedReport
from tracking.sessions import sessions_wanted
from tracking.stored_reports import from_json, has_our_shape

M = TypeVar("M", bound=Model)
EXTERNALS_SHOWN = 200
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
    """Each stream that is to be followed, as far as its account serves what the reader may see."""
    sessions = _served(OrderTrackingSession.objects.select_related("account"), visible)
    shown = sessions_wanted(sessions.order_by("account__name", "market_type", "pk"))
    return [_stream_row(row, now=now) for row in shown]


@dataclass(frozen=True, slots=True)
class ExternalRow:
    """An order of others. `is_strange`: its id looks like ours, and this installation never made it."""

    key: str
    account: str
    market_type: str
    symbol: str
    side: str
    order_type: str
    price: Decimal | None
    stop_price: Decimal | None
    quantity: Decimal | None
    filled_quantity: Decimal
    status: str
    exchange_order_id: str
    client_order_id: str
    is_strange: bool


def external_orders(visible: Visible, *, now: datetime) -> list[ExternalRow]:
    """Orders of others that rest on the accounts that serve what the reader may see, the newest first."""
    rows = UnmatchedReport.objects.filter(is_open=True, state=UnmatchedReport.State.EXTERNAL)
    shown = _served(rows, visible).order_by("-pk").select_related("account")[:EXTERNALS_SHOWN]
    return [_external_row(row) for row in shown]


def _external_row(row: UnmatchedReport) -> ExternalRow:
    report = from_json(row.report)
    return ExternalRow(
        key=f"external-{row.pk}",
        account=row.account.name,
        market_type=row.market_type,
        symbol=row.symbol,
        side=report.side or "",
        order_type=report.order_type or "",
        price=report.price,
        stop_price=report.stop_price,
        quantity=report.quantity,
        filled_quantity=report.filled_quantity or Decimal(0),
        status=report.status,
        exchange_order_id=row.exchange_order_id,
        client_order_id=row.client_order_id,
        is_strange=has_our_shape(row),
    )


def _served(rows: QuerySet[M], visible: Visible) -> QuerySet[M]:
    """Leave those whose account is the reader's own or serves a strategy of theirs."""
    if visible.user_id is not None:
        followed = StrategyAccount.objects.filter(strategy__user_id=visible.user_id).values("account_id")
        rows = rows.filter(Q(account__user_id=visible.user_id) | Q(account_id__in=followed))
    if visible.strategy_account_id is not None:
        one = StrategyAccount.objects.filter(pk=visible.strategy_account_id).values("account_id")
        rows = rows.filter(account_id__in=one)
    return rows


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
