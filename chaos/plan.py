"""What one run does, drawn from its seed and from nothing else: the same seed gives the same plan.

No clock, no network, no database. Times are seconds after the run began. What an action can only know when
it is carried out (which order rests then) is drawn here as a number that picks one of what is there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Any

BUSY_SECONDS = 2.6  # the webhooks of a run are sent within this time
PRICES = {"BTC/USDT": Decimal(95000), "ETH/USDT": Decimal(3500), "SOL/USDT": Decimal(180)}
# Price step and quantities (spot and futures trade them alike), all of them worth far more than 5 USDT.
_TICKS = {"BTC/USDT": Decimal("0.1"), "ETH/USDT": Decimal("0.01"), "SOL/USDT": Decimal("0.01")}
_QUANTITIES = {
    "BTC/USDT": ("0.002", "0.006", "0.01"),
    "ETH/USDT": ("0.02", "0.06", "0.1"),
    "SOL/USDT": ("0.4", "1.2", "2"),
}


class Kind(StrEnum):
    WEBHOOK = "webhook"
    RESEND = "resend"  # an earlier webhook once more, with the same webhook_id
    CANCEL_ONE = "cancel one"
    PRICE = "price"
    TICK = "tick"
    FILL = "fill"
    LIQUID = "liquid"
    HAND_CANCEL = "hand cancel"
    HAND_ORDER = "hand order"
    FAULT = "fault"
    CUT = "cut"
    EXPIRE_KEY = "expire key"
    CLOCK = "clock"
    LATENCY = "latency"
    KILL = "kill"
    START = "start"
    FREEZE = "freeze"
    THAW = "thaw"
    RETRY = "retry"  # people send failed orders again, from the page
    RESTART = "restart"  # of a server: it is killed, or stopped in order, and started again at once


@dataclass(frozen=True, slots=True)
class Action:
    at: float
    kind: Kind
    what: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = " ".join(f"{name}={value}" for name, value in self.what.items() if value != "")
        return f"{self.at:6.2f} {self.kind} {told}"


@dataclass(frozen=True, slots=True)
class Desk:
    """A strategy with the accounts that follow it."""

    name: str
    market_type: str
    execution_mode: str
    accounts: tuple[str, ...]

    @property
    def token(self) -> str:
        return f"token-{self.name}"


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    accounts: tuple[str, ...]
    limit_cap: int
    stop_cap: int
    desks: tuple[Desk, ...]
    actions: tuple[Action, ...]

    def lines(self) -> list[str]:
        """The plan for people, one line per action."""
        desks = [
            f"{desk.name}: {desk.market_type} {desk.execution_mode} on {', '.join(desk.accounts)}"
            for desk in self.desks
        ]
        caps = f"caps: {self.limit_cap} LIMIT, {self.stop_cap} STOP"
        return [f"seed {self.seed}", caps, *desks, *map(str, self.actions)]


def api_key(account: str) -> str:
    return f"key-{account}"


def api_secret(account: str) -> str:
    return f"secret-{account}"


def make_plan(seed: int, *, webs: int = 2, streams: int = 2, workers: int = 1) -> Plan:
    """Draw a run: its accounts and strategies, the webhooks, the market, and everything that goes wrong."""
    return _Draw(seed, webs=webs, streams=streams, workers=workers).plan()


class _Draw:
    def __init__(self, seed: int, *, webs: int, streams: int, workers: int) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.webs = [f"web-{number}" for number in range(1, webs + 1)]
        self.processes = [
            *self.webs,
            *(f"streams-{number}" for number in range(1, streams + 1)),
            *(f"worker-{number}" for number in range(1, workers + 1)),
        ]
        self.symbols = self.dice.sample(sorted(PRICES), 2)
        self.actions: list[Action] = []
        self.webhooks: list[tuple[float, str]] = []  # when each is sent, and to which process
        self.is_storm = False

    def plan(self) -> Plan:
        dice = self.dice
        self.is_storm = self._chance(0.3)  # everything is worse: more faults, kills, freezes
        accounts = tuple(f"r{self.seed}{letter}" for letter in "abc"[: dice.choice((1, 2, 2, 3))])
        limit_cap = dice.randint(2, 6)
        desks = tuple(self._desk(number, accounts) for number in range(1, dice.choice((2, 2, 3)) + 1))
        self._webhooks(desks)
        self._contest(desks)
        self._market(desks)
        self._people()
        self._faults(accounts)
        self._processes()
        actions = tuple(sorted(self.actions, key=lambda action: action.at))
        stop_cap = dice.randint(1, -(-limit_cap // 4))
        return Plan(self.seed, accounts, limit_cap, stop_cap, desks, actions)

    def _add(self, kind: Kind, at: float | None = None, **what: Any) -> None:
        moment = self.dice.uniform(0, BUSY_SECONDS) if at is None else at
        self.actions.append(Action(round(moment, 3), kind, what))

    def _chance(self, of_one: float) -> bool:
        return self.dice.random() < of_one

    # --- webhooks -------------------------------------------------------------------------------------

    def _desk(self, number: int, accounts: tuple[str, ...]) -> Desk:
        dice = self.dice
        some = tuple(sorted(dice.sample(accounts, dice.randint(1, len(accounts)))))
        market = dice.choice(("FUTURES", "FUTURES", "SPOT"))
        mode = dice.choice(("QUEUED", "QUEUED", "IMMEDIATE"))
        return Desk(f"r{self.seed}s{number}", market, mode, some)

    def _webhooks(self, desks: tuple[Desk, ...]) -> None:
        dice = self.dice
        for number, at in enumerate(self._moments()):
            desk = dice.choice(desks)
            payload: dict[str, Any] = {
                "token": desk.token,
                "webhook_id": f"r{self.seed}w{number}",
                "orders": self._orders(desk),
            }
            send: dict[str, Any] = {"number": number, "desk": desk.name, "to": dice.choice(self.webs)}
            self.webhooks.append((at, send["to"]))
            # A patient sender sends again, elsewhere, when it got no answer.
            self._add(Kind.WEBHOOK, at, **send, patient=self._chance(0.7), payload=payload)
            if self._chance(0.35):
                later = at + dice.choice((0.0, 0.01, 0.3, 1.0))
                self._add(Kind.RESEND, later, **send | {"to": dice.choice(self.webs)}, payload=payload)
            if self._chance(0.35):  # somebody changes their mind while the orders are on their way
                later = at + dice.choice((0.01, 0.03, 0.06, 0.12, 0.4)) + dice.uniform(0, 0.03)
                mind = payload | {"webhook_id": f"r{self.seed}x{number}", "orders": [self._cancel_all()]}
                another = send | {"number": 100 + number, "to": dice.choice(self.webs)}
                self._add(Kind.WEBHOOK, later, **another, patient=True, payload=mind)
        for _ in range(dice.randint(0, 4)):
            desk = dice.choice(desks)
            pick, to = dice.randrange(1000), dice.choice(self.webs)
            at = dice.uniform(0.1, BUSY_SECONDS)
            self._add(Kind.CANCEL_ONE, at, desk=desk.name, token=desk.token, pick=pick, to=to)

    def _contest(self, desks: tuple[Desk, ...]) -> None:
        """Fill a book, fill parts of what rests while the stream is silent, and let better orders come.

        What is moved back to the queue then was filled in part, and nobody has told of that yet.
        """
        dice = self.dice
        queued = [desk for desk in desks if desk.execution_mode == "QUEUED"]
        if not queued or not self._chance(0.6):
            return
        desk, symbol, side = dice.choice(queued), dice.choice(self.symbols), dice.choice(("buy", "sell"))
        at = dice.uniform(0, 0.6)
        for number, (nearest, count, later) in enumerate(((0.004, 8, 0.0), (0.001, dice.randint(3, 6), 1.1))):
            orders = [self._limit(symbol, side, nearest + 0.0004 * step, 1) for step in range(count)]
            payload = {"token": desk.token, "webhook_id": f"r{self.seed}y{number}", "orders": orders}
            send: dict[str, Any] = {"number": 200 + number, "desk": desk.name, "to": dice.choice(self.webs)}
            self._add(Kind.WEBHOOK, at + later, **send, patient=True, payload=payload)
        silent = at + 0.7 + dice.uniform(0, 0.2)
        for account in desk.accounts:
            kind = dice.choice(("stream_drop", "stream_delay", "stream_drop"))
            fault = {"kind": kind, "times": dice.randint(4, 8), "match": {"api_key": api_key(account)}}
            self._add(Kind.FAULT, silent, fault=fault | ({"seconds": 1.5} if kind == "stream_delay" else {}))
            if self._chance(0.7):  # nor does REST tell of fills for a while
                for path in ("/fapi/v1/userTrades", "/api/v3/myTrades"):
                    call = {"method": "GET", "path": path, "api_key": api_key(account)}
                    mute = {"kind": "reject", "status": 400, "code": -1000, "times": 30, "match": call}
                    self._add(Kind.FAULT, silent, fault=mute)
        for number in range(1, dice.randint(3, 6)):  # the newest orders are the worst of their ladder
            later = dice.uniform(0.005, 0.2)
            self._add(Kind.FILL, silent + later, pick=-number, part=dice.choice(("0.2", "0.5", "0.9")))
        for number in range(dice.randint(2, 6)):  # slots get free again: who waits moves up
            self._add(Kind.FILL, at + dice.uniform(1.5, 2.2), pick=-1 - number, part="1")

    def _moments(self) -> list[float]:
        """When webhooks are sent: half of them in bursts, at the same instant to several processes."""
        dice = self.dice
        count = dice.randint(6, 13)
        bursts = [dice.uniform(0, BUSY_SECONDS - 0.1) for _ in range(dice.randint(1, 3))]
        moments = [
            dice.choice(bursts) + dice.uniform(0, 0.08)
            if self._chance(0.5)
            else dice.uniform(0, BUSY_SECONDS)
            for _ in range(count)
        ]
        return sorted(moments)

    def _orders(self, desk: Desk) -> list[dict[str, Any]]:
        dice = self.dice
        roll = dice.random()
        if roll < 0.42:
            return self._ladder()
        if roll < 0.56:
            return [self._market_order() for _ in range(dice.randint(1, 3))]
        if roll < 0.66:
            return [self._stop() for _ in range(dice.randint(1, 4))]
        if roll < 0.75:
            return [self._close()]
        if roll < 0.85:
            return [self._cancel_all(), *(self._ladder() if self._chance(0.4) else ())]
        mixed = [self._market_order(), *self._ladder(), self._stop(), self._close()]
        dice.shuffle(mixed)
        return mixed

    def _ladder(self) -> list[dict[str, Any]]:
        """LIMIT orders of one side, from (rarely) beyond the market to two percent away."""
        dice = self.dice
        symbol, side = dice.choice(self.symbols), dice.choice(("buy", "sell"))
        nearest = dice.choice((-0.001, 0.0005, 0.001, 0.003))
        step = dice.choice((0.0004, 0.001, 0.002))
        count = dice.choice((1, 2, 4, 6, 9, 12))
        size = dice.randrange(3)
        return [self._limit(symbol, side, nearest + step * number, size) for number in range(count)]

    def _limit(self, symbol: str, side: str, distance: float, size: int) -> dict[str, Any]:
        return {
            "order_type": "LIMIT",
            "symbol": symbol,
            "side": side,
            "quantity": _QUANTITIES[symbol][size],
            "price": self._price(symbol, side, distance),
        }

    def _market_order(self) -> dict[str, Any]:
        symbol = self.dice.choice(self.symbols)
        quantity = self.dice.choice(_QUANTITIES[symbol])
        side = self.dice.choice(("buy", "sell"))
        return {"order_type": "MARKET", "symbol": symbol, "side": side, "quantity": quantity}

    def _stop(self) -> dict[str, Any]:
        dice = self.dice
        symbol, side = dice.choice(self.symbols), dice.choice(("buy", "sell"))
        away = "sell" if side == "buy" else "buy"  # a stop to buy lies above the market
        distance = dice.choice((0.001, 0.003, 0.008))
        order = {
            "symbol": symbol,
            "side": side,
            "quantity": dice.choice(_QUANTITIES[symbol]),
            "stop_price": self._price(symbol, away, distance),
        }
        if self._chance(0.5):
            return {"order_type": "STOP_MARKET"} | order
        return {"order_type": "STOP_LIMIT"} | order | {"price": self._price(symbol, away, distance + 0.001)}

    def _close(self) -> dict[str, Any]:
        symbol = self.dice.choice(self.symbols)
        return {"order_type": "MARKET", "symbol": symbol, "qty_per": str(-self.dice.choice((30, 50, 100)))}

    def _cancel_all(self) -> dict[str, Any]:
        order = {"order_type": "CANCEL_ALL_ORDER"}
        return order | ({"symbol": self.dice.choice(self.symbols)} if self._chance(0.5) else {})

    def _price(self, symbol: str, side: str, distance: float) -> str:
        """A price so far below (buy) or above (sell) where the market begins; a negative one crosses it."""
        factor = 1 - distance if side == "buy" else 1 + distance
        tick = _TICKS[symbol]
        steps = (PRICES[symbol] * Decimal(repr(factor)) / tick).quantize(Decimal(1), ROUND_HALF_EVEN)
        return str(steps * tick)

    # --- the market -----------------------------------------------------------------------------------

    def _market(self, desks: tuple[Desk, ...]) -> None:
        dice = self.dice
        for _ in range(dice.randint(2, 6)):
            symbol = dice.choice(self.symbols)
            factor = dice.uniform(-0.006, 0.006)
            self._add(Kind.PRICE, symbol=symbol, price=self._price(symbol, "sell", factor))
        for _ in range(dice.randint(0, 3)):
            self._add(Kind.TICK, steps=dice.randint(1, 3))
        for _ in range(dice.randint(3, 10)):
            at = dice.uniform(0.1, BUSY_SECONDS + 1)
            part = dice.choice(("0.2", "0.5", "0.9", "1"))
            self._add(Kind.FILL, at, pick=dice.randrange(1000), part=part)
        for _ in range(dice.choice((0, 0, 1, 2))):
            at = dice.uniform(0.3, BUSY_SECONDS + 1)
            self._add(Kind.HAND_CANCEL, at, pick=dice.randrange(1000))
        for number in range(dice.choice((0, 0, 0, 1, 2))):
            desk = dice.choice(desks)
            symbol, side = dice.choice(self.symbols), dice.choice(("buy", "sell"))
            self._add(
                Kind.HAND_ORDER,
                account=dice.choice(desk.accounts),
                market_type=desk.market_type,
                symbol=symbol,
                side=side,
                quantity=_QUANTITIES[symbol][0],
                price=self._price(symbol, side, 0.04),  # so far away that it never fills
                client_order_id=f"hand-{self.seed}-{number}",
            )
        if self._chance(0.25):
            symbol = dice.choice(self.symbols)
            at = dice.uniform(0, BUSY_SECONDS)
            self._add(Kind.LIQUID, at, symbol=symbol, liquid=False)
            self._add(Kind.LIQUID, at + dice.uniform(0.2, 1.5), symbol=symbol, liquid=True)

    def _people(self) -> None:
        """Somebody at the page sends failed orders again; sometimes two people, at the same instant."""
        dice = self.dice
        for _ in range(dice.randint(0, 3)):
            at = dice.uniform(0.8, BUSY_SECONDS + 1)
            pick, people = dice.randrange(1000), dice.choice((1, 1, 2))
            self._add(Kind.RETRY, at, pick=pick, to=dice.sample(self.webs, min(people, len(self.webs))))

    # --- the exchange and the way to it ---------------------------------------------------------------

    def _faults(self, accounts: tuple[str, ...]) -> None:
        dice = self.dice
        for _ in range(dice.randint(3, 9) * (2 if self.is_storm else 1)):
            at = dice.uniform(0, BUSY_SECONDS)
            fault = dice.choice(list(self._request_faults()))
            fault["match"] = self._matched_call() | {"api_key": api_key(dice.choice(accounts))}
            self._add(Kind.FAULT, at, fault=fault)
        if self._chance(0.25):  # longer than they are valid: they must arrive in vain
            orders = {"method": "POST", "client_order_id_prefix": "th", "api_key": api_key(accounts[-1])}
            held = {"kind": "arrive_late", "seconds": dice.choice((5.2, 6.0)), "times": 3}
            self._add(Kind.FAULT, dice.uniform(0, 0.8), fault=held | {"match": orders})
        if self._chance(0.5):  # orders that are on their way for long: the time in which they are nowhere
            orders = {"method": "POST", "client_order_id_prefix": "th", "api_key": api_key(accounts[0])}
            slow = {"kind": "delay_before", "seconds": dice.choice((0.5, 0.7, 0.9)), "times": 6}
            self._add(Kind.FAULT, fault=slow | {"match": orders})
        for _ in range(dice.randint(1, 6)):
            fault = dice.choice(list(self._stream_faults()))
            fault["match"] = {"api_key": api_key(dice.choice(accounts))}
            self._add(Kind.FAULT, fault=fault)
        for _ in range(dice.choice((0, 0, 1, 2))):
            self._add(Kind.CUT, api_key=api_key(dice.choice(accounts)))
        if self._chance(0.1):
            self._add(Kind.EXPIRE_KEY, api_key=api_key(dice.choice(accounts)))
        if self._chance(0.2):
            self._add(Kind.CLOCK, offset_ms=dice.choice((-2500, -700, 300, 900, 2500)))
        if self._chance(0.3):
            self._add(Kind.LATENCY, ms=dice.choice((20, 100, 300, 700)))

    def _matched_call(self) -> dict[str, Any]:
        """Mostly orders on their way; sometimes cancels, sometimes whatever is asked."""
        orders = {"method": "POST", "client_order_id_prefix": "th"}
        return dict(self.dice.choice((orders, orders, orders, {"method": "DELETE"}, {})))

    def _request_faults(self) -> Iterator[dict[str, Any]]:
        dice = self.dice
        times = dice.randint(1, 4)
        yield {"kind": "drop_answer", "stage": "after", "times": times}
        yield {"kind": "drop_answer", "stage": "before", "times": times}
        yield {
            "kind": "status",
            "status": dice.choice((500, 502, 503, 504)),
            "stage": "after",
            "times": times,
        }
        yield {
            "kind": "status",
            "status": dice.choice((500, 502, 503, 504)),
            "stage": "before",
            "times": times,
        }
        yield {"kind": "status", "status": 429, "retry_after": 1, "stage": "before", "times": 1}
        yield {"kind": "delay_before", "seconds": dice.choice((0.2, 0.5, 0.9, 2.5, 4.2)), "times": times}
        yield {"kind": "delay_after", "seconds": dice.choice((0.3, 1.0, 2.5)), "times": times}
        yield {"kind": "reject", "code": -2019, "msg": "Margin is insufficient.", "times": times}

    def _stream_faults(self) -> Iterator[dict[str, Any]]:
        times = self.dice.randint(1, 6)
        for kind in ("stream_drop", "stream_duplicate", "stream_reorder"):
            yield {"kind": kind, "times": times}
        yield {"kind": "stream_delay", "seconds": self.dice.choice((0.2, 1.0, 3.0)), "times": times}
        yield {"kind": "stream_garble", "times": times}
        yield {"kind": "stream_refuse", "status": 503, "times": self.dice.randint(1, 2)}

    # --- processes ------------------------------------------------------------------------------------

    def _processes(self) -> None:
        dice = self.dice
        for name in dice.choices(self.processes, k=dice.choice((2, 3, 4) if self.is_storm else (0, 1, 1, 2))):
            at = self._moment_for(name)
            self._add(Kind.KILL, at, process=name)
            self._add(Kind.START, at + dice.uniform(0.0, 1.0), process=name)
        if self._chance(0.1):
            self._power_cut()
        for at, web in self.webhooks:  # naps that are shorter than any lease
            if self._chance(0.06):
                nap = at + dice.uniform(0.004, 0.03)
                self._add(Kind.FREEZE, nap, process=web)
                self._add(Kind.THAW, nap + dice.uniform(0.3, 1.0), process=web)
        sleepers = [*self.processes, "redis", "postgres", "simulator"]
        for name in dice.sample(sleepers, dice.choice((1, 2, 3) if self.is_storm else (0, 1, 1, 2))):
            at = self._moment_for(name)
            # Servers and the exchange hold all others up; a process of ours may sleep until it was settled.
            shared = name in ("redis", "postgres", "simulator")
            seconds = dice.uniform(0.2, 1.5) if shared else dice.choice((0.3, 1.0, 4.2, 4.2)) + dice.random()
            self._add(Kind.FREEZE, at, process=name)
            self._add(Kind.THAW, at + seconds, process=name)
        if self._chance(0.15):
            self._add(Kind.RESTART, server="redis")
        if self._chance(0.15):
            self._add(Kind.RESTART, server="postgres", immediately=self._chance(0.5))

    def _power_cut(self) -> None:
        """A machine goes down with all of it; what runs on it comes up again one by one."""
        dice = self.dice
        at = self._moment_for(dice.choice(self.webs))
        for name in self.processes:
            self._add(Kind.KILL, at, process=name)
            self._add(Kind.START, at + dice.uniform(0.1, 1.2), process=name)
        if self._chance(0.7):
            self._add(Kind.RESTART, at, server="redis")
        if self._chance(0.7):
            self._add(Kind.RESTART, at, server="postgres", immediately=True)

    def _moment_for(self, process: str) -> float:
        """Mostly right after a webhook began to be worked, of this process if it is a web process."""
        dice = self.dice
        begun = [at for at, to in self.webhooks if to == process or not process.startswith("web")]
        if begun and self._chance(0.75):
            return dice.choice(begun) + dice.choice((0.005, 0.02, 0.04, 0.08, 0.2)) + dice.uniform(0, 0.02)
        return dice.uniform(0.1, BUSY_SECONDS)
