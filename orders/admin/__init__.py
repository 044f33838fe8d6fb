"""The operators' pages of this room, one module per subject."""

from orders.admin import accounts, failed_orders, guards, history, people, queue, strategies, switch

__all__ = ["accounts", "failed_orders", "guards", "history", "people", "queue", "strategies", "switch"]
