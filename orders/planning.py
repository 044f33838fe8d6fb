"""Which orders of a book rest on the exchange and which wait: pure functions, no database, no clock.

A book has two lanes, LIMIT and STOP, each with its own cap. Within a lane the two sides take turns (best
buy and best sell, second buy and second sell, …), each side by rank. The lanes do not mix: a ladder of
limits says nothing about when a side's first stop has its turn. With one side only the order is the rank:
priority, then price, then who rests already, then age. Who rests already comes before who waits at the
same price, because nothing is canceled unless something strictly better takes its slot.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from exchanges.adapters.types import OrderType, Side


class Lane(StrEnum):
    LIMIT = "LIMIT"
    STOP = "STOP"


MARKET_PRIORITY, LIMIT_PRIORITY, STOP_PRIORITY = 1, 3, 5
_PRIORITY = {
    OrderType.MARKET: MARKET_PRIORITY,  # never queued
    OrderType.LIMIT: LIMIT_PRIORITY,
    OrderType.STOP_MARKET: STOP_PRIORITY,
    OrderType.STOP_LIMIT: STOP_PRIORITY,
}
LANE_OF = {LIMIT_PRIORITY: Lane.LIMIT, STOP_PRIORITY: Lane.STOP}


def priority_of(order_type: OrderType) -> int:
    return _PRIORITY[order_type]


def sort_price_of(
    order_type: OrderType, side: Side, *, price: Decimal | None, stop_price: Decimal | None
) -> Decimal:
    """Return what orders of one side and lane are ranked by: the higher, the earlier. Never money.

    The highest bid, the lowest ask, the lowest buy trigger and the highest sell trigger come first.
    """
    if priority_of(order_type) == STOP_PRIORITY:
        assert stop_price is not None
        return -stop_price if side is Side.BUY else stop_price
    assert price is not None
    return price if side is Side.BUY else -price


# --- caps -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Caps:
    """How many orders of a book may rest. `total` is None where nobody lowered it under the lanes' sum."""

    limit: int
    stop: int
    total: int | None = None

    def of(self, lane: Lane) -> int:
        return self.limit if lane is Lane.LIMIT else self.stop


