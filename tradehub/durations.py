"""Waiting times from the environment, none of them shorter than is safe.

A margin that is too short does not fail, it trades: an order that is still on its way is taken for one that
never was, and is placed again. So a time below its least value stops the start, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured


@dataclass(frozen=True, slots=True)
class Durations:
    """Reads seconds. `short`: tests that race a simulated exchange may go below what is safe, not below 0."""

    env: Any  # environ.Env
    short: bool

    def seconds(self, name: str, *, default: float, least: float) -> float:
        """Return a time in seconds. Raises ImproperlyConfigured when it is shorter than is safe."""
        found: float = self.env.float(name, default=default)
        if found <= 0:
            raise ImproperlyConfigured(f"{name} must be above 0 seconds; it is {found:g}")
        if found < least and not self.short:
            raise ImproperlyConfigured(
                f"{name} must be at least {least:g} seconds, or orders may be taken for lost while they are"
                f" on their way; it is {found:g}. Only tests against the simulator may set SHORT_TIMES"
            )
        return found
