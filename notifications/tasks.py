"""What the worker runs for this room; django-q2 calls these."""

from __future__ import annotations

from notifications import alerts


def alerts_deliver() -> None:
    """Send the alerts that wait: soon after a failure, and every minute for what had to wait longer."""
    alerts.alerts_deliver()
