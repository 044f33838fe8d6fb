"""The whole benchmark, small: does it run, and does it leave nothing behind? Never: how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.latency import OURS
from bench.stack import ROOT, Databases

pytestmark = pytest.mark.services


def bench_databases() -> set[str]:
    with Databases(os.environ["DATABASE_URL"])._connect() as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'th_bench_%'")
        return {str(name) for (name,) in rows.fetchall()}


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Any]:
    output = tmp_path / "bench.json"
    wanted = "--scenario limit-30 --latency 0 --rounds 3 --parts latency inside".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *wanted, "--output", str(output)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, err
    mine = {name for name in bench_databases() if name.startswith(f"th_bench_{process.pid}_")}
    return {"stdout": out, "json": json.loads(output.read_text()), "left_behind": mine}


class TestBench:
    def test_measures_everyone_and_leaves_nothing_behind(self, run: dict[str, Any]) -> None:
        (cell,) = run["json"]["latency"]
        inside = run["json"]["inside"]["limit-30"]

        assert run["left_behind"] == set()
        assert set(cell["clients"]) == {OURS, "floor", "ccxt-gather", "ccxt-batches", "ccxt-serial"}
        assert cell["clients"][OURS]["answer_ms"]["count"] == 3
        assert 0 < cell["clients"][OURS]["first_ms"]["min"] <= cell["clients"][OURS]["last_ms"]["min"]
        assert cell["clients"]["floor"]["ratio_to_floor"] == 1
        assert inside["orders"] == 30
        assert sum(phase["queries"] for phase in inside["phases"].values()) == inside["queries"] > 0
        assert "answer to 30 LIMIT, 0 ms latency" in run["stdout"]


class TestBenchQueue:
    def test_measures_queues_of_each_length_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        output = tmp_path / "bench-queue.json"
        wanted = "--quick --rounds 1 --latency 0".split()
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.queue", *wanted, "--output", str(output)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        out, err = process.communicate(timeout=110)
        assert process.returncode == 0, err

        found = json.loads(output.read_text())
        asked: dict[tuple[int, int], set[str]] = {
            (one["waiting"], one["books"]): set() for one in found["rebalance"]
        }
        for one in found["rebalance"]:
            asked[one["waiting"], one["books"]].add(one["what"])
        assert asked == {
            (100, 1): {"plan", "freed", "better"},
            (10_000, 1): {"plan", "freed", "better"},
            (100, 100): {"plan", "freed", "better", "sweep"},
        }
        assert [one["planned_books"] for one in found["rebalance"] if one["what"] == "sweep"] == [100]
        assert max(one["queries"] for one in found["rebalance"] if one["what"] == "freed") <= 12
        assert [(one["canceled"], one["submitted"]) for one in found["webhook"]] == [([10], [10])]
        assert "Targets of the queue" in out
        assert not {name for name in bench_databases() if name.startswith(f"th_bench_{process.pid}_")}


class TestAddress:
    def test_must_be_postgresql(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "bench"],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": "sqlite:///x"},
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 2
        assert "PostgreSQL" in done.stderr
