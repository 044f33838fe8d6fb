"""Print the path of a Chromium, or fail with the command that installs one."""

from __future__ import annotations

import os
import shutil
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Return the browser that CHROMIUM names, else the first that is on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


if __name__ == "__main__":
    path = chromium()
    if path is None or shutil.which(path) is None:
        sys.exit(
            "Chromium is missing. Debian: apt-get install chromium\n"
            "Or name one: make test-browser CHROMIUM=/path/to/chromium"
        )
    sys.stdout.write(path + "\n")
