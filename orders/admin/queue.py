"""The queue for operators: books with what rests and what waits, and "rebalance now"."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest

from exchanges.administration import HistoryAdmin, amount, link_to
from orders.models import Book, OpenOrder, PendingOrder
from orders.services.queue import rebalance
from orders.services.switches import operator_log


def _count_of(model: type[OpenOrder | PendingOrder]) -> Coalesce:
    rows = model.objects.filter(book=OuterRef("pk")).order_by().values("book")
    return Coalesce(Subquery(rows.annotate(rows=Count("pk")).values("rows")), 0, output_field=IntegerField())


@admin.register(Book)
class BookAdmin(HistoryAdmin):
    list_display = (
        "id",
        "account",
        "market_type",
        "symbol",
        "resting",
        "waiting",
        "of_others",
        "exchange_takes",
        "created_at",
    )
    list_filter = ("market_type", "account")
    search_fields = ("symbol", "account__name")
    list_select_related = ("account",)
    actions = ("rebalance_now",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Book]:
        books: QuerySet[Book] = super().get_queryset(request)
        return books.annotate(resting=_count_of(OpenOrder), waiting=_count_of(PendingOrder))

    @admin.display(description="open", ordering="resting")
    def resting(self, row: Any) -> int:
        count: int = row.resting
        return count

    @admin.display(description="waiting", ordering="waiting")
    def waiting(self, row: Any) -> int:
        count: int = row.waiting
        return count

    @admin.display(description="of others (limit / stop)")
    def of_others(self, row: Book) -> str:
        return f"{row.external_limit_orders} / {row.external_stop_orders}"

    @admin.display(description="the exchange takes (limit / stop)")
    def exchange_takes(self, row: Book) -> str:
        return " / ".join("-" if fits is None else str(fits) for fits in (row.limit_fits, row.stop_fits))

    def has_rebalance_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("orders.change_book")

    @admin.action(description="Rebalance now", permissions=["rebalance"])
    def rebalance_now(self, request: HttpRequest, queryset: QuerySet[Book]) -> None:
        books = list(queryset.order_by("pk"))
        run = rebalance(book_ids=[book.pk for book in books])
        told = run.as_json()
        failed = len(told["failed_orders"])
        words = f"{run.executed} submitted, {run.canceled} moved back, {failed} not accepted"
        operator_log(f"Rebalance of {len(books)} books: {words}", by=request.user.get_username())
        for book in books:
            self.log_change(request, book, f"Rebalanced: {words}")
        self.message_user(request, f"{words}; {told['duration_ms']} ms", messages.SUCCESS)


@admin.register(PendingOrder)
class PendingOrderAdmin(HistoryAdmin):
    list_display = (
        "to_intent",
        "symbol",
        "what",
        "to_strategy_account",
        "account",
        "queued_at",
        "waits_until",
        "tries",
        "reason",
    )
    list_display_links = None
    list_filter = ("account", "strategy_account__strategy", "side", "priority")
    search_fields = ("intent__uid", "intent__symbol")
    list_select_related = ("intent", "account", "strategy_account__strategy", "strategy_account__account")
    ordering = ("book", "side", "priority", "-sort_price", "created_at", "pk")

    @admin.display(description="intent")
    def to_intent(self, row: PendingOrder) -> str:
        return link_to(row.intent)

    @admin.display(description="for", ordering="strategy_account")
    def to_strategy_account(self, row: PendingOrder) -> str:
        return link_to(row.strategy_account)

    @admin.display(ordering="intent__symbol")
    def symbol(self, row: PendingOrder) -> str:
        return row.intent.symbol

    @admin.display(description="order")
    def what(self, row: PendingOrder) -> str:
        intent = row.intent
        price = intent.price if intent.price is not None else intent.stop_price
        return f"{intent.side} {amount(intent.remaining_quantity)} {intent.order_type} {amount(price)}"

    @admin.display(description="tries", ordering="intent__retry_count")
    def tries(self, row: PendingOrder) -> int:
        return row.intent.retry_count
