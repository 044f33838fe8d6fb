"""Request weights and order counts per window, for the headers and, if wanted, the limits."""

from __future__ import annotations

from dataclasses import dataclass

from exchanges.simulator.wire import WireError

WEIGHT_WINDOW_MS = 60_000
# Header suffix -> window.
ORDER_WINDOWS = {"10S": 10_000, "1M": 60_000, "1D": 86_400_000}


@dataclass(slots=True)
class Limits:
    """What a venue allows; `enforce` is off by default so that tests may run at any speed."""

    weight_per_minute: int
    orders: dict[str, int]
    enforce: bool = False
    tell: bool = True  # what was used, in each answer's headers

    def scaled(self, factor: int, *, enforce: bool) -> Limits:
        orders = {suffix: limit * factor for suffix, limit in self.orders.items()}
        return Limits(self.weight_per_minute * factor, orders, enforce, self.tell)


class Usage:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._initial = limits.scaled(1, enforce=limits.enforce)
        self.reset()

    def reset(self) -> None:
        """Forget what was used, and what was changed of the limits."""
        self._weight = (0, 0)  # window number, used
        self._orders: dict[tuple[str, str], tuple[int, int]] = {}
        self.limits.weight_per_minute = self._initial.weight_per_minute
        self.limits.orders = dict(self._initial.orders)
        self.limits.enforce = self._initial.enforce
        self.limits.tell = self._initial.tell

    def add_weight(self, weight: int, now_ms: int) -> int:
        """Count weight; return what the current minute has used. Raises -1003 when enforced."""
        window = now_ms // WEIGHT_WINDOW_MS
        used = self._weight[1] if self._weight[0] == window else 0
        self._weight = (window, used + weight)
        if self.limits.enforce and used + weight > self.limits.weight_per_minute:
            raise WireError(
                429,
                -1003,
                f"Too many requests; current limit is {self.limits.weight_per_minute} request weight "
                "per 1 MINUTE.",
                headers=_retry_after(WEIGHT_WINDOW_MS, now_ms),
            )
        return used + weight

    def add_orders(self, api_key: str, number: int, now_ms: int) -> dict[str, str]:
        """Count orders of an account; return the headers. Raises -1015 when enforced.

        A batch counts as one in the minute's window (fact sheet B3).
        """
        headers: dict[str, str] = {}
        for suffix, limit in self.limits.orders.items():
            length = ORDER_WINDOWS[suffix]
            window = now_ms // length
            seen, used = self._orders.get((api_key, suffix), (window, 0))
            used = (used if seen == window else 0) + (1 if suffix == "1M" else number)
            self._orders[(api_key, suffix)] = (window, used)
            headers[f"X-MBX-ORDER-COUNT-{suffix}"] = str(used)
            if self.limits.enforce and used > limit:
                raise WireError(
                    429,
                    -1015,
                    f"Too many new orders; current limit is {limit} orders per {suffix}.",
                    headers=_retry_after(length, now_ms),
                )
        return headers


def _retry_after(window_ms: int, now_ms: int) -> dict[str, str]:
    return {"Retry-After": str(max(1, (window_ms - now_ms % window_ms) // 1000))}
