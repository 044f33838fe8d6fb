"""Executions, trades and positions: what fills add up to, each counted once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from exchanges.adapters.types import Fill, Side
from exchanges.fields import plain
from orders import locks
from orders.folding import FoldKey, PositionState, fold, fold_key
from orders.models import OrderIntent, Placement, StrategyPosition, Trade, TradeExecution
from orders.writes import Writes

PositionKey = tuple[int, str, str]  # strategy account id, market type, symbol
Booked = defaultdict[int, set[str]]  # trade ids by placement id
FOLDED = ("realized_pnl", "position_quantity", "position_average_price", "position_realized_pnl")
POSITION = (
    "quantity",
    "average_price",
    "realized_pnl",
    "last_executed_at",
    "last_trade_id",
    "updated_at",
)
TRADED = (
    "quantity",
    "notional",
    "average_price",
    "fees",
    "realized_pnl",
    "first_executed_at",
    "last_executed_at",
)


@dataclass(frozen=True, slots=True)
class NewFill:
    """A fill that is not booked yet, and the id of the order that it belongs to at the exchange."""

    placement: Placement
    fill: Fill
    exchange_order_id: str


def booked_trades(placements: Iterable[Placement]) -> Booked:
    """Return the trade ids that are booked already, with one query. The intents are locked by the caller.

    A trade id is unique among a symbol's fills, so it names one within a placement.
    """
    booked: Booked = defaultdict(set)
    ids = [placement.pk for placement in placements if placement.filled_quantity > 0]
    if ids:
        rows = TradeExecution.objects.filter(placement_id__in=ids)
        for placement_id, trade_id in rows.values_list("placement_id", "trade_id"):
            booked[placement_id].add(trade_id)
    return booked


def fills_book(fills: Sequence[NewFill], writes: Writes, *, now: datetime) -> None:
    """Store new fills and fold them into trades and positions.

    The intents are locked by the caller, who runs `writes`; their `filled_quantity` counts the fills.
    """
    if not fills:
        return
    executions = [_execution(new, now) for new in fills]
    by_position: dict[PositionKey, list[TradeExecution]] = defaultdict(list)
    for execution in executions:
        key = execution.strategy_account_id, execution.market_type, execution.symbol
        by_position[key].append(execution)
    positions = _positions_for_update(by_position)
    refolded: list[TradeExecution] = []
    for key, fresh in by_position.items():
        refolded += _fold_into(positions[key], fresh)
    trades = _trades(
        {new.placement.intent_id: new.placement.intent for new in fills}, fresh=executions, refolded=refolded
    )
    writes.insert(executions)
    writes.save(refolded, fields=FOLDED)
    for position in positions.values():
        position.updated_at = now
    writes.save(positions.values(), fields=POSITION)
    writes.upsert(trades, unique=("intent",), fields=TRADED)


def _execution(new: NewFill, now: datetime) -> TradeExecution:
    intent, fill = new.placement.intent, new.fill
    return TradeExecution(
        intent=intent,
        placement=new.placement,
        strategy_account_id=intent.strategy_account_id,
        account_id=new.placement.account_id,
        market_type=intent.market_type,
        symbol=intent.symbol,
        exchange_order_id=new.exchange_order_id,
        trade_id=fill.trade_id,
        side=intent.side,
        price=fill.price,
        quantity=fill.quantity,
        fee=fill.fee,
        fee_asset=fill.fee_asset,
        liquidity=fill.liquidity.value if fill.liquidity else "",
        exchange_realized_pnl=fill.realized_pnl,
        executed_at=fill.executed_at,
        recorded_at=now,
    )


def base_fees(position: StrategyPosition, base_asset: str) -> Decimal:
    """Return what the exchange kept of a long spot position in its own asset, since it was last flat.

    A position of 0.01 BTC whose fees were taken in BTC holds a little less than that to sell.
    """
    rows = TradeExecution.objects.filter(
        strategy_account_id=position.strategy_account_id,
        market_type=position.market_type,
        symbol=position.symbol,
    ).order_by("-executed_at", "-pk")
    fees = Decimal(0)
    for held, fee, asset in rows.values_list("position_quantity", "fee", "fee_asset").iterator():
        if held <= 0:
            break
        if asset == base_asset:
            fees += fee
    return fees


def _positions_for_update(
    wanted: dict[PositionKey, list[TradeExecution]],
) -> dict[PositionKey, StrategyPosition]:
    """Lock the positions, made first where they do not exist yet."""
    accounts = {key[0] for key in wanted}
    symbols = {key[2] for key in wanted}

    def read() -> dict[PositionKey, StrategyPosition]:
        rows = locks.positions_for_update(strategy_account_id__in=accounts, symbol__in=symbols)
        found = {(row.strategy_account_id, row.market_type, row.symbol): row for row in rows}
        return {key: row for key, row in found.items() if key in wanted}

    found = read()
    missing = [wanted[key][0] for key in sorted(wanted) if key not in found]  # one order in every process
    if missing:
        StrategyPosition.objects.bulk_create(
            [
                StrategyPosition(
                    strategy_account_id=one.strategy_account_id,
                    account_id=one.account_id,
                    market_type=one.market_type,
                    symbol=one.symbol,
                )
                for one in missing
            ],
            ignore_conflicts=True,
        )
        found = read()
    return found


def _fold_into(position: StrategyPosition, fresh: list[TradeExecution]) -> list[TradeExecution]:
    """Fold executions into a position, in the order (exchange time, trade id).

    One that arrived late makes everything after it be folded again, so that the result does not
    depend on the order of delivery. Returns the stored executions whose folded columns changed.
    """
    fresh.sort(key=_key)
    state = PositionState(position.quantity, position.average_price, position.realized_pnl)
    redo: list[TradeExecution] = []
    if position.last_executed_at is not None:
        first, last = _key(fresh[0]), fold_key(position.last_executed_at, position.last_trade_id)
        if first[:3] <= last[:3]:
            state, redo = _rewind(position, first[0], first)
    for execution in sorted([*redo, *fresh], key=_key):
        before = state.realized_pnl
        state = fold(state, side=Side(execution.side), quantity=execution.quantity, price=execution.price)
        execution.realized_pnl = state.realized_pnl - before
        execution.position_quantity = state.quantity
        execution.position_average_price = state.average_price
        execution.position_realized_pnl = state.realized_pnl
        position.last_executed_at, position.last_trade_id = execution.executed_at, execution.trade_id
    position.quantity, position.average_price = state.quantity, state.average_price
    position.realized_pnl = state.realized_pnl
    return redo


def _rewind(
    position: StrategyPosition, since: datetime, first: FoldKey
) -> tuple[PositionState, list[TradeExecution]]:
    """Return the position as it stood before `first`, and the stored executions that come after."""
    stored = TradeExecution.objects.filter(
        strategy_account_id=position.strategy_account_id,
        market_type=position.market_type,
        symbol=position.symbol,
    )
    around = list(stored.filter(executed_at__gte=since))
    later = [execution for execution in around if _key(execution) > first]
    earlier = sorted((execution for execution in around if _key(execution) < first), key=_key)
    if earlier:
        base: TradeExecution | None = earlier[-1]
    else:
        # The same instant may hold several: take that whole instant and pick the last by our order.
        newest = stored.filter(executed_at__lt=since).order_by("-executed_at").values("executed_at")[:1]
        base = max(stored.filter(executed_at=newest), key=_key, default=None)
    if base is None:
        return PositionState(), later
    state = PositionState(base.position_quantity, base.position_average_price, base.position_realized_pnl)
    return state, later


def _key(execution: TradeExecution) -> FoldKey:
    return fold_key(execution.executed_at, execution.trade_id, execution.exchange_order_id)


def _trades(
    intents: dict[int, OrderIntent], *, fresh: list[TradeExecution], refolded: list[TradeExecution]
) -> list[Trade]:
    """Return the totals of every order that has new fills, or whose PnL was folded again."""
    by_intent: dict[int, list[TradeExecution]] = defaultdict(list)
    for execution in fresh:
        by_intent[execution.intent_id].append(execution)
    had_none = {
        pk for pk, new in by_intent.items() if intents[pk].filled_quantity == sum(one.quantity for one in new)
    }
    ids = (by_intent.keys() | {execution.intent_id for execution in refolded}) - had_none
    if ids:
        changed = {execution.pk: execution for execution in refolded}  # not written yet
        for row in TradeExecution.objects.filter(intent_id__in=ids):
            by_intent[row.intent_id].append(changed.get(row.pk, row))
    return [_trade(executions) for executions in by_intent.values()]


def _trade(executions: list[TradeExecution]) -> Trade:
    executions.sort(key=_key)
    first = executions[0]
    quantity = sum((one.quantity for one in executions), Decimal(0))
    notional = sum((one.quantity * one.price for one in executions), Decimal(0))
    fees: dict[str, Decimal] = defaultdict(Decimal)
    for one in executions:
        if one.fee:
            fees[one.fee_asset] += one.fee
    return Trade(
        intent_id=first.intent_id,
        strategy_account_id=first.strategy_account_id,
        market_type=first.market_type,
        symbol=first.symbol,
        side=first.side,
        quantity=quantity,
        notional=notional,
        average_price=notional / quantity,
        fees={asset: plain(amount) for asset, amount in fees.items()},
        realized_pnl=sum((one.realized_pnl for one in executions), Decimal(0)),
        first_executed_at=first.executed_at,
        last_executed_at=executions[-1].executed_at,
    )
