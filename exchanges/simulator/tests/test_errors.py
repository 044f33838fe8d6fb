from __future__ import annotations

from exchanges.simulator.dialects.binance import futures_errors, spot_errors
from exchanges.simulator.types import Reason


class TestRefusals:
    def test_have_futures_words_each(self) -> None:
        assert set(futures_errors.REFUSALS) == set(Reason)

    def test_have_spot_words_each_but_what_spot_knows_nothing_of(self) -> None:
        only_futures = {Reason.REDUCE_ONLY, Reason.POSITION_SIDE, Reason.FOK_UNFILLABLE}

        assert set(spot_errors.REFUSALS) == set(Reason) - only_futures
