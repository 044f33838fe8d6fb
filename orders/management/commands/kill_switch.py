from __future__ import annotations

import getpass
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from orders.services.switches import kill_switch_set, kill_switch_state


class Command(BaseCommand):
    help = "Stop accepting webhooks in the whole system (on), accept them again (off), or tell (status)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("state", choices=["on", "off", "status"])
        parser.add_argument("--reason", default="", help="Why; it stands in the event log.")

    def handle(self, *args: Any, state: str, reason: str, **options: Any) -> None:
        if state == "status":
            switch = kill_switch_state()
        else:
            by = f"{getpass.getuser()} on the command line"
            switch = kill_switch_set(engaged=state == "on", reason=reason, by=by)
        self.stdout.write(f"Kill switch {switch}" + (f": {switch.reason}" if switch.reason else ""))
