"""A person decides what became of an order that nobody knows about: shown what is known, then asked."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from orders.models import OpenOrder
from orders.selectors import Visible
from orders.services.resolution import ResolutionRefused, order_resolve, unknown_order

EVERYBODY = Visible(user_id=None)


class DecisionForm(forms.Form):
    """One clear decision; a reason for the log."""

    decision = forms.ChoiceField(
        choices=[
            ("is", "It is this order of the exchange:"),
            ("never_placed", "It was never placed on the exchange"),
        ],
        widget=forms.RadioSelect,
        error_messages={"required": "Say which it is"},
    )
    exchange_order_id = forms.RegexField(
        r"^[A-Za-z0-9_-]{1,64}$",
        required=False,
        label="The exchange's order id",
        error_messages={"invalid": "An order id has letters, digits, - and _ only, at most 64"},
    )
    reason = forms.CharField(required=False, max_length=200, label="Why (it stands in the log)")

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        named = data.get("exchange_order_id")
        if "exchange_order_id" in self.errors:
            return data
        if data.get("decision") == "is" and not named:
            self.add_error("exchange_order_id", "Say which order it is, by the exchange's id")
        if data.get("decision") == "never_placed" and named:
            self.add_error("exchange_order_id", "An order that was never placed has no id there")
        return data


class ResolveAction:
    """Goes before ModelAdmin, for lists of open orders."""

    def has_resolve_permission(self, request: HttpRequest) -> bool:
        """Nobody edits these rows, but whoever could may say what became of them."""
        return bool(request.user.has_perm("orders.change_openorder"))

    @admin.action(description="Say what became of it (one unknown order)", permissions=["resolve"])
    def resolve(self, request: HttpRequest, queryset: QuerySet[OpenOrder]) -> HttpResponse | None:
        page: Any = self
        rows = list(queryset.select_related("intent")[:2])
        if len(rows) != 1:
            page.message_user(request, "Choose one order: each is decided by itself", messages.ERROR)
            return None
        uid = rows[0].intent.uid
        try:
            known = unknown_order(uid=uid, visible=EVERYBODY)
        except ResolutionRefused as exc:
            page.message_user(request, exc.error, messages.ERROR)
            return None
        form = DecisionForm(request.POST if request.POST.get("confirmed") == "yes" else None)
        if form.is_bound and form.is_valid():
            refused = self._decide(request, rows[0], form.cleaned_data)
            if refused is None:
                return None
            form.add_error(None, refused)
        context = page.admin_site.each_context(request) | {
            "title": f"What became of {known.client_order_id}?",
            "known": known,
            "form": form,
            "row": rows[0],
            "opts": page.model._meta,
            "selected_name": helpers.ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "orders/admin/resolve.html", context)

    def _decide(self, request: HttpRequest, row: OpenOrder, data: dict[str, Any]) -> str | None:
        """Carry the decision out; return why it was refused, None if it was not."""
        page: Any = self
        named = data["exchange_order_id"] if data["decision"] == "is" else None
        try:
            intent = order_resolve(
                uid=row.intent.uid,
                exchange_order_id=named,
                by=request.user.get_username(),
                visible=EVERYBODY,
                reason=data["reason"],
            )
        except ResolutionRefused as exc:
            return exc.error
        words = f"Decided: {f'it is order {named}' if named else 'never placed'}; it is {intent.home} now"
        page.log_change(request, row, f"{words}. {data['reason']}" if data["reason"] else words)
        page.message_user(request, f"{row.intent.uid}: {words}", messages.SUCCESS)
        return None
