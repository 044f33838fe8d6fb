"""Accounts, with what only this room can do to them: the kill switch and its cancels."""

from __future__ import annotations

from django.contrib import admin

from exchanges.admin import AccountAdmin as PlainAccountAdmin
from exchanges.models import Account
from orders.admin.killing import KillSwitchActions
from orders.services.kill_switches import Scope

admin.site.unregister(Account)


@admin.register(Account)
class AccountAdmin(KillSwitchActions, PlainAccountAdmin):
    actions: tuple[str, ...] = (
        *PlainAccountAdmin.actions,
        "kill_switch_on",
        "kill_switch_on_and_cancel",
        "kill_switch_off",
    )
    kill_switch_scope = Scope.ACCOUNT
