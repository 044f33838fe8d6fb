"""What the benchmark of the streams promises, and what it says of a run."""

from __future__ import annotations

import pytest

from bench.streams import Results


def make_results(delays: list[float]) -> Results:
    return Results("15", 200, 60, 4, reports=3, told=3, share=0.3, most_memory=150.0, delays=delays)


class TestTargets:
    @pytest.mark.parametrize(
        ("delays", "measured", "met"),
        [
            ([10.0, 1000.0, 6190.0], "1000.00 ms, p99 6190.00 ms", True),
            ([10.0, 1000.5, 6190.0], "1000.50 ms, p99 6190.00 ms", False),
        ],
    )
    def test_judge_the_median_delay_and_show_the_slowest(
        self, delays: list[float], measured: str, met: bool
    ) -> None:
        (found,) = [one for one in make_results(delays).targets() if one.what.endswith("page's frame")]

        assert (found.wanted, found.measured, found.met) == ("at most 1000 ms", measured, met)
