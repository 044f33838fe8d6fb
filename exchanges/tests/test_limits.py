"""Budgets: whose turn it is, and what the exchange's own counters change."""

from __future__ import annotations

import asyncio
import time

import pytest

from exchanges.adapters.exceptions import NotSent, RateLimited
from exchanges.adapters.limits import HostLimits, OrderWindow, RateRules

RULES = RateRules(weight_per_minute=100, weight_header="USED", order_windows=(OrderWindow(10, 10, "COUNT"),))


async def _take(
    limits: HostLimits, *, weight: int = 1, orders: int = 0, account: str = "a", urgent: bool = True
) -> None:
    """Take from the budget, or raise NotSent when it is not there at once."""
    deadline = time.monotonic() + 0.05
    async with limits.admitted(
        weight=weight, orders=(orders,), account=account, urgent=urgent, deadline=deadline
    ):
        pass


class TestAdmitted:
    async def test_gives_background_reads_half_of_the_weight_and_orders_the_rest(self) -> None:
        limits = HostLimits("x", RULES)
        await _take(limits, weight=50, urgent=False)
        with pytest.raises(NotSent):
            await _take(limits, weight=10, urgent=False)
        await _take(limits, weight=50)

    async def test_keeps_the_order_budgets_of_accounts_apart(self) -> None:
        limits = HostLimits("x", RULES)
        await _take(limits, orders=10, account="a")
        with pytest.raises(NotSent):
            await _take(limits, orders=1, account="a")
        await _take(limits, orders=10, account="b")

    async def test_takes_this_processes_share_only(self) -> None:
        limits = HostLimits("x", RateRules(100, "USED", RULES.order_windows, share=0.5))
        await _take(limits, orders=5)
        with pytest.raises(NotSent):
            await _take(limits, orders=1)

    async def test_lets_an_order_go_while_reads_wait(self) -> None:
        limits = HostLimits("x", RULES)
        await _take(limits, weight=50, urgent=False)

        async def read() -> None:
            async with limits.admitted(weight=10, orders=(), account="a", urgent=False, deadline=None):
                pass

        waiting = [asyncio.create_task(read()) for _ in range(3)]
        await asyncio.sleep(0)
        await _take(limits, weight=1)
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()


class TestLearn:
    async def test_holds_reads_back_once_half_of_the_weight_is_used_by_whomever(self) -> None:
        limits = HostLimits("x", RULES)
        limits.learn({"USED": "50"}, account="a", server_seconds=0)
        with pytest.raises(NotSent):
            await _take(limits, urgent=False)
        await _take(limits)

    async def test_holds_even_orders_back_when_nearly_all_of_it_is_used(self) -> None:
        limits = HostLimits("x", RULES)
        limits.learn({"USED": "96"}, account="a", server_seconds=0)
        with pytest.raises(NotSent):
            await _take(limits)

    async def test_ends_with_the_exchanges_window(self) -> None:
        limits = HostLimits("x", RULES)
        limits.learn({"USED": "96"}, account="a", server_seconds=59.99)
        await _take(limits)  # ten milliseconds later

    async def test_holds_an_accounts_orders_back_when_the_exchange_counts_them_full(self) -> None:
        limits = HostLimits("x", RULES)
        limits.learn({"COUNT": "10"}, account="a", server_seconds=0)
        with pytest.raises(NotSent):
            await _take(limits, orders=1, account="a")
        await _take(limits, orders=1, account="b")
        await _take(limits, account="a")  # a cancel is no order

    async def test_ignores_what_is_no_number(self) -> None:
        limits = HostLimits("x", RULES)
        limits.learn({"USED": "lots", "COUNT": ""}, account="a", server_seconds=0)
        await _take(limits, orders=1)


class TestBan:
    async def test_refuses_at_once_and_says_for_how_long(self) -> None:
        limits = HostLimits("x", RULES)
        limits.ban(30, "banned")
        with pytest.raises(RateLimited, match="banned") as caught:
            await _take(limits)
        assert caught.value.retry_after == pytest.approx(30, abs=1)

    async def test_is_told_at_once_even_where_one_would_have_to_wait(self) -> None:
        limits = HostLimits("x", RULES)
        limits.learn({"USED": "96"}, account="a", server_seconds=0)  # a minute
        limits.ban(30, "banned")
        async with asyncio.timeout(1):
            with pytest.raises(RateLimited):
                await _read(limits)

    async def test_is_never_shortened_and_announced_once(self) -> None:
        heard: list[float] = []
        limits = HostLimits("x", RULES, on_ban=lambda until, reason: heard.append(until))
        limits.ban(30, "first")
        limits.ban(10, "second")
        assert limits.banned_for == pytest.approx(30, abs=1)
        assert len(heard) == 1

    async def test_reaches_those_who_wait_already(self) -> None:
        limits = HostLimits("x", RULES)
        limits.learn({"USED": "50"}, account="a", server_seconds=59.9)  # reads wait 0.1 s
        waiting = asyncio.create_task(_read(limits))
        await asyncio.sleep(0)
        limits.ban(30, "banned")
        with pytest.raises(RateLimited):
            await waiting


async def _read(limits: HostLimits) -> None:
    async with limits.admitted(weight=1, orders=(), account="a", urgent=False, deadline=None):
        pass


class TestCorrect:
    async def test_takes_the_published_limits_and_this_processes_share_of_them(self) -> None:
        limits = HostLimits("x", RateRules(100, "USED", RULES.order_windows, share=0.5))
        await _take(limits, orders=5)
        limits.correct(weight_per_minute=20, orders={10: 4, 86400: 1})

        await _take(limits, orders=2)
        with pytest.raises(NotSent):
            await _take(limits, orders=1)
        await _take(limits, weight=9)
        with pytest.raises(NotSent):
            await _take(limits, weight=1)

    async def test_gives_nothing_back_where_nothing_changed(self) -> None:
        limits = HostLimits("x", RULES)
        await _take(limits, weight=100, orders=10)
        for weight in (None, 100):
            limits.correct(weight_per_minute=weight, orders={10: 10})
        with pytest.raises(NotSent):
            await _take(limits, orders=1)
        with pytest.raises(NotSent):
            await _take(limits, weight=1)

    async def test_measures_the_exchanges_counters_by_them(self) -> None:
        limits = HostLimits("x", RULES)
        limits.correct(weight_per_minute=20, orders={})
        limits.learn({"USED": "20"}, account="a", server_seconds=0)
        with pytest.raises(NotSent):
            await _take(limits)
