"""The figures as Markdown tables: for the terminal, and between the marks in docs/benchmarks.md."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.clients import CLIENTS
from bench.latency import OURS, Cell
from bench.results import Results, Target, machine

TITLES = {OURS: "**tradehub**"} | {client.key: client.title for client in CLIENTS}


def as_markdown(results: Results) -> str:
    """Return every table that the run has figures for."""
    before, after = results.load_average
    parts = [
        f"Machine: {machine()}; Python {platform.python_version()}, PostgreSQL {results.postgresql}. "
        f"Load average {before:.1f} before the run, {after:.1f} after it. {results.rounds} rounds "
        "(fewer for 60 orders and for the slow bots).",
        section("Targets", targets(results.targets())),
    ]
    if results.cells:
        parts.append(section("Latency", _latency(results.cells)))
    if results.loads:
        parts.append(section("Throughput, 1 LIMIT per webhook, 0 ms latency", _loads(results)))
    if results.inside:
        parts.append(section("Queries per webhook", _queries(results)))
        parts.append(section("Where the time goes", _profile(results)))
    return "\n\n".join(parts) + "\n"


def marks(command: str) -> tuple[str, str]:
    """Return what stands before and after the tables of `make COMMAND` in a page."""
    written = f"<!-- written by `make {command} ARGS=--write-docs`"
    return f"{written}: begin -->", f"{written}: end -->"


def write_into(page: Path, text: str, *, command: str) -> None:
    """Put the tables between the marks of a page. Raises ValueError when the marks are not there."""
    begins, ends = marks(command)
    head, found, rest = page.read_text().partition(begins)
    _, found_end, tail = rest.partition(ends)
    if not found or not found_end:
        raise ValueError(f"{page} has no place for the tables: {begins} … {ends}")
    page.write_text(f"{head}{begins}\n\n{text}\n{ends}{tail}")


def section(title: str, text: str) -> str:
    return f"### {title}\n\n{text}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Return an aligned table: the first `words` columns to the left, figures to the right."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    rule = ["-" * width if column < words else "-" * (width - 1) + ":" for column, width in enumerate(widths)]

    def line(row: Sequence[str]) -> str:
        padded = [
            text.ljust(width) if column < words else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def targets(found: Iterable[Target]) -> str:
    """Return promises, what was measured for each, and whether that is enough."""
    verdict = {True: "met", False: "**not met**", None: "-"}
    rows = [(one.what, one.wanted, one.measured or "not measured", verdict[one.met]) for one in found]
    return table(("target (median)", "wanted", "measured", ""), rows, words=4)


def _latency(cells: Sequence[Cell]) -> str:
    rows = []
    for cell in cells:
        for who in (one for one in TITLES if one in cell.samples):
            answer, first, last = (cell.summary(who, what) for what in ("answer", "first", "last"))
            rows.append(
                (
                    f"{cell.scenario.title}; {cell.latency_ms} ms",
                    TITLES[who],
                    str(answer.count),
                    milliseconds(answer.minimum),
                    milliseconds(answer.p50),
                    milliseconds(answer.p95),
                    milliseconds(answer.p99),
                    milliseconds(first.p50),
                    milliseconds(last.p50),
                    f"{cell.ratio(who):.2f}",
                )
            )
    head = ("sent; exchange latency", "by", "n", "min", "p50", "p95", "p99", "first", "last", "x floor")
    return table(head, rows, words=2)


def _loads(results: Results) -> str:
    rows = [
        (
            f"{load.senders} sender{'s' if load.senders > 1 else ''}"
            + (", all into one book" if load.one_book else ""),
            str(load.processes),
            str(load.webhooks),
            f"{load.per_second:.0f}",
            milliseconds(load.answer.p50),
            milliseconds(load.answer.p95),
        )
        for load in results.loads
    ]
    return table(("senders", "web processes", "webhooks", "webhooks/s", "answer p50", "p95"), rows)


def _queries(results: Results) -> str:
    rows = [
        (
            name,
            str(one["orders"]),
            str(one["books"]),
            str(one["queries"]),
            str(one["statements"]),
            str(one["transactions"]),
            str(one["queries"] + 2 * one["transactions"]),
        )
        for name, one in results.inside.items()
    ]
    head = (
        "webhook",
        "orders",
        "books",
        "queries",
        "statements in them",
        "transactions",
        "with BEGIN and COMMIT",
    )
    return table(head, rows)


def _profile(results: Results) -> str:
    names = list(results.inside)
    phases = list(next(iter(results.inside.values()))["phases"])
    rows = [
        (
            phase,
            *(
                f"{one['ms']:.1f} / {one['processor_ms']:.1f} / {one['database_ms']:.1f}"
                for one in (results.inside[name]["phases"][phase] for name in names)
            ),
        )
        for phase in phases
    ]
    rows.append(("all of it", *(f"{results.inside[name]['total_ms']:.1f}" for name in names)))
    io = (f"{results.inside[name]['io_processor_ms']:.1f}" for name in names)
    rows.append(("processor time of the exchanges' I/O thread", *io))
    return table(("phase: ms / of it processor / of it in the database driver", *names), rows)


def milliseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
