"""Streams and their leases, reports that nobody could place, and the background jobs."""

from __future__ import annotations

from django.contrib import admin
from django_q.models import Failure, OrmQ, Schedule, Success

from exchanges.administration import HistoryAdmin, in_theme, link_to
from tracking.models import Lease, OrderTrackingSession, UnmatchedReport

in_theme(Schedule, Success, Failure, OrmQ)


@admin.register(OrderTrackingSession)
class OrderTrackingSessionAdmin(HistoryAdmin):
    list_display = (
        "id",
        "to_account",
        "market_type",
        "status",
        "owner",
        "connected_at",
        "last_ping",
        "last_reconciled_at",
        "reconnect_count",
        "last_error",
    )
    list_filter = ("status", "market_type", "account")
    search_fields = ("account__name", "owner", "last_error")
    list_select_related = ("account",)

    @admin.display(description="account", ordering="account__name")
    def to_account(self, row: OrderTrackingSession) -> str:
        return link_to(row.account)


@admin.register(Lease)
class LeaseAdmin(HistoryAdmin):
    list_display = ("name", "owner", "expires_at")
    search_fields = ("name", "owner")


@admin.register(UnmatchedReport)
class UnmatchedReportAdmin(HistoryAdmin):
    list_display = (
        "id",
        "received_at",
        "to_account",
        "market_type",
        "symbol",
        "exchange_order_id",
        "client_order_id",
        "state",
        "error",
    )
    list_filter = ("state", "market_type", "account", "received_at")
    search_fields = ("symbol", "exchange_order_id", "client_order_id", "error")
    list_select_related = ("account",)
    ordering = ("-pk",)

    @admin.display(description="account", ordering="account__name")
    def to_account(self, row: UnmatchedReport) -> str:
        return link_to(row.account)
