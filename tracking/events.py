"""Facts of this room that others may hear; told with `orders.events.publish`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """An exchange cannot be reached any more, or can again."""

    base_url: str


@dataclass(frozen=True, slots=True)
class StrangersFound:
    """Orders bear ids of our shape that this installation never made. Their rows say `wants_alert`."""
