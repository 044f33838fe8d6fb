"""The kill switch: one page with its state, one button, its history."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from orders.models import EventType, KillSwitch, OrderEvent
from orders.services.switches import KILL_SWITCH, kill_switch_set, kill_switch_state


class SwitchForm(forms.Form):
    reason = forms.CharField(
        label="Why (it stands in the log)", max_length=200, widget=UnfoldAdminTextInputWidget
    )
    confirmed = forms.BooleanField(label="Yes, I mean it", widget=UnfoldBooleanSwitchWidget)


@admin.register(KillSwitch)
class KillSwitchAdmin(ModelAdmin):  # type: ignore[misc]  # unfold has no types
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: KillSwitch | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        switch = kill_switch_state()
        form = SwitchForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            if not self.has_change_permission(request):
                raise PermissionDenied
            switch = kill_switch_set(
                # What the page offered, not the opposite of now: two operators must not undo each other.
                engaged=request.POST.get("engage") == "yes",
                reason=form.cleaned_data["reason"],
                by=request.user.get_username(),
                user_id=request.user.pk,
            )
            self.log_change(request, switch, f"Kill switch {switch}: {switch.reason}")
            return HttpResponseRedirect(reverse("admin:orders_killswitch_changelist"))
        context = self.admin_site.each_context(request) | {
            "title": f"Kill switch: {switch}",
            "switch": switch,
            "form": form,
            "may_change": self.has_change_permission(request),
            "opts": self.model._meta,
            "history": OrderEvent.objects.filter(
                type=EventType.OPERATOR, message__startswith=KILL_SWITCH
            ).order_by("-pk")[:20],
        }
        return TemplateResponse(request, "orders/admin/kill_switch.html", context)

    def change_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:orders_killswitch_changelist"))
