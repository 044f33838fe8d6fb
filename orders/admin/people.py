"""Users and groups in the admin's theme, with what we keep about a person, and failed logins."""

from __future__ import annotations

from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from unfold.admin import ModelAdmin, StackedInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from exchanges.administration import in_theme
from orders.admin.killing import KillSwitchActions
from orders.models import UserProfile
from orders.services.kill_switches import Scope

in_theme(AccessAttempt, AccessFailureLog, AccessLog)
admin.site.unregister((User, Group))


class ProfileInline(StackedInline):  # type: ignore[misc]  # unfold has no types
    model = UserProfile
    can_delete = False


@admin.register(User)
class UserAdmin(KillSwitchActions, DjangoUserAdmin, ModelAdmin):  # type: ignore[misc,type-arg]  # no generics at run time
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    inlines = (ProfileInline,)
    actions = ("kill_switch_on", "kill_switch_on_and_cancel", "kill_switch_off")
    kill_switch_scope = Scope.USER
    list_display = ("username", "email", "is_active", "is_staff", "is_superuser", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser", "groups")

    def get_inlines(self, request: HttpRequest, obj: User | None = None) -> tuple[type[StackedInline], ...]:
        return self.inlines if obj else ()  # first the login, then the rest


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):  # type: ignore[misc]
    pass


@admin.register(UserProfile)
class UserProfileAdmin(KillSwitchActions, ModelAdmin):  # type: ignore[misc]
    actions = ("kill_switch_on", "kill_switch_on_and_cancel", "kill_switch_off")
    kill_switch_scope = Scope.USER  # a profile's id is its user's
    list_display = ("user", "language", "time_zone", "kill_switch")
    list_filter = ("language", "kill_switch")
    search_fields = ("user__username",)
    list_select_related = ("user",)
