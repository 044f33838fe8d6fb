"""The kill switch of what a list shows, as actions: asked about first, with a reason, logged."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from exchanges.administration import act_with_reason
from orders.services.kill_switches import Scope, kill_switches_set, orders_cancel


class KillSwitchActions:
    """Goes before ModelAdmin; the list's rows have the ids that `kill_switch_scope` means."""

    kill_switch_scope: Scope

    @admin.action(description="Kill switch on", permissions=["change"])
    def kill_switch_on(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        return self._kill_switch(request, queryset, action="kill_switch_on", engaged=True)

    @admin.action(
        description="Kill switch on, and cancel all open and waiting orders", permissions=["change"]
    )
    def kill_switch_on_and_cancel(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        return self._kill_switch(
            request, queryset, action="kill_switch_on_and_cancel", engaged=True, cancel=True
        )

    @admin.action(description="Kill switch off", permissions=["change"])
    def kill_switch_off(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        return self._kill_switch(request, queryset, action="kill_switch_off", engaged=False)

    def _kill_switch(
        self,
        request: HttpRequest,
        queryset: QuerySet[Any],
        *,
        action: str,
        engaged: bool,
        cancel: bool = False,
    ) -> HttpResponse | None:
        page: Any = self

        def act(reason: str) -> None:
            ids = [row.pk for row in queryset]
            by = request.user.get_username()
            kill_switches_set(self.kill_switch_scope, ids, engaged=engaged, by=by, reason=reason)
            if cancel:
                count = orders_cancel(self.kill_switch_scope, ids)
                page.message_user(request, f"Asked to cancel {count} orders")

        verb = "Kill switch on" if engaged else "Kill switch off"
        if cancel:
            verb += ", and cancel all open and waiting orders"
        return act_with_reason(page, request, queryset, action=action, verb=verb, act=act)
