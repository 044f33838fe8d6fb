"""The loss guards: what strategy accounts earned, what trips, who resumes it.

Looked at when an order is checked and by a sweep twice a minute. A trip is written once, whoever notices it
first: its row, its line in the log, its alert.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import IntegrityError, transaction
from django.db.models import OuterRef, Q, Subquery

from exchanges.models import LastPrice
from orders import config, events
from orders.clock import database_now
from orders.models import (
    EventSource,
    EventType,
    LossKind,
    LossTrip,
    OrderEvent,
    ProfitPeak,
    StrategyAccount,
    StrategyPosition,
    TradeExecution,
)
from orders.risk import BookKey, Guards, Loss, Money, day_begins, losses

logger = logging.getLogger(__name__)

ZERO = Decimal(0)
AT_ONCE = 500  # strategy accounts that one round of the sweep reads


@dataclass(frozen=True, slots=True)
class Held:
    """A position, flat ones too: they keep what they earned."""

    key: BookKey
    quantity: Decimal
    average_price: Decimal | None
    realized_pnl: Decimal
    last_price: Decimal | None

    @property
    def profit(self) -> Decimal:
        """Realized and unrealized, before fees. Without a known price a position stands at its entry."""
        if self.average_price is None or self.last_price is None:
            return self.realized_pnl
        return self.realized_pnl + (self.last_price - self.average_price) * self.quantity


def positions_read(strategy_account_ids: Collection[int]) -> list[Held]:
    """Read the positions of strategy accounts with their last prices: one query."""
    price = LastPrice.objects.filter(
        exchange=OuterRef("account__exchange"),
        environment=OuterRef("account__environment"),
        market_type=OuterRef("market_type"),
        symbol=OuterRef("symbol"),
    ).values("price")[:1]
    rows = StrategyPosition.objects.filter(strategy_account_id__in=strategy_account_ids)
    columns = rows.annotate(last=Subquery(price)).values_list(
        "strategy_account_id", "market_type", "symbol", "quantity", "average_price", "realized_pnl", "last"
    )
    return [Held((pk, market, symbol), *rest) for pk, market, symbol, *rest in columns]


def money_read(guards: Iterable[Guards], held: Iterable[Held], *, now: datetime) -> dict[int, Money]:
    """Return what the loss guards judge by: one query for the day's fills, one for the peaks.

    Only for those that have such a guard; nothing is asked where none has. Sums are made here and not in
    SQL, which would compute in floating point on SQLite: the fills of one day are read.
    """
    some = {one.strategy_account_id: one for one in guards if one.needs_money}
    results = _day_results([one for one in some.values() if one.daily_loss is not None], now)
    falling = {pk for pk, one in some.items() if one.drawdown_percent is not None}
    profits: dict[int, Decimal] = dict.fromkeys(falling, ZERO)
    for row in held:
        if row.key[0] in falling:
            profits[row.key[0]] += row.profit
    peaks = (
        dict(ProfitPeak.objects.filter(pk__in=falling).values_list("strategy_account_id", "profit"))
        if falling
        else {}
    )
    return {
        pk: Money(
            results.get(pk),
            profits.get(pk),
            # An account without a peak began at its capital.
            max(peaks.get(pk, ZERO), profits.get(pk, ZERO)) if pk in falling else ZERO,
        )
        for pk in some
    }


def _day_results(guards: Collection[Guards], now: datetime) -> dict[int, Decimal]:
    """Return realized profit since each one's midnight, less the fees that were taken in the quote asset."""
    begins = {one.strategy_account_id: day_begins(one.time_zone, now) for one in guards}
    if not begins:
        return {}
    since = Q(pk__in=())
    for midnight in set(begins.values()):
        ids = [pk for pk, began in begins.items() if began == midnight]
        since |= Q(strategy_account_id__in=ids, executed_at__gte=midnight)
    sums: dict[int, Decimal] = dict.fromkeys(begins, ZERO)
    rows = TradeExecution.objects.filter(since).values_list(
        "strategy_account_id", "symbol", "realized_pnl", "fee", "fee_asset"
    )
    for pk, symbol, realized, fee, asset in rows:
        sums[pk] += realized - (fee if asset == symbol.partition("/")[2] else ZERO)
    return sums


# --- tripping -------------------------------------------------------------------------------------


