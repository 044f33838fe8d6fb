from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from orders.names import OWNER_LENGTH, new_owner
from tracking.leases import lease_acquire, lease_release, leased
from tracking.models import Lease

pytestmark = pytest.mark.django_db


class TestNewOwner:
    def test_is_never_the_same_twice_and_fits_its_column(self) -> None:
        first, second = new_owner(), new_owner()

        assert first != second
        assert len(first) <= OWNER_LENGTH


class TestLeaseAcquire:
    def test_gives_a_name_to_the_first_who_asks(self) -> None:
        assert lease_acquire(name="job", owner="a", seconds=10) is True
        assert lease_acquire(name="job", owner="b", seconds=10) is False
        assert Lease.objects.get().owner == "a"

    def test_lets_the_owner_have_it_again(self) -> None:
        lease_acquire(name="job", owner="a", seconds=10)

        assert lease_acquire(name="job", owner="a", seconds=10) is True

    def test_gives_it_to_another_once_it_ran_out(self) -> None:
        lease_acquire(name="job", owner="a", seconds=10)
        Lease.objects.update(expires_at=Now() - timedelta(milliseconds=5))

        assert lease_acquire(name="job", owner="b", seconds=10) is True
        assert lease_acquire(name="job", owner="a", seconds=10) is False


class TestLeaseRelease:
    def test_gives_it_back(self) -> None:
        lease_acquire(name="job", owner="a", seconds=10)

        lease_release(name="job", owner="a")

        assert lease_acquire(name="job", owner="b", seconds=10) is True

    def test_leaves_alone_what_belongs_to_somebody_else(self) -> None:
        lease_acquire(name="job", owner="a", seconds=10)

        lease_release(name="job", owner="b")

        assert Lease.objects.get().owner == "a"


class TestLeased:
    def test_gives_none_to_the_second(self) -> None:
        with leased("job", seconds=10) as first, leased("job", seconds=10) as second:
            assert first is not None
            assert second is None
            assert Lease.objects.get().owner == first  # the second gives nothing back at its end

        assert Lease.objects.get().owner == ""

    def test_gives_it_back_when_the_block_fails(self) -> None:
        with pytest.raises(ValueError, match="broke"), leased("job", seconds=10):
            raise ValueError("broke")

        assert Lease.objects.get().owner == ""
