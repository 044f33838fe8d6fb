"""How often an account may be compared with its exchange, and with which question.

All accounts of one address draw on one budget of request weight. Orders and cancels go first and the rest
may use half of it (`exchanges.adapters.limits`); of that half reconciling plans with four fifths, so that
fills and unknown orders can be asked for. While that is plenty, an account's whole list is fetched each
time. When it is not, the symbols that matter are asked for one by one, which costs a fraction, the whole
list comes as often as a quarter of the budget allows, and intervals stretch.

Each process computes this by itself from the number of accounts there are: nothing has to be agreed on,
and what the exchange counts (the usage headers) holds everybody back where that was too much.

Units: weight per minute as the exchange counts it; seconds.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from django.conf import settings
from django.db.models import Count

from exchanges.adapters.base import ListCost
from exchanges.models import Account
from tracking.models import OrderTrackingSession
from tracking.watch import Source, StreamKey

PLANNED_SHARE = 0.5 * 0.8  # of the address's weight
WHOLE_SHARE = 0.25  # of that, for whole lists where the others are asked for by symbol
COUNT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Pace:
    """One run: `symbols` to ask for one by one, None for the whole list; no sooner again than `seconds`."""

    symbols: tuple[str, ...] | None
    seconds: float


class Pacer:
    """Remembers when each account's whole list was fetched by this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._whole_at: dict[StreamKey, float] = {}
        self._counts: dict[Source, int] = {}
        self._counted_at = float("-inf")

    def pace(
        self,
        key: StreamKey,
        account: Account,
        cost: ListCost | None,
        symbols_that_matter: Callable[[], Collection[str]],
    ) -> Pace:
        """Say how this run asks. `symbols_that_matter` is only called where the budget is short."""
        if cost is None:
            return Pace(None, 0.0)
        accounts = self._accounts((account.exchange, account.environment, key.market_type))
        budget = cost.per_minute / 60 * PLANNED_SHARE
        soonest = settings.RECONCILE_DOWN_SECONDS
        if accounts * cost.whole <= budget * soonest:
            return Pace(None, 0.0)
        symbols = symbols_that_matter()
        each = min(cost.whole, cost.symbol * max(1, len(symbols)))
        if each == cost.whole:
            return Pace(None, accounts * cost.whole / budget)
        between = accounts * cost.whole / (budget * WHOLE_SHARE)
        if self._is_whole_due(key, between):
            return Pace(None, accounts * each / (budget * (1 - WHOLE_SHARE)))
        return Pace(tuple(sorted(symbols)), accounts * each / (budget * (1 - WHOLE_SHARE)))

    def _is_whole_due(self, key: StreamKey, between: float) -> bool:
        now = time.monotonic()
        with self._lock:
            # Not all accounts at once when a process starts with hundreds of them.
            last = self._whole_at.setdefault(key, now - random.random() * between)
            return now - last >= between

    def fetched_whole(self, key: StreamKey) -> None:
        """Note that the whole list is here. Not before: a run that failed has to ask for it again."""
        with self._lock:
            self._whole_at[key] = time.monotonic()

    def _accounts(self, source: Source) -> int:
        """Return how many accounts draw on the same budget; counted anew every few minutes."""
        now = time.monotonic()
        if now - self._counted_at > COUNT_SECONDS:
            names = ("account__exchange", "account__environment", "market_type")
            rows = OrderTrackingSession.objects.filter(account__is_active=True).values_list(*names)
            self._counts = {(one, two, three): count for one, two, three, count in rows.annotate(Count("pk"))}
            self._counted_at = now
        return max(1, self._counts.get(source, 1))

    def forget(self) -> None:
        self._counted_at = float("-inf")
        self._whole_at.clear()


pacer = Pacer()
