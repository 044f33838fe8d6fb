"""The processes of the installation: to look at."""

from __future__ import annotations

from django.contrib import admin

from exchanges.administration import HistoryAdmin
from tradehub.models import Process


@admin.register(Process)
class ProcessAdmin(HistoryAdmin):
    list_display = ("name", "kind", "started_at", "seen_at")
    list_filter = ("kind",)
    search_fields = ("name",)
    ordering = ("-seen_at",)
