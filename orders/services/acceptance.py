"""The one short transaction before anything is sent: the delivery and all its intents, or nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from operator import or_
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from ulid import ULID

from exchanges.adapters.exceptions import ErrorType
from exchanges.adapters.types import MarketType, OrderType, Side
from exchanges.models import Account
from orders import events, locks
from orders.config import StrategyConfig
from orders.models import (
    Book,
    EventSource,
    EventType,
    ExecutionMode,
    FailedOrder,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Placement,
    StrategyPosition,
    WebhookDelivery,
)
from orders.planning import LANE_OF
from orders.services import failures, guards, submission
from orders.services.cancellation import cancels_mark
from orders.services.claims import Claim, Fresh, lockable, queued_event
from orders.services.ledger import base_fees
from orders.services.waiting import pending_for
from orders.sizing import SizingError, closing_quantity
from orders.webhook.planning import CancelPair, ConfigChanged, Pair, Plan, fit_pair
from orders.writes import Writes, draw_keys

BookKey = tuple[int, str, str]  # account id, market type, symbol
_book_ids: dict[BookKey, int] = {}  # books are never deleted


class AlreadyDelivered(Exception):
    """The same payload came within the strategy's dedupe window, a moment ago."""

    def __init__(self, delivery_id: int) -> None:
        super().__init__(delivery_id)
        self.delivery_id = delivery_id


@dataclass(slots=True)
class Accepted:
    """What the transaction made, for sending and for the answer."""

    delivery: WebhookDelivery
    planned_at: datetime  # database clock
    intents: list[OrderIntent] = field(default_factory=list)
    account_ids: list[int] = field(default_factory=list)  # of each intent
    placements: list[Placement] = field(default_factory=list)
    failed: dict[int, FailedOrder] = field(default_factory=dict)  # by intent id
    cancel_intents: list[int] = field(default_factory=list)
    moves: list[OpenOrder] = field(default_factory=list)  # out-ranked: to be canceled and to come back
    pending: dict[int, PendingOrder] = field(default_factory=dict)  # by intent id: waits
    resting: dict[int, int] = field(
        default_factory=dict
    )  # by intent id: orders in its lane that rest instead
    queued_books: set[int] = field(default_factory=set)
    leverage: dict[int, int] = field(default_factory=dict)  # book id -> to be set before sending
    accounts: dict[int, Account] = field(default_factory=dict)


def accept(
    *,
    delivery: WebhookDelivery,
    strategy: StrategyConfig,
    plan: Plan,
    is_batch: bool,
    version: int,
    now: datetime,
    dedupe_seconds: int = 0,
) -> Accepted:
    """Commit a delivery with its intents, placements and open orders. Nothing is sent here.

    Raises: AlreadyDelivered when the same payload came within `dedupe_seconds`;
            ConfigChanged when the configuration is no longer the one that was planned with;
            django.db.IntegrityError when the webhook id is taken. Nothing is written then.
    """
    book_ids = _book_ids_for(plan.pairs)
    with transaction.atomic():
        wanted = {*book_ids.values(), *_books_to_cancel(plan)}
        books = {book.pk: book for book in guards.books_lock(wanted, plan.pairs, now=now)}
        if any(book.config_version != version for book in books.values()):  # type: ignore[attr-defined]
            raise ConfigChanged
        if dedupe_seconds:
            _look_for_twin(delivery, strategy.id, timedelta(seconds=dedupe_seconds))
        writes = Writes()
        meant = _meant_in(plan, books)
        guards.pairs_check(plan.pairs, books.values(), now=now, without=meant)
        claim = _plan_queue(strategy, plan.pairs, books, book_ids, version=version, now=now, without=meant)
        locked = lockable(meant | claim.ids) if meant or claim.ids else []
        cancels = _mark_canceled(plan, [i for i in locked if i.pk in meant], books, writes, now)
        taken = claim.take(intent for intent in locked if intent.pk not in meant)
        delivery.plan = {
            "strategy": strategy.group_name,
            "is_batch": is_batch,
            "total_orders": plan.total_orders,
            "accounts": plan.accounts,
            "cancels": cancels,
        }
        accepted = Accepted(
            delivery, now, cancel_intents=sorted({pk for cancel in cancels for pk in cancel["intent_ids"]})
        )
        _size_closes(plan.pairs, writes)
        _write(writes, accepted, strategy, plan.pairs, book_ids, claim, taken, version=version)
    _note_leverage(accepted, plan.pairs, books, book_ids)
    return accepted


