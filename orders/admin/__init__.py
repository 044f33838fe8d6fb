"""The operators' pages of this room, one module per subject."""

from orders.admin import history, people, strategies, switch

__all__ = ["history", "people", "strategies", "switch"]
