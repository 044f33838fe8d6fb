"""Books for tests of the queue's plan: by hand, drawn by hypothesis, and what a plan makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from exchanges.adapters.types import OrderType, Side
from orders.planning import (
    BookPlan,
    Candidate,
    Caps,
    Lane,
    Standing,
    plan_book,
    priority_of,
    sort_price_of,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
TYPE_OF = {Lane.LIMIT: OrderType.LIMIT, Lane.STOP: OrderType.STOP_MARKET}


def candidate(
    number: int,
    side: Side,
    price: int | str,
    standing: Standing = Standing.WAITING,
    *,
    lane: Lane = Lane.LIMIT,
    age: int = 0,
) -> Candidate:
    """One order. `age` in seconds: the higher, the older."""
    order_type = TYPE_OF[lane]
    sort_price = sort_price_of(order_type, side, price=Decimal(price), stop_price=Decimal(price))
    return Candidate(
        id=number,
        side=side,
        priority=priority_of(order_type),
        sort_price=sort_price,
        created_at=START - timedelta(seconds=age),
        standing=standing,
    )


@dataclass(frozen=True)
class Scene:
    """A book with its caps and the orders of others in it."""

    orders: Sequence[Candidate]
    caps: Caps
    external: Mapping[Lane, int] = field(default_factory=dict)

    def plan(self) -> BookPlan:
        return plan_book(self.orders, caps=self.caps, external=self.external)

    def held(self) -> Counter[Lane]:
        """Slots taken on the exchange, by whomever."""
        return Counter(order.lane for order in self.orders if not order.waits) + Counter(self.external)

    def is_over(self) -> bool:
        return bool(over(self.held(), self.caps))

    def resting(self) -> set[int]:
        return {order.id for order in self.orders if not order.waits}

    def carried_out(self) -> Scene:
        """Return the book once everything planned has happened and every order on its way has arrived."""
        plan = self.plan()
        sent = {*plan.to_submit, *plan.to_follow}
        orders = []
        for order in self.orders:
            if order.id in sent:
                orders.append(replace(order, standing=Standing.RESTING))
            elif order.id in plan.to_cancel or order.standing is Standing.RETURNING:
                orders.append(replace(order, standing=Standing.WAITING))
            elif order.standing is not Standing.LEAVING:
                orders.append(order)
        return replace(self, orders=orders)

    def settled(self) -> Scene:
        """Carry out plans until nothing is left to do; a book that is no longer disturbed needs two."""
        scene = self
        for _ in range(3):
            if scene.plan() == BookPlan() and not any(
                order.standing in (Standing.RETURNING, Standing.LEAVING) for order in scene.orders
            ):
                return scene
            scene = scene.carried_out()
        raise AssertionError(f"still restless: {scene.plan()} in {scene}")


def over(held: Mapping[Lane, int], caps: Caps) -> dict[str, int]:
    """Return by how much the slots taken exceed each cap, for those which they do exceed."""
    excess = {lane.value: held.get(lane, 0) - caps.of(lane) for lane in Lane}
    if caps.total is not None:
        excess["total"] = sum(held.values()) - caps.total
    return {name: count for name, count in excess.items() if count > 0}


def deserving(scene: Scene) -> set[int]:
    """Return who should hold a slot in the end, FIXED ones included: said by counting, not by walking."""
    there = [order for order in scene.orders if order.standing is not Standing.LEAVING]
    fixed = [order for order in there if order.standing is Standing.FIXED]
    rivals = [order for order in there if order.standing is not Standing.FIXED]
    taken = Counter(order.lane for order in fixed) + Counter(scene.external)
    left = 10**6 if scene.caps.total is None else scene.caps.total - sum(taken.values())
    chosen = {order.id for order in fixed}
    for lane in Lane:  # limits first, as their priority says
        room = max(0, min(scene.caps.of(lane) - taken[lane], left))
        ours = [order for order in rivals if order.lane is lane]
        best = {
            one.id for one in ours if sum(claim(other, there) < claim(one, there) for other in ours) < room
        }
        left -= len(best)
        chosen |= best
    return chosen


def claim(order: Candidate, there: Iterable[Candidate]) -> tuple[int, int, bool, datetime, int]:
    """What one order has to show for a slot, the lower the better: lane, turn, who is there, age."""
    turn = sum(
        other.rank() < order.rank() for other in there if (other.lane, other.side) == (order.lane, order.side)
    )
    return order.priority, turn, order.waits, order.created_at, order.id


# --- drawn ----------------------------------------------------------------------------------------------

IN_FLIGHT = (Standing.RETURNING, Standing.LEAVING)
_ANY = (Standing.WAITING,) * 5 + (Standing.RESTING,) * 4 + (Standing.FIXED, *IN_FLIGHT)
CALM = (Standing.WAITING, Standing.RESTING)

# A total is near the lanes' sum: there lanes and total are short in turn.
caps = st.tuples(st.integers(0, 5), st.integers(0, 3), st.none() | st.integers(1, 4)).map(
    lambda drawn: Caps(
        drawn[0], drawn[1], None if drawn[2] is None else max(0, drawn[0] + drawn[1] - drawn[2])
    )
)
externals = st.sampled_from([{}, {}, {Lane.LIMIT: 1}, {Lane.LIMIT: 2, Lane.STOP: 1}, {Lane.STOP: 2}])


def candidates(
    *,
    standings: Sequence[Standing] = _ANY,
    lanes: Sequence[Lane] = tuple(Lane),
    sides: Sequence[Side] = tuple(Side),
    least: int = 0,
) -> st.SearchStrategy[list[Candidate]]:
    """Few prices and ages, so that ties are the rule; ids follow neither."""
    one = st.tuples(
        st.sampled_from(sides),
        st.integers(90, 95),
        st.sampled_from(standings),
        st.sampled_from(lanes),
        st.integers(0, 3),
    )
    return st.lists(one, min_size=least, max_size=16).map(
        lambda drawn: [
            candidate(number, side, price, standing, lane=lane, age=age)
            for number, (side, price, standing, lane, age) in enumerate(drawn, 1)
        ]
    )


def scenes(
    *,
    standings: Sequence[Standing] = _ANY,
    caps: st.SearchStrategy[Caps] = caps,
    external: st.SearchStrategy[Mapping[Lane, int]] = externals,
) -> st.SearchStrategy[Scene]:
    """Books of all kinds, most of them within their caps: full, or with a few slots left."""
    orders = candidates(standings=standings) | candidates(standings=standings, least=8)
    any_scene = st.builds(Scene, orders, caps, external)
    return st.one_of(any_scene, any_scene.map(_within), any_scene.map(_within))


def _within(scene: Scene) -> Scene:
    """Let wait who rests in a slot that is not there, whoever that is: not the worst."""
    orders, held = list(scene.orders), scene.held()
    for place, order in enumerate(orders):
        excess = over(held, scene.caps)
        if order.standing is Standing.RESTING and (order.lane.value in excess or "total" in excess):
            orders[place] = replace(order, standing=Standing.WAITING)
            held[order.lane] -= 1
    return replace(scene, orders=orders)
