from __future__ import annotations

import getpass
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from exchanges.models import Account
from orders.models import Strategy, UserProfile
from orders.services.kill_switches import Scope, kill_switches_set, orders_cancel
from orders.services.switches import kill_switch_set, kill_switch_state


class Command(BaseCommand):
    help = (
        "Stop orders (on), let them go again (off), or tell (status): of the whole system, or of one user, "
        "strategy or account. Open orders stay open unless --cancel-orders is given."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("state", choices=["on", "off", "status"])
        scope = parser.add_mutually_exclusive_group()
        scope.add_argument("--user", metavar="NAME")
        scope.add_argument("--strategy", metavar="GROUP")
        scope.add_argument("--account", metavar="USER/NAME")
        parser.add_argument("--reason", default="", help="Why; it stands in the event log.")
        parser.add_argument(
            "--cancel-orders",
            action="store_true",
            help="With on: cancel all open and waiting orders of it too.",
        )

    def handle(self, *args: Any, state: str, reason: str, cancel_orders: bool, **options: Any) -> None:
        if cancel_orders and state != "on":
            raise CommandError("--cancel-orders goes with on: orders that may be sent are not canceled")
        if len(reason) > 200:
            raise CommandError("--reason takes 200 characters at most")
        scope, pk, name = _scope(options)
        by = f"{getpass.getuser()} on the command line"
        if state == "status":
            self.stdout.write(_status(scope, pk, name))
            return
        if scope is Scope.SYSTEM:
            kill_switch_set(engaged=state == "on", reason=reason, by=by)
        else:
            kill_switches_set(scope, [pk], engaged=state == "on", by=by, reason=reason)
        self.stdout.write(_status(scope, pk, name))
        if cancel_orders:
            self.stdout.write(f"Asked to cancel {orders_cancel(scope, [pk])} orders")


def _scope(options: dict[str, Any]) -> tuple[Scope, int, str]:
    """Return what the options name. Raises CommandError where there is no such thing."""
    if (name := options.get("user")) is not None:
        user = User.objects.filter(username=name).first()
        return Scope.USER, _pk(user, f"user {name}"), name
    if (name := options.get("strategy")) is not None:
        strategy = Strategy.objects.filter(group_name=name).first()
        return Scope.STRATEGY, _pk(strategy, f"strategy {name}"), name
    if (name := options.get("account")) is not None:
        owner, slash, account_name = name.partition("/")
        if not slash:
            raise CommandError(f"--account takes USER/NAME; {name} names no user")
        account = Account.objects.filter(user__username=owner, name=account_name).first()
        return Scope.ACCOUNT, _pk(account, f"account {name}"), name
    return Scope.SYSTEM, 0, ""


def _pk(row: Any, what: str) -> int:
    if row is None:
        raise CommandError(f"There is no {what}")
    pk: int = row.pk
    return pk


def _status(scope: Scope, pk: int, name: str) -> str:
    if scope is Scope.SYSTEM:
        switch = kill_switch_state()
        return f"Kill switch {switch}" + (f": {switch.reason}" if switch.reason else "")
    model: Any = {Scope.USER: UserProfile, Scope.STRATEGY: Strategy, Scope.ACCOUNT: Account}[scope]
    engaged = model.objects.filter(pk=pk, kill_switch=True).exists()
    return f"Kill switch of {scope} {name} {'ON' if engaged else 'off'}"
