"""A process that is stopped on its way to the exchange and thawed later sends nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from exchanges.simulator.testing import SimulatorProcess

ROOT = Path(__file__).resolve().parents[2]
SUBMIT_WITHIN_SECONDS = 0.5

# Stops itself after the limiter let the order pass, then goes on as if nothing had happened.
CHILD = """
import os, threading, signal, sys, time
from exchanges import runtime
from exchanges.adapters import limits
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.testing import make_request
from exchanges.adapters.types import Credentials, Endpoints

exchange = BinanceFutures(Credentials("k1", "s1"), Endpoints(sys.argv[1], ""), hosts=runtime.hosts)
runtime.run(exchange.warm_up())
really = limits.HostLimits._admit_urgent

async def freeze(self, *args):
    await really(self, *args)
    if sys.argv[2] == "freeze":
        # To this very thread: sent to the process, another thread may stop first and this one run on.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

limits.HostLimits._admit_urgent = freeze
order = make_request("frozen1", send_by_monotonic=time.monotonic() + float(sys.argv[3]))
(result,) = runtime.run(exchange.place_orders([order]))
print(type(result).__name__)
"""


def start(simulator: SimulatorProcess, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, simulator.futures_url, mode, str(SUBMIT_WITHIN_SECONDS)]
    # Whoever waits for long gives a database connection back, so it has to know of one.
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tradehub.settings", "DEBUG": "true"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


class TestDeadline:
    def test_holds_for_a_process_that_was_frozen(self, simulator: SimulatorProcess) -> None:
        child = start(simulator, "freeze")
        try:
            _, status = os.waitpid(child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            time.sleep(SUBMIT_WITHIN_SECONDS)  # the deadline is the clock's: it has to pass
            os.kill(child.pid, signal.SIGCONT)
            output, _ = child.communicate(timeout=20)
        finally:
            child.kill()
            child.wait(5)
        assert output.strip() == "NotSent"
        assert simulator.orders() == []

    def test_lets_a_process_that_was_not_frozen_send(self, simulator: SimulatorProcess) -> None:
        child = start(simulator, "go")
        output, _ = child.communicate(timeout=20)
        assert output.strip() == "OrderReport"
        simulator.order("frozen1")
