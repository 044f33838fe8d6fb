from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.figures import Summary
from bench.latency import OURS, Cell, Sample
from bench.results import Results, Target
from bench.scenarios import LIMIT, LIMIT_30, LIMIT_60, Scenario
from bench.throughput import Load


def make_cell(scenario: Scenario, latency_ms: int, *, ours: Sample, floor: float = 1.0) -> Cell:
    cell = Cell(scenario, latency_ms)
    cell.samples[OURS] = [Sample(ours.answer - 0.5, ours.first, ours.last), ours, ours]
    cell.samples["floor"] = [Sample(floor, floor / 4, floor / 2)]
    cell.timings["total_ms"] = [1.0]
    return cell


def make_inside(scenario: Scenario, queries: int) -> dict[str, Any]:
    phase = {"ms": 1.0, "processor_ms": 0.5, "database_ms": 0.2}
    return {
        "orders": scenario.total,
        "books": scenario.books,
        "queries": queries,
        "statements": queries + 5,
        "transactions": 2,
        "phases": {"plan": phase},
        "total_ms": 1.0,
        "io_processor_ms": 0.1,
    }


def make_load(per_second: float, *, one_book: bool = False) -> Load:
    return Load(os.cpu_count() or 1, 32, 400, one_book, per_second, Summary.of([100.0]))


def make_results(*, slow: float = 0.0) -> Results:
    """Return results that meet every target exactly, or miss every one by `slow`."""
    results = Results(rounds=3, postgresql="15", load_average=[0.1, 0.2])
    results.cells = [
        make_cell(LIMIT, 0, ours=Sample(18 + slow, 10 + slow, 10 + slow)),
        make_cell(LIMIT_30, 0, ours=Sample(40 + slow, 10 + slow, 20 + slow)),
        make_cell(LIMIT, 50, ours=Sample(65 + slow, 10, 10), floor=50),
        make_cell(LIMIT_30, 50, ours=Sample(75 + slow, 10, 20), floor=50),
    ]
    extra = 1 if slow else 0
    results.inside = {
        LIMIT.key: make_inside(LIMIT, 13),
        LIMIT_30.key: make_inside(LIMIT_30, 14 + extra),
        LIMIT_60.key: make_inside(LIMIT_60, 14 + 5 * 4 + 2 * extra),
    }
    results.loads = [make_load(90 - slow), make_load(10, one_book=True)]
    return results


class TestTargets:
    def test_are_met_at_their_limits(self) -> None:
        assert [one.met for one in make_results().targets()] == [True] * 10

    def test_are_missed_just_beyond_them(self) -> None:
        assert [one.met for one in make_results(slow=0.01).targets()] == [False] * 10

    def test_say_what_was_not_measured(self) -> None:
        targets = Results(rounds=3, postgresql="15").targets()

        assert [(one.measured, one.met) for one in targets] == [(None, None)] * 10

    def test_take_the_slowest_latency_for_the_way_to_the_exchange(self) -> None:
        results = make_results()
        results.cells.append(make_cell(LIMIT, 20, ours=Sample(30, 12, 12)))

        first = results.targets()[0]

        assert first == Target(
            "first order at the exchange, 1 LIMIT", "at most 10 ms", "12.00 ms, at the slowest latency", False
        )


class TestRatio:
    def test_is_of_medians(self) -> None:
        cell = make_cell(LIMIT, 50, ours=Sample(75, 10, 10), floor=50)

        assert cell.ratio(OURS) == 1.5


class TestWriteInto:
    def test_replaces_what_stands_between_the_marks(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        begins, ends = report.marks("bench")
        page.write_text(f"before\n{begins}\nold\n{ends}\nafter\n")

        report.write_into(page, report.as_markdown(make_results()), command="bench")
        report.write_into(page, report.as_markdown(make_results(slow=1)), command="bench")

        text = page.read_text()
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert "old" not in text
        assert text.count("**not met**") == 10

    def test_refuses_a_page_without_them(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("before\nafter\n")

        with pytest.raises(ValueError, match="no place"):
            report.write_into(page, "tables", command="bench")
        assert page.read_text() == "before\nafter\n"
