"""The live page as it is first drawn; its socket takes over from there."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.auth import get_user_model
from django.contrib.auth.mixins import LoginRequiredMixin
from django.utils import timezone, translation
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.generic import TemplateView

from orders.selectors import strategy_accounts
from tracking.live import LiveView
from tracking.visibility import visible_to


@method_decorator(never_cache, name="dispatch")
class PositionsView(LoginRequiredMixin, TemplateView):
    """`?user=` (staff only) and `?strategy_account=` narrow what is shown."""

    template_name = "positions/page.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        user: Any = self.request.user
        visible = visible_to(user, self.request.GET)
        language = translation.get_language() or ""
        query: dict[str, int | str] = {"lang": language}
        if user.is_staff and visible.user_id is not None:
            query["user"] = visible.user_id
        if visible.strategy_account_id is not None:
            query["strategy_account"] = visible.strategy_account_id
        people = get_user_model().objects.filter(strategies__isnull=False).distinct().order_by("username")
        return super().get_context_data(
            **kwargs,
            **LiveView(visible, language=language).first_page(now=timezone.now()),
            socket_address=f"/ws/positions/?{urlencode(query)}",
            chosen=query,
            strategy_accounts=strategy_accounts(visible.user_id),
            people=people if user.is_staff else [],
        )