def _look_for_twin(delivery: WebhookDelivery, strategy_id: int, window: timedelta) -> None:
    """Look once more, under the books' locks: two of a kind may have come at the same instant."""
    twins = WebhookDelivery.objects.filter(
        strategy_id=strategy_id,
        payload_hash=delivery.payload_hash,
        received_at__gt=delivery.received_at - window,
    )
    if (twin := twins.order_by("-received_at").values_list("pk", flat=True).first()) is not None:
        raise AlreadyDelivered(twin)


def _book_key(pair: Pair) -> BookKey:
    return pair.follower.account_id, pair.spec.market_type.value, pair.symbol


def _book_ids_for(pairs: Iterable[Pair]) -> dict[BookKey, int]:
    """Return the books' ids, made with insert-or-ignore where they do not exist yet."""
    wanted = {_book_key(pair) for pair in pairs}
    missing = sorted(key for key in wanted if key not in _book_ids)  # one order in every process
    if missing:
        Book.objects.bulk_create(
            [
                Book(account_id=account, market_type=market, symbol=symbol)
                for account, market, symbol in missing
            ],
            ignore_conflicts=True,
        )
        rows = Book.objects.filter(
            account_id__in={key[0] for key in missing}, symbol__in={key[2] for key in missing}
        )
        for pk, account_id, market_type, symbol in rows.values_list(
            "pk", "account_id", "market_type", "symbol"
        ):
            _book_ids[account_id, market_type, symbol] = pk
    return {key: _book_ids[key] for key in wanted}


def forget_books() -> None:
    """Forget what was remembered of books (tests empty their tables)."""
    _book_ids.clear()


# --- cancels --------------------------------------------------------------------------------------


def _cancel_filter(cancel: CancelPair) -> Q:
    condition = Q(
        strategy_account_id=cancel.follower.strategy_account_id, home__in=(Home.QUEUE, Home.EXCHANGE)
    )
    spec = cancel.spec
    if spec.action == "CANCEL":
        # Exchanges number orders per market, some per symbol: their number alone may name several.
        theirs = Q(placements__exchange_order_id=spec.order_id, market_type=spec.market_type.value)
        condition &= Q(placements__client_order_id=spec.order_id) | theirs | Q(uid=spec.order_id)
        return condition if cancel.symbol is None else condition & Q(symbol=cancel.symbol)
    if cancel.symbol is not None:
        condition &= Q(symbol=cancel.symbol, market_type=spec.market_type.value)
    if spec.side is not None:
        condition &= Q(side=spec.side.value)
    return condition


def _meant_by(cancels: Iterable[CancelPair]) -> QuerySet[OrderIntent]:
    return OrderIntent.objects.filter(reduce(or_, map(_cancel_filter, cancels), Q(pk__in=())))


def _books_to_cancel(plan: Plan) -> set[int]:
    return set(_meant_by(plan.cancels).values_list("book_id", flat=True)) if plan.cancels else set()


def _meant_in(plan: Plan, books: dict[int, Book]) -> set[int]:
    """Return the intents that the cancels mean, in the books that are locked."""
    if not plan.cancels or not books:
        return set()
    return set(_meant_by(plan.cancels).filter(book_id__in=list(books)).values_list("pk", flat=True))


