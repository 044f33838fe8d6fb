"""`make demo` as a newcomer meets it: it invites, trades, and leaves nothing running."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT, free_port, wait_until

READY_SECONDS = 60


class RunningDemo:
    def __init__(self, folder: Path, *, web_port: int) -> None:
        self.said = folder / "said.txt"
        self.state = folder / "state"
        with self.said.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "demo/run.py"],
                cwd=ROOT,
                env=os.environ
                | {
                    "DEMO_STATE": str(self.state),
                    "WEB_PORT": str(web_port),
                    "SIMULATOR_PORT": str(free_port()),
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        wait_until(
            lambda: "Ctrl-C ends everything." in self.text or self.process.poll() is not None,
            seconds=READY_SECONDS,
            what=lambda: f"the demo is ready:\n{self.text}",
        )
        assert self.process.poll() is None, self.text

    @property
    def text(self) -> str:
        return self.said.read_text()

    def processes(self) -> list[int]:
        """Every process that has this demo's state in its environment, however it came about."""
        mark = b"tradehub.sqlite3\0"
        state = str(self.state).encode()
        return [pid for pid in _everyone() if state in (found := _environment(pid)) and mark in found]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


def _everyone() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has just ended, or is somebody else's
        return b""


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
def demo(tmp_path: Path, taken_port: int) -> Iterator[RunningDemo]:
    running = RunningDemo(tmp_path, web_port=taken_port)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()
    for pid in running.processes():
        os.kill(pid, signal.SIGKILL)


class TestDemo:
    def test_invites_trades_and_ends_without_a_trace(self, demo: RunningDemo, taken_port: int) -> None:
        demo.wait_ready()

        # It says where it is: elsewhere than asked, because somebody was there.
        found = re.search(r"http://127\.0\.0\.1:(\d+)/positions", demo.text)
        assert found
        assert int(found[1]) != taken_port
        assert re.search(r"login +demo\n +password +\S+", demo.text)

        # Its curl line is an order that the simulated exchange takes.
        line = next(line for line in demo.text.splitlines() if line.startswith("curl "))
        words = shlex.split(line)
        request = urllib.request.Request(words[3], data=words[-1].encode(), method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as response:
            answer = json.load(response)
        assert (answer["success"], answer["summary"]["successful_orders"]) == (True, 5)

        # Its other one fetches the figures.
        (line,) = [line for line in demo.text.splitlines() if line.endswith("/metrics")]
        words = shlex.split(line)
        name, _, value = words[2].partition(": ")
        with opener.open(urllib.request.Request(words[3], headers={name: value}), timeout=20) as response:
            assert b"tradehub_submissions_total" in response.read()

        # Web, worker with its own, streams, simulator, honcho: all gone afterwards.
        assert len(demo.processes()) > 8
        assert demo.end(signal.SIGINT) == 0
        assert demo.processes() == []

    def test_ends_what_it_started_when_it_is_told_to_end_while_it_begins(self, demo: RunningDemo) -> None:
        wait_until(lambda: len(demo.processes()) > 4, seconds=READY_SECONDS, what="the first processes")

        assert demo.end(signal.SIGTERM) == 0
        assert demo.processes() == []

    def test_says_which_process_ended_and_ends_the_others(self, demo: RunningDemo) -> None:
        demo.wait_ready()
        streams = next(
            pid
            for pid in demo.processes()
            if b"manage.py\0streams\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

        os.kill(streams, signal.SIGKILL)

        assert demo.process.wait(20) == 1
        assert "a process ended" in demo.text
        assert "streams.1 stopped" in demo.text
        assert demo.processes() == []


class TestSecrets:
    def test_of_an_earlier_start_are_kept_and_what_is_missing_is_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = importlib.import_module("demo.run")
        monkeypatch.setattr(run, "STATE", tmp_path)
        first = run.demo_secrets()
        file = tmp_path / "secrets.json"
        earlier = {name: value for name, value in first.items() if name != "METRICS_TOKEN"}
        file.write_text(json.dumps(earlier))

        filled = run.demo_secrets()

        assert filled == earlier | {"METRICS_TOKEN": filled["METRICS_TOKEN"]}
        assert len(filled["METRICS_TOKEN"]) >= 16
        assert run.demo_secrets() == filled
        assert file.stat().st_mode & 0o777 == 0o600
