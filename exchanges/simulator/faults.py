"""Faults: what can be made to go wrong, where, and how often.

A fault has a `kind`, a `match` and a number of `times` (None: until removed). The kinds:

request   delay_before  wait `seconds` before the exchange looks at the request; a client that goes away
                        meanwhile has sent nothing
          arrive_late   the same, and the exchange looks at it whether or not the client still waits
          status        answer `status` and `body`; `stage` says before or after accepting
          reject        refuse with `status`, `code`, `msg`; of a batch only the matching orders
          echo_secret   refuse with a text that contains the api key, signature and query
          delay_after   hold the answer for `seconds` after accepting
          drop_answer   close the connection without an answer; after accepting, unless
                        `stage` is before
stream    stream_drop, stream_duplicate, stream_reorder   the message matched by `event`
          stream_delay  hold it, and all that follows on this connection, for `seconds`
          stream_garble send the first half of it and nothing else of it
          stream_refuse   refuse the connection with `status`
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from exchanges.simulator.wire import Call, OrderMark


class FaultKind(StrEnum):
    DELAY_BEFORE = "delay_before"
    ARRIVE_LATE = "arrive_late"
    STATUS = "status"
    REJECT = "reject"
    ECHO_SECRET = "echo_secret"
    DELAY_AFTER = "delay_after"
    DROP_ANSWER = "drop_answer"
    STREAM_DROP = "stream_drop"
    STREAM_DUPLICATE = "stream_duplicate"
    STREAM_REORDER = "stream_reorder"
    STREAM_DELAY = "stream_delay"
    STREAM_GARBLE = "stream_garble"
    STREAM_REFUSE = "stream_refuse"


REQUEST_KINDS = {
    FaultKind.DELAY_BEFORE,
    FaultKind.ARRIVE_LATE,
    FaultKind.STATUS,
    FaultKind.REJECT,
    FaultKind.ECHO_SECRET,
    FaultKind.DELAY_AFTER,
    FaultKind.DROP_ANSWER,
}
STREAM_KINDS = {
    FaultKind.STREAM_DROP,
    FaultKind.STREAM_DUPLICATE,
    FaultKind.STREAM_REORDER,
    FaultKind.STREAM_DELAY,
    FaultKind.STREAM_GARBLE,
}


@dataclass(slots=True)
class Match:
    """What a fault applies to; an empty field matches everything."""

    exchange: str = ""
    method: str = ""
    path: str = ""
    symbol: str = ""
    api_key: str = ""
    client_order_id_prefix: str = ""
    event: str = ""

    @property
    def names_an_order(self) -> bool:
        return bool(self.symbol or self.client_order_id_prefix)

    def fits_order(self, mark: OrderMark) -> bool:
        if self.symbol and mark.symbol != self.symbol:
            return False
        return mark.client_order_id.startswith(self.client_order_id_prefix)

    def fits_call(self, call: Call, marks: list[OrderMark]) -> bool:
        return (
            (not self.exchange or self.exchange == call.exchange)
            and (not self.method or self.method == call.method)
            and (not self.path or self.path == call.path)
            and (not self.api_key or self.api_key == call.api_key)
            and (not self.names_an_order or any(self.fits_order(mark) for mark in marks))
        )

    def fits_event(self, exchange: str, api_key: str, event: str, mark: OrderMark) -> bool:
        return (
            (not self.exchange or self.exchange == exchange)
            and (not self.api_key or self.api_key == api_key)
            and (not self.event or self.event == event)
            and (not self.names_an_order or self.fits_order(mark))
        )


@dataclass(slots=True)
class Fault:
    kind: FaultKind
    match: Match = field(default_factory=Match)
    times: int | None = 1
    seconds: float = 0.0
    stage: str = ""  # "before" or "after" accepting
    status: int = 400
    body: str = ""
    code: int = -1000
    msg: str = "An unknown error occurred while processing the request."
    retry_after: int | None = None
    hits: int = 0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fault:
        """Build one from the control API; raises ValueError naming what is wrong."""
        known = {f.name for f in fields(cls)} - {"hits"}
        if unknown := set(data) - known:
            raise ValueError(f"unknown fault fields: {', '.join(sorted(unknown))}")
        kind = FaultKind(data.get("kind", ""))
        default_stage = "after" if kind is FaultKind.DROP_ANSWER else "before"
        stage = data.get("stage", default_stage)
        if stage not in ("before", "after"):
            raise ValueError("stage must be before or after")
        match = data.get("match") or {}
        if unknown := set(match) - {f.name for f in fields(Match)}:
            raise ValueError(f"unknown match fields: {', '.join(sorted(unknown))}")
        rest = {name: value for name, value in data.items() if name not in ("kind", "match", "stage")}
        return cls(kind=kind, match=Match(**match), stage=stage, **rest)

    @property
    def is_spent(self) -> bool:
        return self.times is not None and self.hits >= self.times


class Faults:
    """The faults in force; each use counts, a spent one is forgotten."""

    def __init__(self) -> None:
        self.active: list[Fault] = []

    def add(self, faults: list[Fault]) -> None:
        self.active.extend(faults)

    def clear(self) -> None:
        self.active.clear()

    def for_call(self, call: Call, marks: list[OrderMark], *, places: bool) -> dict[FaultKind, Fault]:
        """Take the faults that hit this request, at most one of a kind.

        If the request `places` orders, a `reject` that names orders is left for `rejecting`.
        """
        found: dict[FaultKind, Fault] = {}
        for fault in list(self.active):
            if fault.kind not in REQUEST_KINDS or fault.kind in found:
                continue
            if fault.kind is FaultKind.REJECT and places and fault.match.names_an_order:
                continue
            if fault.match.fits_call(call, marks):
                self._use(fault)
                found[fault.kind] = fault
        return found

    def rejecting(self, call: Call, mark: OrderMark) -> Fault | None:
        """Take the `reject` fault that hits one order of a request."""
        for fault in self.active:
            if fault.kind is FaultKind.REJECT and fault.match.fits_call(call, [mark]):
                self._use(fault)
                return fault
        return None

    def for_event(self, exchange: str, api_key: str, event: str, mark: OrderMark) -> Fault | None:
        return self._first(STREAM_KINDS, exchange, api_key, event, mark)

    def refusing_stream(self, exchange: str, api_key: str) -> Fault | None:
        return self._first({FaultKind.STREAM_REFUSE}, exchange, api_key, "", OrderMark("", ""))

    def _first(
        self, kinds: set[FaultKind], exchange: str, api_key: str, event: str, mark: OrderMark
    ) -> Fault | None:
        for fault in self.active:
            if fault.kind in kinds and fault.match.fits_event(exchange, api_key, event, mark):
                self._use(fault)
                return fault
        return None

    def _use(self, fault: Fault) -> None:
        fault.hits += 1
        if fault.is_spent:
            self.active.remove(fault)
