"""The matching engine of one venue (one exchange's spot or futures market).

An order is checked, accepted, matched and, if something is left, put to rest in one
synchronous call: nothing can come between. Everything that happens is told to `listener`,
order by order, in the order in which it happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from itertools import count

from exchanges.simulator import filters
from exchanges.simulator.accounts import Account, SpotWallet
from exchanges.simulator.book import Book
from exchanges.simulator.clock import Clock
from exchanges.simulator.instruments import FUTURES_BALANCE, SPOT_BALANCES, listed
from exchanges.simulator.positions import FuturesWallet
from exchanges.simulator.types import (
    ZERO,
    Change,
    ExpiryReason,
    Fill,
    Instrument,
    MarketType,
    Order,
    OrderRequest,
    OrderStatus,
    OrderType,
    Reason,
    Refusal,
    Side,
    TimeInForce,
)

Listener = Callable[[Order, Change, Fill | None], None]
PriceListener = Callable[[Instrument], None]
# Says how much of a resting order the synthetic market takes at one price step.
Slicer = Callable[[Order], Decimal]


def _ignore(order: Order, change: Change, fill: Fill | None) -> None:
    """Nobody listens yet."""


class Venue:
    """One market of one exchange: its books, its accounts and every order it ever accepted.

    `fees` are the maker and the taker rate, as factors.
    """

    def __init__(
        self,
        name: str,
        market_type: MarketType,
        *,
        clock: Clock,
        prices: dict[str, Decimal],
        fees: tuple[Decimal, Decimal],
    ) -> None:
        self.name = name
        self.market_type = market_type
        self.clock = clock
        self.maker_fee, self.taker_fee = fees
        self.instruments = listed(market_type)
        self.listener: Listener = _ignore
        self.price_listeners: list[PriceListener] = []
        self.slicer: Slicer | None = None
        # Never reused, not even after a reset: an id names one order for ever.
        self._order_ids = count(1_000_001)
        self._trade_ids = count(1)
        self.reset(prices)

    def reset(self, prices: dict[str, Decimal]) -> None:
        """Forget every order and account and start again at these prices."""
        self.books = {
            instrument: Book(instrument, prices[instrument.name]) for instrument in self.instruments.values()
        }
        self.accounts: dict[str, Account] = {}
        self.orders: dict[int, Order] = {}
        # What the synthetic market gained and lost, and the fees: money is conserved.
        self.counterparty: dict[str, Decimal] = {}
        self.fees_paid: dict[str, Decimal] = {}
        self._sequences = count(1)

    def account(self, api_key: str) -> Account:
        """Return the account of a key; it is made, well funded, on first use."""
        found = self.accounts.get(api_key)
        if found is None:
            wallet = (
                SpotWallet(SPOT_BALANCES)
                if self.market_type is MarketType.SPOT
                else FuturesWallet(FUTURES_BALANCE, self.price)
            )
            found = self.accounts[api_key] = Account(api_key, wallet)
        return found

    def price(self, instrument: Instrument) -> Decimal:
        return self.books[instrument].price

    def next_order_id(self) -> int:
        return next(self._order_ids)

    # -- what accounts ask for -------------------------------------------------------------

    def check(self, request: OrderRequest) -> Order:
        """Return the order that `request` would become; raises `Refusal` if it may not."""
        account = self.account(request.api_key)
        book = self.books[request.instrument]
        order = self._draft(request, self._quantity(request, book))
        filters.check_request(request, order.quantity, book.price)
        if request.client_order_id in account.open_by_client_id:
            raise Refusal(Reason.DUPLICATE_CLIENT_ORDER_ID)
        if account.open_count(request.instrument) >= request.instrument.max_open_orders:
            if order.type is OrderType.LIMIT or order.is_waiting_stop:
                raise Refusal(Reason.TOO_MANY_ORDERS)
        if order.is_waiting_stop:
            if account.stop_count(request.instrument) >= request.instrument.max_stop_orders:
                raise Refusal(Reason.TOO_MANY_STOPS)
            if book.is_due(order):
                raise Refusal(Reason.WOULD_TRIGGER)
        elif order.post_only and order.price is not None:
            if book.would_take(order.side, order.price):
                raise Refusal(Reason.WOULD_TAKE)
        if order.reduce_only and account.wallet.reducible(order) <= 0:
            raise Refusal(Reason.REDUCE_ONLY)
        account.wallet.admit(order, self._cost(order, book))
        return order

    def place(self, request: OrderRequest) -> Order:
        """Accept and match an order; raises `Refusal` if it may not be, and nothing happened."""
        order = self.check(request)
        unfillable = order.time_in_force is TimeInForce.FOK and not self._is_fillable(order)
        if unfillable and self.market_type is MarketType.FUTURES:
            raise Refusal(Reason.FOK_UNFILLABLE)
        order.order_id = self.next_order_id()
        account = self.accounts[request.api_key]
        self.orders[order.order_id] = order
        account.add(order)
        if order.type is OrderType.LIMIT or order.is_waiting_stop:
            account.wallet.hold(order)
        self.listener(order, Change.NEW, None)
        if unfillable:
            self._expire(order, ExpiryReason.FOK)
        elif order.is_waiting_stop:
            self.books[order.instrument].stops[order.order_id] = order
        else:
            self._work(order)
        return order

    def cancel(self, order: Order, *, cancel_client_id: str = "") -> None:
        """Cancel an open order; raises `Refusal` if it is closed."""
        if not order.status.is_open:
            raise Refusal(Reason.UNKNOWN_ORDER)
        order.cancel_client_id = cancel_client_id
        self._close(order, OrderStatus.CANCELED, Change.CANCELED)

    # -- what the market does --------------------------------------------------------------

    def set_price(self, name: str, price: Decimal) -> None:
        """Move the synthetic market of a symbol: it fills resting orders and triggers stops."""
        book = self.books[self.instruments[name]]
        book.price = price
        for side in Side:
            while (maker := book.crossed(side)) is not None:
                if not self._take_resting(book, maker):
                    break
        for stop in book.due_stops():
            if stop.status.is_open:
                self._trigger(book, stop)
        for listener in self.price_listeners:
            listener(book.instrument)

    def fill(self, order: Order, quantity: Decimal | None, price: Decimal | None) -> None:
        """Fill a resting order by hand, whatever the market price; in full by default.

        The price is the order's limit unless a better one is given.
        """
        if not order.status.is_open or order.is_waiting_stop:
            raise Refusal(Reason.UNKNOWN_ORDER)
        wanted = self._room(order) if quantity is None else quantity
        if not 0 < wanted <= self._room(order):
            raise Refusal(Reason.QUANTITY_TOO_LARGE)
        at = order.price if price is None else price
        assert at is not None  # a market order never rests
        assert order.price is not None
        if at <= 0 or (at > order.price if order.side is Side.BUY else at < order.price):
            raise Refusal(Reason.PRICE_RANGE)
        self._trade(order, None, at, wanted, is_maker=True)

    # -- inside ----------------------------------------------------------------------------

    def _draft(self, request: OrderRequest, quantity: Decimal) -> Order:
        now_ms = self.clock.now_ms()
        return Order(
            order_id=0,
            api_key=request.api_key,
            instrument=request.instrument,
            side=request.side,
            type=request.type,
            quantity=quantity,
            price=request.price,
            client_order_id=request.client_order_id,
            time_in_force=request.time_in_force,
            post_only=request.post_only,
            reduce_only=request.reduce_only,
            position_side=request.position_side,
            stop_price=request.stop_price,
            triggers_above=request.triggers_above,
            wire=request.wire,
            received_ns=request.received_ns,
            accepted_ns=time.time_ns(),
            created_ms=now_ms,
            updated_ms=now_ms,
            working_ms=0 if request.stop_price is not None else now_ms,
        )

    def _quantity(self, request: OrderRequest, book: Book) -> Decimal:
        if request.quantity is not None:
            return request.quantity
        assert request.quote_quantity is not None
        step = request.instrument.lot_step
        return request.quote_quantity / book.price // step * step

    def _cost(self, order: Order, book: Book) -> Decimal:
        """What the order would cost in quote asset, at worst."""
        if order.price is not None:
            return order.price * order.quantity
        if order.stop_price is not None:
            return order.stop_price * order.quantity
        if book.liquid and book.best(order.side.opposite) is None:
            return book.price * order.quantity
        steps = book.plan(api_key=order.api_key, side=order.side, limit=None, quantity=order.quantity)
        return sum((step.price * step.quantity for step in steps), ZERO)

    def _is_fillable(self, order: Order) -> bool:
        steps = self.books[order.instrument].plan(
            api_key=order.api_key, side=order.side, limit=order.price, quantity=order.quantity
        )
        return sum((step.quantity for step in steps), ZERO) >= order.quantity

    def _work(self, order: Order) -> None:
        """Match a working order and rest or expire what is left of it."""
        book = self.books[order.instrument]
        self._match(order, book)
        if not order.status.is_open:
            return
        if order.type is OrderType.MARKET:
            self._expire(order, ExpiryReason.MARKET_REMAINDER)
        elif order.time_in_force is not TimeInForce.GTC:
            self._expire(order, ExpiryReason.IOC_REMAINDER)
        else:
            order.book_sequence = next(self._sequences)
            book.add(order)

    def _match(self, order: Order, book: Book) -> None:
        while order.status.is_open:
            room = self._room(order)
            if room <= 0:
                self._expire(order, ExpiryReason.REDUCE_ONLY)
                return
            step = book.next_step(order)
            if step is None:
                return
            maker = step.maker
            if maker is None:
                self._trade(order, None, step.price, room, is_maker=False)
            elif maker.api_key == order.api_key:
                self._expire(maker, ExpiryReason.SELF_TRADE)
            elif (maker_room := self._room(maker)) <= 0:
                self._expire(maker, ExpiryReason.REDUCE_ONLY)
            else:
                self._trade(order, maker, step.price, min(room, maker_room), is_maker=False)

    def _take_resting(self, book: Book, maker: Order) -> bool:
        """Let the synthetic market take a resting order; tell whether it took all of it."""
        room = self._room(maker)
        if room <= 0:
            self._expire(maker, ExpiryReason.REDUCE_ONLY)
            return True
        wanted = min(room, self.slicer(maker)) if self.slicer is not None else room
        assert maker.price is not None
        self._trade(maker, None, maker.price, wanted, is_maker=True)
        return not maker.status.is_open

    def _room(self, order: Order) -> Decimal:
        if not order.reduce_only:
            return order.remaining
        return self.accounts[order.api_key].wallet.reducible(order)

    def _trigger(self, book: Book, stop: Order) -> None:
        account = self.accounts[stop.api_key]
        del book.stops[stop.order_id]
        account.note_triggered(stop)
        stop.is_triggered = True
        stop.working_ms = stop.updated_ms = self.clock.now_ms()
        self.listener(stop, Change.TRIGGERED, None)
        if stop.type is OrderType.MARKET:
            # What was set aside is only an estimate: pay from what is free at today's price.
            account.wallet.release(stop)
            try:
                account.wallet.admit(stop, book.price * stop.quantity)
            except Refusal:
                self._expire(stop, ExpiryReason.FUNDS)
                return
        self._work(stop)

    def _trade(
        self,
        order: Order,
        maker: Order | None,
        price: Decimal,
        quantity: Decimal,
        *,
        is_maker: bool,
    ) -> None:
        """Trade `order` against a resting order, or against the synthetic market if None.

        `is_maker` says whether `order` itself was resting.
        """
        trade_id = next(self._trade_ids)
        self._settle(order, trade_id, price, quantity, is_maker=is_maker)
        if maker is not None:
            self._settle(maker, trade_id, price, quantity, is_maker=True)
        else:
            self._settle_counterparty(order, price, quantity)
        for party in (order, maker):
            if party is not None:
                self.listener(party, Change.TRADE, party.fills[-1])
                self._expire_idle_reducers(party)

    def _settle(
        self, order: Order, trade_id: int, price: Decimal, quantity: Decimal, *, is_maker: bool
    ) -> None:
        account = self.accounts[order.api_key]
        rate = self.maker_fee if is_maker else self.taker_fee
        now_ms = order.updated_ms = self.clock.now_ms()
        fee, fee_asset, profit = account.wallet.settle(order, price, quantity, rate)
        self.fees_paid[fee_asset] = self.fees_paid.get(fee_asset, ZERO) + fee
        fill = Fill(trade_id, price, quantity, fee, fee_asset, is_maker, now_ms, profit)
        order.fills.append(fill)
        order.filled += quantity
        order.filled_quote += price * quantity
        account.note_fill(order, fill)
        if order.remaining > 0:
            order.status = OrderStatus.PARTIALLY_FILLED
        else:
            order.status, order.ended_ns = OrderStatus.FILLED, time.time_ns()
            self.books[order.instrument].remove(order)
            account.note_closed(order)

    def _settle_counterparty(self, order: Order, price: Decimal, quantity: Decimal) -> None:
        sign = -1 if order.side is Side.BUY else 1
        base, quote = order.instrument.base, order.instrument.quote
        held = self.counterparty
        held[base] = held.get(base, ZERO) + sign * quantity
        held[quote] = held.get(quote, ZERO) - sign * price * quantity

    def _expire_idle_reducers(self, order: Order) -> None:
        """End reduce-only orders whose position this fill has closed or turned."""
        account = self.accounts[order.api_key]
        for other in list(account.reduce_only.values()):
            if other.instrument is order.instrument and account.wallet.reducible(other) <= 0:
                self._expire(other, ExpiryReason.REDUCE_ONLY)

    def _expire(self, order: Order, reason: ExpiryReason) -> None:
        order.expiry_reason = reason
        own_trade = reason is ExpiryReason.SELF_TRADE
        status = OrderStatus.EXPIRED_IN_MATCH if own_trade else OrderStatus.EXPIRED
        self._close(order, status, Change.EXPIRED)

    def _close(self, order: Order, status: OrderStatus, change: Change) -> None:
        account = self.accounts[order.api_key]
        self.books[order.instrument].remove(order)
        account.wallet.release(order)
        account.note_closed(order)
        order.status, order.ended_ns = status, time.time_ns()
        order.updated_ms = self.clock.now_ms()
        self.listener(order, change, None)
