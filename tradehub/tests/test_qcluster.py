from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings

from tests.processes import migrated_file

SECONDS = 30


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {SECONDS} s for {what}"
        time.sleep(0.05)


class Worker:
    """`manage.py qcluster` as a supervisor runs it: leading a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "worker.log"
        self.environment = {
            "PATH": os.environ["PATH"],
            "DEBUG": "true",
            "DOTENV": os.devnull,
            "DATABASE_URL": f"sqlite:///{folder / 'worker.sqlite3'}",
        }
        migrated_file(folder / "worker.sqlite3")
        with self.log.open("wb") as log:
            self.main = subprocess.Popen(
                [sys.executable, "manage.py", "qcluster"],
                cwd=settings.BASE_DIR,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def manage(self, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=settings.BASE_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def processes(self) -> list[int]:
        """Every process of this worker, known by the session that it was started in."""
        listed = subprocess.run(
            ["ps", "-eo", "pid=,sess="], capture_output=True, text=True, check=True
        ).stdout
        pairs = (tuple(map(int, line.split())) for line in listed.splitlines())
        return [pid for pid, session in pairs if session == self.main.pid]

    def said(self, words: str) -> bool:
        return words in self.log.read_text()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    started = Worker(tmp_path)
    until(lambda: started.said("running."), "the worker")
    yield started
    for pid in started.processes():
        os.kill(pid, signal.SIGKILL)
    started.main.wait()


class TestQcluster:
    def test_ends_in_good_order_when_its_whole_group_is_told_to_twice(self, worker: Worker) -> None:
        assert len(worker.processes()) > 3

        os.killpg(worker.main.pid, signal.SIGTERM)
        os.killpg(worker.main.pid, signal.SIGTERM)

        worker.main.wait(timeout=SECONDS)
        until(lambda: worker.processes() == [], "its last process")
        assert worker.said("has stopped.")

    def test_leaves_no_process_behind_when_its_main_one_is_killed(self, worker: Worker) -> None:
        worker.main.kill()

        worker.main.wait()
        until(lambda: worker.processes() == [], "its last process")

    def test_works_on_what_is_queued(self, worker: Worker) -> None:
        worker.manage(
            "shell", "-c", "from django_q.tasks import async_task; async_task('math.copysign', 7, -1)"
        )

        ask = "from django_q.models import Success; print([task.result for task in Success.objects.all()])"
        until(lambda: "[-7.0]" in worker.manage("shell", "-c", ask), "its result")
