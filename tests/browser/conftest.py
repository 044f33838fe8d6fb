from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.processes import ROOT, Site

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium as it is installed here, or as CHROMIUM names it."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail("Chromium is missing: apt-get install -y chromium (or name one in CHROMIUM)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where screenshots are kept."""
    directory = ROOT / "artifacts"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(
    params=["sqlite", pytest.param("services", marks=pytest.mark.services)],
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """An installation in one file without Redis, then one on PostgreSQL with Redis."""
    make = Site.on_sqlite if request.param == "sqlite" else Site.on_services
    with make(tmp_path) as made:
        yield made
