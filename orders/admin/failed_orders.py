"""Failed orders for operators: to look at, to retry, to put aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from exchanges.administration import act_with_reason, amount
from orders.admin.history import OrderHistoryAdmin
from orders.models import FailedOrder
from orders.selectors import Visible
from orders.services.failed_orders import BULK_MOST, BulkAction, failed_orders_bulk
from orders.services.retries import MAX_RETRIES, RetryResult


@admin.register(FailedOrder)
class FailedOrderAdmin(OrderHistoryAdmin):
    list_display = (
        "id",
        "created_at",
        "to_strategy_account",
        "symbol",
        "side",
        "order_type",
        "amount_left",
        "reason",
        "error_type",
        "status",
        "tries",
        "next_retry_at",
        "alert_sent",
        "to_intent",
    )
    list_filter = (
        "status",
        "error_type",
        "market_type",
        "order_type",
        "strategy_account__strategy",
        "created_at",
    )
    actions = ("retry", "remove")
    search_fields = ("symbol", "reason", "exchange_error", "uid", "webhook_id")
    list_select_related = ("intent", "strategy_account__strategy", "strategy_account__account")
    ordering = ("-pk",)

    @admin.display(description="unfilled")
    def amount_left(self, row: FailedOrder) -> str:
        return amount(row.quantity)

    @admin.display(description="retries", ordering="retry_count")
    def tries(self, row: FailedOrder) -> str:
        return f"{row.retry_count}/{MAX_RETRIES}"

    def has_work_permission(self, request: HttpRequest) -> bool:
        """Nobody edits these rows, but whoever could may have them retried or removed."""
        return request.user.has_perm("orders.change_failedorder")

    @admin.action(description="Retry the selected failed orders", permissions=["work"])
    def retry(self, request: HttpRequest, queryset: QuerySet[FailedOrder]) -> HttpResponse | None:
        return self._work(request, queryset, action=BulkAction.RETRY, verb="Retry failed orders")

    @admin.action(description="Remove the selected failed orders", permissions=["work"])
    def remove(self, request: HttpRequest, queryset: QuerySet[FailedOrder]) -> HttpResponse | None:
        return self._work(request, queryset, action=BulkAction.REMOVE, verb="Remove failed orders")

    def _work(
        self, request: HttpRequest, queryset: QuerySet[FailedOrder], *, action: BulkAction, verb: str
    ) -> HttpResponse | None:
        ids = list(queryset.order_by("pk").values_list("pk", flat=True))
        if len(ids) > BULK_MOST:
            self.message_user(request, f"At most {BULK_MOST} at once", messages.ERROR)
            return None

        def act(reason: str) -> None:
            results = failed_orders_bulk(
                action=action,
                failed_order_ids=ids,
                by=request.user.get_username(),
                visible=Visible(user_id=None),
            )
            _tell(results, lambda words: self.message_user(request, words, messages.WARNING))

        return act_with_reason(self, request, queryset, action=action.value, verb=verb, act=act)


def _tell(results: Mapping[int, RetryResult], tell: Callable[[str], None]) -> None:
    for pk, result in results.items():
        if not result.success:
            tell(f"#{pk}: {result.error}")
