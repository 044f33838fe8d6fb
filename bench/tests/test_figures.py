from __future__ import annotations

import random

import pytest

from bench.figures import Summary, median, percentile


class TestPercentile:
    def test_is_the_smallest_value_that_so_many_percent_do_not_exceed(self) -> None:
        values = [float(number) for number in range(1, 101)]

        assert [percentile(values, percent) for percent in (1, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]

    def test_is_always_a_measured_value(self) -> None:
        assert percentile([10.0, 20.0, 40.0], 95) == 40.0
        assert percentile([10.0, 20.0, 40.0], 34) == 20.0

    def test_is_the_smallest_at_nought(self) -> None:
        assert percentile([3.0, 4.0], 0) == 3.0

    def test_refuses_nothing(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            percentile([], 50)


class TestMedian:
    def test_is_the_middle_of_an_odd_number_in_any_order(self) -> None:
        assert median([9.0, 1.0, 5.0]) == 5.0

    def test_is_the_mean_of_the_two_in_the_middle_of_an_even_number(self) -> None:
        assert median([1.0, 100.0, 2.0, 4.0]) == 3.0

    def test_refuses_nothing(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            median([])


class TestSummary:
    def test_says_all_of_unsorted_values(self) -> None:
        values = [float(number) for number in range(1, 201)]
        random.Random(1).shuffle(values)

        assert Summary.of(values) == Summary(count=200, minimum=1, p50=100.5, p95=190, p99=198)

    def test_of_one_value_is_that_value(self) -> None:
        assert Summary.of([7.0]) == Summary(1, 7.0, 7.0, 7.0, 7.0)
