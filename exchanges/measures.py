"""What this process measures: counters, histograms, and what the last quarter of an hour held.

Plain memory, a few microseconds a value, no Django and no network: made to be called on the way of an
order. `tradehub.processes` writes it to the database every few seconds, where `/metrics` adds up what all
processes saw. Labels are words from short lists: never a symbol, an account, an id, a text from outside.

Units: seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram

from exchanges.adapters.exceptions import (
    DuplicateClientOrderId,
    ExchangeError,
    OrderDenied,
    OutcomeUnknown,
    RefusedForNow,
    TooManyOpenOrders,
)
from exchanges.adapters.hosts import RoundTrip
from exchanges.adapters.types import OrderReport, VenueOrderStatus
from exchanges.windows import Recorder

REGISTRY = CollectorRegistry(auto_describe=False)
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_webhooks = Histogram(
    "tradehub_webhook_seconds",
    "From a webhook's arrival to its answer, by HTTP status.",
    ["status"],
    buckets=BUCKETS,
    registry=REGISTRY,
)
_webhook_to_exchange = Histogram(
    "tradehub_webhook_to_exchange_seconds",
    "From a webhook's arrival to the first byte of its first order or cancel.",
    buckets=BUCKETS,
    registry=REGISTRY,
)
_exchange_to_ledger = Histogram(
    "tradehub_exchange_to_ledger_seconds",
    "From the exchange's time of a stream's report to the commit of what it meant.",
    ["exchange"],
    buckets=BUCKETS,
    registry=REGISTRY,
)
_requests = Histogram(
    "tradehub_exchange_request_seconds",
    "From a request's first byte to its whole answer.",
    ["exchange", "endpoint"],
    buckets=BUCKETS,
    registry=REGISTRY,
)
_request_outcomes = Counter(
    "tradehub_exchange_requests",
    "Requests that left, by what came of them.",
    ["exchange", "endpoint", "outcome"],
    registry=REGISTRY,
)
_submissions = Counter(
    "tradehub_submissions",
    "Placements that were handed over for sending, by what came of them.",
    ["exchange", "outcome"],
    registry=REGISTRY,
)
_rebalances = Histogram(
    "tradehub_rebalance_seconds",
    "Runs of the queue's rebalance that sent something.",
    buckets=BUCKETS,
    registry=REGISTRY,
)
_differences = Counter(
    "tradehub_reconcile_differences",
    "Disagreements with an exchange that reconciling found, by kind.",
    ["kind"],
    registry=REGISTRY,
)
_reconcile_failures = Counter(
    "tradehub_reconcile_failures",
    "Reconciliations that could not compare everything.",
    ["exchange"],
    registry=REGISTRY,
)
_unreadable = Counter(
    "tradehub_unreadable",
    "Messages and listed orders that nobody could read or apply; they are kept as they came.",
    ["exchange"],
    registry=REGISTRY,
)

# What percentiles and the last minutes' counts are made of; the histograms never forget.
recent = Recorder()


def webhook(*, status: int, seconds: float) -> None:
    """Count a webhook's answer, whatever it was. What goes on after a 408 is not in it."""
    _webhooks.labels(str(status)).observe(seconds)
    recent.add("webhook", seconds)


def departure(seconds: float) -> None:
    """Count how long after its webhook's arrival a first order or cancel left."""
    _webhook_to_exchange.observe(seconds)
    recent.add("webhook_to_exchange", seconds)


def ledger(exchange: str, reports: Iterable[OrderReport], *, exchange_now: float) -> None:
    """Count reports of a stream as written down. `exchange_now`: the exchange's time now, epoch seconds."""
    histogram = _exchange_to_ledger.labels(exchange)
    for report in reports:
        if report.updated_at is not None:
            # Its clock is known to half a round trip: a report cannot come before it happened.
            seconds = max(exchange_now - report.updated_at.timestamp(), 0.0)
            histogram.observe(seconds)
            recent.add("exchange_to_ledger", seconds)


def rebalance(seconds: float) -> None:
    _rebalances.observe(seconds)
    recent.add("rebalance", seconds)


def difference(kind: str) -> None:
    _differences.labels(kind).inc()


def reconcile_failed(exchange: str) -> None:
    _reconcile_failures.labels(exchange).inc()


def unreadable(exchange: str, count: int) -> None:
    _unreadable.labels(exchange).inc(count)


def round_trip(trip: RoundTrip) -> None:
    """Count a request that left. Called on the I/O loop, before its answer is handed on."""
    endpoint = endpoint_label(trip.method, trip.path)
    _request_outcomes.labels(trip.venue, endpoint, outcome_of(trip.error)).inc()
    if trip.error is None or not isinstance(trip.error, OutcomeUnknown):
        _requests.labels(trip.venue, endpoint).observe(trip.seconds)
        recent.add(f"exchange_request:{trip.venue}", trip.seconds)


def submissions(exchange: str, answers: Iterable[OrderReport | ExchangeError]) -> None:
    for answer in answers:
        outcome = outcome_of(answer)
        _submissions.labels(exchange, outcome).inc()
        recent.add(f"submission:{outcome}")


def outcome_of(answer: OrderReport | ExchangeError | None) -> str:
    """Return the outcome class of an answer, one word of eight. None: it was a good one."""
    match answer:
        case None:
            return "accepted"
        case OrderReport():
            return "refused" if answer.status is VenueOrderStatus.REJECTED else "accepted"
        case OrderDenied():
            return "not_sent"
        case TooManyOpenOrders():
            return "full"
        case RefusedForNow():
            return "put_off"
        case DuplicateClientOrderId():
            return "duplicate"
        case OutcomeUnknown():
            return "unknown"
        case _:
            return "refused"


# --- labels of endpoints ------------------------------------------------------------------------------

_ENDPOINTS_KEPT = 100
_ID = re.compile(r"[^/]*\d{4}[^/]*|[^/]{33,}")  # a number of four digits, or nothing that anybody named
_endpoints: dict[tuple[str, str], str] = {}


def endpoint_label(method: str, path: str) -> str:
    """Return "POST /fapi/v1/order". Ids in a path are struck out, and there are a hundred at most."""
    known = _endpoints.get((method, path))
    if known is not None:
        return known
    label = f"{method} {_ID.sub(':id', path)}"
    if len(_endpoints) >= _ENDPOINTS_KEPT and label not in _endpoints.values():
        return "other"
    if label.endswith(path):  # ids are not worth remembering
        _endpoints[method, path] = label
    return label
