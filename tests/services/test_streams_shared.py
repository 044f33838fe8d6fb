"""Two streams processes share the accounts; one that is killed leaves none of them alone for long."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Site, wait_until
from tests.services.conftest import CONFIG, STRATEGIES

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

Read = Callable[..., list[dict[str, Any]]]
ACCOUNTS = 6
TAKEN_OVER_SECONDS = 15


@pytest.fixture
def accounts(site: Site, tmp_path: Path) -> None:
    """More accounts than the site has, all followed."""
    more = [
        {
            "name": f"more-{number}", "user": "trader", "exchange": "binance", "environment": "SIMULATOR",
            "api_key": f"mk{number}", "api_secret": f"ms{number}",
        }
        for number in range(ACCOUNTS - len(CONFIG["accounts"]))
    ]  # fmt: skip
    for one in more:
        site.simulator.add_account(one["api_key"], one["api_secret"])
    follows = [{"account": one["name"], "allocated_capital": "10000", "leverage": 10} for one in more]
    strategy = STRATEGIES[1] | {"accounts": [*STRATEGIES[1]["accounts"], *follows]}
    path = tmp_path / "more.json"
    config = CONFIG | {"accounts": [*CONFIG["accounts"], *more], "strategies": [STRATEGIES[0], strategy]}
    path.write_text(json.dumps(config))
    site.manage("provision", str(path))


@pytest.mark.usefixtures("accounts")
class TestTwoProcesses:
    def test_share_the_accounts_and_take_over_from_one_that_is_killed(self, site: Site, rows: Read) -> None:
        def followed() -> Counter[str]:
            found = rows(
                "SELECT owner, account_id FROM tracking_ordertrackingsession"
                " WHERE status = 'connected' AND lease_expires_at > now()"
            )
            return Counter(row["owner"] for row in found)

        def heard() -> Counter[str]:
            return Counter(one["api_key"] for one in site.simulator.state()["streams"])

        first = site.start_streams()
        wait_until(lambda: sorted(followed().values()) == [ACCOUNTS], what=first.log)
        site.start_streams()
        half = [ACCOUNTS // 2] * 2
        wait_until(lambda: sorted(followed().values()) == half, seconds=30, what=lambda: str(followed()))
        wait_until(lambda: len(heard()) == ACCOUNTS)
        assert set(heard().values()) == {1}  # nobody is followed twice

        first.kill()
        killed_at = time.monotonic()

        wait_until(lambda: sorted(followed().values()) == [ACCOUNTS], seconds=30)
        assert time.monotonic() - killed_at < TAKEN_OVER_SECONDS
        wait_until(lambda: len(heard()) == ACCOUNTS)
