"""What every room's admin pages are made of."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.contrib.admin import helpers
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin

from exchanges.fields import plain


def link_to(row: Model | None, text: str = "") -> str:
    """Return a link to a row's admin page; a dash where there is no row."""
    if row is None:
        return "-"
    url = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
    return format_html('<a href="{}" class="text-primary-600 dark:text-primary-500">{}</a>', url, text or row)


def amount(value: Decimal | None) -> str:
    """Return a decimal as people write it, a dash where there is none."""
    return "-" if value is None else plain(value)


class HistoryAdmin(ModelAdmin):  # type: ignore[misc]  # unfold has no types
    """Rows that the system writes: everybody may look, nobody may change what happened."""

    show_full_result_count = False  # counting a long log twice per page helps nobody
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False


def in_theme(*models: type[Model]) -> None:
    """Give the admin pages that other packages brought along this admin's looks."""
    for model in models:
        if admin.site.is_registered(model):
            theirs = type(admin.site.get_model_admin(model))
            admin.site.unregister(model)
            admin.site.register(model, type(theirs.__name__, (theirs, ModelAdmin), {}))


def act_with_reason(
    model_admin: ModelAdmin,
    request: HttpRequest,
    queryset: QuerySet[Any],
    *,
    action: str,
    verb: str,
    act: Callable[[str], None],
) -> HttpResponse | None:
    """Ask for confirmation and a reason, then call `act` with the reason and log it for every row.

    To be returned from an admin action: the first call shows the question, the second one acts.
    """
    if request.POST.get("confirmed") != "yes":
        context = model_admin.admin_site.each_context(request) | {
            "title": f"{verb}?",
            "verb": verb,
            "rows": queryset,
            "action": action,
            "opts": model_admin.model._meta,
            "selected_name": helpers.ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "exchanges/admin/confirm.html", context)
    reason = request.POST.get("reason", "").strip()
    rows = list(queryset)
    act(reason)
    for row in rows:
        model_admin.log_change(request, row, f"{verb}: {reason}" if reason else verb)
    model_admin.message_user(request, f"{verb}: {', '.join(map(str, rows))}")
    return None
