"""What the tests of this room share: a scripted server, the simulator, a runtime that starts afresh."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from exchanges import runtime
from exchanges.adapters.hosts import Hosts
from exchanges.simulator.testing import simulator, simulator_process
from exchanges.tests.scripted import ScriptedServer, scripted_server

__all__ = ["fresh_runtime", "hosts", "server", "simulator", "simulator_process"]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    known = Hosts()
    yield known
    await known.close()


@pytest.fixture
def fresh_runtime() -> Iterator[None]:
    """A process that has not used its runtime yet, and leaves none behind."""
    runtime.stop()
    yield
    runtime.stop()
