"""Strategies, who follows them, and their tokens, which are shown once."""

from __future__ import annotations

import secrets
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action

from exchanges.administration import act_with_reason, amount, link_to
from exchanges.models import Account
from orders.admin.killing import KillSwitchActions
from orders.following import reason_against_following
from orders.models import Strategy, StrategyAccount
from orders.selectors import held_trips
from orders.services.kill_switches import Scope
from orders.services.losses import drawdowns_resume
from orders.services.switches import strategies_set_active, strategy_rotate_token

LIMITS = (
    "max_order_notional",
    "max_position_notional",
    "max_symbols",
    "daily_loss_limit",
    "max_drawdown_percent",
)


class FollowerForm(forms.ModelForm[StrategyAccount]):
    class Meta:
        model = StrategyAccount
        fields = ("strategy", "account", "allocated_capital", "leverage", "is_active", *LIMITS)

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        strategy = data.get("strategy") or getattr(self.instance, "strategy", None)
        account = data.get("account")
        if account and strategy and strategy.market_type:
            if strategy.user_id and account.user_id != strategy.user_id:
                self.add_error("account", "it belongs to another user than the strategy")
            if reason := reason_against_following(account, market_type=strategy.market_type):
                self.add_error("account", reason)
        return data


class FollowerInline(TabularInline):  # type: ignore[misc]  # unfold has no types
    model = StrategyAccount
    form = FollowerForm
    extra = 0
    fields = ("account", "allocated_capital", "leverage", "is_active")

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "account":
            kwargs["queryset"] = Account.objects.select_related("user")
        return super().formfield_for_foreignkey(db_field, request, **kwargs)


@admin.register(Strategy)
class StrategyAdmin(KillSwitchActions, ModelAdmin):  # type: ignore[misc]  # unfold has no types
    list_display = (
        "group_name",
        "user",
        "market_type",
        "execution_mode",
        "followers",
        "is_active",
        "kill_switch",
        "updated_at",
    )
    list_filter = ("market_type", "execution_mode", "is_active", "kill_switch", "user")
    search_fields = ("group_name", "user__username")
    list_select_related = ("user",)
    inlines = (FollowerInline,)
    actions = ("pause", "resume", "kill_switch_on", "kill_switch_on_and_cancel", "kill_switch_off")
    kill_switch_scope = Scope.STRATEGY
    actions_detail = ("rotate_token",)
    fieldsets = (
        (None, {"fields": ("group_name", "user", "market_type", "execution_mode")}),
        ("Signals", {"fields": ("dedupe_window_seconds", "max_signal_age_seconds")}),
        (
            "Guards",
            {
                "fields": (
                    "symbol_allowlist",
                    "symbol_blocklist",
                    "max_orders_per_minute",
                    "max_price_deviation_percent",
                )
            },
        ),
        ("Switches", {"fields": ("is_active", "kill_switch")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Strategy]:
        rows: QuerySet[Strategy] = super().get_queryset(request)
        return rows.annotate(
            follower_count=Count("strategy_accounts", filter=Q(strategy_accounts__is_active=True))
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Strategy | None = None) -> tuple[str, ...]:
        return ("user",) if obj else ()  # its history is the owner's

    @admin.display(description="accounts", ordering="follower_count")
    def followers(self, row: Strategy) -> str:
        url = reverse("admin:orders_strategyaccount_changelist")
        count = row.follower_count  # type: ignore[attr-defined]  # annotated above
        return format_html('<a href="{}?strategy__id__exact={}">{}</a>', url, row.pk, count)

    # --- the token ---

    def save_model(self, request: HttpRequest, obj: Strategy, form: Any, change: bool) -> None:
        if not change:
            obj.set_token(secrets.token_urlsafe(24))  # nobody's: response_add makes another and shows it
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: Strategy, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._new_token(request, obj)

    @action(  # type: ignore[untyped-decorator]  # unfold has no types
        description="Rotate token", permissions=["change"], url_path="rotate-token"
    )
    def rotate_token(self, request: HttpRequest, object_id: str) -> HttpResponse:
        strategy = self.get_object(request, object_id)
        if strategy is None:
            return HttpResponseRedirect(reverse("admin:orders_strategy_changelist"))
        if request.method == "POST":
            return self._new_token(request, strategy)
        return self._page(request, strategy, title=f"Rotate the token of {strategy}?")

    def _new_token(self, request: HttpRequest, strategy: Strategy) -> HttpResponse:
        token = strategy_rotate_token(strategy_id=strategy.pk, by=request.user.get_username())
        self.log_change(request, strategy, "Token rotated")
        page = self._page(request, strategy, title=f"The token of {strategy}", token=token)
        page["Cache-Control"] = "no-store"
        return page

    def _page(self, request: HttpRequest, strategy: Strategy, **context: Any) -> HttpResponse:
        context |= self.admin_site.each_context(request) | {"strategy": strategy, "opts": self.model._meta}
        return TemplateResponse(request, "orders/admin/token.html", context)

    # --- pausing ---

    @admin.action(description="Pause the selected strategies", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Strategy]) -> HttpResponse | None:
        return self._set_active(request, queryset, action="pause", active=False)

    @admin.action(description="Resume the selected strategies", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Strategy]) -> HttpResponse | None:
        return self._set_active(request, queryset, action="resume", active=True)

    def _set_active(
        self, request: HttpRequest, queryset: QuerySet[Strategy], *, action: str, active: bool
    ) -> HttpResponse | None:
        def act(reason: str) -> None:
            strategies_set_active(
                strategy_ids=[row.pk for row in queryset],
                active=active,
                by=request.user.get_username(),
                reason=reason,
            )

        verb = "Resume strategies" if active else "Pause strategies"
        return act_with_reason(self, request, queryset, action=action, verb=verb, act=act)


