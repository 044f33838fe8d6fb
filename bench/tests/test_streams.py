"""What the benchmark of the streams promises, and what it says of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import streams
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


class TestMain:
    @pytest.mark.parametrize(("share", "status", "said"), [(0.3, 0, ""), (0.6, 1, "its share of one core")])
    def test_says_by_its_exit_status_whether_every_target_was_met(
        self,
        share: float,
        status: int,
        said: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        @contextmanager
        def site(*args: object, **options: object) -> Iterator[object]:
            yield SimpleNamespace(databases=SimpleNamespace(version=lambda: "15"))

        async def measure(site: object, results: Results) -> None:
            results.reports = results.told = 1
            results.share = share
            results.ledger, results.delays = [1.0], [10.0]

        monkeypatch.setattr(streams, "running_site", site)
        monkeypatch.setattr(streams, "measure", measure)
        monkeypatch.setenv("DATABASE_URL", "postgres://nowhere/x")
        monkeypatch.setenv("REDIS_URL", "redis://nowhere")
        monkeypatch.setattr("sys.argv", ["bench.streams", "--output", str(tmp_path / "found.json")])

        assert streams.main() == status
        assert said in capsys.readouterr().err
        assert (tmp_path / "found.json").exists()
