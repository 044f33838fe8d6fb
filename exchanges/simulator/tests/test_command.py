"""`manage.py simulator` is the same program with the same options."""

from __future__ import annotations

import os
import subprocess
import sys

from exchanges.simulator.testing import ROOT, SimulatorProcess


class TestManagePy:
    def test_runs_the_simulator_until_it_is_told_to_end(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "simulator", "--port", "0", "--fixed", "--price", "BTC/USDT=1234"],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "DEBUG": "true"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        url = process.stdout.readline().split(" listening on ")[1].strip()
        running = SimulatorProcess(process, url)
        try:
            assert running.state()["prices"]["BTC/USDT"] == "1234"
        finally:
            running.stop()
        assert process.returncode == 0
