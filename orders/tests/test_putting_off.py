from __future__ import annotations

from datetime import timedelta

import pytest

from exchanges.adapters.exceptions import CircuitOpen, ErrorType, ExchangeError, NotSent
from orders.services.putting_off import PutOff, put_off


class TestPutOff:
    @pytest.mark.parametrize("jitter", [0.0, 1.0])
    def test_waits_for_the_next_try_of_an_exchange_that_cannot_be_reached(self, jitter: float) -> None:
        back = put_off(CircuitOpen("away", venue="binance", retry_after=20.0), tries=3, jitter=jitter)

        assert back == PutOff("away", wait=timedelta(seconds=22.5 + 2.5 * jitter))

    @pytest.mark.parametrize(
        "error",
        [CircuitOpen("it is being tried just now"), NotSent("no route", error_type=ErrorType.NETWORK_ERROR)],
    )
    def test_counts_no_try_where_nothing_was_sent(self, error: ExchangeError) -> None:
        back = put_off(error, tries=4, jitter=0.5)

        assert back is not None
        assert not back.counts