def _mark_canceled(
    plan: Plan, intents: list[OrderIntent], books: dict[int, Book], writes: Writes, now: datetime
) -> list[dict[str, Any]]:
    """Hold what the cancels mean, locked by the caller; return what the answer needs of each."""
    intents = [intent for intent in intents if intent.home in (Home.QUEUE, Home.EXCHANGE)]
    placements: dict[int, list[Placement]] = defaultdict(list)  # by intent id
    if intents:
        cancels_mark(intents, writes, account_ids={pk: book.account_id for pk, book in books.items()},
                     source=EventSource.WEBHOOK, now=now)  # fmt: skip
        for placement in Placement.objects.filter(intent__in=intents).order_by("pk"):
            placements[placement.intent_id].append(placement)
    return [_canceled_by(cancel, intents, placements) for cancel in plan.cancels]


def _canceled_by(
    cancel: CancelPair, intents: Iterable[OrderIntent], placements: dict[int, list[Placement]]
) -> dict[str, Any]:
    hit = [intent for intent in intents if _means(cancel, intent, placements[intent.pk])]
    return {
        "order_index": cancel.spec.index,
        "account_id": cancel.follower.account_id,
        "account_name": cancel.follower.account_name,
        "intent_ids": [intent.pk for intent in hit],
        "client_order_ids": [one.client_order_id for intent in hit for one in placements[intent.pk]],
    }


def _means(cancel: CancelPair, intent: OrderIntent, placements: Iterable[Placement]) -> bool:
    """Tell which of a payload's cancels hit an intent: `_cancel_filter` again, for a row at hand."""
    spec = cancel.spec
    if intent.strategy_account_id != cancel.follower.strategy_account_id:
        return False
    if spec.action == "CANCEL":
        ours = {intent.uid, *(one.client_order_id for one in placements)}
        theirs = {one.exchange_order_id for one in placements if intent.market_type == spec.market_type}
        return spec.order_id in ours | theirs and cancel.symbol in (None, intent.symbol)
    if cancel.symbol is not None and (intent.symbol, intent.market_type) != (cancel.symbol, spec.market_type):
        return False
    return spec.side is None or intent.side == spec.side


# --- the queue ------------------------------------------------------------------------------------


def _is_queued(strategy: StrategyConfig, pair: Pair) -> bool:
    return strategy.execution_mode == ExecutionMode.QUEUED and pair.spec.order_type is not OrderType.MARKET


def _plan_queue(
    strategy: StrategyConfig,
    pairs: Sequence[Pair],
    books: dict[int, Book],
    book_ids: dict[BookKey, int],
    *,
    version: int,
    now: datetime,
    without: set[int],
) -> Claim:
    """Plan the books of the LIMIT and STOP orders; nothing is asked where the strategy has no queue.

    Before closes are sized: positions are locked after intents. A close that turns out to be nothing
    leaves its slot free, and the books are planned again when the webhook's orders are sent.
    """
    claim = Claim(now=now, source=EventSource.QUEUE)
    fresh = []
    accounts: dict[int, Account] = {}
    for number, pair in enumerate(pairs):
        if pair.problem is None and _is_queued(strategy, pair):
            assert pair.spec.order_type is not None
            book_id = book_ids[_book_key(pair)]
            accounts[book_id] = pair.follower.account
            side = pair.side or Side.SELL  # a close: its side is found with its size
            fresh.append(Fresh(number, book_id, side, pair.spec.order_type, pair.price, pair.stop_price))
    for pk, account in accounts.items():
        books[pk].account = account
    if fresh:
        claim.plan([books[pk] for pk in sorted(accounts)], version=version, fresh=fresh, without=without)
    return claim


# --- closes ---------------------------------------------------------------------------------------


