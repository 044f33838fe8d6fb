"""The guards of orders.risk over what the database knows, for webhooks and for orders that come later.

With nothing set but the orders per minute a webhook pays no query for them: the count comes with the books
that it locks. Where a guard needs positions, open orders or money, each kind is one query, whatever the
number of orders.

What is exact: orders of one book, because its lock is held. Two webhooks of different books, or one that
waited for a book's lock while the other wrote, do not see each other's newest orders: together they may
exceed the orders per minute, the number of symbols, and what the loss guards would have stopped by what
those two bring. Fills book no book's lock: a position may be newer than what was judged by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial

from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.db.models.expressions import RawSQL

from exchanges.adapters.exceptions import ErrorType
from exchanges.adapters.types import OrderType, Side
from exchanges.models import ConfigVersion, LastPrice
from orders import config, locks
from orders.models import Book, Home, OrderIntent
from orders.prepared import Given, Query, is_any
from orders.risk import BookKey, Facts, Guards, Order, Resting, judge, only_reduces
from orders.services.losses import Held, money_read, positions_read, trips_record
from orders.webhook.planning import Pair

WINDOW = timedelta(minutes=1)
_NEVER = datetime.min.replace(tzinfo=UTC)

# Orders of the last minute, no further than the limit. What we denied ourselves has no placement and does
# not count: who sends too fast is not kept out for longer than he does. Asked row by row and not as EXISTS,
# which PostgreSQL may answer by hashing all placements there ever were.
_RECENT = """(SELECT count(*) FROM (
    SELECT 1 FROM orders_orderintent i
     WHERE {mates} AND i.created_at > %s
       AND (i.home <> 'FAILED'
            OR (SELECT p.id FROM orders_placement p WHERE p.intent_id = i.id LIMIT 1) IS NOT NULL)
     LIMIT %s) recent)"""


def books_lock(book_ids: Collection[int], pairs: Sequence[Pair], *, now: datetime) -> list[Book]:
    """Lock books. They bring along how many orders their strategy and accounts had within the last minute.

    On PostgreSQL the count is of before a lock that had to be waited for: see above.
    """
    since = connection.ops.adapt_datetimefield_value(now - WINDOW)
    counted = _counted({pair.follower.guards for pair in pairs})
    values = [one for ids, limit in counted.items() for one in (ids, since, limit)]
    return _books_with_counts(len(counted))(book_ids, *values)


@lru_cache(maxsize=32)
def _books_with_counts(number: int) -> Query[Book]:
    def build(book_ids: Given, *counted: Given) -> QuerySet[Book]:
        sql = _RECENT.format(mates=is_any("i.strategy_account_id"))
        counts = {f"recent_{each}": RawSQL(sql, counted[3 * each : 3 * each + 3]) for each in range(number)}
        return locks.books_for_update(book_ids).annotate(**counts)

    return Query(build, values=1 + 3 * number)


def _counted(guards: Iterable[Guards]) -> dict[tuple[int, ...], int]:
    """Return whose orders are counted together, and how far: one count serves an account of one strategy."""
    counted: dict[tuple[int, ...], int] = {}
    for one in sorted(guards, key=lambda each: each.strategy_account_id):
        for ids, limit in (
            (one.strategy_mates, one.strategy_orders_per_minute),
            (one.account_mates, one.account_orders_per_minute),
        ):
            if limit is not None:
                counted[ids] = max(limit, counted.get(ids, 0))
    return counted


def pairs_check(
    pairs: Sequence[Pair], books: Iterable[Book], *, now: datetime, without: Collection[int] = ()
) -> None:
    """Note as each pair's problem what a guard denies. Reads only; what trips is written after the commit.

    Closes need not be sized yet: no guard denies them. `without`: intents that this transaction cancels.
    """
    some = [pair for pair in pairs if pair.problem is None]
    guards = {pair.follower.strategy_account_id: pair.follower.guards for pair in some}
    # Counted for all pairs, those with a problem too: the columns are numbered in that order.
    facts = _rates({pair.follower.guards for pair in pairs}, books, now)
    if not some or _nothing_to_judge(guards.values(), facts, len(some)):
        return
    orders = [_order_of(pair) for pair in some]
    denials = _judge(orders, facts, without=without)
    for pair, denial in zip(some, denials, strict=True):
        if denial is not None:
            pair.problem = ErrorType.RISK_LIMIT, denial


def _rates(guards: Collection[Guards], books: Iterable[Book], now: datetime) -> Facts:
    row = next(iter(books), None)
    counts = {ids: getattr(row, f"recent_{n}", 0) for n, ids in enumerate(_counted(guards))}
    return Facts(
        now,
        {one.strategy_id: counts.get(one.strategy_mates, 0) for one in guards},
        {one.account_id: counts.get(one.account_mates, 0) for one in guards},
    )


def _nothing_to_judge(guards: Iterable[Guards], facts: Facts, number: int) -> bool:
    """Tell whether nothing is set but rates, and all orders together stay below them."""
    return all(
        not (one.trips or one.allowlist or one.blocklist or one.needs_books or one.needs_money)
        and one.order_notional is None
        and one.price_deviation_percent is None
        and _below(facts.strategy_orders.get(one.strategy_id, 0) + number, one.strategy_orders_per_minute)
        and _below(facts.account_orders.get(one.account_id, 0) + number, one.account_orders_per_minute)
        for one in guards
    )


def _below(count: int, limit: int | None) -> bool:
    return limit is None or count <= limit


def _order_of(pair: Pair) -> Order:
    assert pair.spec.order_type is not None
    instrument = pair.instrument
    return Order(
        guards=pair.follower.guards,
        market_type=pair.spec.market_type.value,
        symbol=pair.symbol,
        side=pair.side,
        order_type=pair.spec.order_type,
        quantity=pair.quantity,
        price=pair.price,
        stop_price=pair.stop_price,
        last_price=pair.last_price,
        multiplier=instrument.contract_multiplier if instrument else Decimal(1),
        quote_asset=instrument.quote_asset if instrument else "",
        closes=pair.spec.is_close or pair.reduce_only,
        closes_percent=pair.closes_percent,
    )


def may_deny(account_ids: Collection[int], *, version: int) -> bool:
    """Tell whether a guard of one of these accounts has something to say of what leaves the queue."""
    known = config.guards_of_all(version=version).values()
    guards = [one.after_admission() for one in known if one.account_id in account_ids]
    return not _nothing_to_judge(guards, Facts(_NEVER), 0)


def denials(intents: Collection[OrderIntent], *, now: datetime, version: int | None = None) -> dict[int, str]:
    """Return which of these orders may not go to an exchange now, by intent id, each with why.

    For orders that leave the queue or are tried again: symbols, values and losses are judged once more,
    rate and price are not. What waits is not counted against what leaves; what rests, and what leaves
    before it, is. Closing orders are never denied. `version`: of the configuration, where the caller has
    read it (it came with the books); else it is one query. No other query where nothing is set.
    """
    if not intents:
        return {}
    version = ConfigVersion.current() if version is None else version
    known = config.guards_of_all(version=version)
    some = [intent for intent in intents if intent.strategy_account_id in known]
    guards = {pk: known[pk].after_admission() for pk in {one.strategy_account_id for one in some}}
    facts = Facts(now)
    if _nothing_to_judge(guards.values(), facts, 0):
        return {}
    orders = [_order_again(intent, guards[intent.strategy_account_id], version) for intent in some]
    ids = {intent.pk for intent in some}
    found = _judge(_priced(orders), facts, without=ids, homes=(Home.EXCHANGE,))
    return {intent.pk: words for intent, words in zip(some, found, strict=True) if words is not None}


def _order_again(intent: OrderIntent, guards: Guards, version: int) -> Order:
    key = guards.exchange, guards.environment, intent.market_type
    instrument = config.instrument_table(key, version=version).by_symbol.get(intent.symbol)
    return Order(
        guards=guards,
        market_type=intent.market_type,
        symbol=intent.symbol,
        side=Side(intent.side),
        order_type=OrderType(intent.order_type),
        quantity=intent.remaining_quantity,
        price=intent.price,
        stop_price=intent.stop_price,
        multiplier=instrument.contract_multiplier if instrument else Decimal(1),
        quote_asset=intent.symbol.partition("/")[2],
        closes=intent.closes_position or intent.reduce_only,
    )


def _priced(orders: list[Order]) -> list[Order]:
    """Give MARKET orders whose value is judged the last price; one query where there are such orders."""
    some = [
        order
        for order in orders
        if order.order_type is OrderType.MARKET
        and not order.closes
        and (order.guards.order_notional is not None or order.guards.position_notional is not None)
    ]
    if not some:
        return orders
    rows = LastPrice.objects.filter(symbol__in={order.symbol for order in some}).values_list(
        "exchange", "environment", "market_type", "symbol", "price"
    )
    prices = {tuple(key): price for *key, price in rows}
    return [
        replace(order, last_price=prices.get((*order.guards.venue, order.market_type, order.symbol)))
        for order in orders
    ]


# --- facts ----------------------------------------------------------------------------------------


def _judge(
    orders: Sequence[Order],
    facts: Facts,
    *,
    without: Collection[int],
    homes: Sequence[str] = (Home.QUEUE, Home.EXCHANGE),
) -> list[str | None]:
    """Judge orders with no more facts than it takes."""
    guards = {order.guards.strategy_account_id: order.guards for order in orders}
    found = judge(orders, facts)
    # Whether an order closes a position is asked for only where something would deny it.
    if any(one.needs_books or one.needs_money for one in guards.values()) or any(found):
        facts = _read(orders, guards, facts, without=without, homes=homes)
        found = judge(orders, facts)
        if facts.money:
            transaction.on_commit(
                partial(trips_record, guards.values(), facts.money, now=facts.now), robust=True
            )
    return [denial.sentence if denial is not None else None for denial in found]


def _read(
    orders: Sequence[Order],
    guards: Mapping[int, Guards],
    facts: Facts,
    *,
    without: Collection[int],
    homes: Sequence[str],
) -> Facts:
    held = positions_read(list(guards))
    facts = replace(
        facts,
        positions={row.key: row.quantity for row in held},
        marks={row.key: row.last_price for row in held if row.last_price is not None},
        money=money_read(guards.values(), held, now=facts.now),
    )
    alive = (
        OrderIntent.objects.filter(home__in=homes)
        .exclude(pk__in=without)
        # On its way out; a MARKET order is not: no cancel catches it.
        .exclude(~Q(order_type=OrderType.MARKET.value), cancel_requested=True)
    )
    by_value = any(one.position_notional is not None for one in guards.values())
    if by_value or any(only_reduces(order, facts) for order in orders):
        facts = replace(facts, resting=_resting(alive, orders))
    if counted := [pk for pk, one in guards.items() if one.symbols is not None]:
        facts = replace(facts, opened=_opened(alive, counted, held))
    return facts


def _resting(alive: QuerySet[OrderIntent], orders: Sequence[Order]) -> dict[tuple[BookKey, Side], Resting]:
    """What is still to fill in the books of these orders: one query."""
    multipliers = {order.key: order.multiplier for order in orders}
    prices = {order.key: order.last_price for order in orders}
    rows = alive.filter(
        strategy_account_id__in={key[0] for key in multipliers}, symbol__in={key[2] for key in multipliers}
    ).values_list(
        "strategy_account_id",
        "market_type",
        "symbol",
        "side",
        "quantity",
        "filled_quantity",
        "price",
        "stop_price",
    )
    found: dict[tuple[BookKey, Side], Resting] = {}
    for pk, market, symbol, side, quantity, filled, price, stop_price in rows:
        key = pk, market, symbol
        if key not in multipliers:
            continue
        left = max(quantity - filled, Decimal(0))
        worth = price or stop_price or prices[key] or Decimal(0)
        place = key, Side(side)
        found[place] = found.get(place, Resting()).plus(left, left * worth * multipliers[key])
    return found


def _opened(
    alive: QuerySet[OrderIntent], strategy_account_ids: Collection[int], held: Iterable[Held]
) -> dict[int, frozenset[tuple[str, str]]]:
    """Which symbols have a position, or orders that open one: one query."""
    found: dict[int, set[tuple[str, str]]] = {pk: set() for pk in strategy_account_ids}
    rows = alive.filter(
        strategy_account_id__in=strategy_account_ids, closes_position=False, reduce_only=False
    ).values_list("strategy_account_id", "market_type", "symbol")
    for pk, market, symbol in rows.distinct():
        found[pk].add((market, symbol))
    for row in held:
        if row.key[0] in found and row.quantity != 0:
            found[row.key[0]].add((row.key[1], row.key[2]))
    return {pk: frozenset(symbols) for pk, symbols in found.items()}
