"""Reports about orders that have ended here: fills count, and what lives all the same is dealt with."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from exchanges.adapters.types import VENUE_CLOSED, OrderReport
from orders.models import EventSource, EventType, Home, OpenOrder, Placement
from orders.services.applied import FORGOTTEN
from orders.services.settled_rows import Rows
from orders.states import OrderStatus

logger = logging.getLogger(__name__)

FRESHLY_FETCHED = frozenset({EventSource.RECONCILIATION, EventSource.RESOLVER})
ANSWERS_ARE_OLD_FOR = timedelta(minutes=1)  # at most: what an exchange answers may lag behind its streams


@dataclass(slots=True)
class LateReports(Rows):
    def is_old_news(self, ended_at: datetime) -> bool:
        """Tell whether an answer that knows nothing of an end may be from before it."""
        return (self.asked_at or self.now) - ended_at < ANSWERS_ARE_OLD_FOR

    def _apply_late(self, placement: Placement, report: OrderReport, *, fresh: int, before_said: str) -> None:
        """A report about an order that has ended here. Fills count; it re-opens nothing by itself."""
        intent, was_told = placement.intent, False
        if fresh:
            self._event(placement, EventType.LATE_FILL, report=report)
            self._shrink_failed(intent)
            if intent.home == Home.EXCHANGE:
                self.applied.to_shrink.append(intent.pk)  # its next placement asks for what was left before
            elif intent.home == Home.QUEUE and intent.remaining_quantity == 0:
                self._leave_queue(intent)
                self._home(intent, Home.DONE)
            if report.status in VENUE_CLOSED:
                return
            if self.source not in FRESHLY_FETCHED:
                if before_said not in VENUE_CLOSED:  # taken for never placed, and the rest of it may live
                    self.applied.doubted.append(placement.pk)
                return
        if report.status in VENUE_CLOSED:
            contradicts = before_said in VENUE_CLOSED and before_said != report.status
            if contradicts and not placement.has_gap:
                self._impossible(placement, report, before_said)
            return
        if before_said in VENUE_CLOSED:
            if self.source not in FRESHLY_FETCHED:
                return  # an old message, overtaken by the end
            was_told = placement.exchange_words != FORGOTTEN  # else its end was our conclusion
            if was_told and self.is_old_news(intent.updated_at):
                return
            placement.exchange_status, placement.exchange_words = report.status.value, ""
        if self.source in FRESHLY_FETCHED and intent.home != Home.EXCHANGE and intent.remaining_quantity > 0:
            if was_told:
                self._impossible(placement, report, before_said)
            self._adopt_order(placement, report)
        else:  # among them: alive although its successor was placed, which must never be quiet
            self._impossible(placement, report, before_said or placement.outcome)
            if self.source in FRESHLY_FETCHED:
                self.applied.strays.append(placement.pk)
            else:  # a message may be old: whoever follows the account asks
                self.applied.doubted.append(placement.pk)

    def _adopt_order(self, placement: Placement, report: OrderReport) -> None:
        """We took it for dead, the exchange has it alive: the exchange is the truth about what exists."""
        intent = placement.intent
        status = OrderStatus.PARTIALLY_FILLED if placement.exchange_filled_quantity else OrderStatus.NEW
        order = OpenOrder(
            intent=intent,
            placement=placement,
            account_id=placement.account_id,
            strategy_account_id=intent.strategy_account_id,
            book_id=intent.book_id,
            status=status,
            submitted_at=placement.created_at,
            updated_at=self.now,
        )
        self.open_orders[placement.pk] = order
        self.adopted[placement.pk] = order
        self._heal_failed(intent)
        self._leave_queue(intent)
        self._home(intent, Home.EXCHANGE)
        self._event(placement, EventType.LIVE_AGAIN, after=status, report=report)
        if intent.cancel_requested:
            self.applied.to_cancel.append(intent.pk)

    def _impossible(self, placement: Placement, report: OrderReport, before: str) -> None:
        logger.error(
            "Report %s for %s cannot follow %s: kept, and by itself it changes nothing",
            report.status,
            placement.client_order_id,
            before,
        )
        self._event(placement, EventType.IMPOSSIBLE_REPORT, before=before, after=report.status, report=report)
        self.log[-1].data["raw"] = json.loads(json.dumps(report.raw, default=str))
