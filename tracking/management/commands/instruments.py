"""`manage.py instruments`: load what trades at every exchange in use."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from exchanges.adapters.exceptions import ExchangeError
from exchanges.instruments import instruments_refresh
from tracking.watch import accounts_by_source, streams_wanted


class Command(BaseCommand):
    help = "Load what trades at each exchange that an active strategy uses."

    def handle(self, *args: Any, **options: Any) -> None:
        failures = 0
        for source, account in accounts_by_source(streams_wanted()).items():
            name = " ".join(source)
            try:
                changed = instruments_refresh(account=account, market_type=source[2])
            except (ExchangeError, TimeoutError) as exc:
                failures += 1
                self.stderr.write(f"{name}: {exc}")
            else:
                self.stdout.write(f"{name}: {changed} changed")
        if failures:
            raise CommandError(f"{failures} could not be asked")
