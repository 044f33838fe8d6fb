"""What became of placements, and what applying that leaves to be done. Only words, no database."""

from __future__ import annotations

from dataclasses import dataclass, field

from exchanges.adapters.exceptions import (
    ExchangeError,
)
from exchanges.adapters.types import OrderReport
from orders.models import (
    FailedOrder,
    PendingOrder,
    Placement,
)

# The reason of a report that says an order has ended because nobody knows it any more: a conclusion of ours.
FORGOTTEN = "The exchange does not know this order any more"


@dataclass(frozen=True, slots=True)
class NeverPlaced:
    """Proof that a placement never reached the exchange, and how we know."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A switch was off when the placement was to be sent; it surely never left."""

    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one placement: a report, an error of a submission, or the proof of absence."""

    placement_id: int
    result: OrderReport | ExchangeError | NeverPlaced | Stopped


@dataclass(frozen=True, slots=True)
class FullLane:
    """The exchange takes no more orders of this kind: of this symbol, or of the whole account."""

    book_id: int
    priority: int
    account_wide: bool


@dataclass(slots=True)
class Applied:
    """What is left to do after the commit, by whoever called."""

    placements: dict[int, Placement] = field(default_factory=dict)
    failed: dict[int, FailedOrder] = field(default_factory=dict)  # by intent id
    unmatched: list[OrderReport] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)  # placements with fills that we have not booked
    to_cancel: list[int] = field(default_factory=list)  # intents that came alive after their cancel
    to_place_anew: list[int] = field(default_factory=list)  # intents of an unanswered delivery
    strays: list[int] = field(default_factory=list)  # placements that live beside their successor
    doubted: list[int] = field(default_factory=list)  # placements that ended here, and live by a message
    to_shrink: list[int] = field(default_factory=list)  # intents that may have more resting than is left
    queued: dict[int, PendingOrder] = field(default_factory=dict)  # by intent id: went back to the queue
    freed_books: set[int] = field(default_factory=set)  # a slot is free
    moved_books: set[int] = field(default_factory=set)  # the same, by a cancel whose sender replans the book
    settled_books: set[int] = field(default_factory=set)  # an order is known to rest: it may be out-ranked
    full_lanes: set[FullLane] = field(default_factory=set)

    @property
    def placement_ids(self) -> list[int]:
        return list(self.placements)

    def merge(self, other: Applied) -> None:
        self.placements |= other.placements
        self.failed |= other.failed
        self.unmatched += other.unmatched
        self.gaps += other.gaps
        self.to_cancel += other.to_cancel
        self.to_place_anew += other.to_place_anew
        self.strays += other.strays
        self.doubted += other.doubted
        self.to_shrink += other.to_shrink
        self.queued |= other.queued
        for intent_id in other.placements_by_intent():
            if intent_id not in other.queued:
                self.queued.pop(intent_id, None)  # it has moved on since
        self.freed_books |= other.freed_books
        self.moved_books |= other.moved_books
        self.settled_books |= other.settled_books
        self.full_lanes |= other.full_lanes

    @property
    def leaves_errands(self) -> bool:
        """Something is left to be asked of the exchange, besides missing fills."""
        return bool(
            self.to_cancel or self.to_place_anew or self.to_shrink or self.strays
            or self.freed_books or self.moved_books or self.settled_books or self.full_lanes
        )  # fmt: skip

    def placements_by_intent(self) -> dict[int, Placement]:
        """Each intent's latest placement among those that were applied."""
        latest: dict[int, Placement] = {}
        for placement in sorted(self.placements.values(), key=lambda one: one.number):
            latest[placement.intent_id] = placement
        return latest