def trips_record(guards: Iterable[Guards], money: Mapping[int, Money], *, now: datetime) -> int:
    """Write down new peaks, and what has tripped and was not known; return how many tripped.

    Not in the transaction that claims orders: a trip changes the configuration's version, on which that
    transaction's writes depend. Should the process die in between, the next look finds the same.
    """
    count = 0
    for one in guards:
        mine = money.get(one.strategy_account_id)
        if mine is None:
            continue
        _peak_raise(one, mine, now)
        known = {trip.kind for trip in one.trips if trip.holds(now)}
        for found in losses(one, mine, now):
            if found.kind not in known:
                count += _trip(one, found, now)
    return count


def _peak_raise(guards: Guards, money: Money, now: datetime) -> None:
    if money.profit is None or money.profit < money.peak or money.peak <= 0:
        return
    with transaction.atomic():
        row, made = ProfitPeak.objects.select_for_update().get_or_create(
            pk=guards.strategy_account_id, defaults={"profit": money.peak, "seen_at": now}
        )
        if not made and row.profit < money.peak:
            row.profit, row.seen_at = money.peak, now
            row.save(update_fields=["profit", "seen_at"])


def _trip(guards: Guards, found: Loss, now: datetime) -> bool:
    """Write one trip, its event and its fact; False where another process was faster."""
    row = StrategyAccount.objects.select_related("strategy").filter(pk=guards.strategy_account_id).first()
    if row is None:
        return False
    try:
        with transaction.atomic():
            trip = LossTrip.objects.create(
                strategy_account=row,
                kind=found.kind,
                day=found.day,
                limit=found.limit,
                value=found.value,
                reason=found.reason,
                tripped_at=now,
                ends_at=found.ends_at,
                alert_sent=events.alerts_enabled(),
            )
            _log(row, found.reason, now, trip=trip, source=EventSource.GUARD)
            events.publish(events.GuardTripped(trip.pk))
    except IntegrityError:
        return False
    logger.warning("Guard of %s · %s: %s", guards.strategy, guards.account, found.reason)
    return True


def losses_sweep(*, now: datetime | None = None) -> int:
    """Look at every strategy account with a loss guard; return how many guards tripped."""
    now = now or database_now()
    rows = StrategyAccount.objects.filter(
        Q(daily_loss_limit__isnull=False) | Q(max_drawdown_percent__isnull=False)
    )
    ids = list(rows.order_by("pk").values_list("pk", flat=True))
    tripped = 0
    for start in range(0, len(ids), AT_ONCE):
        portion = config.guards_read(ids[start : start + AT_ONCE])
        held = positions_read(list(portion))
        money = money_read(portion.values(), held, now=now)
        tripped += trips_record(portion.values(), money, now=now)
    return tripped


# --- resuming -------------------------------------------------------------------------------------


def drawdowns_resume(
    *, strategy_account_ids: Collection[int], by: str, reason: str, user_id: int | None = None
) -> int:
    """Let strategy accounts open positions again after a drawdown; return how many were stopped by one.

    Their peak begins anew where they stand now: else the same fall would stop them at once. A daily loss
    is not resumed: it ends with its day.
    """
    now = database_now()
    profits: dict[int, Decimal] = defaultdict(Decimal)
    for held in positions_read(strategy_account_ids):
        profits[held.key[0]] += held.profit
    with transaction.atomic():
        trips = list(
            LossTrip.objects.select_for_update(of=("self",))
            .filter(
                strategy_account_id__in=strategy_account_ids,
                kind=LossKind.DRAWDOWN,
                resumed_at__isnull=True,
            )
            .select_related("strategy_account__strategy", "strategy_account__account")
            .order_by("pk")
        )
        for trip in trips:
            row = trip.strategy_account
            trip.resumed_at, trip.resumed_by, trip.resumed_by_user_id = now, by[:150], user_id
            trip.resume_reason = reason[:200]
            trip.save(update_fields=["resumed_at", "resumed_by", "resumed_by_user", "resume_reason"])
            ProfitPeak.objects.update_or_create(
                pk=row.pk, defaults={"profit": profits[row.pk], "seen_at": now}
            )
            message = f"Resumed after a drawdown of {trip.value.normalize():f} %"
            _log(row, message, now, trip=trip, source=EventSource.OPERATOR, by=by, reason=reason)
    return len(trips)


def _log(
    row: StrategyAccount, message: str, now: datetime, *, trip: LossTrip, source: str, **data: str
) -> None:
    OrderEvent.objects.create(
        type=EventType.GUARD,
        source=source,
        user_id=row.strategy.user_id,
        account_id=row.account_id,
        strategy_account_id=row.pk,
        message=message[:500],
        data={"trip_id": trip.pk, "kind": trip.kind, **data},
        created_at=now,
    )
    events.publish(events.EventsLogged())
