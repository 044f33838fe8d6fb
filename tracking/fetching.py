"""Asking an exchange what became of orders: state and fills together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import TypeVar

from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import (
    ErrorType,
    ExchangeError,
    InvalidSymbol,
    OrderNotFound,
    OutcomeUnknown,
)
from exchanges.adapters.types import Fill, OrderRef, OrderReport

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

SIDE_BY_SIDE = 5  # the adapter's limiter decides the pace; this bounds what waits in memory
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Question:
    """One order to ask about. `booked` is what we have counted as filled already."""

    ref: OrderRef
    booked: Decimal


async def order_fetch(exchange: Exchange, question: Question) -> OrderReport:
    """Return an order as it stands now, with all its fills where any of them is not booked yet.

    Raises OrderNotFound, or any other ExchangeError.
    """
    report = await exchange.fetch_order(question.ref)
    return await with_fills(exchange, report, question)


async def with_fills(exchange: Exchange, report: OrderReport, question: Question) -> OrderReport:
    """Return the report with all fills of its order, where the exchange counts more than is booked."""
    if (report.filled_quantity or _ZERO) <= question.booked:
        return report
    ref = replace(
        question.ref,
        exchange_order_id=report.exchange_order_id or question.ref.exchange_order_id,
        child_order_id=report.child_order_id or question.ref.child_order_id,
        conditional=report.conditional or question.ref.conditional,
    )
    return replace(report, fills=tuple(await exchange.fetch_executions(ref)))


async def orders_fetch(
    exchange: Exchange, questions: Sequence[Question], *, seconds: float | None = None
) -> list[OrderReport | ExchangeError]:
    """Ask about many orders; one answer per question, in order. Never raises for one order's sake.

    What is not answered within `seconds`, all questions together, is an OutcomeUnknown; the others' answers
    stand.
    """
    return await _each(exchange, questions, partial(order_fetch, exchange), seconds)


async def fills_fetch(
    exchange: Exchange, refs: Sequence[OrderRef], *, seconds: float
) -> list[list[Fill] | ExchangeError]:
    """Ask what orders have traded, though they themselves may be forgotten; else like `orders_fetch`."""

    async def ask(ref: OrderRef) -> list[Fill]:
        try:
            return await exchange.fetch_executions(ref)
        except (OrderNotFound, InvalidSymbol):
            return []

    return await _each(exchange, refs, ask, seconds)


async def _each(
    exchange: Exchange,
    asked: Sequence[Asked],
    ask: Callable[[Asked], Awaitable[Answer]],
    seconds: float | None,
) -> list[Answer | ExchangeError]:
    gate = asyncio.Semaphore(SIDE_BY_SIDE)
    until = None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def one(item: Asked) -> Answer | ExchangeError:
        try:
            async with asyncio.timeout_at(until), gate:
                return await ask(item)
        except TimeoutError:
            return not_in_time(exchange)
        except ExchangeError as exc:
            return exc

    return await asyncio.gather(*map(one, asked))


def not_in_time(exchange: Exchange) -> OutcomeUnknown:
    return OutcomeUnknown(
        "the exchange has not answered in time", venue=exchange.venue, error_type=ErrorType.TIMEOUT
    )
