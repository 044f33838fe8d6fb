"""What was told to whom. Nothing of another room is needed to show it."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from notifications.models import Alert, BreakerAlert, Chat, GuardAlert, StrangerAlert


class RecordAdmin(ModelAdmin):  # type: ignore[misc]  # unfold has no types
    """Rows that the sender writes: everybody may look, nobody may change what happened."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Alert)
class AlertAdmin(RecordAdmin):
    list_display = ("failed_order_id", "outcome", "at")
    list_filter = ("outcome", "at")
    search_fields = ("=failed_order_id",)


@admin.register(GuardAlert)
class GuardAlertAdmin(RecordAdmin):
    list_display = ("trip_id", "outcome", "at")
    list_filter = ("outcome", "at")
    search_fields = ("=trip_id",)


@admin.register(StrangerAlert)
class StrangerAlertAdmin(RecordAdmin):
    list_display = ("report_id", "outcome", "at")
    list_filter = ("outcome", "at")
    search_fields = ("=report_id",)


@admin.register(BreakerAlert)
class BreakerAlertAdmin(RecordAdmin):
    list_display = ("base_url", "is_down", "at")
    search_fields = ("base_url",)


@admin.register(Chat)
class ChatAdmin(RecordAdmin):
    list_display = ("name", "held_until", "refusals")
    search_fields = ("name",)
