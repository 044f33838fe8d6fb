"""Streams are shared out evenly, and no account is followed twice or by nobody."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.models.functions import Now
from hypothesis import given
from hypothesis import strategies as st

from exchanges import runtime
from exchanges.models import Account
from orders.models import StrategyPosition
from tracking import sharing, streams
from tracking.models import Lease, OrderTrackingSession, SessionStatus
from tracking.sharing import fair_share, presence_end, presence_renew, processes_alive, to_hand_over
from tracking.streams import Streams
from tracking.tests.conftest import Exchanges
from tracking.tests.making import make_account, make_resting, wait_until
from tracking.watch import StreamKey


class TestFairShare:
    @given(st.integers(0, 500), st.integers(1, 20))
    def test_leaves_nothing_over_and_nobody_with_far_more(self, wanted: int, processes: int) -> None:
        share = fair_share(wanted, processes)

        assert share * processes >= wanted
        assert (share - 1) * processes < wanted or share == 0

    def test_is_everything_where_nobody_is_known(self) -> None:
        assert fair_share(7, 0) == 7


class TestToHandOver:
    def test_gives_back_what_is_beyond_the_share_a_few_at_a_time(self) -> None:
        held = {StreamKey(number, "FUTURES") for number in range(30)}

        assert to_hand_over(held, 30) == set()
        assert to_hand_over(held, 31) == set()
        assert len(to_hand_over(held, 27)) == 3
        assert len(to_hand_over(held, 1)) == sharing.HANDED_OVER_AT_ONCE


@pytest.mark.django_db(transaction=True)
class TestPresence:
    def test_counts_who_is_alive(self) -> None:
        assert processes_alive() == 0
        presence_renew(owner="a")
        presence_renew(owner="b")
        presence_renew(owner="b")
        assert processes_alive() == 2

        presence_end(owner="a")
        assert processes_alive() == 1

        Lease.objects.update(expires_at=Now() - timedelta(milliseconds=5))
        assert processes_alive() == 0

    def test_forgets_those_that_never_said_goodbye(self) -> None:
        for owner in "abc":
            presence_renew(owner=owner)
        Lease.objects.filter(owner="a").update(expires_at=Now() - timedelta(hours=2))

        presence_end(owner="b")

        assert list(Lease.objects.values_list("owner", flat=True)) == ["c"]


class Crew:
    """Several streams processes on one loop, in a thread of the test."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.members: list[tuple[Streams, asyncio.Task[None]]] = []

    def join(self) -> Streams:
        async def begin() -> Streams:
            process = Streams()
            self.members.append((process, asyncio.create_task(process.run())))
            return process

        return asyncio.run_coroutine_threadsafe(begin(), self._loop).result(5)

    def leave(self, process: Streams) -> None:
        async def end() -> None:
            process.stop()
            await asyncio.gather(*(task for one, task in self.members if one is process))

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(15)


@contextmanager
def crew() -> Iterator[Crew]:
    runtime.stop()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    found = Crew(loop)
    try:
        yield found
    finally:
        for process, task in found.members:
            if not task.done():
                found.leave(process)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(15)
        runtime.stop()
        loop.close()


def shares() -> Counter[str]:
    rows = OrderTrackingSession.objects.filter(status=SessionStatus.CONNECTED).exclude(owner="")
    return Counter(rows.values_list("owner", flat=True))


@pytest.mark.django_db(transaction=True)
class TestSeveralProcesses:
    @pytest.fixture
    def accounts(self, exchanges: Exchanges) -> list[Account]:
        return [make_account() for _ in range(6)]

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "LOOK_SECONDS", 0.1)

    def test_give_one_that_joins_its_share_and_follow_nothing_twice(
        self, accounts: list[Account], exchanges: Exchanges
    ) -> None:
        listeners = [exchanges.of(account)._listeners for account in accounts]
        with crew() as processes:
            first = processes.join()
            wait_until(lambda: shares() == {first.owner: 6})

            second = processes.join()
            most = 0

            def even() -> bool:
                nonlocal most
                most = max(most, *map(len, listeners))
                return shares() == {first.owner: 3, second.owner: 3}

            wait_until(even, seconds=20)
            assert most == 1

            processes.leave(second)
            wait_until(lambda: shares() == {first.owner: 6}, seconds=20)

    def test_count_what_happens_while_a_stream_changes_hands(
        self, accounts: list[Account], exchanges: Exchanges
    ) -> None:
        placements = {account.pk: make_resting(account) for account in accounts}
        with crew() as processes:
            first = processes.join()
            wait_until(lambda: shares() == {first.owner: 6})
            second = processes.join()

            def all_filled() -> bool:
                for account in accounts:  # whoever listens now, or nobody
                    if account.pk not in filled:
                        filled.add(account.pk)
                        exchange = exchanges.of(account)
                        exchange.fill(placements[account.pk].client_order_id, quantity=Decimal("0.5"))
                        break
                return shares() == {first.owner: 3, second.owner: 3} and len(filled) == 6

            filled: set[int] = set()
            wait_until(all_filled, seconds=20)
            wait_until(lambda: StrategyPosition.objects.filter(quantity=Decimal("0.5")).count() == 6)

    def test_take_over_what_a_process_left_that_died(
        self, accounts: list[Account], exchanges: Exchanges
    ) -> None:
        keys = [account.pk for account in accounts]
        with crew() as processes:
            # As one that was killed leaves them: alive by its name and its leases until these run out.
            presence_renew(owner="dead")
            for account in keys[:3]:
                OrderTrackingSession.objects.create(
                    account_id=account,
                    market_type="FUTURES",
                    owner="dead",
                    status=SessionStatus.CONNECTED,
                    lease_expires_at=Now() + timedelta(minutes=5),
                )
            process = processes.join()
            wait_until(lambda: shares() == {"dead": 3, process.owner: 3})

            OrderTrackingSession.objects.filter(owner="dead").update(lease_expires_at=Now())
            Lease.objects.filter(owner="dead").update(expires_at=Now() - timedelta(milliseconds=5))

            wait_until(lambda: shares() == {process.owner: 6})

    def test_take_beyond_their_share_what_nobody_takes(
        self, accounts: list[Account], exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams, "LEFT_OVER_SECONDS", 0.3)
        presence_renew(owner="idle")  # it is alive, and does nothing
        Lease.objects.filter(owner="idle").update(expires_at=Now() + timedelta(minutes=5))
        with crew() as processes:
            process = processes.join()

            wait_until(lambda: shares() == {process.owner: 3})
            wait_until(lambda: shares() == {process.owner: 6}, seconds=20)
            reconnects = OrderTrackingSession.objects.filter(reconnect_count__gt=0)
            looks = process._left_over
            wait_until(lambda: process._left_over is not looks)  # it has looked again, and gave none back
            assert not reconnects.exists()
