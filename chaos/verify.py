"""Ours against theirs: what must hold of the system's rows, given what the exchange's ledger says.

Pure: rows in, findings out. `Theirs` has to be read before `Ours`: a placement is committed before it is
sent, so whatever the exchange knows by then we must know too. A finding is `final` when no further event
may mend it (an order that was accepted twice); the others have to be gone once the system has settled.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from math import inf
from typing import Any

Row = dict[str, Any]
ZERO = Decimal(0)
LIVE_THERE = frozenset({"NEW", "PARTIALLY_FILLED"})
HOME_ROWS = {"QUEUE": "pending", "EXCHANGE": "open", "FAILED": "failed", "DONE": ""}
SHORTEST_LEASE = 1.0  # seconds: no process's work is taken over sooner (chaos/fleet.py)
MARKETS = {"binance-futures": "FUTURES", "binance-spot": "SPOT"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be. `rule` names the check, `text` says where."""

    rule: str
    text: str
    final: bool = False

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}{' (final)' if self.final else ''}"


@dataclass(slots=True)
class Ours:
    """Our rows of one run's accounts, as `chaos.rows` reads them."""

    deliveries: list[Row] = field(default_factory=list)
    intents: list[Row] = field(default_factory=list)
    placements: list[Row] = field(default_factory=list)
    open: list[Row] = field(default_factory=list)
    pending: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    executions: list[Row] = field(default_factory=list)
    trades: list[Row] = field(default_factory=list)
    positions: list[Row] = field(default_factory=list)
    unmatched: list[Row] = field(default_factory=list)
    books: list[Row] = field(default_factory=list)
    submitted_events: list[Row] = field(default_factory=list)
    cancel_events: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class Theirs:
    """The exchange's side: its ledger's orders, those of the conditional API, and positions by account."""

    orders: list[Row] = field(default_factory=list)
    conditional: list[Row] = field(default_factory=list)
    positions: dict[tuple[str, str], Decimal] = field(default_factory=dict)  # account, symbol
    held: int = 0  # requests that are on their way still

    @classmethod
    def from_ledger(cls, ledger: Row, keys: dict[str, str]) -> Theirs:
        """Take a ledger's part of these api keys; `keys`: account names by key."""
        futures = ledger["accounts"].get("binance-futures", {})
        return cls(
            orders=[row for row in ledger["orders"] if row["api_key"] in keys],
            conditional=[row for row in ledger["conditional_orders"] if row["api_key"] in keys],
            positions={
                (keys[key], position["symbol"]): Decimal(position["quantity"])
                for key, account in futures.items()
                if key in keys
                for position in account["positions"]
            },
            held=ledger["held"],
        )


@dataclass(frozen=True, slots=True)
class Promise:
    """A webhook that was answered with 2xx: `intents` orders times accounts were promised."""

    strategy: str
    webhook_id: str
    intents: int


@dataclass(frozen=True, slots=True)
class Try:
    """One try to send a webhook; `status` None: no answer. Times by one clock, in seconds."""

    strategy: str
    webhook_id: str
    status: int | None
    began: float
    ended: float


