"""Names for holders of leases."""

from __future__ import annotations

import os
import secrets
import socket

OWNER_LENGTH = 64  # what the columns take


def new_owner() -> str:
    """Return a name for a holder of leases: this machine and process, and never the same twice."""
    tail = f":{os.getpid()}:{secrets.token_hex(4)}"
    return socket.gethostname()[: OWNER_LENGTH - len(tail)] + tail