def _size_closes(pairs: Sequence[Pair], writes: Writes) -> None:
    """Size closes from positions less closes still on their way, under the positions' locks."""
    closes = [pair for pair in pairs if pair.closes_percent is not None and pair.problem is None]
    if not closes:
        return
    writes.run()  # what this payload cancels is no longer on its way
    accounts = {pair.follower.account_id for pair in closes}
    symbols = {pair.symbol for pair in closes}
    positions = list(locks.positions_for_update(account_id__in=accounts, symbol__in=symbols))
    strategy_accounts = {pair.follower.strategy_account_id for pair in closes}
    on_their_way: dict[tuple[int, str, str], Decimal] = {}
    for intent in OrderIntent.objects.filter(
        strategy_account_id__in=strategy_accounts,
        symbol__in=symbols,
        home__in=(Home.QUEUE, Home.EXCHANGE),
        closes_position=True,
    ).exclude(
        # On its way out: [CANCEL_ALL_ORDER, MARKET -100] closes the position. A MARKET order is not: no
        # cancel catches it, and as long as nobody knows what became of it, it may have sold.
        ~Q(order_type=OrderType.MARKET),
        cancel_requested=True,
    ):
        key = intent.strategy_account_id, intent.market_type, intent.symbol
        on_their_way[key] = on_their_way.get(key, Decimal(0)) + intent.remaining_quantity
    taken: dict[int, Decimal] = {}
    for pair in closes:
        _size_close(pair, positions, on_their_way, taken)


def _size_close(
    pair: Pair,
    positions: Sequence[StrategyPosition],
    on_their_way: dict[tuple[int, str, str], Decimal],
    taken: dict[int, Decimal],  # fees in the asset itself, by position: asked for once
) -> None:
    market, percent = pair.spec.market_type, pair.closes_percent
    assert percent is not None
    here = [row for row in positions if (row.symbol, row.market_type) == (pair.symbol, market.value)]
    net = sum((row.quantity for row in here if row.account_id == pair.follower.account_id), Decimal(0))
    own = next((row for row in here if row.strategy_account_id == pair.follower.strategy_account_id), None)
    position = own.quantity if own is not None else Decimal(0)
    key = pair.follower.strategy_account_id, market.value, pair.symbol
    if position:
        pair.side = Side.SELL if position > 0 else Side.BUY
    pair.side = pair.side or Side.SELL  # of what there is not
    if market is MarketType.SPOT and own is not None and position > 0 and pair.instrument is not None:
        if own.pk not in taken:
            taken[own.pk] = base_fees(own, pair.instrument.base_asset)
        position -= taken[own.pk]
    try:
        quantity = closing_quantity(
            position=position, on_their_way=on_their_way.get(key, Decimal(0)), percent=percent
        )
    except SizingError as exc:
        pair.problem = ErrorType.INVALID_QUANTITY, str(exc)
        return
    # The exchange nets all strategies: reduce-only would refuse what its own net position does not cover.
    pair.reduce_only = market is MarketType.FUTURES and net * position > 0 and abs(net) >= quantity
    fit_pair(pair, quantity)
    if pair.problem is None:
        on_their_way[key] = on_their_way.get(key, Decimal(0)) + pair.quantity


# --- writing --------------------------------------------------------------------------------------


# The version that came with the books stood before their lock was waited for.
AT_VERSION = "(SELECT version FROM exchanges_configversion WHERE id = 1) = %s"


