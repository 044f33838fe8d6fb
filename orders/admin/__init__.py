"""The operators' pages of this room, one module per subject."""

from orders.admin import history, people, queue, strategies, switch

__all__ = ["history", "people", "queue", "strategies", "switch"]
