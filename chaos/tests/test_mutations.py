"""The mutations still mean something: the words that they change stand in the code."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from chaos.mutations import MUTATIONS, Mutation, mutate, output
from tests.processes import ROOT


class TestMutate:
    @pytest.mark.parametrize("mutation", MUTATIONS, ids=[each.name for each in MUTATIONS])
    def test_leaves_code_that_still_runs(self, mutation: Mutation, tmp_path: Path) -> None:
        for name, _, _ in mutation.changes:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)

        mutate(tmp_path, mutation)

        for name, _, _ in mutation.changes:
            changed = (tmp_path / name).read_text()
            assert changed != (ROOT / name).read_text()
            ast.parse(changed)

    def test_says_where_its_words_are_gone(self, tmp_path: Path) -> None:
        (tmp_path / "a.py").write_text("pass")
        with pytest.raises(LookupError, match="gone: a.py has 'return' 0 times"):
            mutate(tmp_path, Mutation("gone", "", (("a.py", "return", "pass"),)))


RUN = """
import pathlib, signal, sys
def end(*_):
    pathlib.Path("ended").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path("begun").touch()
while True:
    signal.pause()
"""


class Told(Exception):
    """To end."""


class TestOutput:
    def test_lets_its_run_end_in_good_order(self, tmp_path: Path) -> None:
        def told(*_: object) -> None:
            raise Told

        def tell() -> None:
            while not (tmp_path / "begun").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, told)
        teller = threading.Thread(target=tell, daemon=True)
        try:
            teller.start()
            with pytest.raises(Told):
                output([sys.executable, "-c", RUN], tmp_path)
        finally:
            signal.signal(signal.SIGUSR1, before)

        assert (tmp_path / "ended").exists()