@dataclass(slots=True)
class Audit:
    """One comparison. `keys`: account names by api key; `is_over`: everything was canceled at the end."""

    ours: Ours
    theirs: Theirs
    promises: Sequence[Promise]
    keys: dict[str, str]
    limit_cap: int
    stop_cap: int
    is_over: bool = False
    tries: Sequence[Try] = ()
    by_placement: dict[str, Row] = field(init=False)
    intents: dict[int, Row] = field(init=False)
    theirs_ours: list[Row] = field(init=False)  # their orders that bear an id of our shape

    def __post_init__(self) -> None:
        self.intents = {row["id"]: row for row in self.ours.intents}
        self.by_placement = {row["client_order_id"]: row for row in self.ours.placements}
        self.theirs_ours = [
            row
            for row in (*self.theirs.orders, *self.theirs.conditional)
            if row["client_order_id"].startswith("th")
        ]

    def findings(self) -> list[Finding]:
        rules: tuple[Callable[[], Iterator[Finding]], ...] = (
            self._accepted_once,
            self._known,
            self._one_live_placement,
            self._one_at_a_time,
            self._never_too_much,
            self._never_asks_too_much,
            self._not_after_its_cancel,
            self._promises_kept,
            self._worked_at_once,
            self._one_home,
            self._done_is_done,
            self._open_agree,
            self._executions_agree,
            self._sums_agree,
            self._positions_agree,
            self._nothing_in_flight,
            self._nobody_starves,
            self._all_canceled,
        )
        return [finding for rule in rules for finding in rule()]

    # --- what may never be ----------------------------------------------------------------------------

    def _accepted_once(self) -> Iterator[Finding]:
        """No client order id was accepted twice. A triggered stop's child bears its parent's id."""
        accepted = Counter(row["client_order_id"] for row in self.theirs_ours if not row["parent_id"])
        for client_order_id, times in accepted.items():
            if times > 1:
                yield Finding("accepted twice", f"{client_order_id}, {times} times", final=True)

    def _known(self) -> Iterator[Finding]:
        """What bears an id of our shape stands in our rows."""
        for row in self.theirs_ours:
            if row["client_order_id"] not in self.by_placement:
                yield Finding("unknown order", f"{row['client_order_id']} is not ours", final=True)

    def _one_live_placement(self) -> Iterator[Finding]:
        live: dict[int, set[str]] = defaultdict(set)
        for row in self._live_there():
            if (placement := self.by_placement.get(row["client_order_id"])) is not None:
                live[placement["intent_id"]].add(row["client_order_id"])
        for intent_id, names in live.items():
            if len(names) > 1:
                yield Finding("two live placements", f"intent {intent_id}: {', '.join(sorted(names))}")

    def _one_at_a_time(self) -> Iterator[Finding]:
        """At no moment did the exchange have two open orders of one intent. By its machine's clock."""
        lives: dict[int, dict[str, tuple[int, float]]] = defaultdict(dict)
        for row in self.theirs_ours:
            name = row["client_order_id"]
            if (placement := self.by_placement.get(name)) is None:
                continue
            ended = row["ended_ns"] or inf
            begun, until = lives[placement["intent_id"]].get(name, (row["accepted_ns"], ended))
            # A triggered stop and its child are one attempt.
            lives[placement["intent_id"]][name] = min(begun, row["accepted_ns"]), max(until, ended)
        for intent_id, attempts in lives.items():
            spans = sorted((*span, name) for name, span in attempts.items())
            for (_, until, before), (begun, _, after) in pairwise(spans):
                if begun < until:
                    text = f"intent {intent_id}: {after} was accepted while {before} was open"
                    yield Finding("two at once", text, final=True)

    def _never_too_much(self) -> Iterator[Finding]:
        filled: dict[int, Decimal] = defaultdict(Decimal)
        for row in self.theirs.orders:
            if (placement := self.by_placement.get(row["client_order_id"])) is not None:
                filled[placement["intent_id"]] += Decimal(row["filled"])
        for intent_id, quantity in filled.items():
            asked = self.intents[intent_id]["quantity"]
            if quantity > asked:
                yield Finding("too much", f"intent {intent_id}: {quantity} filled of {asked}", final=True)

    def _never_asks_too_much(self) -> Iterator[Finding]:
        """No attempt asks for more than what earlier ones left to be filled, whether or not it fills."""
        attempts: dict[int, dict[str, tuple[int, Decimal]]] = defaultdict(dict)
        filled: dict[str, Decimal] = defaultdict(Decimal)
        for row in self.theirs_ours:
            name = row["client_order_id"]
            if (placement := self.by_placement.get(name)) is None or row["parent_id"]:
                continue  # a triggered stop's child asks for what its parent asked for
            attempts[placement["intent_id"]][name] = row["accepted_ns"], Decimal(row["quantity"])
        for row in self.theirs.orders:
            filled[row["client_order_id"]] += Decimal(row["filled"])
        for intent_id, found in attempts.items():
            left = self.intents[intent_id]["quantity"]
            for name, (_, quantity) in sorted(found.items(), key=lambda each: each[1]):
                if quantity > left:
                    text = f"intent {intent_id}: {name} is for {quantity}, {left} was left"
                    yield Finding("asks too much", text, final=True)
                left -= filled[name]

    def _not_after_its_cancel(self) -> Iterator[Finding]:
        """Once its cancel was asked for an intent is never placed again. By the log's order of writing."""
        asked = {row["intent_id"]: row["id"] for row in self.ours.cancel_events}
        for row in self.ours.submitted_events:
            if row["intent_id"] in asked and row["id"] > asked[row["intent_id"]]:
                text = f"intent {row['intent_id']} was submitted after its cancel was asked for"
                yield Finding("placed after cancel", text, final=True)

    # --- webhooks -------------------------------------------------------------------------------------

    def _promises_kept(self) -> Iterator[Finding]:
        made: Counter[tuple[str, str]] = Counter()
        delivered = {row["id"]: (row["strategy"], row["webhook_id"]) for row in self.ours.deliveries}
        for row in self.ours.intents:
            made[delivered[row["delivery_id"]]] += 1
        known = set(delivered.values())
        for promise in self.promises:
            name = promise.strategy, promise.webhook_id
            if name not in known:
                yield Finding(
                    "lost webhook", f"{promise.webhook_id} was answered, there is no row", final=True
                )
            elif made[name] != promise.intents:
                text = f"{promise.webhook_id}: {made[name]} intents of {promise.intents}"
                yield Finding("lost intents", text, final=True)

    def _worked_at_once(self) -> Iterator[Finding]:
        """The first try of a webhook is never told that another one is at work: there is no other."""
        sent: dict[tuple[str, str], list[Try]] = defaultdict(list)
        for one in self.tries:
            sent[one.strategy, one.webhook_id].append(one)
        for (_, webhook_id), tries in sent.items():
            first, *others = sorted(tries, key=lambda one: one.began)
            # Who slept longer than its lease finds its work taken over.
            is_excused = first.ended - first.began > SHORTEST_LEASE or any(
                other.began < first.ended for other in others
            )
            if first.status == 409 and not is_excused:
                text = f"{webhook_id}: the first who sent it was told that another one is at work"
                yield Finding("carried out late", text, final=True)

    # --- our own rows ---------------------------------------------------------------------------------

    def _one_home(self) -> Iterator[Finding]:
        rows = {
            "pending": {row["intent_id"] for row in self.ours.pending},
            "open": {row["intent_id"] for row in self.ours.open},
            "failed": {row["intent_id"] for row in self.ours.failed},
        }
        for intent in self.ours.intents:
            where = sorted(name for name, found in rows.items() if intent["id"] in found)
            wanted = [HOME_ROWS[intent["home"]]] if HOME_ROWS[intent["home"]] else []
            if where != wanted:
                yield Finding("home", f"intent {intent['id']} is {intent['home']}, its rows are {where}")

    def _done_is_done(self) -> Iterator[Finding]:
        """Who is done was filled or canceled; an order that ended with less is a failed one."""
        for intent in self.ours.intents:
            if intent["home"] != "DONE" or intent["cancel_requested"]:
                continue
            part_of_market = intent["order_type"] == "MARKET" and intent["filled_quantity"] > 0
            if intent["filled_quantity"] < intent["quantity"] and not part_of_market:
                text = f"intent {intent['id']}: {intent['filled_quantity']} of {intent['quantity']}"
                yield Finding("done too early", text)

    # --- orders ---------------------------------------------------------------------------------------

    def _live_there(self) -> Iterator[Row]:
        for row in self.theirs_ours:
            if row["status"] in LIVE_THERE:
                yield row

    def _open_agree(self) -> Iterator[Finding]:
        there = {row["client_order_id"]: row for row in self._live_there()}
        here = {row["client_order_id"]: row for row in self.ours.open}
        for name in there.keys() - here.keys():
            home = self._home_of(name)
            yield Finding("rests there", f"{name} ({there[name]['status']}) is not open here: {home}")
        for name in here.keys() - there.keys():
            yield Finding("open here", f"{name} ({here[name]['status']}) does not rest there")
        for name in here.keys() & there.keys():
            mine, other = here[name], there[name]
            if mine["status"] != other["status"]:
                yield Finding("status", f"{name} is {mine['status']} here, {other['status']} there")

    def _home_of(self, client_order_id: str) -> str:
        placement = self.by_placement.get(client_order_id)
        return str(self.intents[placement["intent_id"]]["home"]) if placement is not None else "unknown"

    def _executions_agree(self) -> Iterator[Finding]:
        there = {
            (MARKETS[row["exchange"]], self.keys[row["api_key"]], str(fill["trade_id"])): fill
            for row in self.theirs.orders
            if row["client_order_id"] in self.by_placement
            for fill in row["fills"]
        }
        here: dict[tuple[str, str, str], Row] = {}
        for row in self.ours.executions:
            key = (row["market_type"], row["account"], row["trade_id"])
            if key in here:
                yield Finding("counted twice", f"execution {key}", final=True)
            here[key] = row
        for key in there.keys() - here.keys():
            yield Finding("fill missing", f"{key}: {there[key]['quantity']} at {there[key]['price']}")
        for key in here.keys() - there.keys():
            # Not final: the exchange was read first, this one may have come since.
            yield Finding("fill invented", f"{key}: {here[key]['quantity']} at {here[key]['price']}")
        for key in here.keys() & there.keys():
            for name in ("quantity", "price", "fee"):
                if here[key][name] != Decimal(there[key][name]):
                    text = f"{key}: {name} {here[key][name]} here, {there[key][name]} there"
                    yield Finding("fill differs", text, final=True)

    def _sums_agree(self) -> Iterator[Finding]:
        """Intents, placements and trades hold what their executions add up to."""
        by_intent: dict[int, Decimal] = defaultdict(Decimal)
        by_placement: dict[int, Decimal] = defaultdict(Decimal)
        notional: dict[int, Decimal] = defaultdict(Decimal)
        for row in self.ours.executions:
            by_intent[row["intent_id"]] += row["quantity"]
            by_placement[row["placement_id"]] += row["quantity"]
            notional[row["intent_id"]] += row["quantity"] * row["price"]
        for row in self.ours.intents:
            if row["filled_quantity"] != by_intent[row["id"]]:
                text = (
                    f"intent {row['id']}: {row['filled_quantity']} filled, executions {by_intent[row['id']]}"
                )
                yield Finding("sums", text)
        for row in self.ours.placements:
            if row["filled_quantity"] != by_placement[row["id"]]:
                yield Finding("sums", f"placement {row['client_order_id']} differs from its executions")
        trades = {row["intent_id"]: row for row in self.ours.trades}
        for intent_id in trades.keys() | by_intent.keys():
            trade, quantity = trades.get(intent_id), by_intent[intent_id]
            if (trade["quantity"] if trade else ZERO) != quantity:
                yield Finding("sums", f"the trade of intent {intent_id} differs from its executions")
            elif trade and trade["notional"] != notional[intent_id]:
                yield Finding("sums", f"the notional of intent {intent_id}'s trade differs")

    # --- positions ------------------------------------------------------------------------------------

    def _positions_agree(self) -> Iterator[Finding]:
        ours: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for row in self.ours.positions:
            if row["market_type"] == "FUTURES":
                ours[row["account"], row["symbol"]] += row["quantity"]
        by_hand = self._filled_by_hand()
        for key in sorted(ours.keys() | self.theirs.positions.keys()):
            mine, other = ours[key], self.theirs.positions.get(key, ZERO) - by_hand[key]
            if mine != other:
                yield Finding("position", f"{key[0]} {key[1]}: {mine} here, {other} there")
        folded = fold(self.ours.executions)
        positions = {(row["strategy_account_id"], row["market_type"], row["symbol"]): row
                     for row in self.ours.positions}  # fmt: skip
        for name in sorted(folded.keys() | positions.keys()):
            quantity, realized = folded.get(name, (ZERO, ZERO))
            found = positions.get(name)
            if (found["quantity"] if found else ZERO) != quantity:
                text = f"{name}: {found['quantity'] if found else 0}, its executions make {quantity}"
                yield Finding("position", text)
            elif found and abs(found["realized_pnl"] - realized) > Decimal("1e-9"):
                yield Finding("profit", f"{name}: {found['realized_pnl']}, its executions make {realized}")

    def _filled_by_hand(self) -> dict[tuple[str, str], Decimal]:
        """What orders placed past us have added to the account's positions: theirs, and none of ours."""
        filled: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for row in self.theirs.orders:
            if not row["client_order_id"].startswith("th") and MARKETS[row["exchange"]] == "FUTURES":
                sign = 1 if row["side"] == "BUY" else -1
                filled[self.keys[row["api_key"]], row["symbol"]] += sign * Decimal(row["filled"])
        return filled

    # --- settled --------------------------------------------------------------------------------------

    def _nothing_in_flight(self) -> Iterator[Finding]:
        if self.theirs.held:
            yield Finding("in flight", f"{self.theirs.held} requests have not arrived yet")
        for row in self.ours.open:
            if row["status"] not in LIVE_THERE:
                yield Finding("in flight", f"{row['client_order_id']} is {row['status']}")
            elif row["cancel_requested"]:
                yield Finding("cancel forgotten", f"{row['client_order_id']} rests, its cancel was asked for")
        for row in self.ours.deliveries:
            if row["state"] != "ANSWERED":
                yield Finding("in flight", f"webhook {row['webhook_id']} is {row['state']}")
        for row in self.ours.placements:
            if row["outcome"] == "UNRESOLVED":
                yield Finding("in flight", f"nobody knows what became of {row['client_order_id']}")
            if row["exchange_filled_quantity"] > row["filled_quantity"]:
                yield Finding("in flight", f"fills of {row['client_order_id']} are missing")
        for row in self.ours.unmatched:
            yield Finding("in flight", f"a report of {row['exchange_order_id']} waits for its order")
        for row in self.ours.pending:
            if row["cancel_requested"]:
                yield Finding(
                    "cancel forgotten", f"intent {row['intent_id']} waits, its cancel was asked for"
                )

    def _nobody_starves(self) -> Iterator[Finding]:
        """Where a lane has a free slot nobody is left waiting who could go."""
        taken: Counter[tuple[int, bool]] = Counter()
        for row in self.ours.open:
            taken[row["book_id"], row["order_type"].startswith("STOP")] += 1
        books = {row["id"]: row for row in self.ours.books}
        for (book_id, is_stop), waiting in self._ready().items():
            book = books[book_id]
            kind = "stop" if is_stop else "limit"
            room = self.stop_cap if is_stop else self.limit_cap
            if book[f"{kind}_believed"] is not None:
                room = min(room, book[f"{kind}_believed"])
            there = taken[book_id, is_stop] + book[f"external_{kind}_orders"]
            if there < room:
                text = f"book {book_id}: {waiting} {kind} orders wait, {there} of {room} slots are taken"
                yield Finding("starving", text)

    def _ready(self) -> Counter[tuple[int, bool]]:
        ready: Counter[tuple[int, bool]] = Counter()
        for row in self.ours.pending:
            if row["waits_until"] is None:
                ready[row["book_id"], row["order_type"].startswith("STOP")] += 1
        return ready

    def _all_canceled(self) -> Iterator[Finding]:
        if not self.is_over:
            return
        for row in self._live_there():
            yield Finding("still alive", f"{row['client_order_id']} rests after everything was canceled")
        for row in (*self.ours.open, *self.ours.pending):
            yield Finding("still alive", f"intent {row['intent_id']} lives after everything was canceled")


