"""A Redis that hangs (SIGSTOP) says nothing and refuses nothing: whoever asks it must not wait for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Process, Site, migrated_database, post_webhook
from tests.servers import RedisServer, own_redis
from tests.services.conftest import CONFIG, QUICK, STRATEGIES

pytestmark = [pytest.mark.services, pytest.mark.timeout(150)]

MARKET = {"symbol": "BTC/USDT", "order_type": "MARKET", "side": "buy", "quantity": "0.01"}


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def web(tmp_path: Path, redis_server: RedisServer) -> Iterator[Process]:
    with (
        migrated_database() as url,
        Site(tmp_path, url, redis_url=redis_server.url, settings=QUICK) as site,
    ):
        site.start_simulator("--fixed")
        (tmp_path / "provision.json").write_text(json.dumps(CONFIG | {"strategies": STRATEGIES}))
        site.manage("provision", str(tmp_path / "provision.json"))
        yield site.start_web()


class TestWebhook:
    def test_is_answered_while_redis_hangs(self, web: Process, redis_server: RedisServer) -> None:
        """Strangers too: their failures are counted in Redis, and a thread that waits for it is lost."""
        redis_server.freeze()

        for _ in range(3):
            assert post_webhook(web, {"token": "a-wrong-token", **MARKET})[0] == 401
            status, body = post_webhook(web, {"token": "token-one", **MARKET})
            assert (status, body["summary"]["successful_orders"]) == (200, 1)
