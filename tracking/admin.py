"""Streams and their leases, reports that nobody could place, and the background jobs."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django_q.models import Failure, OrmQ, Schedule, Success

from exchanges.administration import HistoryAdmin, in_theme, link_to
from exchanges.models import Account
from orders.admin.accounts import AccountAdmin as PlainAccountAdmin
from orders.side_by_side import side_by_side
from tracking.models import Lease, OrderTrackingSession, UnmatchedReport
from tracking.on_demand import NothingToCompare, SyncBusy, orders_sync

in_theme(Schedule, Success, Failure, OrmQ)


admin.site.unregister(Account)


@admin.register(Account)
class AccountAdmin(PlainAccountAdmin):
    actions = (*PlainAccountAdmin.actions, "reconcile_now")

    @admin.action(description="Reconcile now", permissions=["change"])
    def reconcile_now(self, request: HttpRequest, queryset: QuerySet[Account]) -> None:
        accounts = list(queryset)
        by = request.user.get_username()
        for account, words, is_fine in side_by_side(lambda one: _reconciled(one, by), accounts):
            self.log_change(request, account, f"Reconciled on demand: {words}")
            self.message_user(
                request, f"{account}: {words}", messages.SUCCESS if is_fine else messages.WARNING
            )


def _reconciled(account: Account, by: str) -> tuple[Account, str, bool]:
    try:
        markets = orders_sync(account=account, by=by)
    except (NothingToCompare, SyncBusy) as exc:
        return account, str(exc), False
    return account, "; ".join(market.words for market in markets), all(one.success for one in markets)


@admin.register(OrderTrackingSession)
class OrderTrackingSessionAdmin(HistoryAdmin):
    list_display = (
        "id",
        "to_account",
        "market_type",
        "status",
        "last_error",
        "reconcile_error",
        "owner",
        "connected_at",
        "last_ping",
        "last_reconciled_at",
        "reconnect_count",
    )
    list_filter = ("status", "market_type", "account")
    search_fields = ("account__name", "owner", "last_error", "reconcile_error")
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
