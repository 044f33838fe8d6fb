"""How much we may ask of a host, and in which order.

Two kinds of budget: request weight per host and address, orders per account. Orders and cancels
are urgent; everything else is background and gets at most half of the weight. What the exchange's
own counters say corrects ours, because other processes draw on the same budget.

Units: seconds on the `time.monotonic()` clock unless a name says otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from aiolimiter import AsyncLimiter

from exchanges.adapters.exceptions import ErrorType, NotSent, RateLimited

_BACKGROUND_SHARE = 0.5
_URGENT_CEILING = 0.95  # of the weight, as the exchange counts it: beyond it even urgent calls wait
_BACKGROUND_CONNECTIONS = 20
_MINUTE = 60


@dataclass(frozen=True, slots=True)
class OrderWindow:
    """So many orders per account in so many seconds, and the header that tells how many it were."""

    limit: int
    seconds: int
    header: str


@dataclass(frozen=True, slots=True)
class RateRules:
    """An exchange's limits. `share`: this process's part of them."""

    weight_per_minute: int
    weight_header: str
    order_windows: tuple[OrderWindow, ...] = ()
    share: float = 1.0


class HostLimits:
    """The budgets of one host in this process, for all accounts. Lives on the I/O loop."""

    def __init__(
        self, venue: str, rules: RateRules, *, on_ban: Callable[[float, str], None] | None = None
    ) -> None:
        self.venue = venue
        self.rules = rules
        self._all, self._background = _weight_limiters(rules)
        self._background_slots = asyncio.Semaphore(_BACKGROUND_CONNECTIONS)
        self._accounts: dict[str, list[AsyncLimiter]] = {}
        self._account_paused_until: dict[str, float] = {}
        self._paused_until = 0.0
        self._background_paused_until = 0.0
        self._urgent_waiting = 0
        self._banned_until = 0.0
        self._ban_reason = ""
        self._on_ban = on_ban

    @asynccontextmanager
    async def admitted(
        self, *, weight: int, orders: tuple[int, ...], account: str, urgent: bool, deadline: float | None
    ) -> AsyncIterator[None]:
        """Hold the caller until it may send.

        Raises: RateLimited while the address is banned; NotSent when the deadline comes first.
        """
        self._refuse_when_banned()
        if urgent:
            await self._admit_urgent(weight, orders, account, deadline)
            yield
            return
        async with self._background_slots:
            await self._admit_background(weight, deadline)
            yield

    async def _admit_urgent(
        self, weight: int, orders: tuple[int, ...], account: str, deadline: float | None
    ) -> None:
        self._urgent_waiting += 1
        try:
            if any(orders):
                await self._sleep_until(self._account_paused_until.get(account, 0.0), deadline)
                for limiter, amount in zip(self._account_limiters(account), orders, strict=False):
                    await self._draw(limiter, amount, deadline)
            if weight:
                await self._sleep_until(self._paused_until, deadline)
                await self._draw(self._all, weight, deadline)
        finally:
            self._urgent_waiting -= 1
        self._refuse_when_banned()

    async def _admit_background(self, weight: int, deadline: float | None) -> None:
        await self._sleep_until(max(self._paused_until, self._background_paused_until), deadline)
        await self._draw(self._background, weight, deadline)
        while self._urgent_waiting:
            await self._sleep_until(time.monotonic() + 0.02, deadline)
        await self._draw(self._all, weight, deadline)
        self._refuse_when_banned()

    def _account_limiters(self, account: str) -> list[AsyncLimiter]:
        limiters = self._accounts.get(account)
        if limiters is None:
            limiters = self._accounts[account] = [
                AsyncLimiter(max(1.0, window.limit * self.rules.share), window.seconds)
                for window in self.rules.order_windows
            ]
        return limiters

    async def _draw(self, limiter: AsyncLimiter, amount: float, deadline: float | None) -> None:
        amount = min(amount, limiter.max_rate)
        if deadline is None or limiter.has_capacity(amount):
            await limiter.acquire(amount)
            return
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await limiter.acquire(amount)
        except TimeoutError:
            raise self._held_back() from None

    async def _sleep_until(self, moment: float, deadline: float | None) -> None:
        while (seconds := moment - time.monotonic()) > 0:
            if deadline is not None and moment > deadline:
                raise self._held_back()
            await asyncio.sleep(seconds)

    def _held_back(self) -> NotSent:
        return NotSent(
            "the rate limit held the request back until its deadline",
            venue=self.venue,
            error_type=ErrorType.RATE_LIMIT,
        )

    # What the exchange says.

    def correct(self, *, weight_per_minute: int | None, orders: Mapping[int, int]) -> None:
        """Take the limits that the exchange publishes; `orders`: per account, by the window's seconds.

        A changed budget begins anew: for a minute the usage counters of the answers hold it alone.
        Windows that the rules do not know are left out, and rules that are not published stay.
        """
        windows = tuple(
            replace(window, limit=orders.get(window.seconds, window.limit))
            for window in self.rules.order_windows
        )
        before, self.rules = (
            self.rules,
            replace(
                self.rules,
                weight_per_minute=weight_per_minute or self.rules.weight_per_minute,
                order_windows=windows,
            ),
        )
        if self.rules.weight_per_minute != before.weight_per_minute:
            self._all, self._background = _weight_limiters(self.rules)
        if windows != before.order_windows:
            self._accounts.clear()

    def learn(self, headers: Mapping[str, str], *, account: str, server_seconds: float) -> None:
        """Correct the budgets by the usage counters of an answer. `server_seconds`: the exchange's clock."""
        used = headers.get(self.rules.weight_header)
        if used is not None and used.isdigit():
            share = int(used) / self.rules.weight_per_minute
            if share >= _BACKGROUND_SHARE:
                window_end = _window_end(server_seconds, _MINUTE)
                self._background_paused_until = window_end
                if share >= _URGENT_CEILING:
                    self._paused_until = window_end
        for window in self.rules.order_windows:
            count = headers.get(window.header)
            if count is not None and count.isdigit() and int(count) >= window.limit:
                self.pause_account(account, _window_end(server_seconds, window.seconds) - time.monotonic())

    def pause_account(self, account: str, seconds: float) -> None:
        """Place no orders of this account for a while; the other accounts go on."""
        until = time.monotonic() + seconds
        self._account_paused_until[account] = max(until, self._account_paused_until.get(account, 0.0))

    def ban(self, seconds: float, reason: str, *, announce: bool = True) -> None:
        """Send nothing to this host for a while. `announce`: tell the hook, for the other processes."""
        until = time.monotonic() + seconds
        if until <= self._banned_until:
            return
        self._banned_until, self._ban_reason = until, reason
        if announce and self._on_ban is not None:
            self._on_ban(time.time() + seconds, reason)

    @property
    def background_wait(self) -> float:
        """Seconds until calls that are neither orders nor cancels may go again; 0: they may now."""
        until = max(self._paused_until, self._background_paused_until, self._banned_until)
        return max(0.0, until - time.monotonic())

    @property
    def banned_for(self) -> float:
        """Seconds until the ban ends; 0 without one."""
        return max(0.0, self._banned_until - time.monotonic())

    def _refuse_when_banned(self) -> None:
        if self._banned_until and (seconds := self.banned_for):
            raise RateLimited(
                f"not sent: {self.venue} asked us to wait, {seconds:.0f} s are left ({self._ban_reason})",
                venue=self.venue,
                retry_after=seconds,
            )


def _weight_limiters(rules: RateRules) -> tuple[AsyncLimiter, AsyncLimiter]:
    """Return the budget of everything, and the part of it that background calls may use."""
    weight = max(1.0, rules.weight_per_minute * rules.share)
    return AsyncLimiter(weight, _MINUTE), AsyncLimiter(max(1.0, weight * _BACKGROUND_SHARE), _MINUTE)


def _window_end(server_seconds: float, length: int) -> float:
    """When the exchange's current counting window ends, on our monotonic clock."""
    return time.monotonic() + length - server_seconds % length