@admin.register(StrategyAccount)
class StrategyAccountAdmin(ModelAdmin):  # type: ignore[misc]  # unfold has no types
    form = FollowerForm
    list_display = (
        "__str__",
        "to_strategy",
        "to_account",
        "capital",
        "leverage",
        "is_active",
        "stopped_by",
        "updated_at",
    )
    list_filter = ("is_active", "strategy", "account")
    search_fields = ("strategy__group_name", "account__name")
    list_select_related = ("strategy", "account")
    actions = ("resume_opening",)
    fieldsets = (
        (None, {"fields": ("strategy", "account", "allocated_capital", "leverage", "is_active")}),
        ("Guards", {"fields": LIMITS}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[StrategyAccount]:
        rows: QuerySet[StrategyAccount] = super().get_queryset(request)
        return rows.annotate(held_by=Subquery(held_trips().values("reason")[:1]))

    @admin.display(description="guard")
    def stopped_by(self, row: Any) -> str:
        return row.held_by or "-"

    @admin.action(description="Resume after a drawdown", permissions=["change"])
    def resume_opening(
        self, request: HttpRequest, queryset: QuerySet[StrategyAccount]
    ) -> HttpResponse | None:
        def act(reason: str) -> None:
            count = drawdowns_resume(
                strategy_account_ids=[row.pk for row in queryset],
                by=request.user.get_username(),
                reason=reason,
                user_id=request.user.pk,
            )
            self.message_user(request, f"{count} of them were stopped by a drawdown")

        verb = "Resume after a drawdown"
        return act_with_reason(self, request, queryset, action="resume_opening", verb=verb, act=act)

    def get_readonly_fields(
        self, request: HttpRequest, obj: StrategyAccount | None = None
    ) -> tuple[str, ...]:
        return ("strategy", "account") if obj else ()  # its orders and positions are theirs

    @admin.display(description="strategy", ordering="strategy__group_name")
    def to_strategy(self, row: StrategyAccount) -> str:
        return link_to(row.strategy)

    @admin.display(description="account", ordering="account__name")
    def to_account(self, row: StrategyAccount) -> str:
        return link_to(row.account)

    @admin.display(description="allocated capital")
    def capital(self, row: StrategyAccount) -> str:
        return amount(row.allocated_capital)
