"""What happened, from webhook to position: to look at, not to change."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.utils.html import format_html

from exchanges.administration import HistoryAdmin, amount, link_to
from orders.admin.resolving import ResolveAction
from orders.models import (
    OpenOrder,
    OrderEvent,
    OrderIntent,
    Placement,
    StrategyPosition,
    Trade,
    TradeExecution,
    WebhookDelivery,
)


class OrderHistoryAdmin(HistoryAdmin):
    """Columns that many of these pages share."""

    @admin.display(description="for", ordering="strategy_account")
    def to_strategy_account(self, row: Any) -> str:
        return link_to(row.strategy_account)

    @admin.display(description="intent")
    def to_intent(self, row: Any) -> str:
        return link_to(row.intent)

    @admin.display(description="quantity")
    def shown_quantity(self, row: Any) -> str:
        return amount(row.quantity)

    @admin.display(description="realised PnL")
    def profit(self, row: Any) -> str:
        return amount(row.realized_pnl)


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(HistoryAdmin):
    list_display = (
        "webhook_id",
        "received_at",
        "to_strategy",
        "source_address",
        "state",
        "response_status",
        "timed_out",
        "took",
    )
    list_filter = ("state", "response_status", "timed_out", "strategy", "received_at")
    search_fields = ("webhook_id", "source_address")
    list_select_related = ("strategy",)
    ordering = ("-pk",)

    @admin.display(description="strategy", ordering="strategy__group_name")
    def to_strategy(self, row: WebhookDelivery) -> str:
        return link_to(row.strategy)

    @admin.display(description="took (ms)")
    def took(self, row: WebhookDelivery) -> str:
        return str(row.timings.get("total_ms", "-"))


@admin.register(OrderIntent)
class OrderIntentAdmin(OrderHistoryAdmin):
    list_display = (
        "uid",
        "created_at",
        "to_strategy_account",
        "symbol",
        "side",
        "order_type",
        "shown_quantity",
        "at_price",
        "amount_filled",
        "home",
        "cancel_requested",
        "to_delivery",
    )
    list_filter = (
        "home",
        "market_type",
        "order_type",
        "side",
        "cancel_requested",
        "strategy_account__strategy",
        "created_at",
    )
    search_fields = ("uid", "symbol", "delivery__webhook_id", "placements__client_order_id")
    list_select_related = ("strategy_account__strategy", "strategy_account__account", "delivery")
    ordering = ("-pk",)

    @admin.display(description="webhook")
    def to_delivery(self, row: OrderIntent) -> str:
        return link_to(row.delivery)

    @admin.display(description="price / stop")
    def at_price(self, row: OrderIntent) -> str:
        return f"{amount(row.price)} / {amount(row.stop_price)}" if row.is_stop else amount(row.price)

    @admin.display(description="filled")
    def amount_filled(self, row: OrderIntent) -> str:
        return amount(row.filled_quantity)


@admin.register(Placement)
class PlacementAdmin(OrderHistoryAdmin):
    list_display = (
        "client_order_id",
        "created_at",
        "to_intent",
        "account",
        "outcome",
        "exchange_status",
        "exchange_order_id",
        "shown_quantity",
        "amount_filled",
        "has_gap_now",
    )
    list_filter = ("outcome", "exchange_status", "account", "created_at")
    search_fields = ("client_order_id", "exchange_order_id", "child_order_id", "intent__uid")
    list_select_related = ("intent", "account")
    ordering = ("-pk",)

    @admin.display(description="filled")
    def amount_filled(self, row: Placement) -> str:
        return amount(row.filled_quantity)

    @admin.display(description="fills missing", boolean=True)
    def has_gap_now(self, row: Placement) -> bool:
        return row.has_gap


@admin.register(OpenOrder)
class OpenOrderAdmin(ResolveAction, OrderHistoryAdmin):
    list_display = (
        "to_intent",
        "symbol",
        "what",
        "to_strategy_account",
        "account",
        "status",
        "cancel_reason",
        "ask_at",
        "submitted_at",
        "updated_at",
    )
    list_display_links = None
    actions = ("resolve",)
    list_filter = ("status", "cancel_reason", "account", "strategy_account__strategy")
    search_fields = (
        "intent__uid",
        "intent__symbol",
        "placement__client_order_id",
        "placement__exchange_order_id",
    )
    list_select_related = ("intent", "account", "strategy_account__strategy", "strategy_account__account")
    ordering = ("-pk",)

    @admin.display(ordering="intent__symbol")
    def symbol(self, row: OpenOrder) -> str:
        return row.intent.symbol

    @admin.display(description="order")
    def what(self, row: OpenOrder) -> str:
        intent = row.intent
        price = intent.price if intent.price is not None else intent.stop_price
        return f"{intent.side} {amount(intent.remaining_quantity)} {intent.order_type} {amount(price)}"


@admin.register(OrderEvent)
class OrderEventAdmin(OrderHistoryAdmin):
    list_display = (
        "id",
        "created_at",
        "type",
        "source",
        "account",
        "symbol",
        "before",
        "after",
        "to_intent",
        "message",
        "by",
    )
    list_filter = ("type", "source", "account", "created_at")
    search_fields = ("symbol", "message", "intent__uid")
    list_select_related = ("account", "intent")
    readonly_fields = ("written",)
    exclude = ("data",)
    ordering = ("-pk",)

    @admin.display(description="by")
    def by(self, row: OrderEvent) -> str:
        return str(row.data.get("by", "-"))

    @admin.display(description="data")
    def written(self, row: OrderEvent) -> str:
        return format_html("<pre>{}</pre>", json.dumps(row.data, indent=2, ensure_ascii=False))


@admin.register(TradeExecution)
class TradeExecutionAdmin(OrderHistoryAdmin):
    list_display = (
        "trade_id",
        "executed_at",
        "to_strategy_account",
        "account",
        "symbol",
        "side",
        "shown_quantity",
        "at_price",
        "paid_fee",
        "liquidity",
        "profit",
        "to_intent",
    )
    list_filter = ("market_type", "side", "liquidity", "account", "strategy_account__strategy", "executed_at")
    search_fields = ("trade_id", "exchange_order_id", "symbol", "intent__uid")
    list_select_related = ("intent", "account", "strategy_account__strategy", "strategy_account__account")
    ordering = ("-pk",)

    @admin.display(description="price")
    def at_price(self, row: TradeExecution) -> str:
        return amount(row.price)

    @admin.display(description="fee")
    def paid_fee(self, row: TradeExecution) -> str:
        return f"{amount(row.fee)} {row.fee_asset}"


@admin.register(Trade)
class TradeAdmin(OrderHistoryAdmin):
    list_display = (
        "id",
        "last_executed_at",
        "to_strategy_account",
        "symbol",
        "side",
        "shown_quantity",
        "at_price",
        "profit",
        "to_intent",
    )
    list_filter = ("market_type", "side", "strategy_account__strategy", "last_executed_at")
    search_fields = ("symbol", "intent__uid")
    list_select_related = ("intent", "strategy_account__strategy", "strategy_account__account")
    ordering = ("-pk",)

    @admin.display(description="average price")
    def at_price(self, row: Trade) -> str:
        return amount(row.average_price)


@admin.register(StrategyPosition)
class StrategyPositionAdmin(OrderHistoryAdmin):
    list_display = (
        "symbol",
        "market_type",
        "to_strategy_account",
        "account",
        "shown_quantity",
        "at_price",
        "profit",
        "updated_at",
    )
    list_filter = ("market_type", "account", "strategy_account__strategy")
    search_fields = ("symbol", "strategy_account__strategy__group_name")
    list_select_related = ("account", "strategy_account__strategy", "strategy_account__account")

    @admin.display(description="average entry")
    def at_price(self, row: StrategyPosition) -> str:
        return amount(row.average_price)
