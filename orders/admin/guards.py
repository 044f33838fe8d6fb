"""What the loss guards stopped, and who let it go on."""

from __future__ import annotations

from django.contrib import admin
from django.utils import timezone

from exchanges.administration import HistoryAdmin, amount
from orders.models import LossTrip, ProfitPeak


@admin.register(LossTrip)
class LossTripAdmin(HistoryAdmin):
    list_display = (
        "strategy_account",
        "kind",
        "reason",
        "tripped_at",
        "is_holding",
        "ends_at",
        "resumed_at",
        "resumed_by",
        "resume_reason",
    )
    list_filter = ("kind", "tripped_at", "strategy_account__strategy")
    search_fields = ("strategy_account__strategy__group_name", "strategy_account__account__name")
    list_select_related = ("strategy_account__strategy", "strategy_account__account")

    @admin.display(description="stops", boolean=True)
    def is_holding(self, row: LossTrip) -> bool:
        return row.holds(timezone.now())


@admin.register(ProfitPeak)
class ProfitPeakAdmin(HistoryAdmin):
    list_display = ("strategy_account", "best", "seen_at")
    search_fields = ("strategy_account__strategy__group_name", "strategy_account__account__name")
    list_select_related = ("strategy_account__strategy", "strategy_account__account")

    @admin.display(description="profit")
    def best(self, row: ProfitPeak) -> str:
        return amount(row.profit)
