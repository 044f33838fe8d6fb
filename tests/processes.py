"""The whole system as real processes, for tests: started on free ports, waited for, ended by pid.

with running_system(database_url=url, redis_url="") as system:
    system.provision(CONFIG)
    web = system.start_web()
    answer = web.post({"token": …})
    web.kill()                        # kill -9
    wait_for(lambda: system.simulator.orders(), "the order to arrive")
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from exchanges.simulator.testing import SimulatorProcess, running_simulator

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30
STOP_SECONDS = 8

Answer = tuple[int, dict[str, Any]]


def wait_for(condition: Callable[[], T | None], what: str, *, seconds: float = 20) -> T:
    """Return the condition's first true value; fail after `seconds`, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One process of the system. Its output goes to a file, for the test to read when it fails."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def alive(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and the children it started (a cluster's workers)."""
        if self.alive():
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL, nothing is tidied up."""
        self.signal(signal.SIGKILL)
        self.popen.wait(STOP_SECONDS)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        if not self.alive():
            return
        self.thaw()
        self.popen.terminate()
        try:
            self.popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        self.signal(signal.SIGKILL)
        self.popen.wait(STOP_SECONDS)


class Web(Process):
    """A daphne process."""

    def __init__(self, env: dict[str, str], log: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "--no-server-name"]
        super().__init__("web", [*command, "tradehub.asgi:application"], env, log)

    def post(self, payload: dict[str, Any] | bytes, *, seconds: float = 20) -> Answer:
        """Send a webhook; return status and body. Raises OSError when the connection breaks."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        request = urllib.request.Request(f"{self.url}/api/webhook", data=body, method="POST")  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=seconds) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)

    def answers(self) -> bool:
        assert self.alive(), self.output()
        try:
            with socket.create_connection(("127.0.0.1", int(self.url.rsplit(":", 1)[1])), timeout=1):
                return True
        except OSError:
            return False


class System:
    """Databases, simulator and processes of one test."""

    def __init__(self, env: dict[str, str], simulator: SimulatorProcess, folder: Path) -> None:
        self.env, self.simulator, self.folder = env, simulator, folder
        self.processes: list[Process] = []

    def manage(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a management command to its end."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def provision(self, config: dict[str, Any]) -> None:
        path = self.folder / "provision.json"
        path.write_text(json.dumps(config))
        self.manage("provision", str(path))

    def start_web(self, *, wait: bool = True, **env: str) -> Web:
        web = Web(self.env | env, self._log("web"), free_port())
        self.processes.append(web)
        if wait:
            wait_for(web.answers, "the web process to listen", seconds=START_SECONDS)
        return web

    def start_streams(self, **env: str) -> Process:
        return self._start("streams", "streams", env)

    def start_worker(self, **env: str) -> Process:
        return self._start("worker", "qcluster", env)

    def _start(self, name: str, command: str, env: dict[str, str]) -> Process:
        process = Process(name, [sys.executable, "manage.py", command], self.env | env, self._log(name))
        self.processes.append(process)
        return process

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}-{len(self.processes)}.log"

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()

    def logs(self) -> str:
        return "\n".join(f"--- {process.log.name}\n{process.output()}" for process in self.processes)


@contextmanager
def running_system(
    folder: Path,
    *,
    database_url: str,
    redis_url: str = "",
    simulator_options: tuple[str, ...] = (),
    **env: str,
) -> Iterator[System]:
    """Start a simulator, migrate the database and hand over a system without processes yet.

    When the test fails, what the processes wrote is printed.
    """
    with running_simulator(*simulator_options) as simulator:
        inherited = os.environ.items()
        settings = {
            name: value for name, value in inherited if not name.startswith(("EXCHANGE_URL_", "TELEGRAM_"))
        } | {
            "DJANGO_SETTINGS_MODULE": "tradehub.settings",
            "DOTENV": os.devnull,
            "DEBUG": "true",
            "LOG_LEVEL": "INFO",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SIMULATOR_URL": simulator.url,
        } | env  # fmt: skip
        system = System(settings, simulator, folder)
        try:
            system.manage("migrate", "--verbosity=0")
            yield system
        except BaseException:
            sys.stderr.write(system.logs())
            raise
        finally:
            system.stop()
