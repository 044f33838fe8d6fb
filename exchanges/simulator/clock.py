"""The server clock of the simulated exchange: this machine's, plus an offset for tests."""

from __future__ import annotations

import time


class Clock:
    def __init__(self) -> None:
        self.offset_ms = 0

    def now_ms(self) -> int:
        """Return the exchange's time in epoch milliseconds."""
        return time.time_ns() // 1_000_000 + self.offset_ms
