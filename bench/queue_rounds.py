"""Inside one process: what a rebalance costs beside a queue of some length. Needs Django set up.

The process fills its database, then measures whatever it is asked for: a name per line on its input, an
answer per line on its output. So processes with queues of different lengths can take turns.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction

from bench.queue_rows import CAP, WORST_RESTING, fill
from exchanges import access, runtime
from orders import locks
from orders.clock import database_now
from orders.models import EventSource, OpenOrder, PendingOrder
from orders.services import queue
from orders.services.claims import Claim
from orders.services.intake import Incoming, webhook_receive
from orders.services.settlement import apply_reports
from orders.services.warmup import warm_up

ADDRESS = "127.0.0.1"
SYMBOL = "BTC/USDT"
QUANTITY = "0.003"


@dataclass(slots=True)
class Measured:
    """Milliseconds, and of them those in the database driver; queries are round trips to it."""

    milliseconds: float = 0.0
    database: float = 0.0
    queries: int = 0
    executed: int = 0
    canceled: int = 0
    books: int = 1

    def statement(self, execute: Callable[..., Any], *arguments: Any) -> Any:
        self.queries += 1
        began = time.perf_counter()
        try:
            return execute(*arguments)
        finally:
            self.database += (time.perf_counter() - began) * 1000

    def of(self, call: Callable[[], Any]) -> Any:
        with connection.execute_wrapper(self.statement):
            began = time.perf_counter()
            result = call()
            self.milliseconds = (time.perf_counter() - began) * 1000
        return result

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(slots=True)
class Rounds:
    """One account's book at the exchange, full, with `waiting` orders behind it; and other books."""

    waiting: int
    books: int
    token: str
    book_id: int = 0
    account_id: int = 0
    price: int = field(default=WORST_RESTING + CAP)

    def prepare(self) -> None:
        warm_up()
        self._post([WORST_RESTING + each for each in range(CAP)])
        self._post([20_000])
        waits = PendingOrder.objects.get()
        rests = OpenOrder.objects.order_by("pk")[0]
        self.book_id, self.account_id = waits.book_id, waits.account_id
        fill(waits.pk, rests.pk, waiting=self.waiting, books=self.books)

    def _post(self, prices: list[int]) -> dict[str, Any]:
        order = {"symbol": SYMBOL, "side": "buy", "order_type": "LIMIT", "quantity": QUANTITY}
        orders = [order | {"price": str(price)} for price in prices]
        body = json.dumps({"token": self.token, "orders": orders}).encode()
        answer = webhook_receive(Incoming(body, ADDRESS))
        if answer.status != 200:
            raise SystemExit(f"{answer.status} {str(answer.body)[:500]}")
        return answer.body

    # --- what can be asked for --------------------------------------------------------------------

    def plan(self) -> Measured:
        """Lock, read and plan the full book: there is nothing to do."""
        found = Measured()
        now = database_now()

        def work() -> Claim:
            with transaction.atomic():
                books = list(locks.books_for_update([self.book_id]).select_related("account"))
                claim = Claim(now=now, source=EventSource.QUEUE)
                claim.plan(books, version=books[0].config_version)  # type: ignore[attr-defined]  # annotated
            return claim

        claim = found.of(work)
        assert not claim.ids, "the book is not in its rest"
        return found

    def freed(self) -> Measured:
        """A slot is free: the best waiting order is claimed, sent and recorded."""
        freed = self._free_slot()
        found = Measured()
        run = found.of(lambda: queue.rebalance(book_ids=freed, freed=freed))
        found.executed, found.canceled = run.executed, run.canceled
        return found

    def better(self) -> Measured:
        """A better order comes with a webhook: one goes back, this one takes its slot."""
        self.price += 1
        found = Measured()
        answer = found.of(lambda: self._post([self.price]))
        found.executed = answer["summary"]["exchange_submitted"]
        return found

    def sweep(self) -> Measured:
        """Plan all books that have waiting orders: there is nothing to do in any of them."""
        found = Measured()
        found.books = found.of(queue.sweep)
        return found

    def _free_slot(self) -> set[int]:
        """Cancel an order behind our back, as its owner could by hand, and record what is heard of it."""
        order = OpenOrder.objects.filter(book=self.book_id).select_related(
            "account", "intent", "placement__intent"
        )[0]
        market = order.intent.market_type
        exchange = access.exchange_for(order.account, market)
        reports = runtime.run(exchange.cancel_orders([order.placement.to_ref()]))
        applied = apply_reports(
            account_id=self.account_id,
            market_type=market,
            reports=reports,  # type: ignore[arg-type]  # a refusal would raise there: loud
            source=EventSource.STREAM,
            now=database_now(),
        )
        assert applied.freed_books == {self.book_id}
        return applied.freed_books


def serve(rounds: Rounds) -> None:
    """Prepare, say so, and measure what is asked for until the input ends."""
    rounds.prepare()
    _say("ready")
    for line in sys.stdin:
        _say(json.dumps(getattr(rounds, line.strip())().as_json()))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
