"""Accounts, whose secrets go in and never come out; and what the exchanges told us of themselves."""

from __future__ import annotations

from typing import Any

from cryptography.fernet import InvalidToken
from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminPasswordWidget

from exchanges.administration import HistoryAdmin, act_with_reason, amount
from exchanges.fields import decrypt, encrypt
from exchanges.markets import account_types_of
from exchanges.models import Account, Ban, Breaker, ConfigVersion, Instrument, LastPrice

# What is entered -> where it is kept, encrypted.
SECRETS = {
    "new_api_key": "encrypted_api_key",
    "new_api_secret": "encrypted_api_secret",
    "new_passphrase": "encrypted_passphrase",
}


def _secret_field(label: str) -> forms.CharField:
    # render_value=False: what was typed is not shown again either, when another field is wrong.
    widget = UnfoldAdminPasswordWidget(render_value=False, attrs={"autocomplete": "new-password"})
    return forms.CharField(label=label, required=False, widget=widget, strip=True)


class AccountForm(forms.ModelForm[Account]):
    """Secrets are write-only: empty keeps what is stored."""

    new_api_key = _secret_field("API key")
    new_api_secret = _secret_field("API secret")
    new_passphrase = _secret_field("Passphrase")

    class Meta:
        model = Account
        fields = (
            "user", "name", "exchange", "account_type", "environment", "is_active", "kill_switch",
            "queue_limit_cap", "queue_stop_cap", "queue_total_cap", "max_orders_per_minute",
        )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            for name in SECRETS:
                self.fields[name].help_text = "Stored, and never shown. Leave empty to keep it."
        else:
            self.fields["new_api_key"].required = self.fields["new_api_secret"].required = True

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        exchange, kind = data.get("exchange"), data.get("account_type")
        if exchange and kind and kind not in account_types_of(exchange):
            self.add_error("account_type", f"{exchange} has no {kind} accounts")
        if any(data.get(name) for name in SECRETS):
            self._refuse_what_cannot_be_kept(data)
        return data

    def _refuse_what_cannot_be_kept(self, data: dict[str, Any]) -> None:
        """Secrets that are left empty stay as they are: unless they can be read, nothing is repaired."""
        for name, column in SECRETS.items():
            try:
                if not data.get(name):
                    decrypt(getattr(self.instance, column))
            except InvalidToken:
                self.add_error(name, "What is stored cannot be read: enter all that the account has again")

    def save(self, commit: bool = True) -> Account:
        for name, column in SECRETS.items():
            if entered := self.cleaned_data[name]:
                setattr(self.instance, column, encrypt(entered))
        account: Account = super().save(commit)
        return account


@admin.register(Account)
class AccountAdmin(ModelAdmin):  # type: ignore[misc]  # unfold has no types
    form = AccountForm
    list_display = (
        "name",
        "user",
        "exchange",
        "account_type",
        "environment",
        "is_active",
        "kill_switch",
        "updated_at",
    )
    list_filter = ("exchange", "environment", "account_type", "is_active", "kill_switch", "user")
    search_fields = ("name", "user__username")
    list_select_related = ("user",)
    actions: tuple[str, ...] = ("pause", "resume")
    fieldsets = (
        (None, {"fields": ("name", "user", "exchange", "account_type", "environment")}),
        ("Credentials", {"fields": ("new_api_key", "new_api_secret", "new_passphrase")}),
        ("Guards", {"fields": ("max_orders_per_minute",)}),
        ("The queue", {"fields": ("queue_limit_cap", "queue_stop_cap", "queue_total_cap")}),
        ("Switches", {"fields": ("is_active", "kill_switch")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Account | None = None) -> tuple[str, ...]:
        # Its orders and ids are that exchange's: reports of another one would be matched to them.
        return ("user", "exchange", "account_type", "environment") if obj else ()

    @admin.action(description="Pause the selected accounts", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Account]) -> HttpResponse | None:
        return self._set_active(request, queryset, action="pause", active=False)

    @admin.action(description="Resume the selected accounts", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Account]) -> HttpResponse | None:
        return self._set_active(request, queryset, action="resume", active=True)

    def _set_active(
        self, request: HttpRequest, queryset: QuerySet[Account], *, action: str, active: bool
    ) -> HttpResponse | None:
        def act(reason: str) -> None:
            queryset.update(is_active=active)

        verb = "Resume accounts" if active else "Pause accounts"
        with transaction.atomic():
            return act_with_reason(self, request, queryset, action=action, verb=verb, act=act)


@admin.register(Instrument)
class InstrumentAdmin(HistoryAdmin):
    list_display = (
        "symbol",
        "exchange",
        "environment",
        "market_type",
        "tick",
        "lot",
        "least",
        "least_notional",
        "max_open_orders",
        "is_trading",
        "updated_at",
    )
    list_filter = ("exchange", "environment", "market_type", "is_trading", "quote_asset")
    search_fields = ("symbol", "venue_symbol")

    @admin.display(description="tick size")
    def tick(self, row: Instrument) -> str:
        return amount(row.tick_size)

    @admin.display(description="lot step")
    def lot(self, row: Instrument) -> str:
        return amount(row.lot_step)

    @admin.display(description="min quantity")
    def least(self, row: Instrument) -> str:
        return amount(row.min_quantity)

    @admin.display(description="min notional")
    def least_notional(self, row: Instrument) -> str:
        return amount(row.min_notional)


@admin.register(LastPrice)
class LastPriceAdmin(HistoryAdmin):
    list_display = ("symbol", "exchange", "environment", "market_type", "last", "seen_at")
    list_filter = ("exchange", "environment", "market_type")
    search_fields = ("symbol",)

    @admin.display(description="price")
    def last(self, row: LastPrice) -> str:
        return amount(row.price)


@admin.register(ConfigVersion)
class ConfigVersionAdmin(HistoryAdmin):
    list_display = ("id", "version")


@admin.register(Ban)
class BanAdmin(HistoryAdmin):
    list_display = ("base_url", "until", "reason")
    search_fields = ("base_url", "reason")


@admin.register(Breaker)
class BreakerAdmin(HistoryAdmin):
    list_display = ("base_url", "node", "exchange", "state", "failures", "opened_at", "retry_at", "reason")
    list_filter = ("state", "exchange", "node")
    search_fields = ("base_url", "node", "reason")
