"""A book's life under its plans: everything may happen between two of them, in any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from exchanges.adapters.types import Side
from orders.planning import BookPlan, Candidate, Caps, Lane, Standing
from orders.tests.candidates import Scene, candidate, caps, deserving, externals, over

WAITING, RESTING, FIXED = Standing.WAITING, Standing.RESTING, Standing.FIXED
RETURNING, LEAVING = Standing.RETURNING, Standing.LEAVING


class BookLife(RuleBasedStateMachine):
    """`book` is what is true, as the database has it. Only `_rebalance` acts, the rest happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.book: dict[int, Candidate] = {}
        self.caps, self.external = Caps(0, 0), dict[Lane, int]()
        self.submitting: set[int] = set()
        self.last_id = 0
        self.clock = 0
        # Canceled for a better one since anything last happened that the plan could not know.
        self.moved_back: set[int] = set()

    def scene(self) -> Scene:
        return Scene(tuple(self.book.values()), self.caps, self.external)

    @initialize(caps=caps)
    def open(self, caps: Caps) -> None:
        self.caps = caps

    # --- what happens to a book ---

    @rule(
        count=st.integers(1, 6),
        side=st.sampled_from(Side),
        lane=st.sampled_from(Lane),
        price=st.integers(90, 99),
    )
    def signal(self, count: int, side: Side, lane: Lane, price: int) -> None:
        self.moved_back.clear()
        self.clock += 1
        for rung in range(count):
            self.last_id += 1
            self.book[self.last_id] = candidate(self.last_id, side, price - rung, lane=lane, age=-self.clock)

    @rule(pick=st.integers(0, 99), whole=st.booleans())
    def fill(self, pick: int, whole: bool) -> None:
        on_exchange = lambda one: not one.waits and one.id not in self.submitting  # noqa: E731
        self._happens(pick, on_exchange, None if whole else FIXED)

    @rule(pick=st.integers(0, 99))
    def trader_cancels(self, pick: int) -> None:
        self._happens(pick, lambda one: one.standing is RESTING, LEAVING)

    @rule(pick=st.integers(0, 99))
    def trader_withdraws(self, pick: int) -> None:
        self._happens(pick, lambda one: one.waits, None)

    @rule(caps=caps)
    def operator_changes_caps(self, caps: Caps) -> None:
        self.moved_back.clear()
        self.caps = caps

    @rule(external=externals)
    def others_trade_by_hand(self, external: dict[Lane, int]) -> None:
        self.moved_back.clear()
        self.external = external

    # --- answers of the exchange ---

    @precondition(lambda self: self.submitting)
    @rule(pick=st.integers(0, 99), refused=st.booleans())
    def submission_answered(self, pick: int, refused: bool) -> None:
        self._answer(pick, refused=refused)

    def _answer(self, pick: int, *, refused: bool = False) -> None:
        number = sorted(self.submitting)[pick % len(self.submitting)]
        self.submitting.discard(number)
        if refused:
            self.moved_back.clear()
            del self.book[number]
        else:
            self.book[number] = replace(self.book[number], standing=RESTING)

    @rule(pick=st.integers(0, 99))
    def cancel_for_a_better_one_done(self, pick: int) -> None:
        self._becomes(pick, lambda one: one.standing is RETURNING, WAITING)

    @rule(pick=st.integers(0, 99))
    def cancel_for_good_done(self, pick: int) -> None:
        self._becomes(pick, lambda one: one.standing is LEAVING, None)

    def _happens(self, pick: int, who: Callable[[Candidate], bool], standing: Standing | None) -> None:
        self.moved_back.clear()
        self._becomes(pick, who, standing)

    def _becomes(self, pick: int, who: Callable[[Candidate], bool], standing: Standing | None) -> None:
        those = [order for order in self.book.values() if who(order)]
        if not those:
            return
        order = those[pick % len(those)]
        if standing is None:
            del self.book[order.id]
        elif order.standing not in (LEAVING, RETURNING) or standing is not FIXED:
            self.book[order.id] = replace(order, standing=standing)

    # --- the rebalance ---

    @rule()
    def rebalance(self) -> None:
        self._rebalance()

    def _rebalance(self) -> BookPlan:
        before = over(self.scene().held(), self.caps)
        plan = self.scene().plan()
        for number in plan.to_cancel:
            assert self.book[number].standing is RESTING
            self.book[number] = replace(self.book[number], standing=RETURNING)
        for number in plan.to_submit:
            assert self.book[number].standing is WAITING
            assert number not in self.moved_back, "canceled for nothing"
            self.book[number] = replace(self.book[number], standing=FIXED)
        self.submitting.update(plan.to_submit)
        self.moved_back.update(plan.to_cancel)
        after = over(self.scene().held(), self.caps)
        assert all(count <= before.get(name, 0) for name, count in after.items())
        return plan

    def teardown(self) -> None:
        """Left alone, with all answers in, the book comes to rest after two rebalances at most."""
        for _ in range(3):
            self._all_answers()
            if self._rebalance() == BookPlan():
                break
        else:
            raise AssertionError("restless")
        end = self.scene()
        best = deserving(end)
        assert best <= end.resting()
        assert end.is_over() or best == end.resting()

    def _all_answers(self) -> None:
        while self.submitting:
            self._answer(0)
        for number, order in list(self.book.items()):
            if order.standing is RETURNING:
                self.book[number] = replace(order, standing=WAITING)
            elif order.standing is LEAVING:
                del self.book[number]


TestBookLife = BookLife.TestCase
TestBookLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
