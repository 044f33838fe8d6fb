"""Medians and percentiles of measured times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of sorted values: always one that was measured."""
    if not ordered:
        raise ValueError("no values were measured")
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(rank, 1) - 1]


def median(values: Iterable[float]) -> float:
    """Return the middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values were measured")
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@dataclass(frozen=True, slots=True)
class Summary:
    """What many measurements of one thing say, in the unit of its values."""

    count: int
    minimum: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Summarise values. Raises ValueError when there are none."""
        ordered = sorted(values)
        return cls(
            count=len(ordered),
            minimum=percentile(ordered, 0),
            p50=median(ordered),
            p95=percentile(ordered, 95),
            p99=percentile(ordered, 99),
        )