def caps_for(
    *,
    default_limit: int,
    limit: int | None = None,
    stop: int | None = None,
    total: int | None = None,
    exchange_limit: int | None = None,
    exchange_stop: int | None = None,
) -> Caps:
    """Return a book's caps: the installation's, lowered by the account's operator and by the exchange.

    A lowered total keeps a fifth of itself for the STOP lane, at least one slot: a ladder of limits must
    never push a protective stop off the exchange.
    """
    most = _least(default_limit, limit)
    stops = _least(-(-most // 4), stop, exchange_stop)
    most = _least(most, exchange_limit)
    if total is None or total >= most + stops:
        return Caps(most, stops)
    reserved = min(stops, max(1, total // 5)) if total > 1 else 0
    return Caps(min(most, total - reserved), min(stops, total), total)


def as_seen(cap: int, fits: int | None, until: datetime | None, now: datetime) -> int:
    """Return a lane's cap, lowered to what the exchange was seen to take while that is believed."""
    return cap if fits is None or until is None or until <= now else min(cap, fits)


def _least(*counts: int | None) -> int:
    return min(count for count in counts if count is not None)


# --- the plan -----------------------------------------------------------------------------------------


class Standing(StrEnum):
    """Where an order of the book stands."""

    WAITING = "WAITING"  # in the queue
    RESTING = "RESTING"  # on the exchange, untouched: may be moved back
    FIXED = "FIXED"  # keeps its slot: part filled, triggered, SUBMITTING, or not of the queue
    RETURNING = "RETURNING"  # being canceled to be moved back: holds its slot until that is known
    LEAVING = "LEAVING"  # being canceled for good: holds its slot until that is known


@dataclass(frozen=True, slots=True)
class Candidate:
    """One order of a book, waiting or open. `id` is the intent's."""

    id: int
    side: Side
    priority: int
    sort_price: Decimal
    created_at: datetime
    standing: Standing

    @property
    def lane(self) -> Lane:
        return LANE_OF[self.priority]

    @property
    def waits(self) -> bool:
        return self.standing is Standing.WAITING

    def rank(self) -> tuple[int, Decimal, bool, datetime, int]:
        return self.priority, -self.sort_price, self.waits, self.created_at, self.id


@dataclass(frozen=True, slots=True)
class BookPlan:
    """What to do, by intent id, the best first.

    `to_submit` fits into slots that are free now. `to_follow` takes the slots of `to_cancel` and of what
    is being canceled already, once they are known to be free: plan again then.
    """

    to_cancel: tuple[int, ...] = ()
    to_submit: tuple[int, ...] = ()
    to_follow: tuple[int, ...] = ()


@dataclass(slots=True)
class _Slots:
    """Free slots per lane and in total; negative where more rest than may."""

    lanes: dict[Lane, int]
    total: int | None

    @classmethod
    def left(cls, caps: Caps, taken: Mapping[Lane, int]) -> _Slots:
        total = None if caps.total is None else caps.total - sum(taken.values())
        return cls({lane: caps.of(lane) - taken.get(lane, 0) for lane in Lane}, total)

    def missing(self, lane: Lane) -> int:
        """How many slots have to be freed before one more order fits into this lane."""
        missing = 1 - self.lanes[lane]
        return max(0, missing, 0 if self.total is None else 1 - self.total)

    def missing_in_lane(self, lane: Lane) -> int:
        return max(0, 1 - self.lanes[lane])

    def take(self, lane: Lane, count: int = 1) -> None:
        self.lanes[lane] -= count
        if self.total is not None:
            self.total -= count


def plan_book(
    orders: Iterable[Candidate], *, caps: Caps, external: Mapping[Lane, int] | None = None
) -> BookPlan:
    """Say what has to be canceled and what can be submitted so that the best of a book rest.

    `orders`: every open order and at least the best waiting ones, as many per side and lane as the lane's
    cap. `external`: orders of others per lane; they take up slots and are never touched.

    Never more than the caps; where more rest already (a cap was lowered, others placed orders by hand)
    nothing goes out until it fits, and orders are canceled only for a better one that takes their slot.
    """
    orders = list(orders)
    leaving = Counter(order.lane for order in orders if order.standing is Standing.LEAVING)
    # Who leaves has no turn: it would lend its side's next ones a worse place than they have in a moment.
    line = in_turn(order for order in orders if order.standing is not Standing.LEAVING)
    wanted = _select(line, caps, external or {})
    return _Swap(line, wanted, leaving, caps, external or {}).plan()


def in_turn(orders: Iterable[Candidate]) -> list[Candidate]:
    """Return a book's orders in the order in which they deserve a slot: lane by lane, sides in turn."""
    sides: dict[tuple[int, Side], list[Candidate]] = defaultdict(list)
    for order in orders:
        sides[order.priority, order.side].append(order)
    turns: list[tuple[tuple[int, int, bool, datetime, int], Candidate]] = []
    for (priority, _), ranked in sides.items():
        ranked.sort(key=Candidate.rank)
        turns += [
            ((priority, turn, order.waits, order.created_at, order.id), order)
            for turn, order in enumerate(ranked)
        ]
    turns.sort(key=lambda one: one[0])
    return [order for _, order in turns]


def _select(line: Sequence[Candidate], caps: Caps, external: Mapping[Lane, int]) -> set[int]:
    """Walk the line and return whose turn it is; who keeps a slot whatever comes has it beforehand."""
    kept = Counter(order.lane for order in line if order.standing is Standing.FIXED)
    slots = _Slots.left(caps, kept + Counter(external))
    selected = set()
    for order in line:
        if order.standing is Standing.FIXED or slots.missing(order.lane):
            continue
        slots.take(order.lane)
        selected.add(order.id)
    return selected


@dataclass(slots=True)
class _Swap:
    """From who should rest to the cancels and submissions that lead there."""

    line: Sequence[Candidate]
    wanted: set[int]
    leaving: Counter[Lane]
    caps: Caps
    external: Mapping[Lane, int]
    canceled: list[Candidate] = field(default_factory=list)
    outranked: list[Candidate] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The worst first, compared with what is open only: the plan says the same however many wait.
        self.outranked = [
            order
            for order in reversed(in_turn(order for order in self.line if not order.waits))
            if order.standing is Standing.RESTING and order.id not in self.wanted
        ]

    def plan(self) -> BookPlan:
        staying = Counter(self.external) + Counter(
            order.lane for order in self.line if order.standing in (Standing.RESTING, Standing.FIXED)
        )
        returning = Counter(order.lane for order in self.line if order.standing is Standing.RETURNING)
        now = _Slots.left(self.caps, staying + returning + self.leaving)
        soon = _Slots.left(self.caps, staying)
        # Those that come back and deserve a slot will want it: it is not given away meanwhile.
        for order in self.line:
            if order.standing is Standing.RETURNING and order.id in self.wanted:
                soon.take(order.lane)
        submit: list[int] = []
        follow: list[int] = []
        for order in self.line:
            if not order.waits or order.id not in self.wanted:
                continue
            if not now.missing(order.lane):
                now.take(order.lane)
                soon.take(order.lane)
                submit.append(order.id)
            elif self._make_room(order.lane, soon):
                soon.take(order.lane)
                follow.append(order.id)
        return BookPlan(tuple(order.id for order in self.canceled), tuple(submit), tuple(follow))

    def _make_room(self, lane: Lane, soon: _Slots) -> bool:
        """Cancel the worst of those outranked until one more order fits into `lane`; tell whether it does.

        In `lane` itself they all stand behind who is wanted. In the other lane they may stand before a
        stop: limits beyond their own cap, which must not hold the slots that a total cap keeps for stops.
        """
        victims: list[Candidate] = []
        missing, missing_in_lane = soon.missing(lane), soon.missing_in_lane(lane)
        for order in self.outranked:
            if len(victims) == missing:
                break
            in_lane = sum(one.lane is lane for one in victims)
            if order.lane is not lane and missing - len(victims) <= missing_in_lane - in_lane:
                continue  # what is left to free has to be in this lane
            victims.append(order)
        if len(victims) < missing or sum(one.lane is lane for one in victims) < missing_in_lane:
            return False
        for order in victims:
            soon.take(order.lane, -1)
        self.canceled += victims
        self.outranked = [order for order in self.outranked if order not in victims]
        return True
