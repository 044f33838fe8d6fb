"""The figures as Prometheus reads them. Whichever web process is asked, it answers for all processes.

What stands now comes from the tables, what was counted is the sum of what every process has reported,
the ended ones included: counters never shrink, wherever the next scrape lands.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from exchanges import measures
from exchanges.adapters.breaker import BreakerState
from exchanges.breakers import breaker_states
from orders.clock import database_now
from tracking.websocket_stats import websocket_stats
from tradehub.figures import Reported, Standing, reported, standing
from tradehub.processes import Totals

Labels = tuple[tuple[str, str], ...]
BOUNDS = [floatToGoString(bound) for bound in (*measures.BUCKETS, math.inf)]  # type: ignore[no-untyped-call]  # it has no types
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition() -> bytes:
    """Return all metrics in the text format, with a constant number of queries."""
    now = database_now()
    told = reported(now)
    found = [
        *counted(told.totals),
        *standing_gauges(standing(now)),
        *stream_gauges(websocket_stats()),
        *process_gauges(told),
        breaker_gauge(breaker_states()),
    ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Ready(found))
    return generate_latest(registry)


class _Ready(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def counted(totals: Totals) -> Iterator[Metric]:
    """Yield every counter and histogram that this version knows, with the sums of all processes."""
    by_name: dict[str, dict[Labels, float]] = {}
    for (name, labels), value in sorted(totals.items()):
        by_name.setdefault(name, {})[labels] = value
    for known in measures.REGISTRY.collect():
        metric = Metric(known.name, known.documentation, known.type)
        if known.type == "histogram":
            _add_histogram(metric, by_name)
        else:
            for labels, value in by_name.get(f"{metric.name}_total", {}).items():
                metric.add_sample(f"{metric.name}_total", dict(labels), value)
        yield metric


def _add_histogram(metric: Metric, by_name: Mapping[str, Mapping[Labels, float]]) -> None:
    """Buckets by their size, the empty ones too: who asks for a rate has to see them from the beginning."""
    buckets = by_name.get(f"{metric.name}_bucket", {})
    for labels, count in by_name.get(f"{metric.name}_count", {}).items():
        for bound in BOUNDS:
            key = tuple(sorted((*labels, ("le", bound))))
            metric.add_sample(f"{metric.name}_bucket", dict(key), buckets.get(key, 0))
        metric.add_sample(f"{metric.name}_count", dict(labels), count)
        metric.add_sample(f"{metric.name}_sum", dict(labels), by_name[f"{metric.name}_sum"].get(labels, 0))


def standing_gauges(stands: Standing) -> Iterator[Metric]:
    yield _gauge(
        "tradehub_queue_waiting",
        "Orders that wait in the queue: ready to go, or for the end of their back-off.",
        "state",
        {"ready": stands.waiting - stands.backing_off, "backing_off": stands.backing_off},
    )
    yield GaugeMetricFamily(
        "tradehub_queue_oldest_seconds",
        "How long the order waits that was queued first.",
        value=stands.oldest_waiting_seconds or 0,
    )
    yield _gauge(
        "tradehub_open_orders", "Orders on an exchange, or on their way.", "status", stands.open_by_status
    )
    yield GaugeMetricFamily(
        "tradehub_unknown_orders", "Orders that may or may not be on the exchange.", value=stands.unknown
    )
    yield GaugeMetricFamily(
        "tradehub_failed_orders", "Failed orders that wait for a person.", value=stands.failed
    )
    yield GaugeMetricFamily(
        "tradehub_kill_switch",
        "1 while the kill switch refuses every webhook.",
        value=int(stands.kill_switch_on),
    )


def stream_gauges(stats: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("tradehub_streams", "User streams by state.", "status", stats["by_status"])
    yield GaugeMetricFamily(
        "tradehub_streams_unwatched", "User streams that no living process follows.", value=stats["unwatched"]
    )
    yield GaugeMetricFamily(
        "tradehub_reconcile_age_seconds",
        "How long ago the last clean reconciliation began, of the account where that is longest.",
        value=stats["oldest_reconciled_seconds"] or 0,
    )


def breaker_gauge(breakers: Sequence[Mapping[str, Any]]) -> Metric:
    """One per exchange and state: which machine's it is stands in the JSON."""
    counts = Counter((one["exchange"], one["state"]) for one in breakers)
    text = "Circuit breakers of an exchange, by state: an open one holds its requests back."
    family = GaugeMetricFamily("tradehub_breakers", text, labels=["exchange", "state"])
    for exchange in sorted({one["exchange"] for one in breakers}):
        for state in BreakerState:
            family.add_metric([exchange, state.value], counts[exchange, state])
    return family


def process_gauges(told: Reported) -> Iterator[Metric]:
    yield _gauge("tradehub_processes", "Processes that were seen at work lately.", "kind", told.alive)
    seen = {kind: ago for kind, ago in told.last_seen_seconds.items() if ago is not None}
    yield _gauge("tradehub_process_seen_seconds", "How long ago the latest of a kind was seen.", "kind", seen)


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
