"""`manage.py simulator`: a local exchange for the demo, for paper trading and for tests."""

import sys
from argparse import Namespace
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from exchanges.simulator import server


class Command(BaseCommand):
    help = "Run a local exchange that speaks the wire dialects of the real ones."
    requires_system_checks: list[str] = []  # it needs neither database nor settings

    def add_arguments(self, parser: CommandParser) -> None:
        server.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(server.run(Namespace(**options)))
