"""The operators' pages of this room, one module per subject."""

from orders.admin import failed_orders, history, people, queue, strategies, switch

__all__ = ["failed_orders", "history", "people", "queue", "strategies", "switch"]
