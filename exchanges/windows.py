"""Counting over a sliding quarter of an hour, in a form that can be added up across processes.

Values fall into buckets that are five percent wide, minute by minute: bounded in size however much is
measured, and a percentile is at most five percent too high. Pure but for the clock.

Units: seconds; minutes since the epoch.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping

MINUTES = 15
_SMALLEST = 1e-5  # ten microseconds: all that is faster is the same
_WIDTH = math.log(1.05)
_LARGEST = math.ceil(math.log(3600 / _SMALLEST) / _WIDTH)

# Name -> minute -> bucket -> count. Keys are text, as JSON wants them.
Windows = dict[str, dict[str, dict[str, int]]]


def bucket_of(seconds: float) -> int:
    """Return the bucket of a value; 0 is the smallest."""
    if seconds <= _SMALLEST:
        return 0
    return min(math.ceil(math.log(seconds / _SMALLEST) / _WIDTH), _LARGEST)


def top_of(bucket: int) -> float:
    """Return the largest value of a bucket."""
    return _SMALLEST * math.exp(bucket * _WIDTH)


def minute_of(epoch_seconds: float) -> int:
    return int(epoch_seconds // 60)


class Recorder:
    """What one process has counted lately. Any thread may add; it costs about a microsecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[int, Counter[int]]] = {}

    def add(self, name: str, seconds: float = 0.0) -> None:
        """Count a value, or with no value a happening."""
        minute, bucket = minute_of(time.time()), bucket_of(seconds)
        with self._lock:
            minutes = self._counts.setdefault(name, {})
            counts = minutes.get(minute)
            if counts is None:
                counts = minutes[minute] = Counter()
                for old in [one for one in minutes if one <= minute - MINUTES]:
                    del minutes[old]
            counts[bucket] += 1

    def windows(self) -> Windows:
        """Return a copy to be stored, without what is too old."""
        oldest = minute_of(time.time()) - MINUTES
        with self._lock:
            return {
                name: {
                    str(minute): {str(bucket): count for bucket, count in counts.items()}
                    for minute, counts in minutes.items()
                    if minute > oldest
                }
                for name, minutes in self._counts.items()
            }

    def forget(self) -> None:
        with self._lock:
            self._counts.clear()


def merged(
    several: Iterable[Mapping[str, Mapping[str, Mapping[str, int]]]], *, now: float
) -> dict[str, Counter[int]]:
    """Add up what several processes counted in the last quarter of an hour: name -> bucket -> count."""
    oldest = minute_of(now) - MINUTES
    total: dict[str, Counter[int]] = {}
    for windows in several:
        for name, minutes in windows.items():
            counts = total.setdefault(name, Counter())
            for minute, buckets in minutes.items():
                if int(minute) > oldest:
                    counts.update({int(bucket): count for bucket, count in buckets.items()})
    return total


def percentile(counts: Mapping[int, int], percent: float) -> float | None:
    """Return the value that `percent` of all do not exceed (nearest rank), None where there is none."""
    wanted = math.ceil(sum(counts.values()) * percent / 100)
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= wanted > 0:
            return top_of(bucket)
    return None
