from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from orders.failed_filter import FilterRefused, failed_filter_from
from orders.failed_selectors import FailedFilter


class TestFailedFilterFrom:
    def test_reads_what_is_asked_for_and_leaves_the_rest_alone(self) -> None:
        asked = {
            "strategy_account_id": "7",
            "symbol": " btc/usdt ",
            "error_type": "rate_limit",
            "created_after": "2026-07-21T00:00:00+09:00",
            "created_before": "2026-07-22T00:00:00Z",
            "lang": "ko",
        }

        assert failed_filter_from(asked) == FailedFilter(
            strategy_account_id=7,
            symbol="BTC/USDT",
            error_type="rate_limit",
            created_after=datetime(2026, 7, 21, tzinfo=timezone(timedelta(hours=9))),
            created_before=datetime(2026, 7, 22, tzinfo=UTC),
        )

    def test_asks_for_everything_without_values(self) -> None:
        assert failed_filter_from({"symbol": " ", "error_type": "", "status": "removed"}) == FailedFilter()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("strategy_account_id", "-1"),
            ("strategy_account_id", "0"),
            ("strategy_account_id", "9" * 19),
            ("strategy_account_id", "²"),
            ("symbol", "x" * 49),
            ("symbol", "BTC USDT"),
            ("symbol", "BTC\x00"),
            ("error_type", "bad luck"),
            ("created_after", "yesterday"),
            ("created_after", "2026-07-21T00:00:00"),  # in which zone?
            ("created_after", "2026-13-01T00:00:00Z"),
            ("created_before", "0001-01-01T00:00:00+14:00"),
            ("created_before", "9999-12-31T23:59:59-14:00"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, name: str, value: str) -> None:
        with pytest.raises(FilterRefused):
            failed_filter_from({name: value})

    def test_refuses_a_range_that_ends_before_it_begins(self) -> None:
        with pytest.raises(FilterRefused, match="ends before it begins"):
            failed_filter_from(
                {"created_after": "2026-07-22T00:00:00Z", "created_before": "2026-07-21T00:00:00Z"}
            )