def fold(executions: Iterable[Row]) -> dict[tuple[int, str, str], tuple[Decimal, Decimal]]:
    """Return quantity and realized profit by (strategy account, market, symbol), computed anew.

    In the order of (exchange time, trade id), as the specification says; written apart from the ledger's
    own folding on purpose.
    """
    lanes: dict[tuple[int, str, str], list[Row]] = defaultdict(list)
    for row in executions:
        lanes[row["strategy_account_id"], row["market_type"], row["symbol"]].append(row)
    return {name: _fold(rows) for name, rows in lanes.items()}


def _fold(rows: list[Row]) -> tuple[Decimal, Decimal]:
    held, cost, realized = ZERO, ZERO, ZERO  # cost: what is held, at its average entry, both signed
    for row in sorted(rows, key=lambda one: (one["executed_at"], _trade_number(one["trade_id"]))):
        signed = row["quantity"] if row["side"] == "BUY" else -row["quantity"]
        if held * signed >= 0:
            held, cost = held + signed, cost + signed * row["price"]
            continue
        closing = min(abs(signed), abs(held)).copy_sign(held)
        average = cost / held
        realized += closing * (row["price"] - average)
        held, cost = held - closing, cost - closing * average
        rest = signed + closing
        if rest:
            held, cost = rest, rest * row["price"]
    return held, realized


def _trade_number(trade_id: str) -> tuple[int, str]:
    return (len(trade_id), trade_id)