def _write(
    writes: Writes,
    accepted: Accepted,
    strategy: StrategyConfig,
    pairs: Sequence[Pair],
    book_ids: dict[BookKey, int],
    claim: Claim,
    taken: int,
    *,
    version: int,
) -> None:
    """Write the delivery and all that goes with it, if the configuration is still the one planned with."""
    now = claim.now
    placed = sum(pair.problem is None for pair in pairs)  # at most: some may have to wait
    # Without pairs nothing refers to the delivery, and it gets its key where it is written.
    delivery_keys, intent_keys, placement_keys = draw_keys(
        (WebhookDelivery, min(len(pairs), 1)), (OrderIntent, len(pairs)), (Placement, placed + taken)
    )
    accepted.delivery.pk = next(iter(delivery_keys), None)
    accepted.account_ids = [pair.follower.account_id for pair in pairs]
    log = claim.write(writes, placement_keys[:taken])
    keys = iter(placement_keys[taken:])
    fresh: list[Placement] = []
    failed: list[FailedOrder] = []
    for number, (pair, key) in enumerate(zip(pairs, intent_keys, strict=True)):
        is_queued = _is_queued(strategy, pair)
        intent = _intent(pair, accepted.delivery, strategy, book_ids[_book_key(pair)], now)
        intent.pk, intent.is_queued = key, is_queued
        accepted.intents.append(intent)
        account_id = pair.follower.account_id
        accepted.accounts[account_id] = pair.follower.account
        if pair.problem is not None:
            failed.append(failures.denied_here(intent, pair.problem[1], pair.problem[0], now=now))
            log.append(_failed_event(pair, intent, now))
        elif is_queued and number not in claim.fresh:
            log.append(_wait(accepted, intent, claim, account_id=account_id))
        else:
            placement = submission.placement_for(intent, account_id=account_id, number=1, now=now)
            placement.pk = next(keys)
            fresh.append(placement)
            log.append(submission.submitting_event(placement, source=EventSource.WEBHOOK, now=now))
    writes.insert([accepted.delivery])
    writes.insert(accepted.intents)
    writes.insert(fresh)
    writes.insert(submission.open_order_for(placement, now=now) for placement in fresh)
    writes.insert(accepted.pending.values())
    writes.insert(failed)
    writes.insert(log)
    if not writes.run(AT_VERSION, version):
        raise ConfigChanged
    accepted.placements = [*fresh, *claim.placements]
    accepted.moves, accepted.queued_books = claim.moves, set(claim.plans)
    accepted.accounts = claim.accounts | accepted.accounts
    accepted.leverage = claim.leverage
    accepted.failed = {failure.intent_id: failure for failure in failed}
    events.publish(*(events.OrderFailed(failure.pk, failure.webhook_id) for failure in failed))
    if log:
        events.publish(events.EventsLogged())


def _wait(accepted: Accepted, intent: OrderIntent, claim: Claim, *, account_id: int) -> OrderEvent:
    """Put an order into the queue; say how many rest before it."""
    intent.home = Home.QUEUE
    pending = pending_for(intent, account_id=account_id, now=claim.now)
    accepted.pending[intent.pk] = pending
    accepted.resting[intent.pk] = claim.resting(intent.book_id, LANE_OF[pending.priority])
    return queued_event(intent, account_id=account_id, source=EventSource.WEBHOOK, now=claim.now)


def _intent(
    pair: Pair, delivery: WebhookDelivery, strategy: StrategyConfig, book_id: int, now: datetime
) -> OrderIntent:
    assert pair.side is not None
    assert pair.spec.order_type is not None
    return OrderIntent(
        uid=str(ULID()),
        delivery=delivery,
        order_index=pair.spec.index,
        user_id=strategy.user_id,
        strategy_account_id=pair.follower.strategy_account_id,
        book_id=book_id,
        market_type=pair.spec.market_type.value,
        symbol=pair.symbol,
        side=pair.side.value,
        order_type=pair.spec.order_type.value,
        price=pair.price,
        stop_price=pair.stop_price,
        quantity=pair.quantity,
        reduce_only=pair.reduce_only,
        closes_position=pair.spec.is_close,
        home=Home.FAILED if pair.problem is not None else Home.EXCHANGE,
        created_at=now,
        updated_at=now,
    )


def _failed_event(pair: Pair, intent: OrderIntent, now: datetime) -> OrderEvent:
    assert pair.problem is not None
    return OrderEvent(
        type=EventType.FAILED,
        source=EventSource.WEBHOOK,
        user_id=intent.user_id,
        account_id=pair.follower.account_id,
        strategy_account_id=intent.strategy_account_id,
        intent_id=intent.pk,
        symbol=intent.symbol,
        message=pair.problem[1][:500],
        created_at=now,
    )


def _note_leverage(
    accepted: Accepted, pairs: Iterable[Pair], books: dict[int, Book], book_ids: dict[BookKey, int]
) -> None:
    """Say which books' leverage the exchange has to be told: it is told once and remembered."""
    for pair in pairs:
        if pair.spec.market_type is not MarketType.FUTURES or pair.problem is not None:
            continue
        book = books[book_ids[_book_key(pair)]]
        if pair.follower.leverage > (book.leverage or 0):
            accepted.leverage[book.pk] = max(pair.follower.leverage, accepted.leverage.get(book.pk, 0))
