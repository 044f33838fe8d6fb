from __future__ import annotations

from typing import Any

from bench import queue
from bench.queue import Length, Results
from bench.queue_webhook import Swaps


def measured(milliseconds: float, *, queries: int = 10) -> list[dict[str, Any]]:
    one = {"milliseconds": milliseconds, "database": 1.0, "queries": queries, "books": 1}
    return [one, one, one | {"milliseconds": milliseconds * 9}]


def make_results(*, slow: float = 0.0, moved: int = 10) -> Results:
    """Return results that meet every target exactly, or miss those of time by `slow`."""
    results = Results(rounds=3, postgresql="15", load_average=[0.1, 0.2])
    results.found = {
        Length(100_000): {"plan": measured(1.5 + slow), "freed": measured(15 + slow, queries=12)},
        Length(100): {"plan": measured(1), "freed": measured(10)},
        Length(100, 1000): {"plan": measured(7), "freed": measured(70)},
    }
    results.swaps = [Swaps(50, answers=[150 + slow], empty=[60], canceled=[moved], submitted=[10])]
    return results


class TestTargets:
    def test_are_met_at_their_limits(self) -> None:
        assert [one.met for one in make_results().targets()] == [True] * 5

    def test_are_missed_just_beyond_them(self) -> None:
        assert [one.met for one in make_results(slow=0.01).targets()] == [False, False, True, False, True]

    def test_count_the_rebalance_with_the_most_queries(self) -> None:
        results = make_results()
        results.found[Length(100, 1000)]["freed"] = measured(1, queries=13)

        assert [one.met for one in results.targets()] == [True, True, False, True, True]

    def test_say_what_the_exchange_saw(self) -> None:
        last = make_results(moved=11).targets()[-1]

        assert (last.measured, last.met) == ("11 canceled, 10 submitted", False)

    def test_say_what_was_not_measured(self) -> None:
        targets = Results(rounds=3, postgresql="15").targets()

        assert [(one.measured, one.met) for one in targets] == [(None, None)] * 4


class TestTables:
    def test_name_the_length_of_each_queue(self) -> None:
        text = queue.as_markdown(make_results())

        assert "100,000 waiting" in text
        assert "100 waiting in each of 1,000 books" in text
        assert "not met" not in text
