"""`manage.py reconcile`: make the exchange's orders and ours agree now, or only show what differs."""

from __future__ import annotations

import getpass
import logging
import socket
import sys
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from exchanges.adapters.exceptions import ExchangeError
from exchanges.models import Account
from orders.services.switches import operator_log
from tracking.on_demand import NothingToCompare, markets_of
from tracking.reconciliation import Reconciled, reconcile_account
from tracking.resolver import resolve
from tracking.watch import StreamKey, streams_wanted

logger = logging.getLogger(__name__)

BUSY_SECONDS = 30.0


class Command(BaseCommand):
    help = "Compare the exchanges' open orders with ours and settle what differs."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--account", type=int, metavar="ID", help="only this account")
        parser.add_argument(
            "--check", action="store_true", help="change nothing; exit 1 if anything differs, positions too"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keys = self._keys(options["account"])
        if not keys:
            self.stdout.write("There is nothing to compare: no strategy trades on an active account")
            return
        check_only: bool = options["check"]
        if not check_only:
            resolve(account_id=options["account"])
            whose = "every account" if options["account"] is None else f"account {options['account']}"
            operator_log(
                f"manage.py reconcile of {whose}", by=f"{getpass.getuser()} at {socket.gethostname()}"
            )
        differ = failed = 0
        for key in keys:
            name = f"account {key.account_id} {key.market_type}"
            try:
                result = self._run(key, check_only)
            except (ExchangeError, TimeoutError) as exc:
                failed += 1
                self.stderr.write(f"{name}: {exc}")
                continue
            except Exception as exc:  # one account's trouble is not the others'
                logger.exception("%s could not be reconciled", name)
                failed += 1
                self.stderr.write(f"{name}: a fault of ours: {type(exc).__name__}: {exc}")
                continue
            differ += bool(result.differences or result.positions)
            failed += bool(result.errors) or not result.ran
            for line in (*result.differences, *result.positions, *result.errors):
                self.stdout.write(f"{name}: {line}")
            if not result.ran:
                self.stderr.write(f"{name}: another process is reconciling it")
            elif result.is_clean:
                self.stdout.write(f"{name}: agrees")
        if failed:
            raise CommandError(f"{failed} of {len(keys)} could not be reconciled", returncode=2)
        if check_only and differ:
            sys.exit(1)

    def _keys(self, account_id: int | None) -> list[StreamKey]:
        if account_id is None:
            return sorted(streams_wanted())
        account = Account.objects.filter(pk=account_id).first()
        if account is None:
            raise CommandError(f"There is no account {account_id}", returncode=2)
        try:
            return markets_of(account)
        except NothingToCompare as exc:
            raise CommandError(str(exc), returncode=2) from None

    def _run(self, key: StreamKey, check_only: bool) -> Reconciled:
        """Reconcile one account; wait for a run that is under way and then look for oneself."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            result = reconcile_account(
                account_id=key.account_id,
                market_type=key.market_type,
                check_only=check_only,
                on_demand=True,
            )
            if result.ran or time.monotonic() > until:
                return result
            time.sleep(0.5)
