"""What the exchange says of our orders, applied to our records: the one way in for every report.

An answer to a submission, a stream message, a query of the resolver: all of it becomes `Outcome`s and
goes through `outcomes_apply`. It is idempotent and does not depend on the order of delivery; any number
of outcomes cost the same number of queries. No network here, and no book lock.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction

from exchanges.adapters.exceptions import (
    DuplicateClientOrderId,
    ErrorType,
    ExchangeError,
    OutcomeUnknown,
    RefusedForNow,
    RequestRefused,
)
from exchanges.adapters.types import VENUE_CLOSED, OrderReport, OrderType, VenueOrderStatus
from exchanges.fields import plain
from orders import events, locks
from orders.models import (
    CancelReason,
    EventSource,
    EventType,
    FailedStatus,
    Home,
    OpenOrder,
    Placement,
    PlacementOutcome,
)
from orders.models.open_order import MOVED_BACK
from orders.planning import priority_of
from orders.services import failures, ledger
from orders.services.applied import FORGOTTEN, Applied, FullLane, NeverPlaced, Outcome, Stopped
from orders.services.late_reports import FRESHLY_FETCHED, LateReports
from orders.services.matching import Reports, placement_named, placements_named
from orders.services.putting_off import PutOff, put_off
from orders.services.settled_rows import ASK_SOON
from orders.services.waiting import pending_for
from orders.states import RESTING, OrderStatus, may_follow

logger = logging.getLogger(__name__)

CANCEL_ARRIVES_WITHIN = timedelta(minutes=1)


def apply_reports(
    *,
    account_id: int,
    market_type: str,
    reports: Sequence[OrderReport],
    source: str,
    now: datetime,
    wait_seconds: float | None = None,
    asked_at: datetime | None = None,
) -> Applied:
    """Apply reports of one account and market, in the order given; see `outcomes_apply`.

    Reports that name no placement of ours come back in `unmatched`. `wait_seconds`: no longer for any lock,
    on PostgreSQL; it raises OperationalError when that is not enough. `asked_at`: when the exchange was asked
    (database clock), where they are its answers: they know nothing of what came later.
    """
    batch = Reports(account_id, market_type, reports)
    return apply_reports_together(
        [batch], source=source, now=now, wait_seconds=wait_seconds, asked_at=asked_at
    )[0]


def apply_reports_together(
    batches: Sequence[Reports],
    *,
    source: str,
    now: datetime,
    wait_seconds: float | None = None,
    asked_at: datetime | None = None,
) -> list[Applied]:
    """Apply reports of several accounts in one transaction; the answers come batch by batch.

    It costs the queries of one account. All or nothing: what one batch runs into keeps the others from being
    written down, so the caller applies them one by one then. No two batches of one account and market.
    """
    found = placements_named(batches)
    groups: list[list[Outcome]] = []
    unmatched: list[list[OrderReport]] = []
    for batch in batches:
        outcomes: list[Outcome] = []
        strange: list[OrderReport] = []
        for report in batch.reports:
            placement_id = placement_named(found, batch, report)
            if placement_id is None:
                strange.append(report)
            else:
                outcomes.append(Outcome(placement_id, report))
        groups.append(outcomes)
        unmatched.append(strange)
    results = _settle(groups, source=source, now=now, wait_seconds=wait_seconds, asked_at=asked_at)
    for applied, strange in zip(results, unmatched, strict=True):
        applied.unmatched = strange
    return results


def never_placed(*, placement_ids: Iterable[int], source: str, now: datetime, reason: str) -> Applied:
    """Settle placements that are proven never to have been placed."""
    return outcomes_apply([Outcome(pk, NeverPlaced(reason)) for pk in placement_ids], source=source, now=now)


def outcomes_apply(
    outcomes: Sequence[Outcome],
    *,
    source: str,
    now: datetime,
    in_memory: Mapping[int, Placement] | None = None,
) -> Applied:
    """Apply outcomes to intents, placements, open orders and the ledger in one transaction.

    `in_memory`: placements as the caller has just written them, with intent, delivery and open order.
    Those that nobody touched since (it is looked up under the lock) need not be read again.
    """
    return _settle([outcomes], source=source, now=now, in_memory=in_memory)[0]


def _settle(
    groups: Sequence[Sequence[Outcome]],
    *,
    source: str,
    now: datetime,
    in_memory: Mapping[int, Placement] | None = None,
    wait_seconds: float | None = None,
    asked_at: datetime | None = None,
) -> list[Applied]:
    """Apply groups of outcomes in one transaction. No intent is in two of them."""
    outcomes = [outcome for group in groups for outcome in group]
    if not outcomes:
        return [Applied() for _ in groups]
    with transaction.atomic():
        if wait_seconds is not None:
            locks.wait_at_most(wait_seconds)
        work = _Work.load(outcomes, source=source, now=now, in_memory=in_memory or {})
        work.asked_at = asked_at
        for group in groups:
            work.begin_part()
            for outcome in group:
                work.apply(outcome)
        work.write()
    return work.parts


@dataclass(slots=True)
class _Work(LateReports):
    """What each outcome does to the rows."""

    # --- one outcome ------------------------------------------------------------------------------

    def apply(self, outcome: Outcome) -> None:
        placement = self.placements.get(outcome.placement_id)
        if placement is None:
            return
        self.applied.placements[placement.pk] = placement
        if (failure := self.failed.get(placement.intent_id)) is not None:
            self.applied.failed[placement.intent_id] = failure  # recorded by somebody faster
        result = outcome.result
        if isinstance(result, OrderReport):
            self._apply_report(placement, result)
        elif isinstance(result, NeverPlaced | Stopped):
            self._apply_never_placed(placement, result)
        elif isinstance(result, OutcomeUnknown | DuplicateClientOrderId):
            self._apply_unknown(placement, result)
        else:
            self._apply_refusal(placement, result)

    def _apply_unknown(self, placement: Placement, error: ExchangeError) -> None:
        """Nobody knows: the order keeps its state, and the resolver asks soon."""
        order = self.open_orders.get(placement.pk)
        if placement.outcome != PlacementOutcome.UNRESOLVED or order is None:
            return
        order.ask_at = self.now + ASK_SOON
        self._touch(placement, order)
        self._event(placement, EventType.UNKNOWN, message=error.message, code=error.venue_code)

    def _apply_refusal(self, placement: Placement, error: ExchangeError) -> None:
        """Nothing was done there: the answer proves it, or we never sent it."""
        order = self.open_orders.get(placement.pk)
        if placement.outcome != PlacementOutcome.UNRESOLVED or order is None:
            return  # settled by somebody else meanwhile
        placement.outcome = PlacementOutcome.NEVER_PLACED
        placement.exchange_words = error.message[:500]
        self.touched_placements[placement.pk] = placement
        intent = placement.intent
        if self._nothing_is_left(placement, order):
            return
        back = self._put_off_for(placement, error) if intent.is_queued else None
        if intent.is_queued and isinstance(error, RefusedForNow):
            intent.retry_count += 1
        elif back is None and isinstance(error, RequestRefused):
            self._count_try(placement)
        if back is not None:
            self._put_off(placement, order, back)
            return
        self._end(placement, order, EventType.REJECTED, Home.FAILED, after=OrderStatus.REJECTED)
        self._fail(intent, failures.from_error(intent, error, now=self.now))

    def _nothing_is_left(self, placement: Placement, order: OpenOrder) -> bool:
        """End what was not placed and need not be: canceled, or filled by an earlier placement."""
        intent = placement.intent
        if intent.remaining_quantity <= 0:
            self._filled(placement, order)
        elif intent.cancel_requested:
            self._end(placement, order, EventType.CANCELED, Home.DONE, after=OrderStatus.CANCELED)
        else:
            return False
        return True

    def _filled(self, placement: Placement, order: OpenOrder, report: OrderReport | None = None) -> None:
        self._end(placement, order, EventType.FILLED, Home.DONE, after=OrderStatus.FILLED, report=report)
        self.facts.append(events.OrderFilled(placement.intent_id))

    def _put_off_for(self, placement: Placement, error: ExchangeError) -> PutOff | None:
        tries = placement.intent.retry_count
        return put_off(error, tries=tries, jitter=random.random(), attempts=placement.number)

    def _put_off(self, placement: Placement, order: OpenOrder, back: PutOff) -> None:
        """Refused for now, or never sent: it waits in the queue for its next turn."""
        if back.is_full:
            priority = priority_of(OrderType(placement.intent.order_type))
            self.applied.full_lanes.add(FullLane(order.book_id, priority, back.is_account_full))
        waits_until = self.now + back.wait if back.wait else None
        self._requeue(
            placement,
            order,
            reason=back.reason,
            waits_until=waits_until,
            is_retry=placement.is_retry,
            frees=not back.is_full,  # it never had a slot there: nobody else has one for it
        )

    def _requeue(
        self,
        placement: Placement,
        order: OpenOrder,
        *,
        reason: str = "",
        waits_until: datetime | None = None,
        report: OrderReport | None = None,
        is_retry: bool = False,
        frees: bool = True,
    ) -> None:
        """Move an intent home to the queue with what is left of it; the slot is free.

        Only where its placement has surely ended and every fill of it is booked.
        """
        intent = placement.intent
        kind, after = EventType.QUEUED, OrderStatus.CANCELED
        self._end(placement, order, kind, Home.QUEUE, after=after, report=report, frees=frees)
        self.log[-1].after, self.log[-1].message = "", reason[:500]
        if waits_until is not None:
            self.log[-1].data["waits_until"] = waits_until.isoformat()
        pending = pending_for(
            intent,
            account_id=placement.account_id,
            now=self.now,
            waits_until=waits_until,
            reason=reason,
            is_retry=is_retry,
        )
        self.new_pending[intent.pk] = self.applied.queued[intent.pk] = pending

    def _apply_never_placed(self, placement: Placement, proof: NeverPlaced | Stopped) -> None:
        order = self.open_orders.get(placement.pk)
        if placement.outcome == PlacementOutcome.PLACED or order is None:
            return
        intent = placement.intent
        placement.outcome = PlacementOutcome.NEVER_PLACED
        placement.exchange_words = proof.reason[:500]
        self.touched_placements[placement.pk] = placement
        if self._nothing_is_left(placement, order):
            return
        if intent.is_queued:
            self._requeue(placement, order, reason=proof.reason, is_retry=placement.is_retry)
        elif isinstance(proof, Stopped):
            self._end(placement, order, EventType.REJECTED, Home.FAILED, after=OrderStatus.REJECTED)
            self._fail(intent, failures.denied_here(intent, proof.reason, ErrorType.RISK_LIMIT, now=self.now))
        elif failures.may_place_anew(intent):
            # Its process died before the webhook was answered: the signal is still to be carried out.
            self.applied.to_place_anew.append(intent.pk)
            self._event(placement, EventType.UNKNOWN, message=proof.reason)
        else:
            self._end(placement, order, EventType.REJECTED, Home.FAILED, after=OrderStatus.REJECTED)
            self._fail(intent, failures.never_placed(intent, proof.reason, now=self.now))

    def _apply_report(self, placement: Placement, report: OrderReport) -> None:
        child = _child_of(placement, report)
        if (report.triggered or child) and not placement.child_order_id:  # told again with every later look
            self._event(placement, EventType.TRIGGERED, report=report)
        self._adopt_ids(placement, report)
        fresh = self._book_fills(placement, report)
        before_said = placement.exchange_status
        said = self._word_of(placement, report)
        order = self.open_orders.get(placement.pk)
        if order is None:
            self._apply_late(placement, report, fresh=fresh, before_said=before_said)
        elif said in VENUE_CLOSED:
            self._finish_or_wait(placement, order, report)
        else:
            self._apply_live(placement, order, report, fresh=fresh)
        if placement.has_gap and placement.pk not in self.applied.gaps:
            self.applied.gaps.append(placement.pk)
        elif not placement.has_gap and placement.pk in self.applied.gaps:
            self.applied.gaps.remove(placement.pk)

    def _count_try(self, placement: Placement) -> None:
        """Count a person's retry that the exchange has answered; what never reached it costs no try."""
        if placement.is_retry:
            placement.intent.retry_count += 1
            self.touched_intents[placement.intent_id] = placement.intent

    def _adopt_ids(self, placement: Placement, report: OrderReport) -> None:
        self.touched_placements[placement.pk] = placement
        if placement.outcome == PlacementOutcome.UNRESOLVED:
            self._count_try(placement)
        child = _child_of(placement, report)
        placement.child_order_id = child or placement.child_order_id
        if report.exchange_order_id and report.exchange_order_id != child:
            placement.exchange_order_id = placement.exchange_order_id or report.exchange_order_id
        if report.status is not VenueOrderStatus.REJECTED:
            placement.outcome = PlacementOutcome.PLACED
        elif placement.outcome == PlacementOutcome.UNRESOLVED:
            placement.outcome = PlacementOutcome.NEVER_PLACED
        if report.reason:
            placement.exchange_words = report.reason[:500]

    def _book_fills(self, placement: Placement, report: OrderReport) -> int:
        """Take in the fills that we do not have yet; return how many."""
        known = self.booked[placement.pk]
        fresh, before = 0, placement.filled_quantity
        for fill in report.fills:
            if fill.trade_id in known:
                continue  # whatever order id it came under: a triggered stop has two
            known.add(fill.trade_id)
            fresh += 1
            order_id = fill.exchange_order_id or report.exchange_order_id or placement.exchange_order_id
            self.fills.append(ledger.NewFill(placement, fill, order_id))
            placement.filled_quantity += fill.quantity
            placement.intent.filled_quantity += fill.quantity
            self.touched_intents[placement.intent_id] = placement.intent
        if placement.filled_quantity > placement.quantity >= before:
            # Somebody made the order larger over there. What was traded counts; nobody must overlook it.
            logger.error("More of %s was filled than asked for", placement.client_order_id)
            words = f"Filled {plain(placement.filled_quantity)}, asked for {plain(placement.quantity)}"
            self._event(placement, EventType.IMPOSSIBLE_REPORT, report=report, message=words)
        return fresh

    def _word_of(self, placement: Placement, report: OrderReport) -> str:
        """Keep what the exchange says: quantities only grow, and its last word stays the last.

        But for one: what it answers of an order that has ended there is final, whatever a message said.
        """
        said_before = placement.exchange_filled_quantity
        counted = max(report.filled_quantity or Decimal(0), placement.filled_quantity)
        if not self._is_final(report):
            counted = max(counted, said_before)
        if report.status is VenueOrderStatus.FILLED and report.filled_quantity is None:
            counted = max(counted, placement.quantity)  # it does not say how much: all of it
        placement.exchange_filled_quantity = counted
        if placement.exchange_status not in VENUE_CLOSED or counted < said_before:
            # Finished is judged by quantities as well as by the exchange's word.
            full = counted >= max(placement.quantity, report.quantity or 0)  # made larger over there
            placement.exchange_status = (VenueOrderStatus.FILLED if full else report.status).value
        return placement.exchange_status

    def _is_final(self, report: OrderReport) -> bool:
        has_ended = report.status in VENUE_CLOSED and (not report.conditional or report.child_order_id)
        asked = self.source in FRESHLY_FETCHED and report.reason != FORGOTTEN
        return bool(has_ended) and asked and report.filled_quantity is not None

    def _apply_live(self, placement: Placement, order: OpenOrder, report: OrderReport, *, fresh: int) -> None:
        target = OrderStatus.PARTIALLY_FILLED if placement.exchange_filled_quantity else OrderStatus.NEW
        if order.status == OrderStatus.CANCELING:
            self._still_canceling(placement, order, target, report)
        elif order.status != target and may_follow(order.status, target):
            accepted = order.status == OrderStatus.SUBMITTING and target == OrderStatus.NEW
            kind = EventType.ACCEPTED if accepted else EventType.PARTIALLY_FILLED
            self._move(placement, order, target, kind, report)
            if placement.intent.cancel_requested:
                self.applied.to_cancel.append(placement.intent_id)
        elif fresh:
            self._event(placement, EventType.PARTIALLY_FILLED, report=report)
        self._look_for_surplus(placement, order)

    def _look_for_surplus(self, placement: Placement, order: OpenOrder) -> None:
        """An earlier placement has filled since: what rests would buy that part twice."""
        intent = placement.intent
        surplus = placement.remaining_quantity > intent.remaining_quantity
        if surplus and order.status in RESTING and not intent.cancel_requested:
            self.applied.to_shrink.append(intent.pk)

    def _still_canceling(
        self, placement: Placement, order: OpenOrder, target: OrderStatus, report: OrderReport
    ) -> None:
        """A live report while a cancel is on its way means something only when we asked just now."""
        if self.source not in FRESHLY_FETCHED:
            if report.fills:
                self._event(placement, EventType.PARTIALLY_FILLED, report=report)
            return
        if order.cancel_reason == CancelReason.REQUESTED:
            self.applied.to_cancel.append(placement.intent_id)
        else:
            self._move(placement, order, target, EventType.LIVE_AGAIN, report)

    def _finish_or_wait(self, placement: Placement, order: OpenOrder, report: OrderReport) -> None:
        if placement.has_gap:
            # It is over there, but we do not have all its fills: it ends when they are booked.
            if order.status == OrderStatus.SUBMITTING:
                kind = EventType.ACCEPTED
                self._move(placement, order, OrderStatus.NEW, kind, report)
            order.ask_at = order.ask_at or self.now + ASK_SOON  # who asks already waits longer each time
            self._touch(placement, order)
            return
        intent = placement.intent
        status = OrderStatus(placement.exchange_status)
        kind = EventType(status.value)
        if intent.remaining_quantity == 0 or status == OrderStatus.FILLED:
            self._filled(placement, order, report)
        elif intent.cancel_requested or (intent.order_type == "MARKET" and intent.filled_quantity > 0):
            self._end(placement, order, kind, Home.DONE, after=status, report=report)
        elif self._was_moved_back(placement, order, status):
            if self.source in FRESHLY_FETCHED and report.status not in VENUE_CLOSED:
                self._lives_by_an_answer(placement, order, report)
                return
            is_told = report.filled_quantity is not None and report.triggered is not None
            if not is_told and self.source not in FRESHLY_FETCHED:
                # Not a word about what had filled by then, or whether it had triggered: ask before it waits.
                order.ask_at = self.now
                self._touch(placement, order)
                return
            self._requeue(placement, order, report=report)
        else:
            is_canceled = status == OrderStatus.CANCELED
            was_ours = placement.has_triggered and is_canceled and self._is_moved_back(order)
            self._end(placement, order, kind, Home.FAILED, after=status, report=report)
            words = placement.exchange_words
            failed = failures.ended_there(intent, FailedStatus(status.value.lower()), words, now=self.now)
            if was_ours:
                failed.reason = failures.TRIGGERED_MEANWHILE
            self._fail(intent, failed)

    def _was_moved_back(self, placement: Placement, order: OpenOrder, status: OrderStatus) -> bool:
        intent = placement.intent
        if placement.has_triggered:
            return False  # it had triggered: it must not wait for its price once more
        if placement.exchange_words == FORGOTTEN:
            return False  # nobody has said that it ended: what goes back is placed again
        return self._is_moved_back(order) and intent.is_queued and status == OrderStatus.CANCELED

    def _is_moved_back(self, order: OpenOrder) -> bool:
        """Tell whether a cancel that ends it now may be ours. Its reason stays when it is found alive."""
        return order.cancel_reason in MOVED_BACK and (
            order.status == OrderStatus.CANCELING
            # Found alive just now, while its cancel was still on its way: a limiter may hold one for long.
            or self.source == EventSource.ANSWER
            or self.now - order.updated_at < CANCEL_ARRIVES_WITHIN
        )

    def _lives_by_an_answer(self, placement: Placement, order: OpenOrder, report: OrderReport) -> None:
        """Its end was told by a message, and an answer does not know of it: it lags behind, at first."""
        if self.is_old_news(order.updated_at):
            order.ask_at = self.now + ASK_SOON  # what it had filled, whether it had triggered: not known yet
            self._touch(placement, order)
        else:
            placement.exchange_status = report.status.value
            self._apply_live(placement, order, report, fresh=0)


def _child_of(placement: Placement, report: OrderReport) -> str:
    """Return the number of the order that a stop has become, where a report tells it.

    A triggered stop may be listed as a plain order under our id, without a word about where it came from.
    """
    if report.child_order_id or report.conditional or not placement.intent.is_stop:
        return report.child_order_id
    is_another = report.exchange_order_id != placement.exchange_order_id
    return report.exchange_order_id if is_another else ""
